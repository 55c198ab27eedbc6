"""The original's outputs: what is stored is what the model says."""

import numpy as np
import pytest
import torch
from transformers import BertForTokenClassification, BertModel

from fastmux.distillation.teacher import compute_teacher_outputs, teacher_bytes
from fastmux.distillation.texts import tokenize
from fastmux.passes.plan import Layout, plan_passes
from fastmux.testing import assert_agrees


def outputs(model, tokenizer, texts, folder, **options):
    rows = tokenize(texts, tokenizer, 16)
    options = {"fingerprint": "a", "first_only": False, **options}
    return rows, compute_teacher_outputs(model, tokenizer, rows, folder, **options)


@pytest.mark.parametrize(
    ("kind", "first_only"),
    [("sequence", True), ("sequence", False), ("encoder", True), ("encoder", False), ("token", False)],
)
def test_stored_outputs_are_the_models_own(kind, first_only, original, tiny_config, tokenizer, texts, tmp_path):
    model = {"sequence": lambda: original, "token": lambda: BertForTokenClassification(tiny_config)}.get(
        kind, lambda: BertModel(tiny_config)
    )().eval()
    rows, stored = outputs(model, tokenizer, texts[:20], tmp_path / "t", first_only=first_only)
    picked = [3, 17, 0]
    batch = stored.batch(picked)
    for k, row in enumerate(picked):
        with torch.no_grad():
            said = model(input_ids=torch.tensor([rows["input_ids"][row]]), output_hidden_states=True)
        state = said.hidden_states[-1][0]
        state = state[:1] if first_only else state
        torch.testing.assert_close(batch["teacher_states"][k, : len(state)], state, atol=4e-3, rtol=2e-3)
        assert not batch["teacher_states"][k, len(state) :].any()
        if kind != "encoder":
            logits = batch["teacher_logits"][k]
            assert_agrees(logits if kind == "sequence" else logits[: len(state)], said.logits[0])
    assert ("teacher_logits" in batch) == (kind != "encoder")


def test_outputs_are_computed_once(original, tokenizer, texts, tmp_path, monkeypatch):
    outputs(original, tokenizer, texts[:8], tmp_path / "t")
    passes = []
    original.register_forward_hook(lambda *_: passes.append(1))
    outputs(original, tokenizer, texts[:8], tmp_path / "t")
    assert not passes
    outputs(original, tokenizer, texts[:8], tmp_path / "t", fingerprint="another model's")
    assert passes


def test_size_is_said_before(original, tokenizer, texts, tmp_path):
    rows, stored = outputs(original, tokenizer, texts[:8], tmp_path / "t")
    assert stored.states.nbytes == teacher_bytes(np.asarray(rows["length"]), 32, first_only=False)


def test_nan_is_refused_and_leaves_nothing(original, tokenizer, texts, tmp_path):
    bad = [*[text for text in texts if "w39" not in text.split()][:6], "w39 w39"]
    with torch.no_grad():
        original.bert.embeddings.word_embeddings.weight[tokenizer.convert_tokens_to_ids("w39")] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinity for row 7 of the text"):
        outputs(original, tokenizer, bad, tmp_path / "t")
    assert not list(tmp_path.iterdir())


def test_batches_hold_rows_of_like_length_and_no_more_tokens_than_allowed():
    lengths = np.random.default_rng(0).integers(1, 40, 101)
    batches = plan_passes(lengths, 120, Layout(3, 3))
    assert sorted(np.concatenate(batches).tolist()) == list(range(101))
    for batch in batches[:-1]:
        assert len(batch) % 3 == 0
        assert len(batch) * lengths[batch].max() <= 120 or len(batch) == 3
    tops = [lengths[batch].max() for batch in batches]
    assert tops == sorted(tops, reverse=True)
