"""Multiplexers that are made for images."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastmux import Multiplexed, reference
from fastmux.modules import IMAGE_MULTIPLEXERS, ConvolutionMultiplexer, ImageMultiplexer, NonlinearMultiplexer
from fastmux.testing import assert_agrees, relative_error

N, CHANNELS = 3, 2


def formula(mux: ImageMultiplexer, kind: str, x: torch.Tensor) -> torch.Tensor:
    if kind == "rotation":
        return reference.rotation_mux(x)
    if kind == "convolution":
        return reference.convolution_mux(x, (mux.kernels.unflatten(1, (mux.num_instances, -1)).movedim(1, 0), None))
    if kind == "nonlinear":
        layers = [
            (layer.weight.unflatten(0, (mux.num_instances, -1)), layer.bias.unflatten(0, (mux.num_instances, -1)))
            for layer in (mux.inner, mux.outer)
        ]
        return reference.convolution_mux(x, *layers, activation=torch.tanh)
    pytest.fail(f"there is no formula here that multiplexer {kind!r} could be held to: add it")


@pytest.mark.parametrize("kind", list(IMAGE_MULTIPLEXERS))
@pytest.mark.parametrize("shape", [(CHANNELS, 6, 6), (CHANNELS, 5, 8), (1, 1, 4)])
def test_computes_the_formula(kind, shape):
    torch.manual_seed(0)
    mux = IMAGE_MULTIPLEXERS[kind](N, shape[0]).double()
    x = torch.randn(4, N, *shape, dtype=torch.float64)
    expected = formula(mux, kind, x)
    assert expected.shape == (4, *shape)
    assert relative_error(mux(x), expected) < 1e-12


@pytest.mark.parametrize("kind", list(IMAGE_MULTIPLEXERS))
def test_in_a_network(kind):
    """Gradients reach the network, and weights come back from a state dict."""

    def make():
        network = nn.Sequential(nn.Conv2d(CHANNELS, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8))
        options = {"multiplexer": kind, "demultiplexer": "mlp"}
        return Multiplexed(network, N, CHANNELS, out_width=8, head=nn.Linear(8, 5), **options)

    model, twin, x = make(), make(), torch.randn(7, CHANNELS, 6, 6)
    model.to(memory_format=torch.channels_last)
    y = model(x)
    assert y.shape == (7, 5)
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    twin.load_state_dict(model.state_dict())
    assert_agrees(twin.eval()(x), model.eval()(x))


def test_a_quarter_turn():
    x = torch.zeros(1, 4, 1, 5, 5, dtype=torch.float64)
    x[0, 1, 0] = torch.arange(25.0).view(5, 5)
    turned = IMAGE_MULTIPLEXERS["rotation"](4, 1)(x)[0, 0] * 4
    assert_agrees(turned, x[0, 1, 0].rot90())


def test_the_scale_stays():
    torch.manual_seed(0)
    x = torch.randn(64, 1, 4, 16, 16)
    assert 0.5 < ConvolutionMultiplexer(1, 4)(x).std() < 1.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConvolutionMultiplexer(2, 1, kernel_size=4), "kernel_size is 4, expected an odd number"),
        (lambda: NonlinearMultiplexer(2, 1, hidden_channels=0), "hidden_channels is 0, expected at least 1"),
        (lambda: Multiplexed(nn.Identity(), 2, 1, multiplexer="rotatoin"), "did you mean 'rotation'"),
        (lambda: Multiplexed(nn.Identity(), 2, 1, multiplexer="rotation"), r"RotationMultiplexer has none\. Use 'key'"),
        (
            lambda: Multiplexed(nn.Identity(), 2, 1, multiplexer="rotation", demultiplexer="mlp")(
                torch.ones(2, 3, 4, 4)
            ),
            "a row is of shape 3x4x4, expected an image of 1 channels",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
