"""Where a model runs: a device that is not there is refused before any work."""

import pytest
import torch

import fastmux
from fastmux.labelling.devices import checked_device
from fastmux.serving.app import create_app

ACCELERATORS = ("cuda", "xpu", "mps")


@pytest.fixture
def here(monkeypatch):
    """``here(cuda=4)``: a machine with four GPUs, by what torch says of it; nothing is ever put on one."""

    def run(built_with_cuda=True, **counts):
        monkeypatch.setattr(torch.version, "cuda", "13.0" if built_with_cuda else None)
        for kind in ACCELERATORS:
            module = torch.get_device_module(kind)
            monkeypatch.setattr(module, "is_available", lambda kind=kind: counts.get(kind, 0) > 0)
            monkeypatch.setattr(module, "device_count", lambda kind=kind: counts.get(kind, 0))

    return run


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda", "device is 'cuda', but this torch is built without CUDA; expected 'cpu'"),
        ("cuda:7", "device is 'cuda:7', but this torch is built without CUDA; expected 'cpu'"),
        (torch.device("cuda", 7), "device is 'cuda:7', but this torch is built without CUDA; expected 'cpu'"),
        ("mps", "device is 'mps', but there is none here; expected 'cpu'"),
        ("xpu", "device is 'xpu', but there is none here; expected 'cpu'"),
        ("xpu:1", "device is 'xpu:1', but there is none here; expected 'cpu'"),
        ("meta", "device is 'meta', but there is none here; expected 'cpu'"),
        ("cpu:1", "device is 'cpu:1', expected 'cpu:0'"),
        ("gpu", "device is 'gpu', expected 'cpu'"),
        ("cuda:-1", "device is 'cuda:-1', expected 'cpu'"),
        ("", "device is '', expected 'cpu'"),
        (3.5, "device is 3.5, expected 'cpu'"),
    ],
)
def test_without_a_gpu(device, message, here, tmp_path):
    here(built_with_cuda=False)
    # The model is never looked at: there is none of that name.
    for use in (
        lambda: checked_device(device),
        lambda: fastmux.Labeller("nowhere/at-all", device=device),
        lambda: create_app("nowhere/at-all", device=device),
        lambda: fastmux.predict("nowhere/at-all", ["a"], device=device),
        lambda: fastmux.predict("nowhere/at-all", tmp_path / "none.jsonl", tmp_path / "out.jsonl", device=device),
    ):
        with pytest.raises(ValueError) as raised:
            use()
        assert str(raised.value) == message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("counts", "device", "message"),
    [
        ({}, "cuda", "device is 'cuda', but there is none here; expected 'cpu'"),
        ({"cuda": 1}, "cuda:1", "device is 'cuda:1', expected 'cuda:0'"),
        ({"cuda": 4}, "cuda:7", "device is 'cuda:7', expected 'cuda:0' to 'cuda:3'"),
        ({"cuda": 4}, "gpu", "device is 'gpu', expected 'cpu' or 'cuda'"),
        ({"mps": 1}, "cuda", "device is 'cuda', but there is none here; expected 'cpu' or 'mps'"),
    ],
)
def test_with_other_devices(counts, device, message, here):
    here(**counts)
    with pytest.raises(ValueError) as raised:
        checked_device(device)
    assert str(raised.value) == message


def test_what_is_there_is_taken(here):
    assert checked_device("cpu") == torch.device("cpu")
    here(cuda=4)
    assert checked_device(None).type == "cuda"
    assert checked_device("cuda:3") == torch.device("cuda", 3)
    here(cuda=0)
    assert checked_device(None).type == "cpu"
