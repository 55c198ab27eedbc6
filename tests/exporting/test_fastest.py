"""``runtime="auto"``: what may win, what may not, and that the next start only reads the answer."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from huggingface_hub.utils import _cache_assets
from thoroughness import on_request

import fastmux
from fastmux.labelling import fastest, loading
from fastmux.labelling.fastest import Choice, candidates, made_rows, race
from fastmux.labelling.placement import Placement
from fastmux.passes import processor
from fastmux.passes.engine import Engine
from fastmux.passes.plan import Layout
from fastmux.passes.tokens import Tokens

AUTO = {"runtime": "auto"}


@pytest.fixture(autouse=True)
def few_rows(monkeypatch, tmp_path):
    monkeypatch.setattr(fastest, "_SECONDS", 0.01)
    monkeypatch.setattr(_cache_assets, "HF_ASSETS_CACHE", str(tmp_path / "cache"))


class Fake:
    """Answers a row with its first token's place among three labels, as changed by ``change``; never quickly."""

    num_instances, num_labels, layout = 1, 3, Layout()
    per_token, problem_type, pad_token_id, weights = False, "single_label_classification", 0, 1

    def __init__(self, change=lambda logits, inputs: logits, slow=0):
        self.change, self.slow = change, slow

    def start(self, inputs):
        logits = np.eye(3, dtype=np.float32)[inputs["input_ids"][:, 0] % 3]
        sum(range(self.slow))
        return lambda: self.change(logits, inputs)

    def ready(self):
        import contextlib

        return contextlib.nullcontext()


def other_labels(share):
    def change(logits, inputs):
        first = inputs["input_ids"][:, 1] < 100 * share
        return np.where(first[:, None], np.roll(logits, 1, -1), logits)

    return change


def leaking(logits, inputs):
    return logits + 0.01 * inputs["input_ids"].max()


def broken(logits, inputs):
    return logits * np.nan


ROWS = Tokens.of_rows([[row % 3 + 1, row % 100, 5] for row in range(200)])


def raced(change, slow=0):
    """What is chosen of torch, slowly, and one candidate more."""

    def engine_of(placement):
        if placement.runtime != "ctranslate2" or placement.dtype != "int8":
            raise ValueError("not in this test")
        return Engine(Fake(change, slow), 1024)

    return race(Engine(Fake(slow=300_000), 1024), ROWS, "any", engine_of)


def test_the_fastest_is_taken():
    found = raced(lambda logits, inputs: logits + 0.1)
    assert (found.runtime, found.precision) == ("ctranslate2", "int8")
    assert found.rows_per_second["ctranslate2 int8"] > found.rows_per_second["torch float32"]
    assert found.line().startswith("ctranslate2 int8, ") and " x torch float32 (" in found.line()
    slow = raced(lambda logits, inputs: logits, slow=3_000_000)
    assert (slow.runtime, slow.precision) == ("torch", "float32")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (other_labels(0.03), r"it changes 3\.0% of the labels"),
        (broken, "it cannot run the model: the model returns NaN or infinity"),
        (leaking, "it lets the companions of a row move its answer by"),
    ],
)
def test_what_is_wrong_is_not_taken_and_why_is_said(change, why):
    found = raced(change)
    assert (found.runtime, found.precision) == ("torch", "float32")
    assert found.left_out["ctranslate2 int8"].startswith(why.replace("\\", ""))
    assert f"not ctranslate2 int8: {found.left_out['ctranslate2 int8']}" in found.line()


def test_a_few_other_labels_may_be():
    assert raced(other_labels(0.02)).runtime == "ctranslate2"


def test_a_precision_that_nothing_runs():
    def engine_of(placement):
        raise ValueError("not in this test")

    with pytest.raises(ValueError, match="precision is 'int8', but nothing here runs the model in it"):
        race(Engine(Fake(), 1024), ROWS, "int8", engine_of)


@pytest.mark.parametrize(
    ("flags", "there", "missing"),
    [
        ("avx2", {"torch float32", "onnxruntime float32"}, {"torch bfloat16", "onnxruntime int8"}),
        ("avx512_vnni", {"torch float32", "onnxruntime int8"}, {"torch bfloat16"}),
        ("avx512_vnni avx512_bf16", {"torch bfloat16", "onnxruntime int8"}, set()),
    ],
)
def test_candidates_are_what_the_processor_can_run(flags, there, missing, monkeypatch):
    monkeypatch.setattr(processor, "_cpuinfo", lambda: f"model name\t: Some CPU\nflags\t\t: fpu {flags}\n")
    found, left = candidates()
    assert there <= set(found) and not missing & set(found) and not set(found) & set(left)
    assert {placed.dtype for placed in candidates("float32")[0].values()} == {"float32"}


def test_without_a_package_it_is_no_candidate(monkeypatch):
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    found, left = candidates()
    assert not any(name.startswith("ctranslate2") for name in found)
    assert "ctranslate2 is not installed" in left["ctranslate2 int8"]


@pytest.mark.parametrize("kind", ["plain", pytest.param("unbind", marks=on_request)])
def test_it_is_timed_once(kind, folder, texts, monkeypatch, caplog):
    model = folder(kind)
    caplog.set_level("INFO", "fastmux")
    options = {"num_workers": 0, "disable_tqdm": True, **AUTO}
    first = fastmux.predict(model, texts, **options).dataset.to_list()
    assert sum("runtime auto: " in line for line in caplog.messages) == 1
    monkeypatch.setattr(loading, "race", None)  # not again
    assert fastmux.predict(model, texts, **options).dataset.to_list() == first
    assert "runtime auto, as found before: " in caplog.messages[-1]
    fastmux.Labeller(model, **AUTO)
    (stored,) = json.loads(next((model / ".fastmux").glob("fastest-*.json")).read_text()).values()
    choice = Choice(**{name: stored[name] for name in Choice.__dataclass_fields__})
    assert choice.name in choice.rows_per_second
    exports = [path.name.rpartition("-")[0] for path in (model / ".fastmux").iterdir() if path.is_dir()]
    expected = [] if choice.runtime == "torch" else [f"{choice.runtime}-{choice.precision}"]
    assert exports == expected, "what is slower is kept"


@pytest.mark.parametrize("change", ["threads", "versions", "weights", "damage"])
def test_it_is_timed_again_where_something_is_other(change, folder, models, texts, monkeypatch):
    model = folder("plain")
    raced = []

    def chosen(reference, tokens, precision, engine_of):
        raced.append(precision)
        return Choice("torch", "float32", {"torch float32": 1.0}, {})

    monkeypatch.setattr(loading, "race", chosen)
    for _ in range(2):
        fastmux.Labeller(model, **AUTO)
    assert raced == ["any"]
    if change == "threads":
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
    elif change == "versions":
        monkeypatch.setattr(fastest, "_version", lambda name: "99")
    elif change == "weights":
        type(models["plain"])(models["plain"].config).save_pretrained(model)
    else:
        next((model / ".fastmux").glob("fastest-*.json")).write_text("[")
    fastmux.Labeller(model, **AUTO)
    fastmux.Labeller(model, **AUTO, texts=texts)  # made-up rows are not the user's
    fastmux.Labeller(model, **AUTO)
    assert raced == ["any"] * 3
    fastmux.Labeller(model, **AUTO, precision="float32")
    assert raced[3:] == ["float32"]


def test_a_folder_that_unlike_processors_share(folder, monkeypatch):
    """Each decides for itself, keeps the other's answer, and never takes what it cannot run."""
    model, raced = folder("plain"), []
    flags = {"new": "fpu avx512_vnni", "old": "fpu avx2"}

    def on(name):
        monkeypatch.setattr(processor, "_cpuinfo", lambda: f"model name\t: {name}\nflags\t\t: {flags[name]}\n")
        return fastmux.Labeller(model, **AUTO).placement

    def chosen(reference, tokens, precision, engine_of):
        raced.append(processor.processor_name())
        precision = "int8" if "onnxruntime int8" in candidates()[0] else "float32"
        return Choice("onnxruntime", precision, {"torch float32": 1.0, f"onnxruntime {precision}": 2.0}, {})

    monkeypatch.setattr(loading, "race", chosen)
    found = [on(name) for name in ("new", "old", "new", "old")]
    assert raced == ["new", "old"]
    assert [placed.dtype for placed in found] == ["int8", "float32"] * 2


@on_request
def test_a_fallback_is_chosen_too(folder, texts, monkeypatch):
    raced = []

    def chosen(reference, tokens, precision, engine_of):
        raced.append(reference.runtime.num_instances)
        return Choice("onnxruntime", "float32", {"torch float32": 1.0, "onnxruntime float32": 2.0}, {})

    monkeypatch.setattr(loading, "race", chosen)
    both = {"fallback": folder("plain"), "min_confidence": 0.9}
    expected = fastmux.Labeller(folder("unbind"), **both)(texts)
    found = fastmux.Labeller(folder("unbind"), **both, **AUTO, texts=texts)
    assert sorted(raced) == [1, 4] and found.placement == Placement(runtime="onnxruntime")
    assert [row["label"] for row in found(texts)] == [row["label"] for row in expected]


@on_request
def test_the_second_start_needs_no_torch_where_torch_does_not_win(folder, texts, tmp_path, monkeypatch):
    won = Choice("onnxruntime", "int8", {"torch float32": 1.0, "onnxruntime int8": 2.0}, {})
    monkeypatch.setattr(loading, "race", lambda *given: won)
    model = folder("rows")
    fastmux.predict(model, texts, num_workers=0, disable_tqdm=True, **AUTO)
    code = (
        "import sys, fastmux\n"
        "assert 'label' in fastmux.Labeller(sys.argv[1], runtime='auto')(['w1 w2'])[0]\n"
        "print([name for name in ('torch', 'transformers', 'datasets') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(model)], capture_output=True, text=True)
    assert (ended.stdout, ended.stderr) == ("[]\n", "")


@on_request
def test_rows_that_cannot_be_labelled_decide_nothing(folder):
    model = folder("plain")
    found = fastmux.predict(model, ["", " "], num_workers=0, disable_tqdm=True, **AUTO)
    assert found.report.rejected == 2
    (stored,) = json.loads(next((model / ".fastmux").glob("fastest-*.json")).read_text()).values()
    assert stored["where"]["own_rows"] is False


def test_made_rows_are_as_long_as_asked():
    rows = made_rows({"a": 3, "b": 7}, 16)
    assert set(rows.ids) == {3, 7} and rows.lengths.max() == 16 and rows.lengths.min() >= 3
    assert np.array_equal(rows.ids, made_rows({"a": 3, "b": 7}, 16).ids)


@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"torch_compile": True}])
def test_contradictory_options(options, tmp_path):
    with pytest.raises(ValueError, match="runtime is 'auto', which chooses the precision and compiles nothing"):
        fastmux.Labeller("nowhere/at-all", **AUTO, **options)


def test_an_exported_folder_has_nothing_to_choose(exported, texts):
    folder = exported("plain", "int8")
    assert fastmux.Labeller(folder, **AUTO)(texts) == fastmux.Labeller(folder)(texts)
    with pytest.raises(ValueError, match=r"precision is 'float32', but model '.*' was exported with precision='int8'"):
        fastmux.Labeller(folder, **AUTO, precision="float32")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--text rows.txt", "--text is given; --runtime is not 'auto', which alone looks at them"),
        ("--runtime auto --text nowhere.txt", "nowhere.txt is not there"),
        ("--runtime auto --column body", "--column is given; --text, of which it says something, is not"),
    ],
)
def test_texts_of_the_server(options, said, tmp_path):
    (tmp_path / "rows.txt").write_text("w1\n")
    command = [sys.executable, "-m", "fastmux", "serve", "nowhere/at-all", "--port", "0", *options.split()]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 1 and ended.stderr == f"fastmux serve: {said}\n"
