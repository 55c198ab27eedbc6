"""Train a multiplexed classifier on ten rows, save it, and load it by the Auto class.

python examples/train_and_load.py
"""

import tempfile

import torch
from transformers import AutoModelForSequenceClassification, BertConfig

import fastmux

torch.manual_seed(0)
tiny = BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
model = fastmux.TMuxForSequenceClassification.from_backbone(
    tiny, num_instances=2, num_labels=2, demultiplexer="unbind", classifier_dropout=0.0
)
ids = torch.randint(10, 50, (10, 8))
labels = torch.arange(10) % 2
ids[:, 1] = 2 + labels  # this token tells the label

optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
for step in range(60):
    loss = model(input_ids=ids, labels=labels).loss  # the loss of the task plus that of retrieval
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if step % 20 == 0:
        print(f"step {step:2d}  loss {loss:.3f}")

with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    loaded = AutoModelForSequenceClassification.from_pretrained(folder)
predicted = loaded.predict(ids).argmax(-1)
print("labels   ", labels.tolist())
print("predicted", predicted.tolist())
assert torch.equal(predicted, model.predict(ids).argmax(-1))
assert (predicted == labels).float().mean() >= 0.9
