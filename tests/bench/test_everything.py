"""A run of everything keeps to its budgets, goes on past what fails, and leaves what it had when it is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from thoroughness import on_request

import bench.ops.__main__ as ops
from bench import everything, machine, processes
from fastmux.files import write_json

ROOT = Path(__file__).resolve().parents[2]
#: Runs steps that a test gives, with the command's own arguments.
WITH_STEPS = """
import sys
from bench import everything
everything.STEPS = {name: everything.Step(seconds, arguments) for name, (seconds, arguments) in STEPS.items()}
sys.exit(everything.main())
"""
SLOW = "open(r'{out}/first.json', 'w').write('1'); print('begun'); import time; time.sleep(60)"


def start(steps: dict[str, tuple[float, list[str]]], *options: str, **more) -> subprocess.Popen:
    command = [sys.executable, "-c", f"STEPS = {steps!r}\n{WITH_STEPS}", "--steps", *steps, *options]
    env = processes.environment()
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)


def report(folder: Path) -> dict:
    return json.loads((folder / "everything.json").read_text())["steps"]


def test_every_step_runs_within_its_budget_and_prints_as_it_goes(tmp_path):
    steps = {
        "bad": (30, ["-c", "raise SystemExit(3)"]),
        "slow": (1, ["-c", SLOW]),
        "good": (30, ["-c", "print('{seconds}')"]),
    }
    process = start(steps, "--output", str(tmp_path / "out"), "--pack", str(tmp_path / "packed"))
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    out, packed = tmp_path / "out", tmp_path / "packed"
    assert {name: step["outcome"] for name, step in report(out).items()} == {
        "bad": "exit 3",
        "slow": "out of time",
        "good": "ok",
    }
    # A process has the grace to end, and then as long again for the rest of its output to be read.
    assert 0.85 <= report(out)["slow"]["seconds"] < 1 + 2 * everything.ENDING
    assert "begun" in printed and "begun" in (out / "everything.log").read_text()
    assert sorted(file.name for file in packed.iterdir()) == ["everything.json", "results.tar.gz", "summary.md"]
    assert report(packed) == report(out) and "| bad | exit 3 |" in (packed / "summary.md").read_text()
    with tarfile.open(packed / "results.tar.gz") as archive:
        names = {Path(name).name for name in archive.getnames()}
    assert {"everything.json", "everything.log", "first.json"} <= names


def test_in_less_time_every_budget_shrinks_alike(tmp_path):
    """A step is told 0.85 of the time after which it is stopped."""
    steps = {"one": (30, ["-c", "print('one has {seconds}')"]), "two": (90, ["-c", "print('two has {seconds}')"])}
    printed, _ = start(steps, "--output", str(tmp_path), "--minutes", "1").communicate(timeout=120)
    assert "one has 13" in printed and "two has 38" in printed
    assert [step["budget"] for step in report(tmp_path).values()] == [15, 45]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_stopped_halfway_it_leaves_what_it_had(tmp_path, number):
    out, packed = tmp_path / "out", tmp_path / "packed"
    child = f"import os; open(r'{tmp_path}/pid', 'w').write(str(os.getpid())); {SLOW}"
    steps = {"done": (30, ["-c", "print('done')"]), "slow": (60, ["-c", child])}
    process = start(steps, "--output", str(out), "--pack", str(packed))
    end = time.monotonic() + 90
    while not (out / "first.json").exists() and time.monotonic() < end:
        time.sleep(0.1)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == (143 if number == signal.SIGTERM else -number)
    assert report(out)["done"]["outcome"] == "ok" and report(out)["slow"]["outcome"] == "stopped"
    assert (out / "first.json").read_text() == "1" and tarfile.is_tarfile(packed / "results.tar.gz")
    running = int((tmp_path / "pid").read_text())
    if number == signal.SIGTERM:
        assert not Path(f"/proc/{running}").exists(), "what it had started still runs"
    else:
        os.kill(running, signal.SIGKILL)


HIDDEN = """
import importlib.metadata, importlib.util
assert importlib.util.find_spec("peft") is None and importlib.util.find_spec("tqdm.auto") is not None
try:
    import peft
except ModuleNotFoundError as error:
    assert error.name == "peft"
else:
    raise AssertionError("peft was found")
assert "tqdm" in {d.name for d in importlib.metadata.distributions()} - {"peft"}
assert "peft" not in {d.name for d in importlib.metadata.distributions()}
"""


def test_hidden_packages_are_as_if_not_installed(tmp_path):
    pytest.importorskip("peft", reason="the package that is hidden is peft")
    subprocess.run([sys.executable, "-c", HIDDEN], env=processes.environment(["peft"], tmp_path), check=True)


#: What a machine that has torch, transformers and pytest may lack, of what fastmux installs.
LACKING = ["datasets", "orjson", "seqeval", "ctranslate2", "polars", "duckdb", "model2vec", "openai", "liger_kernel"]
PROGRAMS = ["throughput", "predict", "ops.__main__", "tune", "memory", "audit.kernels", "results_page"]


def test_the_steps_need_no_package_that_a_bare_machine_lacks(tmp_path):
    """All but serving, which needs the extra `serve`."""
    code = f"import importlib\nfor name in {PROGRAMS}: importlib.import_module('bench.' + name)"
    env = processes.environment(LACKING, tmp_path)
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_tests_go_on_past_files_that_cannot_be_collected(tmp_path):
    """With the step's own options: a package that a file needs is hidden, the other file's tests run."""
    (tmp_path / "hiding").mkdir()
    (tmp_path / "test_there.py").write_text("def test_one():\n    pass\n\n\ndef test_two():\n    assert False\n")
    (tmp_path / "test_missing.py").write_text("import tqdm\n\n\ndef test_it():\n    pass\n")
    own = [a for a in everything.STEPS["tests"].arguments if not a.startswith("tests")]
    arguments = [a.format(out=tmp_path) for a in own] + [str(tmp_path)]
    env = processes.environment(["tqdm", "hypothesis"], tmp_path / "hiding")
    with open(tmp_path / "log", "wb") as log:
        status, _ = processes.run([sys.executable, *arguments], 120, log, env)
    assert status == 1
    cases = {case.get("name"): case for case in ElementTree.parse(tmp_path / "tests.xml").iter("testcase")}
    assert cases["test_one"].find("*") is None and cases["test_two"].find("failure") is not None
    (missing,) = [case.find("error") for name, case in cases.items() if "test_missing" in name]
    assert "No module named 'tqdm'" in missing.text


@on_request
def test_tests_that_are_interrupted_leave_their_outcomes(tmp_path):
    tests = "import time\n\n\ndef test_one():\n    pass\n\n\ndef test_two():\n    time.sleep(60)\n"
    (tmp_path / "test_slow.py").write_text(tests)
    own = [a for a in everything.STEPS["tests"].arguments if not a.startswith("tests")]
    arguments = [a.format(out=tmp_path) for a in own] + [str(tmp_path)]
    with open(tmp_path / "log", "wb") as log:
        status, _ = processes.run(
            [sys.executable, *arguments], 20, log, processes.environment(), grace=everything.ENDING
        )
    assert status is None
    assert "test_one" in [case.get("name") for case in ElementTree.parse(tmp_path / "tests.xml").iter("testcase")]


def test_the_commit_travels_in_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "COMMIT", tmp_path / "commit.txt")
    monkeypatch.setattr(machine, "BENCH", tmp_path)  # outside of a checkout
    assert machine.commit() is None
    (tmp_path / "commit.txt").write_text("0123456789ab-dirty\n")
    assert machine.commit() == "0123456789ab-dirty"


COMPILED = "reference-compiled"


def test_ratios_take_the_faster_backend_of_each_case(tmp_path):
    def row(who, ratio, **more):
        own = {"direction": "forward", "dtype": "bfloat16", "G": 1, "N": 2, "implementation": who}
        times = {"device_us": None, "wall_us": [5 / ratio, 6 / ratio, 7 / ratio]}
        return own | times | {"speed_to_compiled": [ratio - 0.1, ratio, ratio + 0.1]} | more

    slow = [row("triton", 0.9, G=2), row("torch", 0.8, G=2), row("reference", 0.2, G=2), row(COMPILED, 1.0, G=2)]
    rows = [row("torch", 1.5), row("triton", 3.0), row("reference", 0.1), row(COMPILED, 1.0), *slow]
    write_json(tmp_path / "hadamard_mux.json", {"op": "hadamard_mux", "rows": rows})
    write_json(tmp_path / "ratios.json", {"rows": []})
    found = ops.ratios(tmp_path)
    assert [(r["G"], r["implementation"], r["speed_to_compiled"][1]) for r in found] == [
        (2, "triton", 0.9),
        (1, "triton", 3.0),
    ]
    whose = ("", "torch_", "reference_", "reference_compiled_")
    assert [found[1][f"{who}microseconds"] for who in whose] == [2.0, 4.0, 60.0, 6.0]
    written = "\n".join(ops.section({"clock": "cpu", "to_compiled": found}))
    assert "the faster of ours: 1 of 2" in written
    assert "| `hadamard_mux`, forward | G=1 N=2, bfloat16 | triton | 2 |" in written


def test_ops_go_on_past_a_case_that_kills_its_process(tmp_path, monkeypatch):
    """The second case kills the first process, the third the next one; the third process has the rest."""
    left, asked = ["a", "killer", "b", "killer too", "c"], []

    def run(command, *_, **__):
        asked.append(list(left))
        with open(tmp_path / ops.BEGUN, "a", encoding="utf-8") as file:
            while left:
                case = left.pop(0)
                print(case, file=file)
                if case.startswith("killer"):
                    return -11, 1.0
        return 0, 1.0

    monkeypatch.setattr(ops, "run", run)
    monkeypatch.setattr(ops, "default_device", lambda: torch.device("cpu"))
    assert ops.main(["--ops", "hadamard_mux", "--output", str(tmp_path)]) == 1
    assert [cases[0] for cases in asked] == ["a", "b", "c"]


def test_ops_do_not_go_on_where_nothing_begins(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(ops, "run", lambda command, *_, **__: asked.append(command) or (4, 1.0))
    monkeypatch.setattr(ops, "default_device", lambda: torch.device("cpu"))
    assert ops.main(["--ops", "hadamard_mux", "--output", str(tmp_path)]) == 1 and len(asked) == 1
