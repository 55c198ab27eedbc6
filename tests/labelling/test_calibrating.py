"""A cascade is calibrated on texts, and changes no label that it should not, however rows are padded."""

import copy

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

import fastmux


@pytest.fixture
def pair(models):
    """A multiplexed classifier and the one behind it."""
    return copy.deepcopy(models["tmux"]), copy.deepcopy(models["plain"])


def labels(labeller, texts):
    return [row["label"] for row in labeller(texts)]


def test_as_many_labels_as_asked_are_the_fallbacks(pair, tokenizer, texts):
    model, behind = pair
    texts = [text for text in texts if text.strip()]
    plain = fastmux.Labeller(model, tokenizer)
    found = plain.calibrate(texts, fallback=behind, target_agreement=0.9)
    both = fastmux.Labeller(model, tokenizer, fallback=behind, min_confidence=found.min_confidence)
    wanted, said = labels(fastmux.Labeller(behind, tokenizer), texts), labels(both, texts)
    same = sum(a == b for a, b in zip(said, wanted, strict=True)) / len(texts)
    assert found.rows == len(texts) and found.agreement >= 0.9
    assert same == pytest.approx(found.agreement) and 0 < found.fallback < 1
    assert both.calibrate(texts, target_agreement=0.9) == found


def test_texts_and_their_tensors_have_one_threshold(pair, tokenizer, texts):
    """With the mask that the tokenizer returns; the rows are of many lengths."""
    model, behind = pair
    texts = [text for text in texts if text.strip()]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    alone = fastmux.Labeller(model, tokenizer).calibrate(texts, fallback=behind, target_agreement=0.9, copies=4)
    tensors = model.calibrate(**inputs, fallback=behind, target_agreement=0.9, copies=4)
    assert alone.rows == tensors.rows and alone.agreement == tensors.agreement
    assert alone.min_confidence == pytest.approx(tensors.min_confidence, abs=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_label(side, pair, tokenizer, texts):
    """Of a cascade all of whose rows go on, each row's label is that of the row alone."""
    model, behind = pair
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.padding_side = side
    texts = [text for text in texts if text.strip()]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    logits = model.predict(**inputs, fallback=behind, min_confidence=1.0)
    alone = torch.cat([behind.eval()(input_ids=tokenizer(t, return_tensors="pt")["input_ids"]).logits for t in texts])
    torch.testing.assert_close(logits, alone.detach(), atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="attention_mask is None, but row"):
        model.predict(batch["input_ids"], fallback=behind, min_confidence=0.9)


def test_what_cannot_be_calibrated_is_said(pair, tokenizer):
    model, behind = pair
    labeller = fastmux.Labeller(model, tokenizer)
    with pytest.raises(ValueError, match="row 2 cannot be labelled: the text is empty"):
        labeller.calibrate(["w1", ""], fallback=behind)
    with pytest.raises(ValueError, match="fallback is None, and the labeller has none"):
        labeller.calibrate(["w1"])
    with pytest.raises(ValueError, match="rows is empty"):
        labeller.calibrate([], fallback=behind)


@pytest.mark.parametrize("call", ["predict", "calibrate"])
def test_a_regression_has_no_cascade(call, tokenizer):
    tiny = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    original = BertForSequenceClassification(BertConfig(**tiny, num_labels=1))
    model = fastmux.TMuxForSequenceClassification.from_backbone(original, 2)
    model.forward = original.forward = None  # said before any pass
    options = {"min_confidence": 0.5} if call == "predict" else {}
    with pytest.raises(ValueError, match="the model is a regression, which does not say how certain it is"):
        getattr(model, call)(torch.ones(4, 3, dtype=torch.long), fallback=original, **options)


def test_a_fallback_of_another_kind_of_labels_is_refused():
    tiny = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(**tiny, num_labels=3)
    several = BertForSequenceClassification(BertConfig(**tiny, num_labels=3, problem_type="multi_label_classification"))
    model = fastmux.TMuxForSequenceClassification.from_backbone(config, 2, num_labels=3)
    with pytest.raises(ValueError, match="fallback gives labels of the kind 'multi_label_classification'"):
        model.predict(torch.ones(4, 3, dtype=torch.long), fallback=several, min_confidence=0.5)
