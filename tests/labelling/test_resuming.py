"""Whatever ends a run, the next one goes on from there, and ends in the same bytes."""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet
import pytest
from killing import file_size_limit
from labelling.reading import read_jsonl
from thoroughness import on_request

import fastmux
from fastmux.cli.main import main
from fastmux.labelling.shard_folder import ShardFolder

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
#: ``FASTMUX_KILLS=20`` kills more often than the tests do by themselves.
KILLS = int(os.environ.get("FASTMUX_KILLS", "2"))


@pytest.fixture
def rows_with_faults(texts, tmp_path) -> Path:
    path = tmp_path / "rows.jsonl"
    draw = random.Random(1)
    lines = [json.dumps({"id": i, "text": draw.choice(texts)}) if i % 17 else "no row" for i in range(1, 400)]
    path.write_text("\n".join(lines))
    return path


def test_runs_that_are_killed_again_and_again_end_in_the_same_bytes(label, folders, rows_with_faults, tmp_path):
    script, killed = Path(__file__).with_name("killed.py"), tmp_path / "killed"
    killed.mkdir()
    done = subprocess.run(
        [sys.executable, str(script), *map(str, (folders["tmux"], rows_with_faults, killed, 3, KILLS))],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    for ending in (".jsonl", ".parquet", ".csv"):
        straight = tmp_path / f"straight{ending}"
        label(folders["tmux"], rows_with_faults, straight)
        outputs, rejects = ([*killed.glob(f"*{end}")] for end in (f"-rows{ending}", f"-rows{ending}.rejects.jsonl"))
        assert len(outputs) == len(rejects) >= 1
        assert {path.read_bytes() for path in outputs} == {straight.read_bytes()}
        assert {path.read_bytes() for path in rejects} == {
            straight.with_name(f"{straight.name}.rejects.jsonl").read_bytes()
        }
        for path in outputs + rejects:
            path.unlink()
    assert not any(killed.iterdir())
    assert [row.get("id") for row in read_jsonl(tmp_path / "straight.jsonl")] == [
        i if i % 17 else None for i in range(1, 400)
    ]


class Stop(Exception):
    pass


@pytest.fixture
def begun(label, models, rows_file, tmp_path, monkeypatch):
    """An output of which two shards are whole, and its options."""
    output, commit = tmp_path / "out.jsonl", ShardFolder.commit

    def commit_two(self, index, *args):
        if index == 2:
            raise Stop
        commit(self, index, *args)

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(ShardFolder, "commit", commit_two)
        label(models["tmux"], rows_file, output)
    assert not output.exists() and len(list(output.with_name("out.jsonl.parts").glob("*.done"))) == 2
    return output


def test_what_is_whole_is_not_done_again(label, models, rows_file, begun, tmp_path):
    report = label(models["tmux"], rows_file, begun).report
    assert (report.rows, report.resumed, report.labelled) == (60, 32, 60)
    straight = tmp_path / "straight.jsonl"
    label(models["tmux"], rows_file, straight)
    assert begun.read_bytes() == straight.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"rows.jsonl", "out.jsonl", "straight.jsonl"}


@pytest.mark.parametrize(("left", "backwards"), [(0, False), (1, True), (5, True), (5, False), (100, False)])
def test_a_run_that_was_killed_while_it_cleaned_up_ends_well(
    label, models, rows_file, tmp_path, monkeypatch, left, backwards
):
    """All is joined and the folder has its last name, of which ``left`` files are still there."""

    def killed(folder):
        if not folder.is_dir():
            return
        for path in sorted(folder.iterdir(), reverse=backwards)[left:]:
            path.unlink()
        raise Stop

    output = tmp_path / "out.jsonl"
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr("fastmux.labelling.shard_folder.remove", killed)
        label(models["tmux"], rows_file, output)
    whole = output.read_bytes()
    label(models["tmux"], rows_file, output)
    assert output.read_bytes() == whole
    assert {path.name for path in tmp_path.iterdir()} == {"rows.jsonl", "out.jsonl"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"copies": 2}, "copies was 1, is 2"),
        ({"all_scores": True}, "all_scores was False, is True"),
        ({"batch_tokens": 100, "truncation": True}, "batch_tokens was 1024, is 100; truncation was False, is True"),
        ({"rows_per_shard": 8}, "rows_per_shard was 16, is 8"),
        ({"dtype": "bfloat16"}, "dtype was 'float32', is 'bfloat16'"),
        ({"column": "id"}, "column was 'text', is 'id'"),
        ({"max_length": 5}, "max_length was 32, is 5"),
    ],
)
def test_other_options_are_refused(label, models, rows_file, begun, options, message):
    with pytest.raises(ValueError, match=rf"was begun with another model or other options: {message}.* to begin anew"):
        label(models["tmux"], rows_file, begun, **options)


def test_another_model_or_input_is_refused(label, models, rows_file, begun):
    with pytest.raises(ValueError, match="was begun with another model or other options: model was "):
        label(models["plain"], rows_file, begun)
    with pytest.raises(ValueError, match=r"fallback was None, is .*; min_confidence was None, is 0.5"):
        label(models["tmux"], rows_file, begun, fallback=models["plain"], min_confidence=0.5)
    whole = rows_file.read_text()
    rows_file.write_text(whole.replace('"id": 20', '"id": 21'))
    with pytest.raises(ValueError, match=r"the input has changed since .* was begun: shard 1 holds other rows"):
        label(models["tmux"], rows_file, begun)
    rows_file.write_text(whole)
    assert label(models["tmux"], rows_file, begun).report.resumed == 32


def test_settings_that_change_no_byte_may_change(label, models, rows_file, begun):
    assert label(models["tmux"], rows_file, begun, num_workers=1, input_format="jsonl").report.resumed == 32


def test_an_output_that_exists_is_left_alone(label, models, rows_file, tmp_path):
    output = tmp_path / "out.jsonl"
    for path in (output, tmp_path / "out.jsonl.rejects.jsonl"):
        path.write_text("mine")
        with pytest.raises(ValueError, match=f"{path} exists: name another output, or remove it"):
            label(models["tmux"], rows_file, output)
        assert path.read_text() == "mine"
        path.unlink()
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(ValueError, match="is a folder, expected the name of a file"):
        label(models["tmux"], rows_file, tmp_path / "folder.jsonl")
    with pytest.raises(ValueError, match=r"expected a name that ends in \.jsonl, \.csv, \.tsv, \.parquet"):
        label(models["tmux"], rows_file, tmp_path / "out.xls")


def test_an_output_made_in_the_meantime_is_left_alone(label, models, rows_file, begun):
    begun.write_text("mine")
    with pytest.raises(ValueError, match="exists: name another output"):
        label(models["tmux"], rows_file, begun)
    assert begun.read_text() == "mine"


def test_two_processes_do_not_write_one_output(label, models, rows_file, begun):
    with open(begun.with_name("out.jsonl.parts") / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another process is writing"):
            label(models["tmux"], rows_file, begun)


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_a_full_disk_is_one_message_and_the_run_goes_on_later(label, models, rows_file, tmp_path, ending):
    straight, output = tmp_path / f"straight{ending}", tmp_path / f"out{ending}"
    label(models["tmux"], rows_file, straight)
    # A shard of 16 rows fits, and all together do not; or not even a shard.
    sizes = {".jsonl": (500, 2000), ".csv": (300, 1500), ".parquet": (1000, 2500)}[ending]
    for size in sizes:
        with (
            file_size_limit(size),
            pytest.raises(OSError, match=r"writing .*out.* failed: .*The disk is full\. What"),
        ):
            label(models["tmux"], rows_file, output)
        assert not output.exists()
    assert label(models["tmux"], rows_file, output).report.resumed > 0
    assert output.read_bytes() == straight.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"rows.jsonl", output.name, straight.name}


def test_a_folder_that_cannot_be_written_to(label, models, rows_file, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"writing .* failed"):
        label(models["tmux"], rows_file, tmp_path / "file" / "out.jsonl")


ORPHAN = """
import os, signal, sys
import pyarrow
from fastmux.tables.writers import JsonLines
from fastmux.labelling.ahead import Ahead
from fastmux.labelling.preparing import Preparation
from fastmux.tables.shard import RawShard
from fastmux.labelling.row_tokenizer import RowTokenizer

if __name__ == "__main__":
    assert "torch" not in sys.modules and "transformers" not in sys.modules and "datasets" not in sys.modules
    encoder = RowTokenizer(open(sys.argv[1]).read(), 32, False, None, False)
    writer = JsonLines("text", pyarrow.schema([("text", pyarrow.string())]), ("label",))
    preparation = Preparation("text", ["text"], ("text",), (0,), False, encoder, writer)
    ahead = Ahead(preparation, 2)
    shards = (RawShard(index, [b"w1 w2"], [1], None) for index in range(100))
    made = ahead.prepared(shards)
    assert next(made)[1].tokens.lengths.tolist() == [4]
    print(*ahead.processes, flush=True)
    if sys.argv[2] == "worker":
        for process in ahead.processes:
            os.kill(process, signal.SIGKILL)
        list(made)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "orphan.py"
    path.write_text(ORPHAN)
    return path


def run(script, folder, who):
    tokenizer = folder / "tokenizer.json"
    command = [sys.executable, str(script), str(tokenizer), who]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)


def test_processes_that_tokenise_end_with_their_parent(script, folders):
    done = run(script, folders["plain"], "parent")
    assert done.returncode == -9, done.stderr
    workers = [Path(f"/proc/{process}") for process in done.stdout.split()]
    deadline = time.time() + 20
    while time.time() < deadline and any(map(Path.exists, workers)):
        time.sleep(0.05)
    assert len(workers) == 2 and not any(map(Path.exists, workers))


def test_a_process_that_tokenises_and_is_killed_is_one_message(script, folders):
    done = run(script, folders["plain"], "worker")
    assert done.returncode == 1 and "RuntimeError: a process that tokenises was killed" in done.stderr


def test_the_command(folders, rows_file, tmp_path, capsys):
    output = tmp_path / "out.parquet"
    options = ["--rows_per_shard", "16", "--num_workers", "0", "--disable_tqdm"]
    main(["predict", str(folders["tmux"]), str(rows_file), "--output", str(output), *options])
    said = capsys.readouterr().out
    assert "60: 60 labelled, 0 rejected" in said and f"written          {output}" in said
    assert pyarrow.parquet.read_table(output).column_names == ["id", "text", "label", "score"]
    for arguments, message in (
        ([str(folders["tmux"]), str(rows_file), "--output", str(output)], f"fastmux predict: {output} exists"),
        ([str(folders["tmux"]), "none.txt", "--output", str(tmp_path / "a.csv")], "fastmux predict: none.txt is not"),
        (["no/model", str(rows_file), "--output", str(tmp_path / "a.csv")], "fastmux predict: .*'no/model' cannot be"),
        ([str(folders["tmux"]), str(rows_file), "--output", str(tmp_path / "file.csv" / "a.csv")], "writing .* failed"),
    ):
        (tmp_path / "file.csv").touch()
        with pytest.raises(SystemExit, match=message):
            main(["predict", *arguments, *options])


@pytest.mark.parametrize(("number", "code", "said"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "told to end")])
def test_a_signal_says_how_far_it_came_and_how_to_go_on(
    folders, rows_file, tmp_path, monkeypatch, capsys, number, code, said
):
    commit, output = ShardFolder.commit, tmp_path / "out.jsonl"

    def interrupted(work, *given):
        commit(work, *given)
        signal.raise_signal(getattr(signal, number))

    arguments = [str(folders["tmux"]), str(rows_file), "--output", str(output), "--num_workers", "0"]
    arguments += ["--rows_per_shard", "16"]
    # What a shell starts in the background ignores Ctrl-C.
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
            patch.setattr(ShardFolder, "commit", interrupted)
            main(["predict", *arguments, "--disable_tqdm"])
    finally:
        signal.signal(signal.SIGINT, former)
    assert stopped.value.code == code
    assert f"fastmux predict: {said} after 16 rows, which are kept in {output}.parts" in capsys.readouterr().err
    main(["predict", *arguments])
    assert len(read_jsonl(output)) == 60


PEAKS = """
import json, sys
from pathlib import Path

import fastmux

model, folder, peaks = sys.argv[1], Path(sys.argv[2]), []
for rows in (1_000, 1_000, 20_000):
    source, output = folder / f"in{rows}.jsonl", folder / f"out{len(peaks)}.jsonl"
    source.write_text((json.dumps({"text": "w1 w2", "note": "x" * 2000}) + "\\n") * rows)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    options = {"num_workers": 0, "rows_per_shard": 500, "batch_tokens": 4000, "disable_tqdm": True}
    fastmux.predict(model, source, output, **options)
    peaks.append(1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]))
print(json.dumps(peaks))
"""


@on_request
def test_memory_is_flat_in_the_number_of_rows(folders, tmp_path):
    """The rows of all shards together would be 40 MiB of text, and several times that as objects.

    In a process of its own, whose memory has nothing of other tests in it.
    """
    command = [sys.executable, "-c", PEAKS, str(folders["tmux"]), str(tmp_path)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    peaks = json.loads(done.stdout.splitlines()[-1])
    assert peaks[2] - peaks[1] < 20 * 2**20, peaks


def test_the_public_names(models):
    assert fastmux.predict.__module__ == "fastmux.labelling.predict"
    assert fastmux.LabellingSettings().num_workers is None and fastmux.Predictions(None).rejects == []
