"""Superposed training: its loss beside BERT's and T-MUX's, and runs on a little text, one of them killed."""

from __future__ import annotations

import json
import os
import random
import signal

import pytest
import torch
from killing import in_child
from transformers import BertConfig, BertForMaskedLM

from fastmux.modules.demultiplexers import UnbindDemultiplexer
from fastmux.testing import assert_agrees
from fastmux.training import superposed
from fastmux.training.fronts.law import Estimate
from fastmux.training.learner import Learner
from fastmux.training.masked_recipe import read_masked_recipe
from fastmux.training.superposed_run import Plan, SuperposedRun, gain, sentence
from fastmux.training.superposing import Batch, MaskedRows, Way, masked_loss, states_to_decode

RECIPE = """
{max_length: 12, vocab_size: 300, hidden_size: 16, num_layers: 1, num_heads: 2, intermediate_size: 24, sequences: 4,
 ways: {plain: {}, rows-2: {num_instances: 2}, positions-3: {num_instances: 3, join: positions}}}
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("superposed")
    draw = random.Random(0)
    for split, lines in (("train", 60), ("valid", 12)):
        text = [" ".join(draw.choices([f"word{k}" for k in range(20)], k=9)) for _ in range(lines)]
        (folder / f"wikitext-2.{split}.txt").write_text("\n".join(text) + "\n")
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


def arguments(files, output, *more: str) -> list[str]:
    given = {"data_dir": files, "recipe": files / "recipe.yaml", "output_dir": output, "seconds": 8, "evaluations": 4}
    return [word for name, value in given.items() for word in (f"--{name}", str(value))] + list(more)


@pytest.fixture
def same_times(monkeypatch):
    """Steps that take as long in every run."""
    seconds = {"plain": 1.0, "rows-2": 0.9, "positions-3": 1.2}
    monkeypatch.setattr(SuperposedRun, "_step_seconds", lambda run, bf16: (seconds, False))
    monkeypatch.setattr(superposed, "plot", lambda *given: None)


def a_batch(way: Way, dtype=torch.float64) -> tuple[BertForMaskedLM, Batch]:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    model = BertForMaskedLM(BertConfig(vocab_size=50, initializer_range=0.3, **sizes)).to(dtype).eval()
    ids = torch.randint(5, 50, (6, 12))
    return model, Batch(ids, torch.where(torch.rand(6, 12) < 0.3, ids, -100), way)


def test_alone_it_is_the_loss_of_bert():
    model, batch = a_batch(Way())
    assert_agrees(masked_loss(model, batch, torch.ones(1, 16).double()), model(batch.ids, labels=batch.labels).loss)


def test_rows_that_share_a_pass_are_taken_apart_by_unbind():
    """BERT's head, behind the product with a row's signs, is the layer of the demultiplexer and a decoder."""
    model, batch = a_batch(Way(3))
    vectors = torch.randint(0, 2, (3, 16)).double() * 2 - 1
    unbind, head = UnbindDemultiplexer(3, 16).double(), model.cls.predictions
    unbind.dense.load_state_dict(head.transform.dense.state_dict())
    unbind.layer_norm.load_state_dict(head.transform.LayerNorm.state_dict())
    embedded = model.bert.embeddings(batch.ids).unflatten(0, (2, 3))
    h = model.bert.encoder((embedded * vectors[:, None]).sum(1) / 3**0.5)[0]
    logits = head.decoder(unbind(h, None, vectors).flatten(0, 1))
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten())
    assert_agrees(masked_loss(model, batch, vectors), expected)


def test_positions_that_share_a_pass_are_neighbours():
    """Each depends on the others of its row, and on no other row."""
    model, batch = a_batch(Way(3, "positions"))
    vectors = torch.randint(0, 2, (3, 16)).double() * 2 - 1
    states, tokens = states_to_decode(model, batch, vectors)
    assert sorted(tokens.tolist()) == sorted(batch.labels[batch.labels != -100].tolist())
    alone = Batch(batch.ids[2:3], batch.labels[2:3], batch.way)
    some = states_to_decode(model, alone, vectors)[0]
    first = int((batch.labels[:2] != -100).sum())
    assert_agrees(some, states[first : first + len(some)])


def test_the_same_tokens_are_hidden_in_the_same_step(files):
    run = SuperposedRun(options(files), read_masked_recipe(str(files / "recipe.yaml")), files)
    rows = MaskedRows(run.rows["train"], run.tokenizer, 0.3, 4, 0)
    one, again, other = (rows.batch(step, Way(2)) for step in (3, 3, 4))
    assert torch.equal(one.ids, again.ids) and one.ids.shape == (8, 12) and not torch.equal(one.ids, other.ids)
    asked = one.labels != -100
    assert 0.1 < asked.double().mean() < 0.5 and (one.ids[asked] == run.tokenizer.mask_token_id).double().mean() > 0.5
    special = torch.isin(one.labels, torch.tensor(run.tokenizer.all_special_ids))
    assert not special.any() and ((one.ids == one.labels) | ~asked | (one.ids != one.labels)).all()
    whole = list(rows.all(Way()))
    assert sum(len(batch.ids) for batch in whole) == len(run.rows["train"])
    assert torch.equal(whole[0].ids, next(rows.all(Way())).ids)


def options(files, **more):
    given = {"data_dir": str(files), "seeds": [0]} | more
    return superposed.SuperposedOptions(**given)


def test_a_plan_fits_into_its_time_and_recovers_at_the_end():
    plan = Plan.of(Way(4), [2.0, 1.0], 100.0, recovery=0.1)
    assert (plan.shared, plan.alone, plan.steps) == (45, 10, 55)
    assert (plan.done(0), plan.done(45), plan.done(50), plan.done(55)) == (0.0, 0.9, 0.95, 1.0)
    assert plan.step_at(0.9) == 45 and plan.step_at(1.0) == 55
    plain = Plan.of(Way(), [1.0, 1.0], 100.0, recovery=0.1)
    assert (plain.shared, plain.alone) == (0, 100)


def test_every_way_ends_as_a_plain_bert_after_the_same_time(files, tmp_path):
    out = tmp_path / "out"
    result = superposed.main(arguments(files, out, "--seconds", "0.5", "--seeds", "0", "1", "--evaluations", "10"))
    assert [way["name"] for way in result["superposed"]] == ["plain", "rows-2", "positions-3"]
    for way in result["superposed"]:
        assert way["loss"]["mean"] > 0 and 0 <= way["accuracy"]["mean"] <= 1 and len(way["loss"]["values"]) == 2
        taken = way["plan"]["shared"] * way["plan"]["step_seconds"][0] + (
            way["plan"]["alone"] * way["plan"]["step_seconds"][1]
        )
        assert taken == pytest.approx(0.5, rel=0.2)
    assert set(result["gains"]) == {"rows-2", "positions-3"} and len(result["sentences"]) == 2
    assert "superposed_loss" not in result["curves"]["rows-2"]["0"][-1]
    assert "superposed_loss" in result["curves"]["rows-2"]["0"][3]
    assert json.loads((out / "superposed.json").read_text())["sentences"] == result["sentences"]
    assert (out / "superposed.png").stat().st_size > 0
    assert {way["plan"]["bf16"] for way in result["superposed"]} in ({False}, {True})
    assert result["settings"]["recipe"] == "recipe" and "data_dir" not in result["settings"]


def test_a_run_that_is_killed_goes_on_to_the_same_result(files, tmp_path, monkeypatch, same_times):
    whole = superposed.main(arguments(files, tmp_path / "whole", "--seeds", "1"))
    again = ("--seeds", "1", "--save_seconds", "0")

    def killed_after(steps: int) -> None:
        step = Learner.advance

        def advance(self, rate):
            nonlocal steps
            steps -= 1
            if steps == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(self, rate)

        monkeypatch.setattr(Learner, "advance", advance)
        superposed.main(arguments(files, tmp_path / "parts", *again))

    for steps in (2, 5, 9):
        assert in_child(lambda steps=steps: killed_after(steps)) == signal.SIGKILL
    parts = superposed.main(arguments(files, tmp_path / "parts", *again))

    def curves(result: dict) -> dict:
        without = {"seconds"}
        return {
            name: [{k: v for k, v in p.items() if k not in without} for p in own["1"]]
            for name, own in result["curves"].items()
        }

    assert curves(parts) == curves(whole)
    for state in (tmp_path / "whole").glob("*/*/state.pt"):
        one, other = (
            torch.load(tmp_path / folder / state.relative_to(tmp_path / "whole"), weights_only=True)["model"]
            for folder in ("whole", "parts")
        )
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_later_call_adds_seeds_and_keeps_what_is_there(files, tmp_path, same_times):
    first = superposed.main(arguments(files, tmp_path / "out", "--seeds", "0", "--ways", "rows-2"))
    assert [way["name"] for way in first["superposed"]] == ["plain", "rows-2"]
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/seed-0/*")}
    both = superposed.main(arguments(files, tmp_path / "out", "--seeds", "0", "2"))
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert both["curves"]["rows-2"]["0"] == first["curves"]["rows-2"]["0"] and "positions-3" in both["gains"]
    with pytest.raises(ValueError, match=r"holds work of other settings: .*seconds was 8\.0, is 9\.0"):
        superposed.main(arguments(files, tmp_path / "out", "--seconds", "9"))
    (tmp_path / "own.yaml").write_text(RECIPE.replace("rows-2: {num_instances: 2}", "rows-2: {num_instances: 4}"))
    with pytest.raises(ValueError, match="out holds another rows-2: num_instances was 2, is 4"):
        superposed.main(arguments(files, tmp_path / "out", "--recipe", str(tmp_path / "own.yaml")))
    (tmp_path / "wikitext-2.train.txt").write_text((files / "wikitext-2.train.txt").read_text() + "word1 word2\n" * 9)
    (tmp_path / "wikitext-2.valid.txt").write_text((files / "wikitext-2.valid.txt").read_text())
    with pytest.raises(ValueError, match="holds work of other settings: rows was"):
        superposed.main(arguments(files, tmp_path / "out", "--data_dir", str(tmp_path)))


@pytest.mark.parametrize(
    "text, given, message",
    [
        (RECIPE, ["--ways", "rows"], "--ways 'rows': .* has plain, rows-2, positions-3"),
        (RECIPE, ["--seconds", "0"], r"--seconds is 0\.0, expected a number above 0"),
        (RECIPE, ["--data_dir", "nowhere"], "wikitext-2.train.txt, wikitext-2.valid.txt missing in nowhere"),
        (RECIPE, ["--max_train_rows", "3"], "there are 3 rows to learn from, expected at least a step's 4"),
        (RECIPE, ["--seeds", "-1"], "--seeds is -1, expected integers of at least 0, below"),
        (RECIPE, ["--max_evaluation_rows", "1"], "1 rows are scored, expected at least the 2 that share a pass"),
        ("ways: {a: {}}", [], "ways must have an entry 'plain: {}'"),
        ("ways: {plain: {num_instances: 2}}", [], "ways must have an entry 'plain: {}'"),
        ("widths: 3", [], "there is no 'widths' in a recipe; the closest is"),
        ("hidden_size: 30", [], "hidden_size is 30, expected a multiple of num_heads, 4"),
        ("ways: {plain: {}, a: {join: words}}", [], "a: join is 'words', expected one of 'rows', 'positions'"),
        (
            "{max_length: 10, ways: {plain: {}, a: {num_instances: 3, join: positions}}}",
            [],
            "max_length is 10, expected",
        ),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(text, given, message, files, tmp_path):
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        superposed.main(arguments(files, tmp_path / "out", "--recipe", str(tmp_path / "own.yaml"), *given))
    assert not (tmp_path / "out").exists()


def test_a_gain_is_over_seeds_and_a_sentence_says_no_more_than_it():
    assert gain([1.0]) == Estimate(1.0, 1.0, 1.0)
    found = gain([0.1, 0.2, 0.3])
    assert found.value == pytest.approx(0.2) and found.high - found.value == pytest.approx(
        4.3027 * 0.1 / 3**0.5, rel=1e-3
    )
    accuracy = Estimate(0.01, 0.0, 0.02)
    for low, high, end in (
        (-0.3, -0.1, "is trained cheaper"),
        (0.1, 0.3, "not trained cheaper"),
        (-0.1, 0.1, "no diff"),
    ):
        said = sentence("a", {"loss": Estimate((low + high) / 2, low, high), "accuracy": accuracy}, 60.0, 3)
        assert end in said.rpartition("seeds: ")[2] and "accuracy +0.0100 (+0.0000 to +0.0200)" in said
    assert "one seed does not tell" in sentence("a", {"loss": accuracy, "accuracy": accuracy}, 60.0, 1)


def test_the_recipe_that_comes_along_is_whole():
    recipe = read_masked_recipe("wikitext")
    assert next(iter(recipe.ways)) == "plain" and any(way.join == "positions" for way in recipe.ways.values())
