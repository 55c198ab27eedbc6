"""One model has several speeds: each row takes one, two or four slots of its group, and its logits are averaged.

python examples/predict_with_copies.py
"""

import time

import torch
from transformers import BertConfig

import fastmux

torch.manual_seed(0)
small = BertConfig(vocab_size=200, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128)
model = fastmux.TMuxForSequenceClassification.from_backbone(small, num_instances=4, num_labels=3)
ids = torch.randint(1, 200, (32, 24))

one_speed = {copies: model.predict(ids, copies=copies) for copies in (1, 2, 4)}
for copies, logits in one_speed.items():
    start = time.perf_counter()
    model.predict(ids, copies=copies)
    milliseconds = 1e3 * (time.perf_counter() - start)
    # A row's logits change with the other rows of its group, unless it has the group for itself.
    others = model.predict(ids, copies=copies, grouping="random", seed=1)
    spread = (logits - others).abs().max()
    print(
        f"copies {copies}: {4 // copies} rows a pass, {milliseconds:5.1f} ms, differs by {spread:.4f} in other groups"
    )
    assert logits.shape == (32, 3)
assert torch.allclose(one_speed[4], model.predict(ids, copies=4, grouping="random", seed=1), atol=1e-5)
