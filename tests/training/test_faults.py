"""Kills and full disks: what was whole before still is, and the run goes on to the end it would have had."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from killing import file_size_limit
from thoroughness import on_request
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForSequenceClassification

from fastmux.distillation.distil import last_checkpoint
from fastmux.files import write_errors
from fastmux.training.train import main

ROOT = Path(__file__).resolve().parents[2]
SMALL = "--hidden_size 16 --num_heads 2 --num_layers 1 --intermediate_size 16 --max_length 8 --vocab_size 300"
SMALL += " --task_rows 4 --retrieval_rows 4 --groupings 1 --throughput_seconds 0.01 --use_cpu --disable_tqdm true"
SMALL += " --max_steps 6 --variants plain unbind"
#: ``FASTMUX_KILLS=20`` kills more often than the tests do by themselves.
KILLS = os.environ.get("FASTMUX_KILLS", "5")


@pytest.fixture
def arguments(tmp_path) -> list[str]:
    data = tmp_path / "data"
    data.mkdir()
    rows = [
        f"{'fine' if label else 'dull'} film number {row} of many\t{label}" for row in range(12) for label in (0, 1)
    ]
    for name in ("train.tsv", "dev.tsv"):
        (data / name).write_text("\n".join(["sentence\tlabel", *rows]))
    return ["--task", "sst2", "--data-dir", str(data), *SMALL.split()]


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith((".", "checkpoint-"))]


@on_request
@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_that_is_killed_again_and_again_ends_as_it_would_have(arguments, tmp_path, seed):
    folder = tmp_path / "killed"
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("killed.py")), str(folder), str(seed), KILLS, *arguments],
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        },
        capture_output=True,
        text=True,
        timeout=120 + 120 * int(KILLS),
    )
    assert done.returncode == 0 and f"killed {KILLS} times" in done.stdout, (done.stdout + done.stderr)[-4000:]
    assert not leftovers(folder)
    found = json.loads((folder / "metrics.json").read_text())["variants"]
    straight = main([*arguments, "--output_dir", str(tmp_path / "straight")])
    for name, result in straight.variants.items():
        losses = [
            [entry["loss"] for entry in log if "loss" in entry]
            for log in (result.stages["task"].log, found[name]["stages"]["task"]["log"])
        ]
        assert losses[1] == pytest.approx(losses[0], abs=2e-3) and len(losses[0]) == 6


def test_a_full_disk_leaves_the_former_checkpoint_and_says_so(arguments, tmp_path):
    folder = tmp_path / "run"
    arguments = [*arguments, "--output_dir", str(folder)]
    main(arguments)
    task = folder / "unbind" / "task"
    weights = (folder / "plain/task/model/model.safetensors").stat().st_size
    for path in (task / "stage.json", folder / "metrics.json"):
        path.unlink()
    before = (task / "model" / "model.safetensors").read_bytes()
    message = r"writing to .*unbind/task failed: .*Is the disk full\?.*--resume goes on"
    with file_size_limit(weights // 2), pytest.raises(OSError, match=message):
        main([*arguments, "--resume"])
    assert (task / "model" / "model.safetensors").read_bytes() == before
    assert last_checkpoint(task) is None and not (task / "stage.json").exists()
    AutoModelForSequenceClassification.from_pretrained(folder / "plain/task/model")
    main([*arguments, "--resume"])
    assert (folder / "metrics.json").is_file() and not leftovers(folder)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_text("x" * 20_000),
        lambda path: torch.save(torch.zeros(10_000), path),
        lambda path: safetensors.torch.save_file({"x": torch.zeros(10_000)}, path),
        lambda path: Tokenizer(WordLevel({str(n): n for n in range(5_000)}, "0")).save(str(path)),
    ],
    ids=["python", "torch", "safetensors", "tokenizers"],
)
def test_every_writer_says_that_the_disk_is_full(tmp_path, write):
    message = r"writing to .* failed: .*Is the disk full\?"
    with file_size_limit(10_000), pytest.raises(OSError, match=message), write_errors(tmp_path):
        write(tmp_path / "file")
    with pytest.raises(RuntimeError, match="other"), write_errors(tmp_path):
        raise RuntimeError("other")
