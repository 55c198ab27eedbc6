"""Two digits, one answer."""

from __future__ import annotations

import pytest
import torch

from fastmux.testing import assert_agrees
from fastmux.training.experiments import Multiplexing
from fastmux.training.experiments.paired_digits import PairedDigits, moved

SMALL = {"channels": 4, "hidden_size": 8, "pairs": 6}


@pytest.fixture
def images(monkeypatch):
    draw = torch.Generator().manual_seed(0)

    def rows(count):
        image = torch.randn(count, 1, 28, 28, generator=draw)
        return {"image": image, "label": torch.randint(10, (count,), generator=draw)}

    parts = rows(30), rows(20)
    monkeypatch.setattr("fastmux.training.experiments.paired_digits.read_mnist", lambda data_dir: parts)
    return parts


def test_pairs(images):
    train, test = PairedDigits(**SMALL).load("", 3)
    assert train["pair"].shape == test["pair"].shape == (6, 2, 14, 14)
    assert torch.equal(train["target"] == 1, train["digits"][:, 0] <= train["digits"][:, 1])
    small = torch.nn.functional.avg_pool2d(images[0]["image"], 2)[:, 0]
    for pair, digits in zip(train["pair"], train["digits"], strict=True):
        for image, digit in zip(pair, digits, strict=True):
            (number,) = (small == image).flatten(1).all(1).nonzero()[:, 0]
            assert images[0]["label"][number] == digit
    other, _ = PairedDigits(**SMALL).load("", 4)
    assert not torch.equal(other["pair"], train["pair"])
    with pytest.raises(ValueError, match="30 images, expected at least 2 x pairs=16"):
        PairedDigits(pairs=16).load("", 0)


@pytest.mark.parametrize(
    ("options", "num_instances"),
    [({"network": "basic"}, 1), ({}, 1), ({"auxiliary_weight": 0.5}, 1), ({"auxiliary_weight": 0.5}, 2)],
)
def test_networks(images, options, num_instances):
    experiment = PairedDigits(**SMALL, **options, shift=1)
    _, rows = experiment.load("", 0)
    model = experiment.model(Multiplexing(num_instances))
    outputs = model(rows["pair"])
    experiment.loss(outputs, rows).backward()
    assert all(p.grad is not None for p in model.parameters())
    measured = experiment.measure(outputs, rows)
    assert list(measured) == ["accuracy", "digits"][: 1 + bool(experiment.auxiliary_weight)]
    assert all(values.shape == (6,) for values in measured.values())


def test_images_come_back_to_their_pair(images):
    """In training they go through the network in another order, and out in their own."""
    experiment = PairedDigits(**SMALL)
    rows, _ = experiment.load("", 0)
    model = experiment.model(Multiplexing(1)).train()
    seen = []
    model.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    compared, digits = model(rows["pair"])
    again, digits_again = model(rows["pair"])
    assert not torch.equal(seen[0], seen[1])
    assert_agrees(digits, digits_again)
    assert_agrees(compared, again)


def test_the_two_of_a_pair_share_a_pass():
    model = PairedDigits(**SMALL).model(Multiplexing(2)).eval()
    pairs = torch.randn(5, 2, 14, 14)
    together = model(pairs)[0]
    alone = torch.cat([model(pair[None])[0] for pair in pairs])
    assert_agrees(together, alone)


def test_moved():
    images = torch.randn(50, 2, 14, 14)
    out = moved(images, 1)
    around = torch.nn.functional.pad(images, (1,) * 4, mode="replicate")
    for image, padded in zip(out, around, strict=True):
        places = [padded[:, i : i + 14, j : j + 14] for i in range(3) for j in range(3)]
        assert any(torch.equal(image, place) for place in places)
    assert not torch.equal(out, images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "both"}, "network is 'both', expected one of 'basic', 'shared'"),
        ({"network": "basic", "auxiliary_weight": 1.0}, "network 'basic' sees no single digit"),
        ({"auxiliary_weight": -1.0}, r"auxiliary_weight is -1\.0, expected a number of at least 0"),
        ({"shift": 14}, "shift is 14, expected an integer from 0 to 13"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        PairedDigits(**options)
