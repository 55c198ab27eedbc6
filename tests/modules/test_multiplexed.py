"""Any network on N rows at once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fastmux
from fastmux import Multiplexed, reference
from fastmux.modules import DEMULTIPLEXERS, MULTIPLEXERS, HadamardMultiplexer, MlpDemultiplexer
from fastmux.testing import assert_agrees, relative_error

N, WIDTH = 3, 8
#: Rows of a kind, where their features are, and a network that keeps the features.
KINDS = {
    "vectors": ((WIDTH,), 1, lambda: nn.Linear(WIDTH, WIDTH)),
    "images": ((WIDTH, 4, 5), 1, lambda: nn.Conv2d(WIDTH, WIDTH, 3, padding=1)),
    "signals": ((WIDTH, 6), 1, lambda: nn.Conv1d(WIDTH, WIDTH, 3, padding=1)),
    "sequences": ((6, WIDTH), -1, lambda: nn.Linear(WIDTH, WIDTH)),
    "flattened": ((2, 2, 2), None, lambda: nn.Conv2d(2, 2, 1)),
}


@pytest.fixture(params=list(KINDS))
def kind(request):
    shape, feature_dim, network = KINDS[request.param]
    return shape, {"feature_dim": feature_dim}, network


def features_last(x: torch.Tensor, feature_dim: int | None, before: int) -> torch.Tensor:
    """(..., row) -> (..., L, d)."""
    if feature_dim is None:
        return x.flatten(before)[..., None, :]
    x = x.movedim(feature_dim if feature_dim < 0 else before, -1)
    return x.flatten(before, -2) if x.dim() > before + 1 else x[..., None, :]


def test_computes_the_formula(kind):
    shape, options, network = kind
    model = Multiplexed(network(), N, WIDTH, **options).double()
    x = torch.randn(2 * N, *shape, dtype=torch.float64)
    vectors, demux = model.multiplexer.transforms, model.demultiplexer
    whole = options["feature_dim"] is None
    bound = vectors.view(N, *(size if whole or size == WIDTH else 1 for size in shape))
    joined = (x.unflatten(0, (2, N)) * bound).mean(1)
    h = features_last(model.network(joined), options["feature_dim"], 1)
    norm = demux.layer_norm
    states = reference.unbind_demux(
        h, vectors, demux.dense.weight, demux.dense.bias, norm.weight, norm.bias, norm.eps
    ).flatten(0, 1)
    ours = features_last(model(x), options["feature_dim"], 1)
    assert ours.shape == states.shape
    assert relative_error(ours, states) < 1e-12


@pytest.mark.parametrize("n", [1, N])
def test_what_else_the_network_takes_it_gets(n):
    class Masked(nn.Module):
        def forward(self, x, mask):
            return x * mask

    model, x = Multiplexed(Masked(), n, WIDTH), torch.randn(2 * N, WIDTH)
    hidden, seen = torch.zeros(2 * N // n, 1), torch.ones(2 * N // n, 1)
    assert torch.equal(model(x, hidden), model(-x, hidden)) and not torch.equal(model(x, seen), model(-x, seen))


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 4, 7])
def test_any_number_of_rows(kind, rows):
    shape, options, network = kind
    model = Multiplexed(network(), N, WIDTH, **options)
    x = torch.randn(rows, *shape)
    y = model(x)
    assert y.shape == (rows, *shape)
    if rows:
        filled = torch.cat([x] * N)[: -(-rows // N) * N]
        assert relative_error(y, model(filled)[:rows].double()) < 1e-5


def test_one_instance_is_the_network(kind):
    shape, options, network = kind
    inner, stem, head = network(), nn.Tanh(), nn.ReLU()
    x = torch.randn(5, *shape)
    model = Multiplexed(inner, 1, WIDTH, stem=stem, head=head, **options)
    assert_agrees(model(x), head(inner(stem(x))))
    assert set(model.state_dict()) == {f"network.{name}" for name in inner.state_dict()}


def test_the_network_runs_once_a_group(kind):
    shape, options, network = kind
    seen = []
    model = Multiplexed(network(), N, WIDTH, **options)
    model.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    model(torch.randn(7, *shape))
    assert seen == [(3, *shape)]


@pytest.mark.parametrize("multiplexer", list(MULTIPLEXERS))
@pytest.mark.parametrize("demultiplexer", [name for name in DEMULTIPLEXERS if not DEMULTIPLEXERS[name].has_prefix])
def test_every_multiplexer_and_demultiplexer(multiplexer, demultiplexer):
    def make():
        options = {"multiplexer": multiplexer, "demultiplexer": demultiplexer}
        return Multiplexed(nn.Conv2d(WIDTH, 16, 3), N, WIDTH, out_width=16, head=nn.Flatten(), **options)

    if demultiplexer == "unbind" and not hasattr(MULTIPLEXERS[multiplexer](N, WIDTH), "transforms"):
        with pytest.raises(ValueError, match=r"has none\. Use 'key' or 'mlp'"):
            make()
        return
    model = make()
    y = model(torch.randn(4, WIDTH, 5, 5))
    assert y.shape == (4, 16 * 9)
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.network.parameters())
    twin = make()
    twin.load_state_dict(model.state_dict())
    x = torch.randn(5, WIDTH, 5, 5)
    model.eval(), twin.eval()
    assert_agrees(twin(x), model(x))


def test_instances_are_told_apart():
    """Two rows a pass, trained to come out again."""
    torch.manual_seed(0)
    model = Multiplexed(nn.Linear(64, 64), 2, 64, head=nn.Linear(64, 64), multiplexer_options={"vectors": "signs"})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    directions = nn.functional.normalize(torch.randn(4, 64), dim=1)
    for _ in range(150):
        which = torch.randint(0, 4, (64,))
        loss = nn.functional.mse_loss(model(directions[which]), directions[which])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    which = torch.randint(0, 4, (64,))
    assert ((model(directions[which]) @ directions.T).argmax(1) == which).float().mean() > 0.95


def test_parts_of_ones_own():
    model = Multiplexed(
        nn.Linear(WIDTH, WIDTH),
        N,
        WIDTH,
        multiplexer=HadamardMultiplexer(N, WIDTH, vectors="signs"),
        demultiplexer=MlpDemultiplexer(N, WIDTH),
    )
    assert model(torch.randn(4, WIDTH)).shape == (4, WIDTH)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_instances": 0}, "num_instances is 0, expected an integer of at least 1"),
        ({"num_instances": 2.0}, "num_instances is 2.0"),
        ({"feature_dim": 0}, "feature_dim is 0"),
        ({"demultiplexer": "index"}, "demultiplexer is 'index', which needs the index prefix"),
        ({"multiplexer": "hadamrad"}, "multiplexer is 'hadamrad', expected one of .*did you mean 'hadamard'"),
        ({"multiplexer_options": {"vector": "signs"}}, "multiplexer_options has 'vector'.*did you mean 'vectors'"),
        ({"multiplexer": HadamardMultiplexer(2, 4)}, "multiplexer is of 2 instances and width 4, expected 3 and 8"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Multiplexed(nn.Linear(WIDTH, WIDTH), **{"num_instances": N, "width": WIDTH} | arguments)


def test_rows_of_another_width():
    with pytest.raises(ValueError, match="a row has 5 features, expected width = 8"):
        Multiplexed(nn.Linear(5, 5), N, WIDTH)(torch.randn(4, 5))
    with pytest.raises(ValueError, match="the network's output has 5 features, expected out_width = 8"):
        Multiplexed(nn.Linear(WIDTH, 5), N, WIDTH)(torch.randn(4, WIDTH))


def test_it_is_public():
    assert fastmux.Multiplexed is Multiplexed
