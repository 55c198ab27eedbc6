"""Runs of `fastmux.embed` that are killed at random moments end in the same bytes, the second file of an array too."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

from thoroughness import on_request

import fastmux

ROOT = Path(__file__).resolve().parents[2]
#: As in tests/labelling/test_resuming.py.
KILLS = os.environ.get("FASTMUX_KILLS", "2")
PATHS = os.pathsep.join([str(ROOT), str(ROOT / "tests")])


@on_request
def test_runs_that_are_killed_again_and_again_end_in_the_same_bytes(folders, texts, tmp_path):
    draw, source, killed = random.Random(1), tmp_path / "rows.jsonl", tmp_path / "killed"
    lines = [json.dumps({"id": i, "text": draw.choice(texts)}) if i % 17 else "no row" for i in range(1, 400)]
    source.write_text("\n".join(lines))
    killed.mkdir()
    arguments = [folders["every"], source, killed, 3, KILLS, "embed"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "labelling" / "killed.py"), *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": PATHS, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    for ending in (".npy", ".parquet"):
        straight = tmp_path / f"straight{ending}"
        fastmux.embed(folders["every"], source, straight, num_workers=0, rows_per_shard=16, disable_tqdm=True)
        for more in ("", ".rejects.jsonl", *([".rows.parquet"] if ending == ".npy" else [])):
            outputs = [*killed.glob(f"*-rows{ending}{more}")]
            assert outputs and {path.read_bytes() for path in outputs} == {Path(f"{straight}{more}").read_bytes()}
            for path in outputs:
                path.unlink()
    assert not any(killed.iterdir())
