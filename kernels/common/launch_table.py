"""The launch parameters of every launcher: a table of defaults, and tables that `python -m bench.tune` writes.

A launcher asks `launch_parameters` for its entry. The first call on a device reads
``kernels/tuned/<architecture>.json``, if there is one, and keeps it in memory. Nothing is timed here.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

Parameters = Mapping[str, int]

#: Launcher -> its parameters. For tiles of whole rows: the ``elements`` of a tile and those ``per_thread``, about, and,
#: where the number of programs is free, the ``resident`` warps or ``programs`` that keep a multiprocessor busy; more of
#: them leave more partial sums. For tiles of cut rows: ``rows``, the most ``columns``, ``warps``, and the ``stages`` of
#: pipelined loads. For one row in a program: the elements ``per_warp`` and the most ``warps``.
DEFAULTS: dict[str, Parameters] = {
    # 8 rows of 256 columns on 4 warps: 16 elements per thread in 16-byte accesses, four instances at a time, no spills.
    "hadamard_mux_forward": {"rows": 8, "columns": 256, "warps": 4},
    "hadamard_mux_dx": {"rows": 8, "columns": 256, "warps": 4},
    # Each tile leaves one partial row: 4 / (rows * s) of the bytes of x, which taller tiles make fewer.
    "hadamard_mux_dv": {"rows": 64, "columns": 128, "warps": 8},
    "walsh_hadamard_mux_forward": {"per_warp": 1024, "warps": 8},
    "walsh_hadamard_mux_dx": {"per_warp": 1024, "warps": 8},
    # Small programs, of which several fit a multiprocessor, since gathers wait for ids. At d = 768 forward has a row on
    # one warp, with 24 elements per thread in 16-byte accesses. Backward keeps some eight tiles, as many elements per
    # thread as 128 registers hold. From d = 256 on each of its programs has one row, so that sums over rows stay within
    # a thread.
    "embedding_mux_forward": {"elements": 1024, "per_thread": 24},
    "embedding_mux_backward": {"elements": 256, "per_thread": 12, "resident": 16},
    "pair_norm_forward": {"elements": 1024, "per_thread": 24, "programs": 4},
    "pair_norm_backward": {"elements": 256, "per_thread": 12, "resident": 16},
    # Tiles for tensor cores in bfloat16. Other dtypes are split into several bfloat16s, so they take half the columns
    # and one stage less. With more rows in backward, the layout of one product's result does not fit the other product.
    # One or two of its programs are resident.
    "pair_norm_head_forward": {"rows": 64, "columns": 64, "warps": 8, "stages": 2},
    "pair_norm_head_backward": {"rows": 16, "columns": 128, "warps": 8, "stages": 2, "programs": 2},
}

#: Parameter -> (least, most). All but the counts are powers of two, as `tl.arange` and num_warps must be.
LIMITS = {
    "elements": (256, 32768),
    "per_thread": (1, 128),
    "programs": (1, 64),
    "resident": (1, 64),
    "rows": (1, 512),
    "columns": (64, 4096),
    "per_warp": (32, 8192),
    "warps": (1, 16),
    "stages": (1, 6),
}
_COUNTS = ("programs", "resident", "stages", "per_thread")

FOLDER = Path(__file__).resolve().parents[1] / "tuned"

_forced: dict[str, Parameters] = {}


def launch_parameters(launcher: str, tensor: Tensor) -> Parameters:
    """The parameters of ``launcher`` on the tensor's device.

    Raises:
        ValueError: There is no such launcher, or the device's tuned table is malformed.
    """
    if launcher not in DEFAULTS:
        raise ValueError(f"launcher is {launcher!r}, expected one with an entry in DEFAULTS of {Path(__file__).name}")
    return _forced[launcher] if launcher in _forced else table(tensor.device)[launcher]


@contextlib.contextmanager
def using(entries: Mapping[str, Parameters]) -> Iterator[None]:
    """Makes launchers use these parameters within the ``with`` block, on every device of the process.

    Raises:
        ValueError: As in `merged`.
    """
    former = dict(_forced)
    complete = merged(entries, "using")
    _forced.update({launcher: complete[launcher] for launcher in entries})
    try:
        yield
    finally:
        _forced.clear()
        _forced.update(former)


def architecture(device: torch.device) -> str | None:
    """The architecture that a table is tuned for, such as ``sm_90`` or ``gfx942``. None for a CPU."""
    if device.type != "cuda":
        return None
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip is not None:
        return properties.gcnArchName.partition(":")[0]
    return f"sm_{properties.major}{properties.minor}"


@functools.cache
def table(device: torch.device) -> dict[str, Parameters]:
    """The parameters of all launchers on a device: the tuned ones, or the defaults."""
    name = architecture(device)
    path = FOLDER / f"{name}.json"
    if name is None or not path.is_file():
        return DEFAULTS
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON file ({error}); remove it to return to the defaults") from error
    if not isinstance(content, dict) or not isinstance(content.get("launchers"), dict):
        raise ValueError(f"{path} has no object 'launchers', expected launchers with their parameters")
    return merged(content["launchers"], str(path))


def merged(entries: Mapping[str, Parameters], source: str) -> dict[str, Parameters]:
    """Replaces defaults by ``entries``, which map a launcher to some or all of its parameters.

    Raises:
        ValueError: A launcher or a parameter is not in the table, or a value is out of `LIMITS`. The message names
            ``source``.
    """
    result = dict(DEFAULTS)
    for launcher, parameters in entries.items():
        if launcher not in DEFAULTS:
            raise ValueError(f"{source}: no launcher is called {launcher!r}, expected one of {', '.join(DEFAULTS)}")
        if not isinstance(parameters, Mapping):
            raise ValueError(f"{source}: {launcher} is {parameters!r}, expected an object of parameters")
        for parameter, value in parameters.items():
            if parameter not in DEFAULTS[launcher]:
                allowed = ", ".join(DEFAULTS[launcher])
                raise ValueError(f"{source}: {launcher} has no parameter {parameter!r}, expected some of {allowed}")
            if not is_allowed(parameter, value):
                least, most = LIMITS[parameter]
                kind = "an integer" if parameter in _COUNTS else "a power of two"
                raise ValueError(
                    f"{source}: {parameter} of {launcher} is {value!r}, expected {kind} from {least} to {most}"
                )
        result[launcher] = {**DEFAULTS[launcher], **parameters}
    return result


def is_allowed(parameter: str, value: object) -> bool:
    """Whether a parameter may have a value."""
    least, most = LIMITS[parameter]
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        return False
    return parameter in _COUNTS or value & (value - 1) == 0
