"""Arguments of the library become options, and nothing else does."""

import pytest

from fastmux.cli.main import build
from fastmux.cli.wording import near, with_dashes

NAMES = "max_length batch_tokens copies column pair_column split prefix fallback min_confidence text join"
OPTIONS = {name: f"--{name}" for name in NAMES.split()} | {"texts": "--text"}


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("copies is 0, expected 1", "--copies is 0, expected 1"),
        ("fallback and min_confidence go together", "--fallback and --min_confidence go together"),
        ("fallback is given, but the model", "--fallback is given, but the model"),
        ("max_length is 9, more than batch_tokens = 3", "--max_length is 9, more than --batch_tokens = 3"),
        ("x has a column 'b'; prefix gives it", "x has a column 'b'; --prefix gives it"),
        ("(prefix gives the new columns other names)", "(--prefix gives the new columns other names)"),
        ("x has the columns 'a'; say with column which", "x has the columns 'a'; say with --column which"),
        ("x has the splits a, b; say which with split", "x has the splits a, b; say which with --split"),
        ("one that is long (max_length)", "one that is long (--max_length)"),
        ("copies, batch_tokens given beside settings", "--copies, --batch_tokens given beside settings"),
        ("texts has 3 rows, expected 20", "--text has 3 rows, expected 20"),
        ("row 3: max_length is 4", "row 3: --max_length is 4"),
        # What the user gave, and English.
        ("'max_length' is no column of max_length.csv", "'max_length' is no column of max_length.csv"),
        ('{"copies": 3} has "max_length" in it', '{"copies": 3} has "max_length" in it'),
        ("/data/max_length/x.csv is not there", "/data/max_length/x.csv is not there"),
        ("column 'text' is empty", "column 'text' is empty"),
        ("the text is empty", "the text is empty"),
        ("the fallback has the labels ['a']", "the fallback has the labels ['a']"),
        ("a row must be a text or a list", "a row must be a text or a list"),
        ("--max_length is 3 already", "--max_length is 3 already"),
        ("my_max_length is 3", "my_max_length is 3"),
    ],
)
def test_names_of_arguments(message, said):
    assert with_dashes(message, OPTIONS) == said


@pytest.mark.parametrize("command", ["convert", "predict", "serve"])
def test_every_option_of_every_command(command):
    options = build()[1][command].options
    for name, typed in options.items():
        assert with_dashes(f"{name} is 3, expected 4", options) == f"{typed} is 3, expected 4"
        assert with_dashes(f"5 is wrong; {name} gives another", options) == f"5 is wrong; {typed} gives another"
        assert with_dashes(f"'{name}' is 3", options) == f"'{name}' is 3"
    assert with_dashes("max_length is 3", {}) == "max_length is 3"


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("--max-length", "--max_length"),
        ("--MAX_LENGTH", "--max_length"),
        ("--col", "--column"),
        ("--batch", "--batch_tokens"),
    ],
)
def test_what_was_probably_meant(given, found):
    assert near(given, OPTIONS.values()) == f"; did you mean {found}?"


def test_nothing_like_it():
    assert near("--xyzzy", OPTIONS.values()) == ""
