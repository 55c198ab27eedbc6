"""The front of models that embed: a run on tiny files, and its scores beside sentence-transformers' own."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import (
    BinaryClassificationEvaluator,
    EmbeddingSimilarityEvaluator,
    InformationRetrievalEvaluator,
)
from transformers import BertConfig, BertModel
from word_tokenizer import word_tokenizer

from fastmux.embedding.config import EmbeddingConfig, Normalize
from fastmux.embedding.model import EmbeddingModel
from fastmux.training import embeddings
from fastmux.training.fronts import embedding_scores
from fastmux.training.fronts.embedding_scores import SCORINGS, Figures, unlabelled

WORDS = [f"w{i}" for i in range(30)]
CANDIDATES = """
cut:    {int8: true}
pooled: {num_instances: 2, join: pooled, row_layers: 0, joined_layers: [0, 1]}
"""


def sentence(draw: random.Random) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(3, 9)))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model that embeds, and files of the four data sets in which a text has many words of its like."""
    folder = tmp_path_factory.mktemp("vectors")
    torch.manual_seed(0)
    tokenizer = word_tokenizer(WORDS)
    sizes = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    bert = BertModel(BertConfig(vocab_size=35, max_position_embeddings=40, initializer_range=0.3, **sizes))
    EmbeddingModel(bert, EmbeddingConfig("mean", steps=(Normalize(),))).save_pretrained(folder / "model", tokenizer)
    draw = random.Random(0)
    for name in ("stsb", "qnli", "qqp", "sst2"):
        (folder / name).mkdir()
    for split, rows in (("train", 40), ("dev", 10), ("test", 20)):
        lines = []
        for number in range(rows):
            words = sentence(draw).split()
            kept = draw.randint(0, len(words))
            other = " ".join(words[:kept] + draw.choices(WORDS, k=3))
            lines.append(f"g\tf\ty\t{number}\t{5 * kept / len(words):.3f}\t{' '.join(words)}\t{other}")
        (folder / "stsb" / f"sts-{split}.csv").write_text("\n".join(lines) + "\n")
    for task in ("qnli", "qqp"):
        for split, rows in (("train", 40), ("dev", 30)):
            lines = ["sentence1\tsentence2\tlabel"]
            for _ in range(rows):
                text, other = sentence(draw), sentence(draw)
                same = draw.random() < 0.5
                label = int(same) if task == "qqp" else int(not same)
                lines.append(f"{text}\t{text.split()[0]} {other if not same else text}\t{label}")
            (folder / task / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    for split, rows in (("train", 40), ("dev", 30)):
        texts = [sentence(draw) for _ in range(rows)]
        lines = [f"{text}\t{int('w0' in text or 'w1' in text)}" for text in texts]
        (folder / "sst2" / f"{split}.tsv").write_text("\n".join(["sentence\tlabel", *lines, ""]))
    (folder / "candidates.yaml").write_text(CANDIDATES)
    return folder


def arguments(files, output, *more: str) -> list[str]:
    given = {"encoder": files / "model", "data_dir": files, "candidates": files / "candidates.yaml"}
    given |= {"output_dir": output, "max_rate_rows": 16, "per_device_train_batch_size": 32}
    return [word for name, value in given.items() for word in (f"--{name}", str(value))] + list(more)


def test_a_front_of_vectors_has_every_candidate_and_is_measured_anew(files, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding_scores, "RESAMPLES", 20)
    out = tmp_path / "out"
    result = embeddings.main(arguments(files, out))
    points = {point["name"]: point for point in result["embedding_points"]}
    assert list(points) == ["original", "original, int8", "cut", "cut, int8", "pooled"]
    assert points["original"]["neighbours"] == 1.0 > points["cut"]["neighbours"] > 0
    assert points["original"]["speed_up"] == 1.0 and points["original"]["cosine"] == pytest.approx(1.0)
    assert points["original, int8"]["cosine"] > 0.99 and points["cut"]["cosine"] < 0.9999
    assert [point["multiplexed"] for point in points.values()] == [False] * 4 + [True]
    assert all(d["low"] == d["mean"] == d["high"] == 0 for own in points["original"]["differences"] for d in own)
    assert json.loads((out / "embeddings.json").read_text())["sentences"] == result["sentences"]
    assert {path.name for path in out.glob("*.png")} == {"embeddings.png", "embeddings_2.png"}
    weights = {path: path.stat().st_mtime_ns for path in out.glob("*/model/model.safetensors")}
    assert len(weights) == 2
    again = embeddings.main(arguments(files, out))
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/model/model.safetensors")} == weights
    assert [p["scores"] for p in again["embedding_points"]] == [p["scores"] for p in result["embedding_points"]]
    with pytest.raises(ValueError, match="holds work of other settings: seed was 0, is 1"):
        embeddings.main(arguments(files, out, "--seed", "1"))
    theirs = SentenceTransformer(str(out / "cut" / "model"), device="cpu")
    assert theirs.encode(["w1 w2"]).shape == (1, 64)


def test_scores_are_those_of_sentence_transformers(files):
    model = SentenceTransformer(str(files / "model"), device="cpu")
    similarity, search, duplicates, probe = (kind(str(files)) for kind in SCORINGS)
    found = {}
    for scoring in (similarity, search, duplicates, probe):
        queries, documents = (
            np.asarray(model.encode(texts)) if texts else np.zeros((0, 64))
            for texts in (scoring.queries, scoring.documents)
        )
        for metric, figures in zip(scoring.metrics, scoring.figures(queries, documents), strict=True):
            found[f"{scoring.name} {metric}"] = figures.value()
    theirs = EmbeddingSimilarityEvaluator(similarity.queries[::2], similarity.queries[1::2], similarity.said)(model)
    assert found["STS benchmark Spearman"] == pytest.approx(theirs["spearman_cosine"], abs=1e-4)
    queries = {str(k): text for k, text in enumerate(search.queries)}
    answers = {str(k): {str(place)} for k, place in enumerate(search.answers)}
    corpus = {str(k): text for k, text in enumerate(search.documents)}
    theirs = InformationRetrievalEvaluator(queries, corpus, answers)(model)
    assert found["QNLI search nDCG@10"] == pytest.approx(theirs["cosine_ndcg@10"], abs=1e-4)
    assert found["QNLI search MRR@10"] == pytest.approx(theirs["cosine_mrr@10"], abs=1e-4)
    pairs = duplicates.queries[::2], duplicates.queries[1::2]
    theirs = BinaryClassificationEvaluator(*pairs, duplicates.same.tolist())(model)
    assert found["QQP duplicates average precision"] == pytest.approx(theirs["cosine_ap"], abs=1e-4)
    assert 0.5 <= found["SST-2 probe accuracy"] <= 1


def test_nothing_that_is_scored_is_learnt_from(files):
    scorings = [kind(str(files)) for kind in SCORINGS]
    learnt = set(unlabelled(scorings))
    assert len(learnt) > 200
    assert not learnt & {text for scoring in scorings for text in (*scoring.queries, *scoring.documents)}


def test_the_interval_of_a_difference_is_of_the_same_rows():
    draw = np.random.default_rng(0)
    hard = draw.random(2000)  # what both models find hard, so that a paired interval is much the narrower
    ours, theirs = (Figures((hard + shift > 0.5).astype(float), np.mean) for shift in (0.03, 0.0))
    apart = ours.less(theirs)
    assert apart.low < apart.mean < apart.high and apart.high - apart.low < 0.02
    assert apart.low > 0 and apart.mean == pytest.approx(ours.value() - theirs.value())


@pytest.mark.parametrize(
    "given, message",
    [
        (["--encoder", "nowhere"], "--encoder 'nowhere'"),
        (["--state_weight", "-1"], r"--state_weight is -1\.0, expected a number of at least 0"),
        (
            ["--candidates", "none"],
            "'none' is neither one of curves, embedding, embedding_12, embedding_narrow",
        ),
        (["--data_dir", "nowhere"], "sts-train.csv, sts-dev.csv, sts-test.csv missing"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(given, message, files, tmp_path):
    with pytest.raises(ValueError, match=message):
        embeddings.main(arguments(files, tmp_path / "out", *given))
    assert not (tmp_path / "out").exists()


def test_a_line_without_a_score_is_named(files, tmp_path):
    for path in (files / "stsb").iterdir():
        (tmp_path / path.name).write_text(path.read_text())
    with (tmp_path / "sts-test.csv").open("a") as file:
        file.write("g\tf\ty\t7\tmuch\ta\tb\n")
    with pytest.raises(ValueError, match=r"sts-test\.csv: line 21 has no score and two sentences"):
        SCORINGS[0](str(tmp_path))
