"""Published checkpoints answer as their authors ran them: pairs as one segment, rows padded to 128 positions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from published_checkpoints import random_batch, random_checkpoint, store
from published_models import Published
from transformers import AutoTokenizer, BertTokenizerFast, RobertaTokenizerFast

import fastmux
from fastmux.conventions import Conventions
from fastmux.passes.runtimes.torch import least_width
from fastmux.testing import assert_agrees

PADDED = 128
LAYOUTS = [
    ("MuxedBertForSequenceClassification", "gaussian_hadamard", "index_pos"),
    ("MuxedBertForSequenceClassification", "gaussian_attention_v2", "index_pos"),
    ("MuxedElectraForTokenClassification", "gaussian_hadamard", "index_pos"),
    ("RobertaSequenceClassificationMuxed", "gaussian_hadamard", "index"),
    ("RobertaTokenClassificationMuxed", "binary_hadamard", "mlp"),
]
WORDS = [f"w{i}" for i in range(500)]


@pytest.fixture(params=LAYOUTS, ids="-".join)
def published(request) -> Published:
    # Room for 128 positions behind the prefix, and RoBERTa's two that no token has.
    return random_checkpoint(*request.param, seed=3, max_position_embeddings=160)


@pytest.fixture
def folder(published, tmp_path):
    store(published, tmp_path)
    special = ["[PAD]", "[UNK]", "[SEP]", "[MASK]"]
    words = special + WORDS[:97] + ["[CLS]"] + WORDS[97:]
    if published.encoder == "roberta":
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        tokens = {token: i for i, token in enumerate(special + [chr(letter) for letter in range(97, 123)])}
        tokenizer = RobertaTokenizerFast(vocab=tokens | {"\u0120": len(tokens)}, merges=[])
    else:
        tokenizer = BertTokenizerFast(vocab={word: i for i, word in enumerate(words)})
        assert tokenizer.cls_token_id == 101  # as in the vocabulary of the published ones
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def as_the_authors(published: Published, rows: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits of whole groups of rows (B, L), which are padded to 128 first."""
    ids, mask = rows["input_ids"], rows["attention_mask"]
    count, length = ids.shape
    ids = torch.nn.functional.pad(ids, (0, PADDED - length), value=published.config["pad_token_id"])
    mask = torch.nn.functional.pad(mask, (0, PADDED - length))
    labels = torch.zeros(count if published.task == "seq" else (count, PADDED), dtype=torch.long)
    asked = PADDED - max(0, published.retrieval_skips - published.prefix)
    drawn = torch.zeros(count // published.num_instances, asked, dtype=torch.long)
    logits = published(ids, mask, labels, drawn)["logits"]
    return logits if logits.dim() == 2 else logits[:, :length] * mask[:, :length, None]


def load(published: Published, folder):
    kind = {"seq": fastmux.TMuxForSequenceClassification, "tok": fastmux.TMuxForTokenClassification}[published.task]
    return kind.from_pretrained(folder, dtype=torch.float64).eval()


@pytest.mark.parametrize("width", [9, 135])
@pytest.mark.parametrize("grouping", ["in_order", "length"])
def test_predict_pads_to_what_the_scripts_pad_to(published, folder, width, grouping):
    """Whatever length rows come in: a row's answer depends on it and its group alone."""
    model, rows = load(published, folder), random_batch(published, seed=0, length=9, missing=0)
    given = {name: rows[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    lengths = given["attention_mask"].sum(1)
    order = torch.arange(len(lengths)) if grouping == "in_order" else lengths.argsort(descending=True, stable=True)
    expected = as_the_authors(published, {name: t[order] for name, t in given.items()})
    pads = {"input_ids": published.config["pad_token_id"]}
    wide = {k: torch.nn.functional.pad(t, (0, width - 9), value=pads.get(k, 0)) for k, t in given.items()}
    found = model.predict(**wide, grouping=grouping)
    if published.task == "tok":
        assert found.shape[1] == width and not found[:, 9:].any()
        found = found[:, :9]
    assert_agrees(found[order], expected)


def test_texts_and_pairs_are_labelled_as_the_authors_did(published, folder):
    tokenizer, model = AutoTokenizer.from_pretrained(folder), load(published, folder)
    texts = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w10", "w11 w12", "w13"]
    assert len(texts) == published.num_instances
    options = {"tokenizer": tokenizer, "all_scores": True, "num_workers": 0, "disable_tqdm": True}
    if published.task == "seq":
        others = texts[1:] + texts[:1]
        rows = [{"text": a, "text_pair": b} for a, b in zip(texts, others, strict=True)]
        encoded = tokenizer(texts, others, padding=True, return_tensors="pt")
        assert published.encoder == "roberta" or encoded["token_type_ids"].any()
        options["pair_column"] = "text_pair"
    else:
        rows = texts
        encoded = tokenizer(texts, padding=True, return_tensors="pt")
    expected = as_the_authors(published, encoded).softmax(-1)
    answers = [row["scores"] for row in fastmux.Labeller(model, tokenizer)(rows, all_scores=True)]
    for found in answers, fastmux.predict(model, rows, **options).dataset["scores"]:
        if published.task == "seq":
            assert_agrees(torch.tensor([list(row.values()) for row in found]), expected)
        for row, (scores, all_tokens) in enumerate(zip(found, expected, strict=True)):
            if published.task == "tok":  # of each word, the scores of its first token
                words = encoded.word_ids(row)
                first = [words.index(word) for word in dict.fromkeys(words) if word is not None]
                assert_agrees(torch.tensor([list(word.values()) for word in scores]), all_tokens[first])


def test_a_served_group_is_padded(published, folder):
    engine = fastmux.Labeller(load(published, folder), AutoTokenizer.from_pretrained(folder)).engine
    assert engine.layout.least == PADDED
    assert [len(batch) for batch in engine.plan(np.array([3, 9, 4]))] == [3]


def test_rows_that_are_narrower_are_spoken_of_once(published, folder, caplog, monkeypatch):
    model, rows = load(published, folder), random_batch(published, seed=0, length=9, missing=0)
    said = []
    monkeypatch.setattr("fastmux.models.padding.logger.warning_once", said.append)
    given = {name: rows[name] for name in ("input_ids", "attention_mask")}
    model.predict(**given)
    model.train()(**given)
    assert said == []
    model.eval()(**given)
    assert "padded to 128 positions; these have 9" in said[0] and "max_length=128" in said[0]


def test_the_width_goes_with_a_saved_model(published, folder, tmp_path):
    model = load(published, folder)
    model.save_pretrained(tmp_path / "saved")
    assert least_width(type(model).from_pretrained(tmp_path / "saved")) == PADDED
    assert 'padding="max_length", max_length=128' in (tmp_path / "saved" / "README.md").read_text()


def test_no_wider_than_there_is_room_for(tmp_path):
    published = random_checkpoint(*LAYOUTS[0], seed=3)
    model = fastmux.TMuxForSequenceClassification.from_pretrained(store(published, tmp_path))
    assert least_width(model) == published.config["max_position_embeddings"] < PADDED


def test_a_masked_language_model_is_given_rows_as_they_are(tmp_path):
    """It was trained on packed rows; its own padding it attends to."""
    published = random_checkpoint("MuxedBertForMaskedLM", "gaussian_hadamard", "index_pos", seed=3)
    assert least_width(fastmux.TMuxForMaskedLM.from_pretrained(store(published, tmp_path))) == 0


@pytest.mark.parametrize("given", [{"padded_length": 128}, {"padded_length": 0, "attend_padding": True}])
def test_a_padded_length_without_attention_to_padding_is_refused(given):
    with pytest.raises(ValueError, match=f"padded_length is {given['padded_length']}, expected None, or at least 1"):
        Conventions(**given)
