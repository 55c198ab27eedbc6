"""Every documented argument of the pipelines, on texts short and too long."""

from __future__ import annotations

import pytest
import torch
from neighbours.harness import LABELS, Subject, assert_alike, cases, same
from neighbours.words import TEXTS, words_tokenizer
from transformers import AutoTokenizer
from transformers import pipeline as make_pipeline

PIPELINES = {
    "encoder": "feature-extraction",
    "sequence": "text-classification",
    "token": "token-classification",
    "masked": "fill-mask",
}
TOKENIZER = words_tokenizer()
LONG = " ".join(["the film was good and very bad"] * 20)


def pipeline(s: Subject, **given):
    return make_pipeline(PIPELINES[s.task], model=s.model, tokenizer=TOKENIZER, device="cpu", **given)


def seen(x):
    """Shapes and types of a pipeline's answer; scores, labels and tokens are the weights', and so is into how many
    entities a text falls."""
    if isinstance(x, torch.Tensor):
        return tuple(x.shape)
    if isinstance(x, dict):
        return {k: seen(v) for k, v in x.items()}
    if isinstance(x, list) and x and isinstance(x[0], dict) and "start" in x[0]:
        return ["entities", seen(x[0])]
    if isinstance(x, list):
        inner = [seen(v) for v in x]
        return [len(x), inner[0]] if inner and all(i == inner[0] for i in inner) else inner
    return type(x).__name__


def piped(inputs=None, given: dict | None = None, **options):
    """A pipeline made with ``given`` and called with ``options``."""

    def thing(s: Subject):
        texts = TEXTS if inputs is None else inputs
        if s.task == "masked":
            texts = [f"{t} [MASK]" for t in texts] if isinstance(texts, list) else f"[MASK] {texts}"
        run = pipeline(s, **(given or {}))
        return seen(run(texts, **options))

    return thing


def spans(strategy: str):
    """Groups of tokens point into the text, whatever makes them."""

    def thing(s: Subject):
        run = pipeline(s)
        out = run(TEXTS, aggregation_strategy=strategy)
        return all(text[e["start"] : e["end"]] for text, row in zip(TEXTS, out, strict=True) for e in row), len(out)

    return thing


def by_hand(s: Subject):
    """Scores are those of the model's logits, in the order of the texts."""
    out = pipeline(s)(TEXTS, batch_size=len(TEXTS), top_k=None)
    scores = torch.tensor([[{e["label"]: e["score"] for e in row}[f"LABEL_{i}"] for i in range(LABELS)] for row in out])
    with torch.no_grad():
        expected = s.model(**TOKENIZER(TEXTS, padding=True, return_tensors="pt")).logits.softmax(-1)
    return same(scores, expected)


def from_a_folder(given: dict | None = None, long: bool = False):
    """Model and tokenizer saved beside one another, found by their folder."""

    def thing(s: Subject):
        folder = s.saved()
        words_tokenizer().save_pretrained(folder)
        run = make_pipeline(PIPELINES[s.task], model=str(folder), device="cpu", **(given or {}))
        text = LONG if long else TEXTS[0]
        return seen(run(f"[MASK] {text}" if s.task == "masked" else text)), type(
            AutoTokenizer.from_pretrained(folder)
        ).__name__

    return thing


def in_half(s: Subject):
    folder = s.saved()
    words_tokenizer().save_pretrained(folder)
    run = make_pipeline(PIPELINES[s.task], model=str(folder), device="cpu", dtype=torch.bfloat16)
    return seen(run("[MASK] film" if s.task == "masked" else "film")), str(run.model.dtype)


def several_labels(s: Subject):
    s.model = s.remade(problem_type="multi_label_classification")
    return seen(pipeline(s)(TEXTS, top_k=None))


def one_label(s: Subject):
    s.model = s.remade(num_labels=1)
    return seen(pipeline(s)(TEXTS))


THINGS = {
    "texts": piped(),
    "one text": piped("the film was good"),
    "no texts": piped([]),
    "batches of 1": piped(batch_size=1),
    "batches of 2": piped(batch_size=2),
    "batches of 8": piped(batch_size=8),
    "a long text": piped(LONG),
    "a long text, cut": piped(LONG, truncation=True),
    "long texts, cut": piped([LONG, *TEXTS], truncation=True, batch_size=3),
    "cut at a length": piped(LONG, truncation=True, max_length=12),
    "from a folder": from_a_folder(),
    "in bfloat16": in_half,
    # text-classification
    "scores by hand": by_hand,
    "top_k=None": piped(top_k=None),
    "top_k=1": piped(top_k=1),
    "top_k=2": piped(top_k=2),
    "sigmoid": piped(function_to_apply="sigmoid"),
    "softmax": piped(function_to_apply="softmax"),
    "no function": piped(function_to_apply="none"),
    "an unknown function": piped(function_to_apply="tanh"),
    "a pair": piped({"text": "the film", "text_pair": "was good"}),
    "multi-label": several_labels,
    "regression": one_label,
    # token-classification
    "aggregation none": spans("none"),
    "aggregation simple": spans("simple"),
    "aggregation first": spans("first"),
    "aggregation average": spans("average"),
    "aggregation max": spans("max"),
    "ignored labels": piped(given={"ignore_labels": ["LABEL_0", "LABEL_1", "LABEL_2"]}),
    "stride": piped(LONG, given={"aggregation_strategy": "simple", "stride": 4}),
    "words": piped([["the", "film"], ["good"]], is_split_into_words=True, aggregation_strategy="simple"),
    # fill-mask
    "targets": piped(targets=["good", "bad"]),
    "one target": piped(targets="good", top_k=1),
    "a target out of the vocabulary": piped(targets=["zebra"]),
    "fill top_k": piped(top_k=3),
    "two masks": piped("[MASK] was [MASK]"),
    "fill, cut": piped(LONG, tokenizer_kwargs={"truncation": True}),
    # feature-extraction
    "tensors": piped(return_tensors=True),
    "features, cut": piped(LONG, tokenize_kwargs={"truncation": True}),
    "features of a length": piped(tokenize_kwargs={"padding": "max_length", "max_length": 20}),
}
ONLY = {
    **dict.fromkeys(("scores by hand", "top_k=None", "top_k=1", "top_k=2", "sigmoid", "softmax"), ("sequence",)),
    **dict.fromkeys(("no function", "an unknown function", "a pair", "multi-label", "regression"), ("sequence",)),
    **{name: ("token",) for name in THINGS if name.startswith("aggregation")},
    **dict.fromkeys(("ignored labels", "stride", "words"), ("token",)),
    **dict.fromkeys(
        ("targets", "one target", "a target out of the vocabulary", "fill top_k", "two masks", "fill, cut"), ("masked",)
    ),
    **dict.fromkeys(("tensors", "features, cut", "features of a length"), ("encoder",)),
    # Their pipelines have other names for it.
    **dict.fromkeys(("a long text, cut", "long texts, cut"), ("encoder", "sequence")),
    "cut at a length": ("sequence",),
}


@pytest.mark.parametrize(("thing", "task", "ends"), cases(THINGS, ONLY))
def test_alike(thing, task, ends, tmp_path):
    assert_alike(THINGS[thing], task, ends, tmp_path)
