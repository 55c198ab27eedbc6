"""A folder with a tiny classifier and rows for it, in which commands are typed."""

from __future__ import annotations

import json

import classifiers
import pytest
from transformers.utils import logging

from fastmux.cli.main import main

config, tokenizer, models = classifiers.config, classifiers.tokenizer, classifiers.models
folders, texts = classifiers.folders, classifiers.texts


@pytest.fixture(autouse=True)
def no_bars():
    """Of loading, on standard error."""
    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


@pytest.fixture
def typed(capsys):
    """``typed("predict", "--help")``: the exit code, standard output and standard error."""

    def run(*arguments) -> tuple[int, str, str]:
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as ended:
            code = ended.code
        out, err = capsys.readouterr()
        if isinstance(code, str):  # as the interpreter does in the end
            code, err = 1, err + code + "\n"
        return code or 0, out, err

    return run


@pytest.fixture
def place(folders, texts, tmp_path, monkeypatch):
    """The working directory, with a model, rows of it in several formats and a folder in use."""
    (tmp_path / "model").symlink_to(folders["plain"])
    (tmp_path / "tmux").symlink_to(folders["tmux"])
    (tmp_path / "tagger").symlink_to(folders["tagger"])
    (tmp_path / "rows.txt").write_text("\n".join(texts))
    (tmp_path / "labelled.csv").write_text("text,label\nw1 w2,x\nw3,y\n")
    (tmp_path / "words.jsonl").write_text(json.dumps({"tokens": ["w1", "w2"]}) + "\n")
    (tmp_path / "few.txt").write_text("w1 w2\n")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path
