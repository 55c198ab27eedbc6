"""``fastmux``: what is typed wrong is one line that says what was meant, and the first look teaches."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time

import pytest

import fastmux
from fastmux.cli.main import COMMANDS, build


def test_the_module_is_the_command():
    def said(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "fastmux", *arguments], capture_output=True, text=True, timeout=120
        )
        return done.returncode, done.stdout, done.stderr

    assert said("--version") == (0, f"fastmux {fastmux.__version__}\n", "")
    code, out, err = said()
    assert (code, out) == (2, "")
    assert err.startswith("usage: fastmux [-h]") and "fastmux predict my-model-2x reviews.csv" in err
    assert all(re.search(rf"\n    {name}\s", err) for name in COMMANDS)


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = sys.modules["transformers"] = None
from fastmux.cli.main import main
main(sys.argv[1:])
"""


#: `train` is a program with a parser of its own, whose help lists the arguments of transformers.
OWN = [command for command in COMMANDS if command != "train"]


@pytest.mark.parametrize("command", [*OWN, None])
def test_help_answers_without_torch(command):
    arguments = ["--help"] if command is None else [command, "--help"]
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *arguments], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: fastmux")


EXAMPLE = "for example: fastmux predict my-model reviews.txt --output labels.jsonl"
COMMAND = "expected one of search, convert, calibrate, export, predict, embed, serve, train, env"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("predcit", f"fastmux: there is no command 'predcit', {COMMAND}; did you mean predict?"),
        ("label", f"fastmux: there is no command 'label', {COMMAND}"),
        ("--verson", "fastmux: there is no option --verson; did you mean --version?"),
        ("predict", f"fastmux predict: MODEL, INPUT and --output are missing; {EXAMPLE}"),
        ("predict m t.txt", f"fastmux predict: --output is missing; {EXAMPLE}"),
        ("serve", "fastmux serve: MODEL is missing; for example: fastmux serve my-model"),
        ("predict m t.txt --ouput o.jsonl", "fastmux predict: there is no option --ouput; did you mean --output?"),
        ("predict --max_lenght 3", "fastmux predict: there is no option --max_lenght; did you mean --max_length?"),
        ("predict --max-length=3", "fastmux predict: there is no option --max-length; did you mean --max_length?"),
        ("predict --min_conf 0.5", "fastmux predict: there is no option --min_conf; did you mean --min_confidence?"),
        ("serve m -p 80", "fastmux serve: there is no option -p; did you mean --port?"),
        ("convert m --xyzzy", "fastmux convert: there is no option --xyzzy"),
        ("predict a b c --output d", "fastmux predict: 'c' is one argument too many"),
        ("env x y", "fastmux env: 'y' is one argument too many"),
        ("predict a b --output c --truncation=yes", "fastmux predict: --truncation takes no value, got 'yes'"),
        ("predict a b --output", "fastmux predict: --output needs a value"),
        ("serve m --port 99999", "fastmux serve: --port is '99999', expected an integer from 0 to 65535"),
        ("serve m --port http", "fastmux serve: --port is 'http', expected an integer from 0 to 65535"),
        (
            "serve a --dtype float23",
            "fastmux serve: --dtype is 'float23', expected one of 'float32', 'bfloat16', 'float16'; "
            "did you mean float32?",
        ),
    ],
)
def test_what_is_typed_wrong(arguments, said, typed):
    code, out, err = typed(*arguments.split())
    assert (code, out, err) == (2, "", f"{said} (--help says more)\n")


def test_values_are_no_options(typed, place):
    """Behind ``--`` anything may stand, and a number may be below zero."""
    code, _, err = typed("predict", "model", "--output", "o.jsonl", "--", "--rows.txt")
    assert code == 1 and "--rows.txt" in err and "option" not in err
    code, _, err = typed("predict", "model", "rows.txt", "--output", "o.jsonl", "--copies", "-1")
    assert (code, err) == (
        2,
        "fastmux predict: --copies is '-1', expected an integer of at least 1 (--help says more)\n",
    )


@pytest.mark.parametrize("command", OWN)
def test_examples_of_the_help_parse(command):
    parser, commands = build()
    lines = [line.split("   #")[0].split() for line in (commands[command].epilog or "").splitlines()]
    lines += [line.split("   #")[0].split() for line in parser.epilog.splitlines()]
    shown = [line[line.index("fastmux") + 1 :] for line in lines if "fastmux" in line and f"{command}" in line]
    assert shown or command == "env"
    for line in shown:
        commands[command].check_known(line)
        assert parser.parse_args(line).command == command


def test_train_is_the_program_of_that_name(typed, monkeypatch):
    monkeypatch.setattr("sys.argv", ["fastmux"])
    assert "fastmux train: error: argument --task: invalid choice: 'nothing'" in typed("train", "--task", "nothing")[2]
    assert typed("train", "--resume", "--task", "sst2")[2].startswith("fastmux train: --resume: runs/sst2 holds no run")
    assert typed("train", "--help")[1].startswith("usage: fastmux train [--task TASK]")


def test_interrupted_it_says_so():
    """Control-C while the model is loaded, or a conversion runs."""
    code = (
        "import sys, time\nfrom fastmux.cli import main\n"
        "def run(options):\n    print('there', flush=True)\n    time.sleep(60)\n"
        "main.COMMANDS['env'] = (main.COMMANDS['env'][0], run)\n"
        "main.main(['env'])"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1, text=True) as running:
        assert running.stdout.readline() == "there\n"
        time.sleep(0.2)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=30)
    assert (running.returncode, err) == (130, "fastmux env: interrupted\n")
