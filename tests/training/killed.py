"""Run by test_faults: trains in processes that are killed at random moments, and looks at what each of them left.

    python killed.py FOLDER SEED KILLS ARGUMENT...

Writes of files are where a kill can harm, and take little of a run's time: so a process is killed a few
milliseconds after a random one of its file operations. The last process runs to its end.
"""

from __future__ import annotations

import json
import random
import signal
import sys
from pathlib import Path

from killing import in_child, killed_after
from transformers import AutoModel, AutoTokenizer

import fastmux
from fastmux.distillation.distil import last_checkpoint
from fastmux.training.train import main


def check(folder: Path) -> None:
    """What a killed process has left can be read: every JSON file, every model, a checkpoint's model."""
    names = ("settings.json", "stage.json", "metrics.json")
    for path in (path for name in names for path in folder.rglob(name)):
        json.loads(path.read_text())
    for stage in {path.parent for path in folder.rglob("stage.json")}:
        assert (stage / "model").is_dir(), f"{stage} is finished and has no model"
    models = [path for path in folder.rglob("model") if path.is_dir()]
    # A finished stage's checkpoint is removed, file by file: a process may have been killed meanwhile.
    unfinished = [events.parent for events in folder.rglob("runs") if not (events.parent / "stage.json").is_file()]
    models += [path for path in map(last_checkpoint, unfinished) if path]
    for path in models:
        AutoModel.from_pretrained(path)
        AutoTokenizer.from_pretrained(path)
    print("left:", sorted(str(path.relative_to(folder)) for path in models), flush=True)


if __name__ == "__main__":
    folder, seed, kills, arguments = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
    assert fastmux.__version__ and signal.getsignal(signal.SIGALRM) == signal.SIG_DFL
    rng = random.Random(seed)
    killed = 0
    while True:
        resume = ["--resume"] if (folder / "settings.json").is_file() else []
        # The more kills, the sooner each: a run that goes on where it was would end before the last of them.
        moment = (rng.randint(1, min(60, 240 // kills)), rng.uniform(1e-6, 5e-3)) if killed < kills else None

        def train(resume=resume, moment=moment):
            if moment:
                killed_after(folder, *moment)
            main([*arguments, "--output_dir", str(folder), *resume])

        if in_child(train) == 0:
            break
        killed += 1
        in_child(lambda: check(folder))
    in_child(lambda: check(folder))
    print(f"killed {killed} times", flush=True)
