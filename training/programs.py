"""What programs share: options, the machine that a figure belongs to, and the file and section of a result."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import fastmux
from fastmux.distribution import MissingExtraError
from fastmux.files import write_json
from fastmux.passes.processor import processor_name
from fastmux.training.formatting import for_terminal

#: Packages whose versions are recorded; none of them is imported for that.
_PACKAGES = ("torch", "triton", "transformers", "datasets")


class _Help(argparse.RawDescriptionHelpFormatter):
    """Shows a docstring as it is, and says the default of every option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        default = action.default
        if default is None or default is False or default in ([], argparse.SUPPRESS):
            return action.help or ""
        said = " ".join(map(str, default)) if isinstance(default, (list, tuple)) else str(default)
        said = "no limit" if said == "inf" else said
        return f"{action.help or ''} Default: {said.replace('%', '%%')}.".strip()


def file_to_write(text: str) -> Path:
    """Reads the name of a file to write from the command line."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder, expected a file or a new name")
    if over := next((one for one in path.parents if one.exists() and not one.is_dir()), None):
        raise argparse.ArgumentTypeError(f"{text} cannot be written: {over} is a file")
    return path


def options_of(
    description: str,
    output: str | None = "The JSON file to write. Default: one in bench/results/<device>.",
    kind: Callable[[str], Path] = file_to_write,
    **more,
) -> argparse.ArgumentParser:
    """A parser whose help is the program's docstring; with the option ``--output`` if ``output`` is its help, of this
    kind."""
    made = argparse.ArgumentParser(description=description, formatter_class=_Help, **more)
    if output is not None:
        made.add_argument("--output", type=kind, help=output)
    return made


def _integer(text: str, least: int) -> int:
    value = int(text)
    if value < least:
        raise argparse.ArgumentTypeError(f"{value}, expected an integer of at least {least}")
    return value


def natural(text: str) -> int:
    """Reads an integer of at least 0 from the command line."""
    return _integer(text, 0)


def fraction(text: str) -> float:
    """Reads a number above 0, up to 1, from the command line."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text}, expected a number above 0, up to 1")
    return value


def positive(text: str) -> int:
    """Reads an integer of at least 1 from the command line."""
    return _integer(text, 1)


def environment(device: torch.device | None = None) -> dict[str, object]:
    """What is recorded beside every figure; ``device`` is what it was measured on, by default a GPU if there is one."""
    gpu = torch.cuda.is_available() if device is None else device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if gpu else "cpu",
        "cpu": processor_name(),
        "cpu_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        "fastmux": fastmux.__version__,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def finish(result: dict, section: Callable[[dict], Iterator[str]], output: Path | None, beside: str = "") -> None:
    """Writes a result, and prints its section of docs/results.md; ``beside`` says what lies beside its file."""
    if output:
        write_json(output, result)
    written = f"\n\nwritten: {output}{beside}" if output else ""
    print("\n" + "\n\n".join(map(for_terminal, section(result))) + written, flush=True)


def run_program(main: Callable[[], object]) -> None:
    """Run a program. A ValueError, an OSError or a package that is not installed ends it with the message; Ctrl-C with
    130, as in a shell."""
    try:
        main()
    except KeyboardInterrupt:
        print(f"{Path(sys.argv[0]).name}: interrupted", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError, MissingExtraError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
