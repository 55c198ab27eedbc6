"""Whether a search keeps its promise: which rows it never sees, what is compared, and what is recorded."""

from __future__ import annotations

from dataclasses import asdict
from types import SimpleNamespace

import pytest

from bench import promises
from fastmux.files import write_json
from fastmux.passes.shares import Share
from fastmux.searching.points import Point

TEXTS = [f"text {number}" for number in range(50)]


def test_rows_aside_are_different_ones_that_no_search_sees():
    searched, aside = promises.parted([*TEXTS, *TEXTS], seed=1)
    assert len(aside) == 10 and sorted([*searched, *aside]) == sorted(TEXTS)
    assert promises.parted(TEXTS, 1) == (searched, aside) and promises.parted(TEXTS, 2)[1] != aside


class Labeller:
    """One that gives the rows of ``wrong`` another label."""

    made: list[dict]

    def __init__(self, folder, truncation, **options):
        self.made.append({"folder": folder, **options})
        self.wrong, self.per_token = (folder == "found") * 3, False

    def __call__(self, rows):
        return [{"label": "no" if number < self.wrong else "yes"} for number in range(len(rows))]


@pytest.fixture
def labellers(monkeypatch):
    Labeller.made = []
    monkeypatch.setattr(promises.fastmux, "Labeller", Labeller)
    return Labeller


@pytest.mark.parametrize(
    "behind, options",
    [
        (None, {}),
        ("original", {"fallback": "model"}),
        ("original, 8 bits", {"fallback": "model", "runtime": "onnxruntime", "precision": "int8"}),
    ],
)
def test_what_was_found_runs_as_its_sentence_says(behind, options, labellers):
    share = promises.unseen("model", "found", behind, TEXTS[:10])
    assert (share.mean, share.count) == (0.7, 10)
    assert labellers.made == [{"folder": "model"}, {"folder": "found", **options}]


def test_several_labels_and_words_are_compared_one_by_one():
    class Said:
        def __init__(self, answers, per_token=False):
            self.answers, self.per_token, self.rows = answers, per_token, None

        def __call__(self, rows):
            self.rows = rows
            return self.answers

    several = Said([{"labels": ["b", "a"]}, {"labels": []}])
    assert promises.answers(several, [("x", "y"), ("z", "w")]) == [[["a", "b"]], [[]]]
    assert several.rows == [{"text": "x", "text_pair": "y"}, {"text": "z", "text_pair": "w"}]
    words = Said([{"tags": ["O", "B-PER"]}], per_token=True)
    assert promises.answers(words, ["in Rome"]) == [["O", "B-PER"]] and words.rows == [{"words": ["in", "Rome"]}]


def found(agreement: float = 0.98):
    share = Share(agreement, 100.0, 100)
    point = Point(
        name="cut-1, 8 bits", form="cut-1, 8 bits", model="cut-1", words="1 of 6 layers", runtime="ONNX Runtime",
        precision="int8", multiplexed=False, choosing=share, agreement=share, score=None, rows_per_second=9.0,
        speed_up=9.0, speed_up_forward=20.0, went_on=None, min_confidence=None, behind=None,
    )  # fmt: skip
    history = {"cut-1": [[40, 0.9, 1.0]], "cut-2": []}
    return {"chosen": asdict(point), "met": True, "sentence": "Found.", "history": history, "finished": True}


def test_half_a_point_is_chance_and_more_is_a_broken_promise():
    assert promises.entry(found(), Share(0.975, 100.0, 100), 0.98)["kept"]
    assert not promises.entry(found(), Share(0.9745, 100.0, 100), 0.98)["kept"]


def test_a_search_that_is_recorded_is_not_made_again(tmp_path, monkeypatch, labellers, capsys):
    (tmp_path / "model").mkdir()
    (tmp_path / "rows.txt").write_text("\n".join(TEXTS))
    made, finished = [], True

    def search(model, texts, folder, **options):
        made.append(options["seed"])
        write_json(folder / "search.json", found() | {"finished": finished})
        return SimpleNamespace(sentence="Found.")

    monkeypatch.setattr(promises.fastmux, "search", search)
    given = [f"{tmp_path / 'model'}={tmp_path / 'rows.txt'}", "--work", str(tmp_path / "work")]
    given += ["--output", str(tmp_path / "promises.json")]
    promises.main([*given, "--seeds", "0", "1"])
    entries = promises.main([*given, "--seeds", "1", "2"])
    assert made == [0, 1, 2] == [one["seed"] for one in entries]
    assert [one["unseen"] for one in entries] == [1.0, 1.0, 1.0] and entries[0]["steps"] == 40
    assert "**3 of the 3 searches" in capsys.readouterr().out
    # Interrupted, it is no entry, and goes on; killed behind the search, only the rows aside are left to do.
    finished = False
    with pytest.raises(ValueError, match="interrupted: the same command goes on with this search"):
        promises.main([*given, "--seeds", "3"])
    finished = True
    promises.main([*given, "--seeds", "3"])
    (tmp_path / "promises.json").unlink()
    promises.main([*given, "--seeds", "3"])
    assert made == [0, 1, 2, 3, 3]
    # Other rows in a file of the same name are another search.
    (tmp_path / "rows.txt").write_text("\n".join(TEXTS[1:]))
    assert len(promises.main([*given, "--seeds", "3"])) == 2 and made == [0, 1, 2, 3, 3, 3]


def test_a_file_of_something_else_is_left_alone(tmp_path, labellers):
    (tmp_path / "rows.txt").write_text("\n".join(TEXTS))
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match=r"other\.json holds something else than searches of this program"):
        promises.main([f"{tmp_path}={tmp_path / 'rows.txt'}", "--output", str(tmp_path / "other.json")])
    assert (tmp_path / "other.json").read_text() == "{}" and labellers.made == []


def test_what_found_nothing_promised_nothing():
    kept = promises.entry(found(), Share(0.99, 100.0, 100), 0.98) | dict.fromkeys(promises._SEARCH, 0)
    entries = [kept, kept | {"met": False, "unseen": 0.5, "kept": False}]
    assert "**1 of the 1 searches" in "\n".join(promises.section({"promises": entries}))


def test_a_file_that_is_not_there(tmp_path, capsys):
    with pytest.raises(SystemExit):
        promises.main([f"{tmp_path}={tmp_path / 'none.tsv'}"])
    assert "none.tsv is not there; expected MODEL=ROWS" in capsys.readouterr().err
