"""``fastmux env``: versions and devices, as a block to paste into an issue."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastmux
from fastmux.cli.parser import Parser
from fastmux.cli.settings import MODEL_HELP, add_text, text_rows
from fastmux.passes.processor import processor_features, processor_name

DESCRIPTION = """\
Print versions, devices, threads and the backend that runs the ops, as a block to paste into an issue. It also says
what is not installed, and has no path, user name or machine name in it. With a MODEL it also times what can run that
model here, for some seconds, as --runtime auto does, which then need not."""

EPILOG = """\
examples:
  fastmux env
  fastmux env my-model --text reviews.txt      # which runtime and precision is the fastest on these rows"""

#: The distributions of every installation, and those of extras by their purpose.
_ALWAYS = (
    "torch",
    "triton",
    "transformers",
    "tokenizers",
    "datasets",
    "accelerate",
    "huggingface_hub",
    "safetensors",
    "numpy",
    "pyarrow",
)
_EXTRAS = {
    "serve": ("fastapi", "starlette", "uvicorn", "httptools", "pydantic", "prometheus-client"),
    "other engines": ("onnxruntime", "onnx", "onnxscript", "ctranslate2", "ray", "peft"),
    "experiments": ("rdkit", "torch_geometric", "torch-pruning", "scikit-learn"),
    "peers": ("liger-kernel", "fast-hadamard-transform"),
}
#: Environment variables that change what runs. Their values are words or numbers.
_VARIABLES = (
    "FASTMUX_BACKEND",
    "TRITON_INTERPRET",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "MKL_ENABLE_INSTRUCTIONS",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_LAUNCH_BLOCKING",
    "HF_HUB_OFFLINE",
    "TOKENIZERS_PARALLELISM",
)


def add_parser(commands: argparse._SubParsersAction) -> Parser:
    """Add the arguments of the command."""
    parser = commands.add_parser(
        "env", help="versions and devices, to paste into an issue", description=DESCRIPTION, epilog=EPILOG
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help=f"A classifier, or a model that embeds. {MODEL_HELP}")
    add_text(parser, "Rows to time it on; by default they are made up")
    return parser


def run(options: argparse.Namespace) -> None:
    """Print the block, fenced, so that an issue shows it as it is."""
    if options.text and options.model is None:
        raise ValueError("--text goes with a MODEL, which is timed on it")
    # First, as bad input is found there.
    timed = [] if options.model is None else [("runtimes of the model", _timed(options))]
    lines = [*facts(), *timed]
    width = max(len(name) for name, _ in lines)
    print("```")
    for name, value in lines:
        print(f"{name:{width}}  {value}")
    print("```")


def _timed(options: argparse.Namespace) -> str:
    """How fast each runtime runs a model here, the fastest first."""
    from fastmux.embedding.embedder import Embedder
    from fastmux.embedding.loading import embeds
    from fastmux.labelling.labeller import Labeller

    texts: Any = list(text_rows(options)) if options.text else None
    if embeds(options.model):
        loaded: Any = Embedder(options.model, runtime="auto", texts=texts)
    else:
        loaded = Labeller(options.model, runtime="auto", truncation=True, texts=texts)
    if loaded.choice is None:
        return f"{loaded.placement.runtime} {loaded.placement.dtype}: there is nothing to choose"
    return loaded.choice.line()


def facts() -> Iterator[tuple[str, str]]:
    """Yield a name and a value for each line."""
    yield "fastmux", fastmux.__version__
    yield "Python", f"{platform.python_version()}, {platform.python_implementation()}"
    yield "system", f"{platform.system()} {platform.machine()}, {' '.join(platform.libc_ver()) or 'no glibc'}"
    for name in _ALWAYS:
        yield name, _version(name)
    for purpose, names in _EXTRAS.items():
        yield f"for {purpose}", ", ".join(f"{name} {_version(name)}" for name in names)
    yield "processor", processor_name()
    yield "processor features", " ".join(processor_features()) or "unknown"
    yield "runtimes on the CPU", _runtimes()
    with contextlib.suppress(ImportError):
        import torch

        yield from _of_torch(torch)
    # Show words and numbers only: a value may also be a path or a serial number.
    given = {name: os.environ[name] for name in _VARIABLES if os.environ.get(name)}
    plain = re.compile("[A-Za-z0-9_,.+]{1,32}")
    said = [f"{name}={value if plain.fullmatch(value) else '...'}" for name, value in given.items()]
    yield "environment", " ".join(said) or "nothing set that matters"


def _of_torch(torch) -> Iterator[tuple[str, str]]:
    cuda, hip = torch.version.cuda, torch.version.hip
    yield "torch built for", f"CUDA {cuda}" if cuda else f"ROCm {hip}" if hip else "CPU"
    onednn = "with" if torch.backends.mkldnn.is_available() else "without"
    yield "torch's instructions", f"{torch.backends.cpu.get_cpu_capability()}, {onednn} oneDNN"
    yield "threads", f"torch {torch.get_num_threads()}, between ops {torch.get_num_interop_threads()}, {_processors()}"
    devices = ["cpu"]
    for kind in ("cuda", "xpu", "mps"):
        module = torch.get_device_module(kind)
        if not module.is_available():
            continue
        devices.append(kind)
        for index in range(module.device_count()):
            yield f"device {kind}:{index}", _device(module, index)
    if len(devices) == 1:
        yield "device", "cpu alone"
    for kind in devices:
        yield f"backend on {kind}", _backend(torch, kind)


def _device(module, index: int) -> str:
    if not hasattr(module, "get_device_properties"):
        return "there"
    found = module.get_device_properties(index)
    capability = f", sm_{found.major}{found.minor}" if hasattr(found, "major") else ""
    return f"{found.name}, {found.total_memory / 2**30:.0f} GiB{capability}"


def _backend(torch, kind: str) -> str:
    """The backend that runs ops on a device, or why none does."""
    from fastmux.backends import choose_backend

    try:
        return choose_backend(torch.empty(1, device=kind))
    except (ValueError, RuntimeError) as error:
        return f"none: {str(error).splitlines()[0]}"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _runtimes() -> str:
    """What `--runtime auto` may choose here, and why not the rest."""
    from fastmux.labelling.fastest import candidates

    found, left = candidates()
    missing = [f"no {name}: {why}" for name, why in left.items()]
    return "; ".join([", ".join(found), *missing])


def _processors() -> str:
    """How many processors there are, how many this process may use, and the load."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    text = f"{usable} of {os.cpu_count()} processors usable"
    with contextlib.suppress(OSError, ValueError):  # of a container
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        text += f", limited to {int(quota) / int(period):.1f}"
    with contextlib.suppress(OSError, AttributeError):
        text += f", load {os.getloadavg()[0]:.1f}"
    return text
