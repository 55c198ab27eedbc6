from __future__ import annotations

import pytest
import torch

import fastmux
from fastmux.backends import choose_backend

CPU = torch.ones(1)


def test_a_cpu_tensor_runs_on_torch_unless_told(monkeypatch):
    monkeypatch.delenv("FASTMUX_BACKEND", raising=False)
    assert choose_backend(CPU) == "torch"
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("FASTMUX_BACKEND", "triton")
    assert choose_backend(CPU) == "triton"
    with fastmux.backend("torch"):
        assert choose_backend(CPU) == "torch"
        with fastmux.backend("triton"):
            assert choose_backend(CPU) == "triton"
        assert choose_backend(CPU) == "torch"
    assert choose_backend(CPU) == "triton"


def test_an_exception_restores_the_backend():
    with pytest.raises(KeyError), fastmux.backend("triton"):
        raise KeyError
    assert choose_backend(CPU) == "torch"


def test_unknown_names(monkeypatch):
    with (
        pytest.raises(ValueError, match=r"backend is 'cuda', expected one of 'torch', 'triton'"),
        fastmux.backend("cuda"),
    ):
        pass
    monkeypatch.setenv("FASTMUX_BACKEND", "tpu")
    with pytest.raises(ValueError, match=r"FASTMUX_BACKEND is 'tpu'"):
        choose_backend(CPU)


def test_triton_asked_for_is_never_replaced_silently(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with fastmux.backend("triton"), pytest.raises(ValueError, match="tensors on cpu; it takes tensors on a GPU"):
        choose_backend(CPU)
