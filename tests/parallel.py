"""Run by torchrun: one training step of two processes must be the step that one process takes on both batches."""

from __future__ import annotations

import copy

import torch
import torch.distributed as dist
from models import BERT, batch
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import fastmux
from fastmux.testing import assert_agrees


def check(mode: str, demux: str) -> None:
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    config = copy.deepcopy(BERT)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    model = fastmux.TMuxForTokenClassification.from_backbone(config, 3, demultiplexer=demux, num_labels=4).double()
    rows = batch(6 * world)
    rows["labels"] = torch.randint(0, 4, rows["input_ids"].shape)
    rows["retrieval_instances"] = torch.randint(0, 3, (2 * world, 7))
    if mode == "ddp by tokens":  # of which one process has more than the other
        rows["labels"][: len(rows["labels"]) // 2, 1:4] = -100
    alone = copy.deepcopy(model)
    alone(**rows).loss.backward()

    own = {k: t.chunk(world)[rank] for k, t in rows.items()}
    scale = 1
    if mode == "ddp by tokens":
        own["num_items_in_batch"] = (rows["labels"] != -100).sum()
        own["tokens_in_batch"] = rows["labels"].numel()
        scale = world  # DDP averages, and the numbers are those of all processes
    if mode.startswith("ddp"):
        model = DistributedDataParallel(model)
    else:
        for layer in model.tmux.backbone.encoder.layer:
            fully_shard(layer)
        fully_shard(model)
    (scale * model(**own).loss).backward()
    expected = dict(alone.named_parameters())
    gradients = {
        name.removeprefix("module."): p.grad.full_tensor() if mode == "fsdp" else p.grad
        for name, p in model.named_parameters()
    }
    # Relative to the size of all: what the softmax drops, a bias of keys, has rounding alone for a gradient.
    gold = torch.cat([expected[name].grad.flatten() for name in gradients])
    assert_agrees(torch.cat([t.flatten() for t in gradients.values()]), gold, what=f"{mode} {demux}")


if __name__ == "__main__":
    dist.init_process_group("gloo")
    for mode in ("ddp", "ddp by tokens", "fsdp"):
        for demux in ("index", "unbind"):
            check(mode, demux)
    dist.destroy_process_group()
