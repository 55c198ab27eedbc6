"""Several processes embed one input: the same bytes as one alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from thoroughness import on_request

import fastmux


@on_request
def test_two_processes_write_what_one_writes(folders, texts, tmp_path):
    source = tmp_path / "rows.jsonl"
    lines = [json.dumps({"id": i, "text": text}) for i, text in enumerate(texts[:60])]
    source.write_text("\n".join([*lines[:20], "no row", *lines[20:]]))
    alone, shared = tmp_path / "alone.npy", tmp_path / "shared.npy"
    fastmux.embed(folders["every"], source, alone, rows_per_shard=8, num_workers=0, disable_tqdm=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", "-m", "fastmux"]
    command += ["embed", str(folders["every"]), str(source), "--output", str(shared)]
    command += ["--rows_per_shard", "8", "--num_workers", "0", "--disable_tqdm"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert "61: 60 embedded, 1 rejected" in done.stdout
    for more in ("", ".rows.parquet", ".rejects.jsonl"):
        assert (tmp_path / f"shared.npy{more}").read_bytes() == (tmp_path / f"alone.npy{more}").read_bytes()
