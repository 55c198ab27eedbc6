"""LayerNorm as a traced graph gets it, beside float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fastmux.functional._layer_norm import PIVOT, layer_norm


def rows(case: str, width: int) -> torch.Tensor:
    x = torch.randn(5, width)
    if case == "far from zero":
        x += 1000.0
    elif case == "features far out":
        x[:, :PIVOT] += 300.0
    elif case == "all the same":
        x = x[:, :1].expand(5, width).contiguous()
    return x


@pytest.mark.parametrize("width", [1, 7, 24, 768])
@pytest.mark.parametrize("case", ["near zero", "far from zero", "features far out", "all the same"])
@pytest.mark.parametrize("summed", [False, True])
def test_sums_of_a_traced_graph_keep_their_digits(case, width, summed):
    x, weight, bias, eps = rows(case, width), torch.randn(width), torch.randn(width), 1e-5
    traced = torch.compile(lambda *given: layer_norm(*given, summed=summed), backend="aot_eager", fullgraph=True)
    y, mean, rstd = traced(x, weight, bias, eps)
    wide = x.double()
    exact = F.layer_norm(wide, (width,), weight.double(), bias.double(), eps)
    own = F.layer_norm(x, (width,), weight, bias, eps)
    # Where all features of the pivot are far out, five digits are left of seven.
    assert (y - exact).abs().max() <= 4 * (own - exact).abs().max() + 1e-5 * exact.abs().max()
    torch.testing.assert_close(mean, wide.mean(-1, keepdim=True).float(), rtol=1e-5, atol=1e-5)
    deviation = wide.var(-1, correction=0, keepdim=True).add(eps).sqrt().float()
    torch.testing.assert_close(1 / rstd, deviation, rtol=1e-4, atol=1e-6)


def test_a_graph_that_is_traced_has_no_layer_norm():
    """Or Inductor would make Welford's update of it."""
    operations = []

    def backend(module, inputs):
        operations.extend(str(node.target) for node in module.graph.nodes)
        return module

    x, parameter = torch.randn(3, 24), torch.randn(24)
    torch.compile(lambda *given: layer_norm(*given, 1e-5), backend=backend)(x, parameter, parameter)
    assert operations and not any("layer_norm" in operation for operation in operations)
