"""A search for a faster model that embeds: what it shares with the original, what it writes, what it refuses."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

import fastmux
from fastmux.cli.main import main
from fastmux.embedding.folder import read_embedding_config
from fastmux.embedding.neighbours import NEIGHBOURS, nearest, same_neighbours
from fastmux.embedding.vectorizer import Vectorizer
from fastmux.passes.runtimes import EMBEDDING
from fastmux.passes.shares import Share
from fastmux.passes.tokens import Tokens
from fastmux.searching.floor import measure_vector_floor
from fastmux.searching.measure import Part
from fastmux.searching.rows import SearchRows
from fastmux.searching.search import search
from fastmux.testing import assert_agrees

QUICK = {"max_steps": 4}


def part(vectors: np.ndarray, dimensions: int | None = None) -> Part:
    return Part(Tokens.of_rows([[row] for row in range(len(vectors))]), vectors, EMBEDDING, dimensions=dimensions)


def test_neighbours_are_those_of_the_largest_cosines_without_the_row_itself():
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(40, 6)) * draw.uniform(0.1, 9, (40, 1))
    found = nearest(vectors, 3)
    for row, own in enumerate(vectors):
        cosines = vectors @ own / np.linalg.norm(vectors, axis=1)
        best = [other for other in np.argsort(-cosines) if other != row][:3]
        assert found[row].tolist() == sorted(best)


def test_a_turned_and_stretched_space_has_the_same_neighbours_and_noise_has_fewer():
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(300, 8))
    turn = np.linalg.qr(draw.normal(size=(8, 8)))[0]
    own = part(vectors)
    assert own.share([7 * vectors @ turn]).mean == 1.0
    noisy, worse = (vectors + scale * draw.normal(size=vectors.shape) for scale in (0.2, 0.6))
    assert 0.9 > own.share([noisy]).mean > own.share([worse]).mean > 2 * NEIGHBOURS / 299
    assert own.beside([3 * vectors]) == pytest.approx({"cosine": 1.0, "similarities": 1.0})
    assert own.beside([noisy])["cosine"] > own.beside([worse])["cosine"]


def test_the_interval_is_over_rows_as_neighbours_of_one_row_go_together():
    """Half of the rows keep all of their neighbours, half keep none: that is worth as many cases as there are rows."""
    kept = np.zeros((200, NEIGHBOURS))
    kept[::2] = 1.0
    share = Share.of(kept.ravel(), np.repeat(np.arange(200), NEIGHBOURS))
    assert (share.mean, share.count) == (0.5, 2000) and share.effective == pytest.approx(200)


def test_the_interval_is_as_wide_as_shares_of_other_texts_differ():
    """A vector that went astray is lost to all whose neighbour it was, so that rows are not independent of one another:
    by queries alone, half of the intervals' width would be missing here."""
    draw = np.random.default_rng(0)
    shares = []
    for _ in range(60):
        vectors = draw.normal(size=(150, 4))
        astray = draw.random((150, 1)) < 0.1
        shares.append(part(vectors).share([np.where(astray, draw.normal(size=(150, 4)), vectors)]))
    real = np.std([share.mean for share in shares], ddof=1)
    told = np.mean([share.margin for share in shares]) / 1.96
    assert 0.75 < told / real < 1.35


def test_only_the_numbers_that_are_kept_count():
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(100, 8))
    other = np.concatenate([vectors[:, :5], draw.normal(size=(100, 3))], axis=1)
    assert part(vectors, 5).share([other]).mean == 1.0 > part(vectors).share([other]).mean


def test_words_alone_find_what_is_a_sum_of_words(texts):
    draw = np.random.default_rng(0)
    words = {f"w{i}": draw.normal(size=16) for i in range(40)}
    vectors = np.stack([sum(words[word] for word in text.split()) for text in texts])
    floor = measure_vector_floor(texts[:400], vectors[:400], texts[400:], part(vectors[400:]))
    noise = draw.normal(size=vectors.shape)
    chance = measure_vector_floor(texts[:400], noise[:400], texts[400:], part(noise[400:]))
    assert floor.agreement.mean > 0.7 and chance.agreement.mean < 0.2


def test_the_chosen_folder_embeds_as_was_reported(
    embedder, tokenizer, texts, tmp_path, in_torch_alone, known_speeds, capsys
):
    embedder.save_pretrained(tmp_path / "original", tokenizer)
    (tmp_path / "rows.txt").write_text("\n".join(texts))
    out = tmp_path / "out"
    given = ["--text", str(tmp_path / "rows.txt"), "--output_dir", str(out), "--speedup", "1.5", "--max_steps", "4"]
    main(["search", str(tmp_path / "original"), *given])
    printed = capsys.readouterr().out
    found = json.loads((out / "search.json").read_text())
    assert found["sentence"] in printed and "of each text's ten nearest neighbours" in found["sentence"]
    assert f"`fastmux embed {out} ROWS --output vectors.parquet`" in found["sentence"]
    assert found["table"][0][4:8] == ["same neighbours", "between", "cosine", "rank correlation"]
    assert {p["model"] for p in found["points"]} == {"original", "cut-2", "cut-1", "pooled-2x3"}
    assert not any(p["behind"] for p in found["points"]) and found["points"][0]["agreement"]["mean"] == 1.0
    assert found["kind"] == "vectors" and found["majority"] == pytest.approx(NEIGHBOURS / 119)
    # What it is: a folder of sentence-transformers with the original's prompts, pooling and length.
    assert read_embedding_config(out).config == read_embedding_config(tmp_path / "original").config
    loaded = SentenceTransformer(str(out), device="cpu")
    ours = type(loaded[0].auto_model).__module__.startswith("fastmux.")
    card = (out / "README.md").read_text()
    assert "library_name: sentence-transformers" in card and 'SentenceTransformer("' in card
    assert ("import fastmux" in card) == ours == (found["chosen"]["multiplexed"])
    assert (out / "search.png").stat().st_size > 1000 and not (out / ".search").exists()
    # What it says of rows that were kept apart, again from the folder.
    vectorizer = Vectorizer(embedder, tokenizer, "w1 w2 ")
    rows = SearchRows.of([f"w1 w2 {text}" for text in texts], None, vectorizer, 20, seed=0)
    kept = [texts[row] for row in rows.reporting]
    said, wanted = (
        np.array(fastmux.embed(folder, kept, num_workers=0, disable_tqdm=True).dataset["embedding"][:])
        for folder in (out, tmp_path / "original")
    )
    assert said.shape == (120, 16)
    same = same_neighbours(nearest(said), nearest(wanted)).mean()
    assert found["chosen"]["agreement"]["mean"] == pytest.approx(same, abs=1e-9)
    assert_agrees(torch.tensor(loaded.encode(kept[:9], prompt_name="passage")), torch.tensor(said[:9]))


def test_what_can_run_in_8_bits_is_run_so_and_sentence_transformers_loads_it(tokenizer, texts, tmp_path):
    pytest.importorskip("onnxscript")
    from transformers import BertConfig, BertModel

    from fastmux.embedding.config import EmbeddingConfig
    from fastmux.embedding.model import EmbeddingModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 128}
    bert = BertModel(BertConfig(vocab_size=len(tokenizer), initializer_range=0.5, **sizes))
    model = EmbeddingModel(bert, EmbeddingConfig("mean", max_seq_length=20))
    found = search(model, texts, tmp_path / "out", tokenizer=tokenizer, agreement=0.6, **QUICK)
    small = [p for p in found.points if p.precision == "int8"]
    if not small:
        pytest.skip(f"this processor has no 8 bits: {found.left_out}")
    assert small[0].name == "original, 8 bits" and small[0].agreement.mean > 0.6 and small[0].cosine > 0.98
    if found.chosen.runtime == "ONNX Runtime":
        assert found.sentence.startswith("Your model itself, in 8 bits, is the answer")
        assert (tmp_path / "out" / "model.onnx").is_file()
        assert fastmux.embedding.loading.embeds(tmp_path / "out")
    vectors = fastmux.embed(tmp_path / "out", texts[:20], num_workers=0, disable_tqdm=True).dataset["embedding"][:]
    loaded = SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(texts[:20])
    cosines = (loaded * vectors).sum(-1) / np.linalg.norm(loaded, axis=-1) / np.linalg.norm(vectors, axis=-1)
    assert cosines.min() > 0.95


def test_bad_input_is_one_sentence(embedder, tokenizer, texts, tmp_path, in_torch_alone, known_speeds):
    out = tmp_path / "out"
    joined = embedder.with_encoder(fastmux.JoinedModel.from_backbone(embedder.encoder, 2, join="pooled"))
    cases = [
        ({"texts": [("w1", "w2")] * 600}, "texts has pairs of texts, expected texts: the model embeds each by itself"),
        ({"texts": texts[:10]}, "texts has 10 rows which leaves 2 to report on"),
        ({"texts": texts[:100] * 6}, "texts has 600 rows, 100 of them different, which leaves 20 to report on"),
        ({"labels": [0] * 600}, "labels is given, but the model embeds: its vectors are compared with no labels"),
        ({"model": joined}, "model is multiplexed already"),
        ({"tokenizer": None}, "tokenizer is None, expected the tokenizer of the model"),
    ]
    for changed, message in cases:
        given = {"model": embedder, "texts": texts, "tokenizer": tokenizer, **changed}
        with pytest.raises(ValueError, match=message):
            search(given.pop("model"), given.pop("texts"), out, **given)
        assert not out.exists(), message
    equal, damaged = copy.deepcopy(embedder), copy.deepcopy(embedder)
    with torch.no_grad():
        equal.dense[0].weight.zero_()
        damaged.dense[0].bias[0] = float("nan")
    with pytest.raises(ValueError, match="gives all 120 rows that are kept apart point the same way"):
        search(equal, texts, out, tokenizer=tokenizer)
    with pytest.raises(ValueError, match="the model returns NaN or infinity"):
        search(damaged, texts, tmp_path / "damaged", tokenizer=tokenizer)
