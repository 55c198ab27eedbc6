"""A classifier that is loaded once says in memory what `fastmux.predict` says."""

from __future__ import annotations

import pytest
import torch

import fastmux

pytestmark = pytest.mark.numbers


def numbers(scores) -> list[float]:
    """All numbers of scores, which may be lists of dicts of them."""
    if isinstance(scores, dict):
        return numbers(list(scores.values()))
    return [number for part in scores for number in numbers(part)] if isinstance(scores, list) else [scores]


@pytest.mark.parametrize("name", ["plain", "tmux", "index", "joined", "tagger", "tmux_tagger"])
@pytest.mark.parametrize("all_scores", [False, True])
def test_the_answers_are_those_of_predict(label, models, folders, texts, name, all_scores):
    expected = label(models[name], texts, rows_per_shard=1000, all_scores=all_scores).dataset
    found = fastmux.Labeller(folders[name])(texts, all_scores=all_scores)
    columns = [column for column in expected.column_names if column != "text"]
    assert [list(row) for row in found] == [columns] * len(texts)
    for column in columns:
        ours, theirs = [row[column] for row in found], list(expected[column])
        if column.startswith("score"):
            assert numbers(ours) == pytest.approx(numbers(theirs), abs=2e-5)
        else:
            assert ours == theirs, column


def test_words_and_pairs(label, models, tokenizer, texts):
    words = [text.split() for text in texts[:9]]
    expected = label(models["tagger"], [{"words": row} for row in words]).dataset
    found = fastmux.Labeller(models["tagger"], tokenizer)([{"words": row} for row in words])
    assert [row["tags"] for row in found] == expected["tags"] and "spans" not in found[0]

    pairs = [{"text": a, "text_pair": b} for a, b in zip(texts[:9], texts[9:18], strict=True)]
    expected = label(models["plain"], pairs, pair_column="text_pair").dataset
    found = fastmux.Labeller(models["plain"], tokenizer)([*pairs, texts[0], {"text": texts[0]}])
    assert [row["score"] for row in found[:9]] == pytest.approx(expected["score"], abs=2e-5)
    assert found[9] == found[10]


BAD = [
    ("", "the text is empty"),
    (" \t", "the text is empty"),
    ("a\0b", "the text holds a NUL"),
    ("\ud800", "the text holds half a character"),
    (" ".join(["w1"] * 31), r"the row has 33 tokens, the limit is 32 \(truncation cuts it there\)"),
    (None, "a row must be a text or"),
    (3, "a row must be a text or"),
    (["w1"], "a row must be a text or"),
    ({}, "a row must be a text or"),
    ({"text": 3}, "text must be text, got '3'"),
    ({"text": "w1", "text_pair": ""}, "text_pair is empty"),
    ({"text": "w1", "other": "w2"}, "a row must be a text or"),
    ({"words": ["w1"]}, "a row must be a text or"),
]


def test_a_row_that_cannot_be_labelled_says_why_and_holds_up_no_other(models, tokenizer, texts):
    labeller = fastmux.Labeller(models["plain"], tokenizer)
    found = labeller([texts[0], *(row for row, _ in BAD), texts[1]])
    for answer, (row, reason) in zip(found[1:-1], BAD, strict=True):
        with pytest.raises(ValueError, match=reason):
            raise ValueError(answer["error"])
        assert list(answer) == ["error"], row
    good = labeller([texts[0], texts[1]])
    assert [found[0]["label"], found[-1]["label"]] == [row["label"] for row in good]
    assert labeller([]) == [] and labeller([""]) == [{"error": "the text is empty"}]
    cut = fastmux.Labeller(models["plain"], tokenizer, truncation=True)
    assert cut([" ".join(["w1"] * 31)]) == cut([" ".join(["w1"] * 30)])


@pytest.mark.parametrize("words", [[], [""], "w1", [3], None, ["a\0"]])
def test_words_that_are_none(models, tokenizer, words):
    assert list(fastmux.Labeller(models["tagger"], tokenizer)([{"words": words}])[0]) == ["error"]


def test_rows_in_slots_of_ones_choice(models, tokenizer, texts):
    labeller = fastmux.Labeller(models["tmux"], tokenizer)
    rows = labeller.tokenise(texts[:6])
    slots = torch.tensor([[0, 1, 2, 3], [4, 4, 4, 4], [5, 5, 5, 5]])
    found = labeller.label(rows, slots, [True] * 6)
    alone = labeller(texts[4:6], copies=4, all_scores=True)
    for row, expected in zip(found[4:], alone, strict=True):
        assert row["label"] == expected["label"]
        assert numbers(row["scores"]) == pytest.approx(numbers(expected["scores"]), abs=2e-5)
    other = labeller.label(rows, torch.tensor([[3, 2, 1, 0], [4, 5, 4, 5], [5, 4, 5, 4]]), [True] * 6)
    assert other[0] != found[0]


@pytest.mark.parametrize("copies", [0, 5, True, 2.0])
def test_copies_out_of_range(models, tokenizer, texts, copies):
    with pytest.raises(ValueError, match=r"copies is .*, expected an integer from 1 to num_instances = 4"):
        fastmux.Labeller(models["tmux"], tokenizer)(texts, copies=copies)
