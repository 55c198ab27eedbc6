"""Where new weights start: those of a small BERT, so that it learns something within minutes, and those of a head."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from fastmux.distillation.teacher import TeacherOutputs

#: The states that a head is fitted to, and how much its weights are held back, as a share of the states' mean square.
_STATES, _RIDGE = 20_000, 1e-3
#: Of the position embeddings of `start_from_neighbours`; words have 0.02.
_AMPLITUDE = 0.05
#: Wave lengths of them, in positions.
_SHORTEST, _LONGEST = 2.0, 1000.0
#: The product of the two weights that meet in a head's score.
_SHARPNESS = 4.0


@torch.no_grad()
def start_from_averages(model: PreTrainedModel) -> None:
    """Makes the attention of a new BERT start as a plain average: value and output projections near the identity.

    New attention weights are nearly equal, so all that is left to choose is what is averaged, and into what. Through
    BERT's own small random projections little arrives, and its features are mixed: an average of multiplexed states is
    then no longer a multiplexed average, and a task takes thousands of steps to undo that.
    """
    for layer in model.base_model.encoder.layer:
        for projection in (layer.attention.self.value, layer.attention.output.dense):
            projection.weight.add_(torch.eye(len(projection.weight)))


@torch.no_grad()
def start_from_neighbours(model: PreTrainedModel) -> None:
    """Makes each head of a new BERT's first layer look at one neighbouring position: -1, +1, -2, +2, and so on.

    Position embeddings are waves (Vaswani et al., 2017, "Attention is all you need", section 3.5), and a head's query
    is its key, turned by as much as one step, or two, turns each wave: the score is highest where the key is that far
    away. From random position embeddings, thousands of steps pass before a model of characters can tell the one before
    from the others.
    """
    config = model.config
    width, heads = config.hidden_size, config.num_attention_heads
    waves, size = width // 2, width // heads
    frequencies = 2 * math.pi / _SHORTEST * (_SHORTEST / _LONGEST) ** (torch.arange(waves) / max(1, waves - 1))
    positions = model.base_model.embeddings.position_embeddings.weight
    angles = torch.arange(len(positions))[:, None] * frequencies
    positions[:, 0 : 2 * waves : 2] = _AMPLITUDE * angles.sin()
    positions[:, 1 : 2 * waves : 2] = _AMPLITUDE * angles.cos()

    attention = model.base_model.encoder.layer[0].attention
    query, key = attention.self.query.weight, attention.self.key.weight
    scale = math.sqrt(_SHARPNESS)
    for head in range(heads):
        distance = (head // 2 + 1) * (1 if head % 2 else -1)
        wave = torch.arange(head, waves, heads)[: size // 2]  # each head has its share, long ones and short ones
        row = head * size + 2 * torch.arange(len(wave))
        turn = distance * frequencies[wave]
        key[row, 2 * wave] += scale
        key[row + 1, 2 * wave + 1] += scale
        query[row, 2 * wave] += scale * turn.cos()
        query[row, 2 * wave + 1] += scale * turn.sin()
        query[row + 1, 2 * wave] -= scale * turn.sin()
        query[row + 1, 2 * wave + 1] += scale * turn.cos()
    # What is seen there must not fall onto the same features as what was here already.
    for projection in (attention.self.value, attention.output.dense):
        nn.init.normal_(projection.weight, std=width**-0.5)


@torch.no_grad()
def start_head(head: nn.Linear, teacher: TeacherOutputs) -> None:
    """Makes a linear head start as the one that says most nearly what the original's head says of the original's
    states: least squares, with a little ridge. A linear head of the original is found again.

    Args:
        head: From states (d) to logits (C); in place.
        teacher: The original's states and logits, as many of the one as of the other.
    """
    states, logits = (torch.from_numpy(np.array(own[:_STATES], np.float64)) for own in (teacher.states, teacher.logits))
    means = states.mean(0), logits.mean(0)
    states, logits = states - means[0], logits - means[1]
    square = states.T @ states
    square.diagonal().add_(_RIDGE * float(square.diagonal().mean()))
    weight = torch.linalg.solve(square, states.T @ logits).T
    head.weight.copy_(weight)
    head.bias.copy_(means[1] - weight @ means[0])
