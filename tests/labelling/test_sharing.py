"""Several processes label one input: the same bytes as one alone, also after one of them was killed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

#: Labels its share, but for the process and the shard at which it is killed. In the end nothing keeps the group, whose
#: threads would run on while Python ends, which has been seen to abort.
PROGRAM = """
import os, sys, weakref
import torch.distributed as dist
from transformers.utils import logging
logging.disable_progress_bar()
from fastmux.cli.main import main
from fastmux.labelling.shard_folder import ShardFolder

commit = ShardFolder.commit

def killed(self, index, *args):
    commit(self, index, *args)
    if os.environ["RANK"] == "1" and index == int(sys.argv[1]):
        os._exit(9)

ShardFolder.commit = killed
destroy, groups = dist.destroy_process_group, []

def noted():
    groups.append(weakref.ref(dist.group.WORLD))
    destroy()

dist.destroy_process_group = noted
main(["predict", *sys.argv[2:]])
assert [group() for group in groups] == [None], sys.getrefcount(groups[0]())
"""


def torchrun(tmp_path, kill_at: int, *options: str) -> subprocess.CompletedProcess:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", str(program)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, str(kill_at), *options], capture_output=True, text=True, timeout=180, env=environment
    )


def test_two_processes_write_what_one_writes(label, folders, rows_file, tmp_path):
    alone, shared = tmp_path / "alone.jsonl", tmp_path / "shared.jsonl"
    lines = rows_file.read_text().splitlines(keepends=True)
    rows_file.write_text("".join([*lines[:20], "no row\n", *lines[20:50], "{}\n", *lines[50:]]))
    report = label(folders["tmux"], rows_file, alone, rows_per_shard=8).report

    arguments = [str(folders["tmux"]), str(rows_file), "--output", str(shared), "--rows_per_shard", "8"]
    arguments += ["--num_workers", "0", "--disable_tqdm"]
    done = torchrun(tmp_path, 3, *arguments)
    assert done.returncode != 0 and not shared.exists()
    assert (tmp_path / "shared.jsonl.parts" / "000003.done").exists()

    again = tmp_path / "again.jsonl"  # what two have begun, one ends
    shutil.copytree(tmp_path / "shared.jsonl.parts", tmp_path / "again.jsonl.parts")
    assert label(folders["tmux"], rows_file, again, rows_per_shard=8).report.resumed >= 8
    assert again.read_bytes() == alone.read_bytes()

    done = torchrun(tmp_path, -1, *arguments)
    assert done.returncode == 0, done.stderr
    assert shared.read_bytes() == alone.read_bytes()
    rejects = [path.with_name(f"{path.name}.rejects.jsonl").read_bytes() for path in (alone, shared)]
    assert rejects[0] == rejects[1] and rejects[0].count(b"\n") == 2
    assert not (tmp_path / "shared.jsonl.parts").exists()
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("rows  ")]
    assert "62: 60 labelled, 2 rejected" in line and report.rows == 62
    assert any(line.startswith("done before") for line in done.stdout.splitlines())


def test_without_an_output_there_is_nothing_to_share(label, models, texts):
    with pytest.raises(ValueError, match="process_group is given without an output"):
        label(models["plain"], texts, process_group=object())
