"""`calibrate` puts a threshold into the model's folder, and whatever labels with that fallback reads it there."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from fastapi.testclient import TestClient

import fastmux
from fastmux.labelling.labelling_report import CascadeCost, LabellingReport
from fastmux.labelling.threshold import CASCADE
from fastmux.serving.app import create_app

OPTIONS = {"disable_tqdm": True, "truncation": True}


@pytest.fixture
def fast(folders, tmp_path):
    """A folder of one's own."""
    return shutil.copytree(folders["tmux"], tmp_path / "fast")


@pytest.fixture
def rows(texts):
    return [text for text in texts if text.strip()] * 3


def test_what_is_written_is_read(fast, folders, rows, tmp_path):
    original = folders["plain"]
    found = fastmux.calibrate(fast, rows, fallback=original, agreement=0.9, **OPTIONS)
    assert found == fastmux.Calibration.load(fast / CASCADE)
    assert found.rows == len(rows) and 0 < found.fallback_share < 1 and found.agreement_alone < 0.9
    low, high = found.agreement_interval
    assert low < found.agreement < high and found.speed_up > 0
    given = {"fallback": original, "truncation": True}
    by_hand = fastmux.Labeller(fast, min_confidence=found.min_confidence, **given)(rows)
    assert fastmux.Labeller(fast, **given)(rows) == by_hand
    labelled = {}
    for threshold in (None, found.min_confidence):
        output = tmp_path / f"{threshold}.jsonl"
        fastmux.predict(fast, rows, output, num_workers=0, disable_tqdm=True, min_confidence=threshold, **given)
        labelled[threshold] = output.read_bytes()
    assert labelled[None] == labelled[found.min_confidence]
    with TestClient(create_app(fast, **given)) as client:
        while client.get("/health").status_code == 503:
            pass
        assert client.get("/info").json()["fallback"]["min_confidence"] == found.min_confidence


def test_a_threshold_of_another_fallback_or_of_other_copies_is_refused(fast, folders, rows, tmp_path):
    original = folders["plain"]
    fastmux.calibrate(fast, rows, fallback=original, agreement=0.6, **OPTIONS)
    other = "the fallback is another model than the one that cascade.json was made with; give min_confidence"
    copies = "copies is 2, but cascade.json was made with 1; give min_confidence"
    with pytest.raises(ValueError, match=other):
        fastmux.Labeller(fast, fallback=fast)
    with pytest.raises(ValueError, match=other):
        fastmux.predict(fast, rows, tmp_path / "o.jsonl", fallback=fast)
    with pytest.raises(ValueError, match=copies):
        fastmux.Labeller(fast, fallback=original)(rows, copies=2)
    with pytest.raises(ValueError, match=copies):
        fastmux.predict(fast, rows, tmp_path / "o.jsonl", fallback=original, copies=2)
    with pytest.raises(ValueError, match=copies):
        create_app(fast, fallback=original, copies=2)
    assert not list(tmp_path.glob("o.jsonl*"))


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("{", "is damaged"),
        ('{"min_confidence": 0.5}', "is damaged"),
        (None, "has min_confidence 7, expected a number from 0 to 1"),
    ],
)
def test_a_damaged_file_is_refused(written, said, fast, folders, rows):
    fastmux.calibrate(fast, rows, fallback=folders["plain"], agreement=0.6, **OPTIONS)
    stored = json.loads((fast / CASCADE).read_text())
    (fast / CASCADE).write_text(json.dumps({**stored, "min_confidence": 7}) if written is None else written)
    with pytest.raises(ValueError, match=f"{CASCADE} {said}"):
        fastmux.Labeller(fast, fallback=folders["plain"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"texts": ["w1"] * 49},
            "texts has 49 rows, expected at least 50, better a thousand: by so few a share",
        ),
        ({"texts": ["w1"] * 120}, "gives all 120 rows that are kept apart one label"),
        ({"texts": ["\u0444\u0438\u043b\u044c\u043c"] * 120}, "100% tokens that the tokenizer does not know"),
        ({"texts": ["w1"] * 49 + [""]}, "row 50 cannot be labelled: the text is empty"),
        ({"agreement": 1.2}, "agreement is 1.2, expected a number above 0, up to 1"),
        ({"model": "name/on-the-hub"}, "model is 'name/on-the-hub', expected a folder"),
        ({"fallback": "tagger"}, "the fallback labels tokens and the model sequences"),
        ({"copies": 9}, "copies is 9, expected an integer from 1 to num_instances"),
    ],
)
def test_bad_input_writes_nothing(change, said, fast, folders, rows):
    given = {"model": fast, "texts": rows, "fallback": folders["plain"], **OPTIONS} | change
    given["fallback"] = folders.get(given["fallback"], given["fallback"])
    with pytest.raises(ValueError, match=re.escape(said)):
        fastmux.calibrate(given.pop("model"), given.pop("texts"), **given)
    assert not (fast / CASCADE).exists()


def test_a_cascade_that_is_slower_than_its_fallback_is_named():
    """As was once documented: half of the rows went on, and 86 rows a second were answered in place of 114."""
    report = LabellingReport(rows=1000, labelled=1000, fallback=530)
    report.cascade = CascadeCost(1000, 530, 6.98, 4.65)
    assert (
        "53% of the rows went on to the fallback, which alone would be faster: about 114 rows"
        in report.cascade.warning()
    )
    assert "pays below 20%" in report.cascade.warning()
    assert any(line.startswith("slower") for line in report.lines())
    for cost in (CascadeCost(1000, 100, 2.0, 1.0), CascadeCost(1000, 99, 100.0, 0.1), CascadeCost()):
        assert cost.warning() is None
    assert "pays at no share" in CascadeCost(1000, 100, 20.0, 1.0).warning()


def test_predict_says_so_while_it_runs(fast, folders, texts, capsys):
    """The fallback of all rows is the model itself, so that both cost twice as much as one."""
    options = {"num_workers": 0, "fallback": fast, "min_confidence": 1.0, "truncation": True}
    found = fastmux.predict(fast, [*texts] * 6, rows_per_shard=64, **options)
    assert found.report.cascade.went_on == found.report.labelled
    assert capsys.readouterr().err.count("which alone would be faster") == 1
