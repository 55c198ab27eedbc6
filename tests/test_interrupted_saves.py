"""A save that does not come to its end, killed or without room to write, leaves the former model or the new one, whole.

Everything happens in one fresh process, which forks for every save: a fork that is killed takes nothing with it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")

SCRIPT = '''
import json, os, random, resource, signal, sys, time
from pathlib import Path

import torch
from transformers import BertConfig
from transformers.utils import logging

import fastmux

logging.set_verbosity_error()
logging.disable_progress_bar()
torch.set_num_threads(1)
folder = Path(sys.argv[1])
tiny = BertConfig(vocab_size=61, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
model = fastmux.TMuxForSequenceClassification.from_backbone(tiny, num_instances=2, num_labels=3)
CHANGES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "shutil.rmtree")


def save(version, **options):
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(version)
    model.config.retrieval_loss_weight = version / 100
    model.save_pretrained(folder, **options)


def loaded():
    """The version that the folder holds, of which every tensor and the config must be."""
    found = fastmux.TMuxForSequenceClassification.from_pretrained(folder)
    values = {float(v) for t in found.state_dict().values() for v in t.unique()}
    assert len(values) == 1, f"a mixture of {values}"
    assert found.config.retrieval_loss_weight == values.copy().pop() / 100, "weights and config of two models"
    return values.pop()


def writes(event, args):
    return event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")


def forked(action):
    """How a fork that does ``action`` ends: the signal that killed it, or 0, or the exception that it raised."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            action()
        except BaseException as error:
            os.write(writer, repr(error)[:1000].encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    signal_number = os.WTERMSIG(os.waitpid(pid, 0)[1])
    return signal_number or said or 0


def dies_at(moment, version, options):
    """Killed when Python is about to make its ``moment``-th change to the file system."""
    left = moment

    def hook(event, args):
        nonlocal left
        if event in CHANGES or writes(event, args):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def action():
        sys.addaudithook(hook)
        save(version, **options)

    return forked(action)


def every_change(former, new, step=1):
    outcomes, moment = [], 0
    while True:
        save(1, **former)
        ended = dies_at(moment, 2, new)
        version = loaded()
        outcomes.append((ended, version))
        if ended == 0:
            return outcomes
        moment += step


def any_time(seed):
    draw = random.Random(seed)
    save(1)
    start = time.perf_counter()
    forked(lambda: save(2))
    seconds = time.perf_counter() - start
    outcomes = []
    for _ in range(5):
        save(1)
        pid = os.fork()
        if pid == 0:
            save(2)
            os._exit(0)
        time.sleep(draw.uniform(0, seconds))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        outcomes.append((0, loaded()))
    return outcomes


def no_room():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write beyond the limit fails as on a full disk

    def action(limit):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        save(2)

    save(1)
    size = (folder / "model.safetensors").stat().st_size
    outcomes = []
    for limit in (0, 100, 2000, size // 2, size - 1, 2 * size):
        before = sorted(file.name for file in folder.iterdir())
        ended = forked(lambda: action(limit))
        outcomes.append((ended, loaded()))
        assert sorted(file.name for file in folder.iterdir()) == before
        save(1)
    return outcomes


SHARDS = {"max_shard_size": "4KB"}
result = {
    "over one file": every_change({}, {}),
    "shards over one file": every_change({}, SHARDS, step=3),
    "one file over shards": every_change(SHARDS, {}, step=3),
    "any time": any_time(0),
    "no room": no_room(),
}
print("RESULT", json.dumps(result))
'''


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[str, list[tuple[int | str, float]]]:
    """Case -> (how the save ended, the version that is there afterwards) of every save that was broken off."""
    folder = tmp_path_factory.mktemp("saves")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder / "model")], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.rpartition("RESULT ")[2])


@pytest.mark.parametrize("case", ["over one file", "shards over one file", "one file over shards"])
def test_a_save_killed_at_any_change_leaves_one_model(outcomes, case):
    *killed, last = outcomes[case]
    assert len(killed) >= 5 and all(ended == 9 for ended, _ in killed), killed
    assert last == [0, 2.0]
    versions = [version for _, version in outcomes[case]]
    # First the former one, from some change on the new one.
    assert set(versions) == {1.0, 2.0} and versions == sorted(versions)


def test_a_save_killed_at_any_time_leaves_one_model(outcomes):
    assert {version for _, version in outcomes["any time"]} <= {1.0, 2.0}


def test_a_save_without_room_fails_and_leaves_the_former_model(outcomes):
    *failed, last = outcomes["no room"]
    assert last == [0, 2.0]
    for ended, version in failed:
        assert isinstance(ended, str) and ("Error" in ended), failed
        assert version == 1.0
