#!/usr/bin/env bash
# torch 2.13.0: an autograd.Function whose backward is marked `once_differentiable` is said to raise if differentiated
# twice. It does under .backward() alone, and only if the gradient that reaches it depends on something. With
# torch.autograd.grad(..., create_graph=True) and a second torch.autograd.grad nothing is raised: the function's part is
# left out, and what comes back is the rest, a wrong number. Gradient penalties, Hessian products and meta-learning are
# written this way. Until that changes, hand the backward's results to a Function of your own, whose inputs are the
# gradients and saved tensors and whose backward raises.
set -euo pipefail
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" && python="$work/venv/bin/python"
"$python" -m pip install --quiet torch==2.13.0+cpu numpy 2>"$work/log" || "$python" -m pip install --quiet torch==2.13.0 numpy

cd "$work" && "$python" - <<'PY'
import sys

import torch
from torch.autograd.function import once_differentiable


class Square(torch.autograd.Function):
    """x^2, whose second derivative is 2."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad


def second(function, by):
    """The second derivative at x = 3, or the error's first words."""
    x = torch.tensor(3.0, requires_grad=True)
    (first,) = torch.autograd.grad(function(x), x, create_graph=True)
    try:
        if by == "grad":
            return torch.autograd.grad(first, x)[0].item()
        first.backward()
        return x.grad.item()
    except RuntimeError as error:
        return str(error)


print("torch", torch.__version__)
functions = {
    "Square(x)^2 + x^3": (lambda x: Square.apply(x) ** 2 + x**3, 126),
    "Square(x) + x^3": (lambda x: Square.apply(x) + x**3, 20),
}
found = []
for name, (function, right) in functions.items():
    for by in ("grad", "backward"):
        found.append(second(function, by))
        print(f"second derivative of {name} at 3 by {by}: {found[-1]} (right: {right} or an error; x^3 alone: 18)")
silent, raised = [found[0], *found[2:]], found[1]
if silent != [18.0, 18.0, 18.0] or "once_differentiable" not in str(raised):
    sys.exit("torch behaves differently from what is written above")
PY
