"""What every test runs under: the interpreter where there is no GPU, a seed of its own, poisoned allocations."""

from __future__ import annotations

import gc
import os

# Two workers of pytest-xdist share two cores better with a thread each than with two; so do the programs they start.
if os.environ.get("PYTEST_XDIST_WORKER"):
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

# Read by triton when a kernel is defined, so it is set before any test can import one.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import importlib.util
import time
import zlib
from pathlib import Path

import pytest

import fastmux
from fastmux.testing import quick_interpreter

#: No test begins later than so many seconds after this file was read. Without the variable all run.
_SECONDS, _BEGUN = float(os.environ.get("FASTMUX_TESTS_SECONDS", "inf")), time.monotonic()

_empty, _empty_like, _new_empty = torch.empty, torch.empty_like, torch.Tensor.new_empty


def _poison(tensor: torch.Tensor) -> torch.Tensor:
    """NaN, or a sentinel: an element that nothing writes cannot pass for a result."""
    if tensor.device.type == "meta" or type(tensor) is not torch.Tensor or torch.compiler.is_compiling():
        return tensor
    with torch.no_grad():
        if tensor.is_floating_point():
            return tensor.fill_(float("nan"))
        return tensor if tensor.dtype == torch.bool else tensor.fill_(-(2**7) + 1)


def pytest_configure(config):
    if os.environ.get("TRITON_INTERPRET") == "1" and importlib.util.find_spec("triton"):
        quick_interpreter()
    if os.environ.get("FASTMUX_HF_TESTS"):  # see test_hugging_face_common.py, whose marks are not ours
        marks = (
            "accelerate_tests",
            "flash_attn_test",
            "flash_attn_3_test",
            "flash_attn_4_test",
            "slow",
            "torch_compile_test",
        )
        for mark in marks:
            config.addinivalue_line("markers", f"{mark}: one of Hugging Face's common model tests")


#: Who has one of these compares what matrix products made, which another processor rounds in another way.
COMPARISONS = {"assert_agrees", "assert_meets", "relative_error"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Tests of numbers are marked as such, which `.ci/run` runs as other processors would. Files whose single tests
    take longest come first, so that no worker waits long for another's last test."""
    for item in items:
        if COMPARISONS & vars(getattr(item, "module", None) or object).keys():
            item.add_marker("numbers")
    items.sort(key=lambda item: "/training/" not in item.nodeid and "/distillation/" not in item.nodeid)


def pytest_collection_finish(session):
    """Each `Trainer.train` asks for a collection of garbage, which goes through whatever was imported: half of the time
    of a short training. What tests make is not frozen: its garbage would stay, with all that it refers to."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item):
    if time.monotonic() - _BEGUN > _SECONDS:
        pytest.skip(
            f"{_SECONDS:.0f} s are over: FASTMUX_TESTS_SECONDS, which is for slow machines, begins no more tests"
        )
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a GPU that torch can use")


@pytest.fixture
def poisoned(monkeypatch):
    """`torch.empty` and its kin hand out poison."""
    monkeypatch.setattr(torch, "empty", lambda *a, **k: _poison(_empty(*a, **k)))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: _poison(_empty_like(*a, **k)))
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **k: _poison(_new_empty(*a, **k)))


@pytest.fixture(autouse=True)
def seed(request):
    """Every test draws inputs of its own, the same in any order and on any worker."""
    torch.manual_seed(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture(params=["torch", "triton"])
def backend(request):
    """Runs the test on each backend: triton on the GPU if there is one, else interpreted on the CPU."""
    if request.param == "triton":
        pytest.importorskip("triton", reason="the triton backend needs the package triton")
    with fastmux.backend(request.param):
        yield request.param


@pytest.fixture
def device(backend) -> torch.device:
    return torch.device("cuda" if backend == "triton" and torch.cuda.is_available() else "cpu")


@pytest.fixture
def data_dir() -> Path:
    """The folder with real data sets; tests without it skip and say so."""
    folder = os.environ.get("FASTMUX_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("FASTMUX_DATA does not name the folder with the data sets")
    return Path(folder)


@pytest.fixture
def room():
    """``room(gib)`` skips where the GPU has less memory free."""

    def check(gib: float) -> None:
        free = torch.cuda.mem_get_info()[0] / 2**30
        if free < gib:
            pytest.skip(f"needs {gib} GiB of free GPU memory, there are {free:.0f}")

    return check


@pytest.fixture
def triton_device() -> torch.device:
    """The device on which the triton backend runs here, with that backend switched on."""
    pytest.importorskip("triton", reason="the triton backend needs the package triton")
    with fastmux.backend("triton"):
        yield torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pytest_sessionfinish(session):
    gc.unfreeze()  # nanobind would list what it has not seen freed
