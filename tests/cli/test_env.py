"""``fastmux env``: what is here, what is not, and nobody's name."""

from __future__ import annotations

import getpass
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

import fastmux
from fastmux.embedding.config import EmbeddingConfig
from fastmux.embedding.model import EmbeddingModel
from fastmux.labelling import fastest
from fastmux.labelling.placement import Placement
from fastmux.passes import processor


def lines(out: str) -> dict[str, str]:
    first, *block, last = out.splitlines()
    assert (first, last) == ("```", "```")
    width = block[0].index(fastmux.__version__)
    return {line[:width].rstrip(): line[width:] for line in block}


def test_what_is_here(typed, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-5c1f0f0e-1234-5678-9abc-0123456789ab/secret")
    code, out, err = typed("env")
    found = lines(out)
    assert (code, err) == (0, "")
    assert found["fastmux"] == fastmux.__version__ and found["torch"] == torch.__version__
    for name in ("transformers", "tokenizers", "datasets", "numpy"):
        assert found[name] == importlib.metadata.version(name)
    assert f"torch {torch.get_num_threads()}" in found["threads"]
    assert found["Python"].startswith(platform.python_version())
    assert found["backend on cpu"] in ("torch", "triton")
    assert "OMP_NUM_THREADS=1" in found["environment"]
    assert "CUDA_VISIBLE_DEVICES=..." in found["environment"] and "secret" not in out


@pytest.mark.parametrize(
    ("flags", "bfloat16", "int8"), [("avx2", False, False), ("avx512_vnni avx512_bf16", True, True)]
)
def test_what_auto_may_choose(flags, bfloat16, int8, typed, monkeypatch):
    monkeypatch.setattr(processor, "_cpuinfo", lambda: f"model name\t: Some CPU\nflags\t\t: {flags}\n")
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    said = lines(typed("env")[1])["runtimes on the CPU"]
    there = said.partition("; ")[0].split(", ")
    assert ("torch bfloat16" in there, "onnxruntime int8" in there) == (bfloat16, int8)
    assert "no ctranslate2 int8: it cannot run here: ctranslate2 is not installed" in said


def test_nobody_is_named(typed, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", str(tmp_path))
    monkeypatch.setenv("FASTMUX_BACKEND", "torch")
    _, out, _ = typed("env")
    words = set(out.replace(",", " ").split())
    assert not {platform.node(), getpass.getuser()} & words
    assert os.sep not in out.replace("```", ""), "a path"


def test_a_backend_that_cannot_run_is_said(typed, monkeypatch):
    monkeypatch.setenv("FASTMUX_BACKEND", "cuda")
    assert "none: FASTMUX_BACKEND is 'cuda'" in lines(typed("env")[1])["backend on cpu"]


@pytest.mark.parametrize("flags", ["fpu avx2 avx512_vnni amx_tile sse", "fp asimd bf16 i8mm"])
def test_features_of_the_processor(flags, monkeypatch):
    name = "Features" if "asimd" in flags else "flags"
    monkeypatch.setattr(processor, "_cpuinfo", lambda: f"model name\t: Some CPU\n{name}\t\t: {flags}\n")
    assert set(processor.processor_features()) == set(flags.split()) - {"fpu", "sse", "fp"}
    assert processor.processor_name() == "Some CPU"


WITHOUT = """
import importlib.metadata, sys
missing = sys.argv[1:]
version = importlib.metadata.version
def only_some(name):
    if name in missing:
        raise importlib.metadata.PackageNotFoundError(name)
    return version(name)
importlib.metadata.version = only_some
for name in missing:
    sys.modules[name.replace("-", "_")] = None
from fastmux.cli.main import main
main(["env"])
"""


@pytest.mark.parametrize("missing", ["triton onnxruntime fastapi uvicorn datasets", "torch transformers triton"])
def test_without_packages(missing):
    command = [sys.executable, "-c", WITHOUT, *missing.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    for name in missing.split():
        assert f"{name} not installed" in done.stdout or lines(done.stdout)[name] == "not installed"
    assert ("backend on cpu" in done.stdout) == ("torch" not in missing.split())


@pytest.fixture
def two_ways(monkeypatch):
    """torch in two dtypes, which need no export."""
    found = {"torch float32": Placement(), "torch bfloat16": Placement(dtype="bfloat16")}
    monkeypatch.setattr(
        fastest, "candidates", lambda precision="any": (found, {"onnxruntime int8": "it cannot run here"})
    )


@pytest.mark.parametrize("name", ["plain", "embedder"])
@pytest.mark.parametrize("given", [(), ("--text", "rows.txt")], ids=["made rows", "own rows"])
def test_what_can_run_a_model_is_timed(name, given, folders, texts, typed, two_ways, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.txt").write_text("\n".join(texts))
    if name == "embedder":
        tokenizer = AutoTokenizer.from_pretrained(folders["plain"])
        encoder = AutoModel.from_pretrained(folders["plain"])
        EmbeddingModel(encoder, EmbeddingConfig("mean")).save_pretrained(tmp_path / "mine", tokenizer)
    else:
        shutil.copytree(folders[name], tmp_path / "mine")
    for _ in range(2):  # the second time it is read
        code, out, err = typed("env", "mine", *given)
        said = lines(out)["runtimes of the model"]
        assert code == 0, err
        assert (
            "torch float32" in said and "rows a second" in said and "not onnxruntime int8: it cannot run here" in said
        )
        assert "mine" not in out


def test_text_without_a_model_is_refused(typed):
    code, out, err = typed("env", "--text", "rows.txt")
    assert code != 0 and "--text goes with a MODEL" in err and not out
