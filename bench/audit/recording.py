"""What the launchers of `fastmux.kernels` would launch, recorded on CPU tensors in place of being launched."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from bench.audit.launches import calls


@dataclass
class Launch:
    """One recorded launch: kernel, positional arguments, constexprs and options."""

    name: str
    kernel: object
    arguments: tuple
    options: dict
    programs: int

    @property
    def values(self) -> dict[str, object]:
        """The arguments by name, constexprs among them."""
        names = self.kernel.arg_names
        return dict(zip(names, self.arguments, strict=False)) | {k: v for k, v in self.options.items() if k in names}


class Recorder:
    """Stands where a kernel stands in its module; remembers launches in place of launching."""

    def __init__(self, name: str, kernel: object, launches: list[Launch]):
        self.name, self.kernel, self.launches = name, kernel, launches

    def __getitem__(self, grid) -> Callable:
        programs = math.prod(grid)
        return lambda *args, **options: self.launches.append(Launch(self.name, self.kernel, args, options, programs))


def record(module, calls: list[tuple], lanes: int = 32, multiprocessors: int = 1) -> list[Launch]:
    """The launches that ``calls``, (launcher name, arguments), of a module of `fastmux.kernels` would make on a GPU
    of so many multiprocessors, whose warps have so many lanes."""
    launches: list[Launch] = []
    device = {"lanes": lambda: lanes, "multiprocessors": lambda _: multiprocessors}
    former = {n: k for n, k in vars(module).items() if n.endswith("_kernel") or n in device}
    basename = module.__name__.rpartition(".")[2]
    try:
        for name, kernel in former.items():
            setattr(module, name, device.get(name) or Recorder(basename + name, kernel, launches))
        for launcher, arguments in calls:
            getattr(module, launcher)(*arguments)
    finally:
        for name, kernel in former.items():
            setattr(module, name, kernel)
    return launches


def launches(
    dtype: torch.dtype, width: int, sizes: tuple[int, int, int] = (2, 4, 128), lanes: int = 32
) -> list[Launch]:
    """Every kernel of the project, in every variant of its arguments that compiles differently."""
    return [
        launch
        for call in calls(dtype, width, *sizes)
        for launch in record(call.module, [(call.launcher, call.arguments)], lanes)
    ]
