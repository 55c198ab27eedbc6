"""Entities are what the tags say, by a scheme, or the tags are refused."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from datasets import Dataset
from seqeval.metrics import f1_score
from seqeval.scheme import BILOU, IOB1, IOB2, IOBES, IOE1, IOE2, Entities
from transformers import EvalPrediction

from fastmux.training.entities import seqeval_tags
from fastmux.training.metrics import entity_f1


def f1(names: list[str], gold: list[list[str]], said: list[list[str]], scheme: str = "entities") -> float:
    ids = [np.array([[names.index(tag) for tag in row] for row in rows]) for rows in (said, gold)]
    return entity_f1(names, scheme)(EvalPrediction(*ids), Dataset.from_dict({"missed": [[]] * len(gold)}))["f1"]


@pytest.mark.parametrize(
    ("names", "wrong"),
    [
        (["O", "PER", "ORG"], "'PER', 'ORG'"),
        (["O", "ORG"], "'ORG'"),
        (["O", "B-PER", "I-PER", "ORG"], "'ORG'"),
        (["O", "B_PER", "I_PER"], "'B_PER', 'I_PER'"),
        (["O", "B-PER", "B"], "'B'"),
        (["O", "O-", "B-PER"], "'O-'"),
        (["O-PER", "B-PER"], "'O-PER'"),
        (["O", "B-", "I-PER"], "'B-'"),
        (["O", "b-per", "i-per"], "'b-per', 'i-per'"),
        (["o", "B-PER"], "'o'"),
        (["O", "PER-B"], "'PER-B'"),
        (["NN", "VB", "DT", "JJ", "RB", "IN"], "'NN', 'VB', 'DT', 'JJ', 'RB', ..."),
        (["0", "3"], "'0', '3'"),
        (["O", " B-PER"], "' B-PER'"),
    ],
)
def test_bare_tags_are_refused(names, wrong):
    with pytest.raises(ValueError, match="do not say where an entity begins") as error:
        entity_f1(names)
    assert f"the tags {wrong} do not" in str(error.value) and "--tag_scheme types" in str(error.value)


def test_there_must_be_tags_of_entities():
    with pytest.raises(ValueError, match="there is no tag but 'O', expected tags of entities"):
        entity_f1(["O"])
    with pytest.raises(ValueError, match="the tags 'B-PER', 'I-PER' say where an entity begins"):
        entity_f1(["O", "B-PER", "I-PER"], "types")


@pytest.mark.parametrize("types", [["PER", "ORG"], ["ORG", "LOC"], ["B-cell", "ORG"], ["E", "Origin"]])
def test_types_alone_are_entities_of_the_words_that_have_them(types):
    """seqeval itself takes ORG for outside: whoever misses every ORG would score 1."""
    names = ["O", *types]
    a, b = types
    gold = [[a, a, "O", b], [b, a, a, "O"]]
    assert f1(names, gold, gold, "types") == 1.0
    for missed in types:
        said = [["O" if tag == missed else tag for tag in row] for row in gold]
        assert f1(names, gold, said, "types") < 1.0
    # Two of four entities whole, one cut short, one missed; two more said: precision 2/3, recall 2/4.
    assert f1(names, gold, [[a, "O", "O", b], ["O", a, a, "O"]], "types") == pytest.approx(4 / 7)


def test_places_alone_are_entities_of_one_type():
    names = ["B", "I", "O"]
    gold = [["B", "I", "O", "B"], ["B", "B", "O", "O"]]
    assert f1(names, gold, gold) == 1.0
    assert f1(names, gold, [["B", "I", "O", "O"], ["B", "I", "O", "O"]]) == pytest.approx(2 / 6)


def tagged(scheme, spans: list[tuple[int, int, str]], length: int) -> list[str]:
    """Spans as a scheme of seqeval writes them."""
    tags = ["O"] * length
    for start, end, kind in spans:
        tags[start:end] = [f"I-{kind}"] * (end - start)
        before = any(e == start and k == kind for _, e, k in spans)
        behind = any(s == end and k == kind for s, _, k in spans)
        if scheme is IOB2 or (scheme is IOB1 and before):
            tags[start] = f"B-{kind}"
        if scheme is IOE2 or (scheme is IOE1 and behind):
            tags[end - 1] = f"E-{kind}"
        if scheme in (IOBES, BILOU):
            begin, last, single = ("B", "E", "S") if scheme is IOBES else ("B", "L", "U")
            tags[start], tags[end - 1] = f"{begin}-{kind}", f"{last}-{kind}"
            if end - start == 1:
                tags[start] = f"{single}-{kind}"
    return tags


@pytest.mark.parametrize("scheme", [IOB1, IOB2, IOE1, IOE2, IOBES, BILOU])
def test_every_scheme_gives_the_entities_that_were_written(scheme):
    """All ways to lay two entities over five words, each said in place of each other."""
    places = [
        (first, second)
        for a, b, c, d in itertools.combinations_with_replacement(range(6), 4)
        if a < b <= c < d
        for first, second in [((a, b, "PER"), (c, d, "PER")), ((a, b, "PER"), (c, d, "ORG"))]
    ]
    rows = [tagged(scheme, list(spans), 5) for spans in places]
    # seqeval's strict IOE1 does not see an entity of one word before another one.
    strict = scheme is not IOE1
    for spans, row in zip(places, rows, strict=True) if strict else ():  # that is how seqeval reads them strictly
        found = Entities([row], scheme, suffix=False).entities[0]
        assert {(e.start, e.end, e.tag) for e in found} == set(spans)
    names = sorted({tag for row in rows for tag in row} | {"O"})
    shifted = rows[3:] + rows[:3]
    right = sum(len(set(own) & set(other)) for own, other in zip(places, places[3:] + places[:3], strict=True))
    assert f1(names, rows, shifted) == pytest.approx(right / len(places) / 2)
    if strict:
        assert f1(names, rows, shifted) == pytest.approx(f1_score(rows, shifted, mode="strict", scheme=scheme))
    assert f1(names, rows, rows) == 1.0


def test_middles_are_inside():
    assert seqeval_tags(["O", "B-X", "M-X", "E-X", "S-X"]) == ["O", "B-X", "I-X", "E-X", "S-X"]
