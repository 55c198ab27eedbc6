"""Files that are there whole or not at all, whatever ends the process that writes them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fastmux.files import finish_replacing, read_json, replacing, replacing_files, write_json


def weights_of(written, former):
    return {name for name in former if name.startswith("weights")}


def write(folder, obsolete=weights_of, **texts):
    with replacing_files(folder, obsolete) as staging:
        for name, text in texts.items():
            (staging / name).write_text(text)


def content(folder) -> dict[str, str]:
    return {f.name: f.read_text() for f in folder.iterdir()}


def test_former_files_of_the_same_kind_go_and_others_stay(tmp_path):
    (tmp_path / "notes").write_text("mine")
    write(tmp_path, weights_1="a", weights_2="b", config="c")
    write(tmp_path, weights_2="d", config="e")
    assert content(tmp_path) == {"notes": "mine", "weights_2": "d", "config": "e"}


def test_a_block_that_fails_changes_nothing(tmp_path):
    write(tmp_path / "model", weights="a")
    for folder in ("model", "new"):
        with pytest.raises(OSError, match="disk full"), replacing_files(tmp_path / folder, weights_of) as staging:
            (staging / "weights").write_text("half")
            raise OSError("disk full")
    assert [f.name for f in tmp_path.iterdir()] == ["model"] and content(tmp_path / "model") == {"weights": "a"}


#: Writes two files over two; the process ends at the N-th of the steps that change the folder.
KILLED = """
import os, sys
from pathlib import Path
import fastmux.files as files

folder, step = Path(sys.argv[1]), int(sys.argv[2])

def counting(function):
    def call(*args, **kwargs):
        global step
        step -= 1
        if step < 0:
            os._exit(9)
        return function(*args, **kwargs)
    return call

os.replace, os.rename, files.remove = counting(os.replace), counting(os.rename), counting(files.remove)
with files.replacing_files(folder, lambda written, former: {"old"}) as staging:
    for name in ("config", "weights"):
        (staging / name).write_text("new")
"""


def test_a_folder_is_never_replaced_by_a_file(tmp_path):
    kept = tmp_path / "results" / "kept.txt"
    kept.parent.mkdir()
    kept.write_text("kept")
    with pytest.raises(IsADirectoryError, match="it is a folder, expected a file or a new name"):
        write_json(tmp_path / "results", {})
    assert [path.name for path in tmp_path.rglob("*")] == ["results", "kept.txt"]


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "damaged.json").write_text("{")
    with pytest.raises(ValueError, match=r"damaged\.json is not JSON: Expecting property name"):
        read_json(tmp_path / "damaged.json")


@pytest.mark.parametrize("step", range(7))
def test_a_process_that_ends_at_any_step_leaves_the_former_files_or_the_new(tmp_path, step):
    former = {"config": "former", "weights": "former", "old": "former"}
    write(tmp_path, **former)
    status = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(step)], check=False).returncode
    finish_replacing(tmp_path)
    found = {f.name: f.read_text() for f in tmp_path.iterdir() if f.is_file()}
    assert found == (former if step == 0 else {"config": "new", "weights": "new"})
    assert (status == 9) == (step < 6)  # one rename, one removal, two moves, two removals of what is left


def test_a_link_keeps_leading_where_it_leads(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "model").symlink_to("elsewhere")
    write(tmp_path / "model", weights="a")
    with replacing(tmp_path / "model" / "file") as temporary:
        temporary.write_text("b")
    (tmp_path / "link").symlink_to("elsewhere/file")
    with replacing(tmp_path / "link") as temporary:
        temporary.write_text("c")
    assert content(tmp_path / "elsewhere") == {"weights": "a", "file": "c"}
    assert (tmp_path / "model").is_symlink() and (tmp_path / "link").is_symlink()


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="needs a second file system")
def test_the_folder_may_be_a_file_system_of_its_own(tmp_path):
    import tempfile

    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        assert os.stat(other).st_dev != tmp_path.stat().st_dev
        (tmp_path / "model").symlink_to(other)
        write(tmp_path / "model", weights="a")
        assert content(tmp_path / "model") == {"weights": "a"}
