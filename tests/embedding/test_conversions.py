"""A model of sentence-transformers that was made faster is one of sentence-transformers again."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

import fastmux
from fastmux.converting.convert import convert
from fastmux.distillation.settings import ConversionSettings
from fastmux.embedding.folder import read_embedding_config
from fastmux.models.problems import PROBLEMS
from fastmux.testing import assert_agrees

QUICK = {"max_steps": 2, "per_device_train_batch_size": 16, "disable_tqdm": True, "use_cpu": True}


@pytest.mark.parametrize(
    ("name", "structure", "ours"),
    [
        ("mean", {"num_instances": 2, "join": "pooled", "row_layers": 0, "last_layers": 1}, True),
        ("every", {"num_instances": 1, "row_layers": 0, "joined_layers": (), "state_weight": 0.0}, False),
    ],
)
def test_sentence_transformers_loads_what_was_measured(name, structure, ours, folders, texts, tmp_path):
    out = tmp_path / "out"
    rows = [text for text in texts if text.strip()][:60]
    found = convert(folders[name], rows, out, settings=ConversionSettings(**structure, max_length=16), **QUICK)
    figures = found.agreement
    assert 0 < figures.vectors <= 1 and -1 <= figures.similarities <= 1
    # Its own neighbours cannot be compared where there are no more than ten other rows.
    assert (figures.neighbours is None) == (figures.rows <= 10)
    before, after = (read_embedding_config(folder).config for folder in (folders[name], out))
    assert after == before
    loaded = SentenceTransformer(str(out), device="cpu")
    assert type(loaded[0].auto_model).__module__.startswith("fastmux.") == ours
    vectors = fastmux.embed(out, rows[:9], num_workers=0, disable_tqdm=True).dataset["embedding"][:]
    assert_agrees(torch.tensor(loaded.encode(rows[:9])), torch.tensor(vectors))
    card = (out / "README.md").read_text()
    assert "library_name: sentence-transformers" in card and "SentenceTransformer(" in card
    assert ("import fastmux" in card) == ours == ("data-multiplexing" in card)
    assert json.loads((out / "conversion.json").read_text())["agreement"]["problem"] == "embedding"


def test_a_pooled_position_counts_as_often_as_it_has_tokens(folders, texts, tmp_path):
    """The mean over tokens of what `pooled` gives is that over the windows, each weighed by its tokens."""
    from fastmux.embedding.model import load_embedding_model
    from fastmux.models.joined import JoinedModel

    original, tokenizer = load_embedding_model(folders["mean"])
    joined = JoinedModel.from_backbone(original.encoder, 3, join="pooled", row_layers=0, last_layers=1)
    given = tokenizer(["w1 w2 w3 w4 w5 w6", "w7"], padding=True, return_tensors="pt")
    given.pop("token_type_ids", None)
    with torch.no_grad():
        states = joined.eval()(**given).last_hidden_state
    # [CLS] by itself, then windows of three: w1 w2 w3, w4 w5 w6, [SEP].
    assert_agrees(states[0, 1:4], states[0, 1:2].expand(3, -1))
    weighed = (states[0, 0] + 3 * states[0, 1] + 3 * states[0, 4] + states[0, 7]) / 8
    with torch.no_grad():
        vector = original.with_encoder(joined)(**given)[0]
    assert_agrees(vector / vector.norm(), weighed / weighed.norm())


def test_pairs_are_refused_before_anything_is_written(folders, tmp_path):
    with pytest.raises(ValueError, match="texts has pairs of texts, expected texts: the model embeds each by itself"):
        convert(folders["mean"], [("w1", "w2")] * 30, tmp_path / "out", **QUICK)
    assert not (tmp_path / "out").exists()


def test_the_error_of_vectors_is_zero_for_the_same_and_one_for_their_mean():
    wanted = torch.nn.functional.normalize(torch.randn(40, 8, dtype=torch.float64), dim=-1)
    vectors = PROBLEMS["embedding"]
    spread = vectors.variance(wanted)
    assert float(vectors.divergence(wanted, wanted, variance=spread)) == pytest.approx(0, abs=1e-12)
    mean = wanted.mean(0).expand_as(wanted)
    cosines = np.asarray(wanted @ wanted.T)
    similar = float(np.square(1 - cosines).mean() / cosines.var())
    assert float(vectors.divergence(mean, wanted, variance=spread)) == pytest.approx(1 + similar)
