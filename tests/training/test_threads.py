"""A run takes the threads that are free, and those that it is told to take."""

from __future__ import annotations

import pytest
import torch

from fastmux.training.threads import CHOSEN, choose_threads


@pytest.fixture(autouse=True)
def four(monkeypatch):
    """Torch would take four threads, and nobody has said a number."""
    before = torch.get_num_threads()
    for name in CHOSEN:
        monkeypatch.delenv(name, raising=False)
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("took", "chosen"),
    [
        ({1: 1.0, 2: 0.6, 4: 0.35}, 4),  # all cores are free
        ({1: 1.0, 2: 4.0}, 1),  # the second one is not; four are not even tried
        ({1: 1.0, 2: 0.6, 4: 0.58}, 2),  # two are about as fast as four
        ({1: 1.0, 2: 0.6, 4: 3.0}, 2),
        ({1: 1.0, 2: 0.97, 4: 0.96}, 1),
    ],
)
def test_the_fewest_threads_that_are_about_the_fastest(took, chosen):
    said = choose_threads(took.__getitem__)
    assert torch.get_num_threads() == chosen
    assert said.startswith(f"threads: {chosen} of 4 (a piece of work took 1000.0 ms on 1, ")
    assert ("other processes" in said) == (max(took.values()) > took[1])


@pytest.mark.parametrize("name", CHOSEN)
def test_what_the_user_says_stands(name, monkeypatch):
    monkeypatch.setenv(name, "4")
    assert choose_threads({}.__getitem__) == f"threads: 4, as {name} says"
    assert torch.get_num_threads() == 4


def test_one_core_has_no_choice():
    torch.set_num_threads(1)
    assert choose_threads({}.__getitem__) == "threads: 1, of 1 core"


def test_the_machine_is_asked():
    torch.set_num_threads(2)
    said = choose_threads()
    assert torch.get_num_threads() in (1, 2) and f"threads: {torch.get_num_threads()} of 2" in said
