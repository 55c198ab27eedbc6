"""The rows of a search: three parts without a common text, each text once."""

from __future__ import annotations

import numpy as np
import pytest

from fastmux.labelling.classifier import Classifier
from fastmux.searching.labels import read_labels
from fastmux.searching.rows import SearchRows


def rows_of(texts, original, tokenizer, max_length=128, labels=None):
    return SearchRows.of(texts, labels, Classifier(original, tokenizer, False), max_length, seed=0)


def test_no_text_is_in_two_parts_and_none_is_there_twice(texts, original, tokenizer):
    twice = [*texts, *(f"  {text} " for text in texts[:100])]  # other characters, the same tokens
    found = rows_of(twice, original, tokenizer)
    parts = [found.learning, found.choosing, found.reporting]
    said = [{" ".join(twice[row].split()) for row in part} for part in parts]
    assert not said[0] & said[1] and not said[0] & said[2] and not said[1] & said[2]
    assert [len(one) for one in said] == [len(part) for part in parts], "a text is there twice"
    assert set().union(*said) == {" ".join(text.split()) for text in texts}
    assert found.repeated == len(twice) - len(set().union(*said))


def test_rows_that_are_cut_to_the_same_tokens_are_one(texts, original, tokenizer):
    with pytest.raises(ValueError, match=r"texts has 600 rows, 40 of them different, which leaves 8 to report on"):
        rows_of(texts, original, tokenizer, max_length=3)


def test_the_data_set_has_the_tokens_that_predict_would_make(texts, original, tokenizer):
    found = rows_of(texts, original, tokenizer)
    data = found.dataset(found.learning[:5])
    assert data["input_ids"] == [tokenizer(texts[row])["input_ids"] for row in found.learning[:5]]
    assert data["length"] == [len(ids) for ids in data["input_ids"]]


def test_too_few_rows_are_refused_with_what_they_would_tell(texts, original, tokenizer):
    with pytest.raises(
        ValueError, match=r"texts has 320 rows which leaves 64 to report on: .* within \u00b1 \d\.\d points"
    ):
        rows_of(texts[:320], original, tokenizer)


def test_text_that_the_tokenizer_hardly_knows_is_refused(texts, original, tokenizer):
    foreign = [text.replace("w", "\u0436") for text in texts]
    with pytest.raises(ValueError, match="texts has 100% tokens that the tokenizer does not know"):
        rows_of(foreign, original, tokenizer)


def test_labels_are_names_or_numbers():
    names = ["bad", "good"]
    assert read_labels([("good",), (0,), ("1",), ("Bad",), (1.0,)], names, "single_label_classification").tolist() == [
        1,
        0,
        1,
        0,
        1,
    ]
    several = read_labels([("1", 0), (True, "no")], names, "multi_label_classification")
    assert np.array_equal(several, [[1, 0], [1, 0]])
    with pytest.raises(ValueError, match="row 2 has 'fine', expected one of 'bad', 'good', or its number"):
        read_labels([("good",), ("fine",)], names, "single_label_classification")
    with pytest.raises(ValueError, match=r"row 1 has .* expected 0 or 1 for each of the model's 2 labels"):
        read_labels([("1",)], names, "multi_label_classification")
    with pytest.raises(ValueError, match="row 1 has 'maybe', expected 0 or 1"):
        read_labels([("1", "maybe")], names, "multi_label_classification")
