"""Groupings and copies: every row comes back, averaged over its slots, whatever shares its group."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from models import BERT, PAD, batch

import fastmux
from fastmux.passes.grouping import average_slots, group_rows
from fastmux.testing import relative_error


@pytest.mark.parametrize("rows", [0, 1, 5, 8, 13])
@pytest.mark.parametrize("copies", [1, 2, 3, 4, 5])
def test_every_row_has_its_slots(rows, copies):
    slots = group_rows(np.random.default_rng(0).permutation(rows), 5, copies)
    counts = np.bincount(slots.ravel(), minlength=rows)
    assert slots.shape == (-(-rows // (5 // copies)), 5)
    assert rows == 0 or (len(counts) == rows and counts.min() >= copies)
    assert all(len(set(group)) <= 5 // copies for group in slots.tolist())


def test_slots_are_averaged():
    slots = np.array([[0, 1, 0], [2, 2, 2]])
    values = np.array([1.0, 5.0, 3.0, 7.0, 8.0, 9.0])[:, None]
    assert average_slots(values, slots, 3)[:, 0].tolist() == [2.0, 5.0, 8.0]


def test_a_seed_gives_the_same_groups_again():
    model = fastmux.TMuxForSequenceClassification.from_backbone(BERT, 4, num_labels=3).double()
    rows = batch(11, padded=True)
    first, again, other = (model.predict(**rows, grouping="random", seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.allclose(first, other)


def test_a_row_is_padded_at_either_end():
    model = fastmux.TMuxForTokenClassification.from_backbone(BERT, 2, num_labels=3).double()
    rows = batch(5, padded=True)
    last = rows["attention_mask"].sum(1)
    length = rows["input_ids"].shape[1]
    left = {
        name: torch.stack([t.roll(length - n) for t, n in zip(ts, last.tolist(), strict=True)])
        for name, ts in rows.items()
    }
    expected = model.predict(**rows)
    found = model.predict(**left)
    for want, got, n in zip(expected, found, last.tolist(), strict=True):
        assert relative_error(got[len(got) - n :], want[:n]) < 1e-12 and not got[: len(got) - n].any()


def test_a_mask_with_holes_is_refused():
    model = fastmux.TMuxForSequenceClassification.from_backbone(BERT, 2, num_labels=3)
    with pytest.raises(ValueError, match="attention_mask has zeros between the tokens of row 1"):
        model.predict(torch.ones(2, 4, dtype=torch.long), torch.tensor([[0, 1, 1, 0], [1, 0, 1, 1]]))


@pytest.mark.parametrize("head", [fastmux.TMuxForSequenceClassification, fastmux.TMuxForTokenClassification])
@pytest.mark.parametrize("demux", ["index", "unbind"])
def test_predictions(head, demux):
    model = head.from_backbone(BERT, 4, demultiplexer=demux, num_labels=3).double().train()
    rows = batch(11, padded=True)
    rows["token_type_ids"] = torch.zeros_like(rows["input_ids"])
    expected = real(model.eval()(**rows).logits, rows)[:8]  # the last group is filled with other rows
    model.train()
    assert relative_error(model.predict(**rows)[:8], expected) < 1e-12 and model.training
    assert relative_error(model.predict(**rows, groups_per_batch=1)[:8], expected) < 1e-12

    # A row alone in all slots: what it gives, whatever the others are.
    alone = torch.cat([model.predict(**{k: t[i : i + 1] for k, t in rows.items()}, copies=4) for i in range(11)])
    for options in ({}, {"grouping": "random", "seed": 1}, {"grouping": "length", "groups_per_batch": 2}):
        assert relative_error(model.predict(**rows, copies=4, **options), alone) < 1e-12

    # Two rows in two slots each.
    pair = {k: t[[0, 1, 0, 1]] for k, t in rows.items()}
    both = real(model.eval()(**pair).logits, pair)
    assert relative_error(model.predict(**rows, copies=2)[:2], (both[:2] + both[2:]) / 2) < 1e-12


def real(logits: torch.Tensor, rows: dict[str, torch.Tensor]) -> torch.Tensor:
    """Zeros where a token is padding."""
    return logits * rows["attention_mask"][..., None] if logits.dim() == 3 else logits


def test_no_rows():
    model = fastmux.TMuxForSequenceClassification.from_backbone(BERT, 4, num_labels=3)
    assert model.predict(torch.full((0, 7), PAD)).shape == (0, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"copies": 0}, "copies is 0, expected an integer from 1 to num_instances = 4"),
        ({"copies": 5}, "copies is 5, expected"),
        ({"copies": 1.5}, "copies is 1.5, expected an integer"),
        ({"grouping": "clever"}, "grouping is 'clever', expected one of 'in_order', 'random', 'length'"),
        ({"grouping": "length"}, "needs an attention_mask"),
        ({"groups_per_batch": 0}, "groups_per_batch is 0, expected at least 1"),
    ],
)
def test_bad_options(options, message):
    model = fastmux.TMuxForSequenceClassification.from_backbone(BERT, 4, num_labels=3)
    with pytest.raises(ValueError, match=message):
        model.predict(batch(5)["input_ids"], **options)
