#!/usr/bin/env bash
# transformers 5.24.0: the forward pass of an encoder with PyTorch's attention reads, on the host, whether its attention
# mask (B, L) masks anything: one value of a tensor a pass. On a GPU the host waits there until all work that was queued
# before is done, so that passes are no longer queued ahead of one another. Without a mask nothing is read. With a mask
# (B, 1, L, L) nothing is read either, and the states are the same; that mask is handed to the attention as it is.
# Seen, by the ops that a pass of BERT calls: 1 read with a mask of padding, 1 with a mask of ones, 0 without one, 0 with
# four dimensions; RoBERTa, ELECTRA and DistilBERT as BERT. Fails where that is no longer so.
set -euo pipefail

work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" && python="$work/venv/bin/python"
"$python" -m pip install --quiet torch==2.13.0+cpu numpy 2>"$work/log" || "$python" -m pip install --quiet torch==2.13.0 numpy
"$python" -m pip install --quiet transformers==5.24.0

cd "$work" && HF_HUB_OFFLINE=1 "$python" - <<'PYTHON'
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModel, BertConfig, DistilBertConfig, ElectraConfig, RobertaConfig


class Reads(TorchDispatchMode):
    """Counts how often a value of a tensor becomes a number of Python."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func._schema.name == "aten::_local_scalar_dense"
        return func(*args, **(kwargs or {}))


print("transformers", transformers.__version__, "torch", torch.__version__)
sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 50}
small = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "vocab_size": 50}
padded = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
masks = {"padding": padded, "ones": torch.ones_like(padded), "none": None}
masks["four dimensions"] = (padded != 0)[:, None, None].expand(-1, 1, 5, 5)
expected = {"padding": 1, "ones": 1, "none": 0, "four dimensions": 0}
same = True
for config in (BertConfig(**sizes), RobertaConfig(**sizes), ElectraConfig(**sizes), DistilBertConfig(**small)):
    model, found, states = AutoModel.from_config(config).eval(), {}, {}
    for name, mask in masks.items():
        with torch.no_grad(), Reads() as reads:
            states[name] = model(torch.full((2, 5), 7), attention_mask=mask).last_hidden_state
        found[name] = reads.count
    equal = torch.allclose(states["padding"][padded != 0], states["four dimensions"][padded != 0], atol=1e-5)
    print(f"{config.model_type:10} reads {found}, the same states: {equal}")
    same = same and found == expected and equal
raise SystemExit(0 if same else 1)
PYTHON
