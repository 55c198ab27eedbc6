"""What the launchers of `fastmux.kernels` would launch, recorded on CPU tensors in place of being launched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from bench.audit.launches import calls


@dataclass
class Launch:
    """One recorded launch: the kernel, its positional arguments, and its constexprs and options."""

    name: str
    kernel: object
    arguments: tuple
    options: dict

    @property
    def values(self) -> dict[str, object]:
        """The arguments by name, constexprs among them."""
        names = self.kernel.arg_names
        return dict(zip(names, self.arguments, strict=False)) | {k: v for k, v in self.options.items() if k in names}


class Recorder:
    """Stands in for a kernel in its module, and remembers launches."""

    def __init__(self, name: str, kernel: object, launches: list[Launch]):
        self.name, self.kernel, self.launches = name, kernel, launches

    def __getitem__(self, grid) -> Callable:
        return lambda *args, **options: self.launches.append(Launch(self.name, self.kernel, args, options))


def record(module, launcher: str, arguments: tuple, lanes: int) -> list[Launch]:
    """The launches that a launcher would make on a GPU with one multiprocessor, whose warps have so many lanes."""
    recorded: list[Launch] = []
    device = {"lanes": lambda: lanes, "multiprocessors": lambda _: 1}
    former = {n: k for n, k in vars(module).items() if n.endswith("_kernel") or n in device}
    basename = module.__name__.rpartition(".")[2]
    try:
        for name, kernel in former.items():
            setattr(module, name, device.get(name) or Recorder(basename + name, kernel, recorded))
        getattr(module, launcher)(*arguments)
    finally:
        for name, kernel in former.items():
            setattr(module, name, kernel)
    return recorded


def launches(
    dtype: torch.dtype, width: int, sizes: tuple[int, int, int] = (2, 4, 128), lanes: int = 32
) -> list[Launch]:
    """Every kernel of the project, in every variant of its arguments that compiles differently."""
    listed = calls(dtype, width, *sizes)
    return [launch for call in listed for launch in record(call.module, call.launcher, call.arguments, lanes)]
