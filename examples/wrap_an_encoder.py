"""Make a Hugging Face encoder serve four rows in one pass: same arguments, same outputs, same order of rows.

python examples/wrap_an_encoder.py
"""

import torch
from transformers import BertConfig, BertModel

import fastmux

# This one has random weights. Use BertModel.from_pretrained(...), or just the name of a model.
encoder = BertModel(BertConfig(num_hidden_layers=2, hidden_size=64, num_attention_heads=2, intermediate_size=128))
model = fastmux.TMux(encoder, num_instances=4).eval()

ids = torch.randint(1000, 2000, (10, 16))  # ten rows: two groups of four, and a third with repeated rows
with torch.no_grad():
    plain, multiplexed = encoder(input_ids=ids), model(input_ids=ids)
assert multiplexed.last_hidden_state.shape == plain.last_hidden_state.shape == (10, 16, 64)

groups = -(-len(ids) // model.num_instances)
print(f"{len(ids)} rows of {ids.shape[1]} tokens: the encoder ran on {groups} rows of {ids.shape[1]} tokens and a")
print(f"prefix of {model.config.prefix_length}, and {multiplexed.last_hidden_state.shape[0]} rows came back.")
