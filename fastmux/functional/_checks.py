"""Checks of arguments that all ops share: shapes, dtypes, devices and index values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


def is_fake(t: Tensor) -> bool:
    """Whether ``t`` has a shape and a dtype, but no values."""
    return isinstance(t, FakeTensor) or t.device.type == "meta"


class Shapes:
    """The sizes of one call's shapes by letter, e.g. ``Shapes("hadamard_mux").bind(x=(x, "GNLd"), ...)``.

    A letter gets its size from the first tensor that has it, and every later tensor must agree. Sizes that are known in
    advance are put into ``sizes``.
    """

    def __init__(self, op: str):
        self.op = op
        self.sizes: dict[str, int] = {}

    def bind(self, **tensors: tuple[Tensor, Sequence[str]]) -> dict[str, int]:
        """Adds tensors, each with the letters of its shape, and returns all sizes.

        Raises:
            ValueError: A shape does not fit. The message names the argument, its shape and the expected one.
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
        """Adds a linear head: weight (C, d) and bias (C), both optional.

        Raises:
            ValueError: A shape does not fit, or there is a bias without a weight.
        """
        if head_weight is not None:
            self.bind(head_weight=(head_weight, "Cd"))
            if head_bias is not None:
                self.bind(head_bias=(head_bias, "C"))
        elif head_bias is not None:
            raise ValueError(f"{self.op}: head_bias was given without head_weight; give both or neither")


def check_floating(op: str, **tensors: Tensor | None) -> None:
    """Raises ValueError unless all tensors that are given are floating point and on one device."""
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

    Values are read on a CPU only: on a GPU every call would wait for the device. They are not read if ``size`` is None,
    which says that they have been checked before.
    """
    if index.is_floating_point() or index.is_complex():
        raise ValueError(f"{op}: {name} has dtype {index.dtype}, expected an integer dtype")
    if index.device != like.device:
        raise ValueError(f"{op}: {name} is on {index.device}, expected {like.device}")
    if size is not None:
        check_range(f"{op}: {name}", index, size)


def check_range(what: str, index: Tensor, size: int, ignored: int | None = None) -> None:
    """Raises ValueError if a value of ``index`` is neither from 0 to size - 1 nor ``ignored``. Tensors on a GPU, and
    graphs that are traced, are not checked."""
    if torch.compiler.is_compiling() or index.device.type != "cpu" or index.numel() == 0 or is_fake(index):
        return
    low, high = map(int, torch.aminmax(index))
    if ignored is not None and (low < 0 or high >= size):
        index = index[index != ignored]
        low, high = map(int, torch.aminmax(index)) if index.numel() else (0, size - 1)
    if low < 0 or high >= size:
        also = "" if ignored is None else f", or {ignored}"
        raise ValueError(f"{what} holds {low if low < 0 else high}, expected values from 0 to {size - 1}{also}")
