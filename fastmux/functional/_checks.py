"""Argument checks that every op shares: shapes in the project's letters, one dtype family, one device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


def is_fake(t: Tensor) -> bool:
    """Whether ``t`` says how a tensor looks and holds no values."""
    return isinstance(t, FakeTensor) or t.device.type == "meta"


class Shapes:
    """Binds the letters of the shapes of one call, e.g. ``Shapes("hadamard_mux").bind(x=(x, "GNLd"), ...)``.

    A letter takes its size from the first tensor that has it; every later one must agree. A size that is known
    otherwise is put into ``sizes``.
    """

    def __init__(self, op: str):
        self.op = op
        self.sizes: dict[str, int] = {}

    def bind(self, **tensors: tuple[Tensor, Sequence[str]]) -> dict[str, int]:
        """Raises:
        ValueError: naming the first argument whose shape does not fit, its shape and the one expected.
        """
        sizes = self.sizes
        for name, (tensor, letters) in tensors.items():
            shape = tensor.shape
            if len(shape) == len(letters):
                for letter, size in zip(letters, shape, strict=True):
                    if sizes.setdefault(letter, size) != size:
                        break
                else:
                    continue
            known = ", ".join(f"{letter} = {size}" for letter, size in sizes.items())
            raise ValueError(
                f"{self.op}: {name} has shape {tuple(shape)}, expected ({', '.join(letters)})"
                + (f" with {known}" if known else "")
            )
        return sizes

    def bind_head(self, head_weight: Tensor | None, head_bias: Tensor | None) -> None:
        """An optional linear head, (C, d) and, optional too, (C).

        Raises:
            ValueError: a shape does not fit, or a bias was given without a weight.
        """
        if head_weight is not None:
            self.bind(head_weight=(head_weight, "Cd"))
            if head_bias is not None:
                self.bind(head_bias=(head_bias, "C"))
        elif head_bias is not None:
            raise ValueError(f"{self.op}: head_bias was given without head_weight; give both or neither")


def check_floating(op: str, **tensors: Tensor | None) -> None:
    """Raises ValueError unless all given tensors are floating point and live on one device."""
    first_name = device = None
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if not tensor.is_floating_point():
            raise ValueError(f"{op}: {name} has dtype {tensor.dtype}, expected a floating point dtype")
        if device is None:
            first_name, device = name, tensor.device
        elif tensor.device != device:
            raise ValueError(f"{op}: {name} is on {tensor.device}, expected {device}, where {first_name} is")


def check_index(op: str, name: str, index: Tensor, size: int | None, like: Tensor) -> None:
    """Raises ValueError unless ``index`` holds integers below ``size`` on the device of ``like``.

    Values are looked at on a CPU only: on a GPU that would wait for the device at every call. Not at all if ``size`` is
    None: somebody has done so.
    """
    if index.is_floating_point() or index.is_complex():
        raise ValueError(f"{op}: {name} has dtype {index.dtype}, expected an integer dtype")
    if index.device != like.device:
        raise ValueError(f"{op}: {name} is on {index.device}, expected {like.device}")
    if size is not None:
        check_range(f"{op}: {name}", index, size)


def check_range(what: str, index: Tensor, size: int, ignored: int | None = None) -> None:
    """Raises ValueError if a value of ``index`` is neither in [0, size) nor ``ignored``; CPU tensors only, and never
    while a graph is traced."""
    if torch.compiler.is_compiling() or index.device.type != "cpu" or index.numel() == 0 or is_fake(index):
        return
    low, high = map(int, torch.aminmax(index))
    if ignored is not None and (low < 0 or high >= size):
        index = index[index != ignored]
        low, high = map(int, torch.aminmax(index)) if index.numel() else (0, size - 1)
    if low < 0 or high >= size:
        also = "" if ignored is None else f", or {ignored}"
        raise ValueError(f"{what} holds {low if low < 0 else high}, expected values from 0 to {size - 1}{also}")
