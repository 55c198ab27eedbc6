"""The cascade: confidence, agreement, and the choice of a threshold."""

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertConfig

import fastmux
from fastmux.passes.cascade import agrees, choose_min_confidence, confidence
from fastmux.testing import assert_agrees

SINGLE, MULTI = "single_label_classification", "multi_label_classification"


def numbers(*shape):
    return np.random.default_rng(0).normal(size=shape)


def softmax(logits):
    return torch.from_numpy(logits).softmax(-1).numpy()


def test_confidence_of_a_row_is_its_labels_probability():
    logits = numbers(5, 3)
    np.testing.assert_allclose(confidence(logits, SINGLE), softmax(logits).max(-1), rtol=1e-12)
    np.testing.assert_allclose(confidence(logits + 1e4, SINGLE), softmax(logits).max(-1), rtol=1e-8)


def test_confidence_of_several_labels_is_the_least_certain_ones():
    found = confidence(np.array([[3.0, -0.5, -4.0]]), MULTI)
    np.testing.assert_allclose(found, torch.tensor([0.5], dtype=torch.float64).sigmoid().numpy(), rtol=1e-12)


def test_a_row_of_tokens_is_as_sure_as_its_least_certain_token():
    logits, lengths = numbers(6, 3), np.array([2, 0, 4])
    expected = softmax(logits).max(-1)
    found = confidence(logits, SINGLE, lengths)
    np.testing.assert_allclose(found, [expected[:2].min(), 1.0, expected[2:].min()], rtol=1e-12)
    other = logits.copy()
    other[3] = -other[3]
    assert agrees(logits, other, SINGLE, lengths).tolist() == [True, True, False]


def test_several_labels_agree_when_all_do():
    ours, theirs = np.array([[1.0, -1.0], [1.0, 1.0]]), np.array([[2.0, -3.0], [1.0, -1.0]])
    assert agrees(ours, theirs, MULTI).tolist() == [True, False]


def test_a_regression_has_no_confidence():
    with pytest.raises(ValueError, match="problem_type is 'regression'"):
        confidence(numbers(2, 1), "regression")


rows_of = st.lists(
    st.tuples(st.sampled_from([0.5, 0.6, 0.7, 0.8, 0.9]), st.booleans(), st.booleans()), min_size=1, max_size=30
)


@given(rows_of, st.booleans(), st.floats(0.05, 1.0))
def test_threshold_is_the_lowest_that_reaches_the_target(rows, exact, target):
    """With the original behind the model, or with what is nearly the original."""
    sure, same, behind = (np.array(values) for values in zip(*rows, strict=True))
    behind_agrees = None if exact else behind
    behind |= exact

    def agreement(threshold):
        return np.where(sure < threshold, behind, same).mean()

    reached = [t for t in sorted(set(sure.tolist())) if agreement(t) >= target]
    if not reached:
        with pytest.raises(ValueError, match="no threshold reaches"):
            choose_min_confidence(sure, same, target, behind_agrees)
        return
    found = choose_min_confidence(sure, same, target, behind_agrees)
    assert found.min_confidence == reached[0]
    assert found.agreement == pytest.approx(agreement(reached[0]))
    assert found.fallback == pytest.approx((sure < reached[0]).mean())
    assert found.rows == len(rows)


@pytest.mark.parametrize("target", [0.0, 1.5, -1.0])
def test_a_target_out_of_range_is_refused(target):
    with pytest.raises(ValueError, match=f"target_agreement is {target}"):
        choose_min_confidence(np.ones(3), np.ones(3, bool), target)


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="no rows"):
        choose_min_confidence(np.ones(0), np.ones(0, bool), 0.9)


# The cascade of two models


def models(kind, **options):
    """A tiny original and a multiplexed model of its labels."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=60, num_labels=3, initializer_range=0.4, **sizes, **options)
    original = getattr(transformers, f"BertFor{kind}Classification")(config)
    ours = getattr(fastmux, f"TMuxFor{kind}Classification").from_backbone(
        config, num_instances=2, demultiplexer="unbind"
    )
    return original, ours


def rows(count=21, length=9):
    ids = torch.randint(1, 60, (count, length), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(length) < torch.arange(count)[:, None] % length + 1).long()
    return ids * mask, mask


@pytest.mark.parametrize("kind", ["Sequence", "Token"])
@pytest.mark.parametrize("problem", [SINGLE, MULTI])
def test_unsure_rows_have_the_fallbacks_logits(kind, problem):
    if kind == "Token" and problem == MULTI:
        problem = None  # tokens have one label each
    original, ours = models(kind, problem_type=problem)
    ids, mask = rows()
    plain = ours.predict(ids, mask)
    flat, lengths = (plain[mask != 0], mask.sum(1)) if kind == "Token" else (plain, None)
    sure = confidence(flat.numpy(), problem or SINGLE, None if lengths is None else lengths.numpy())
    threshold = float(np.median(sure))
    both = ours.predict(ids, mask, fallback=original, min_confidence=threshold)
    original.eval()
    theirs = original(input_ids=ids, attention_mask=mask).logits
    if kind == "Token":
        theirs = theirs * mask[..., None]
    low = torch.from_numpy(sure < threshold)
    assert 0 < low.sum() < len(ids)
    assert_agrees(both[low], theirs[low])
    assert_agrees(both[~low], plain[~low])


def test_a_calibrated_cascade_agrees_as_often_as_asked():
    original, ours = models("Sequence")
    ids, mask = rows(60)
    found = ours.calibrate(ids, mask, fallback=original, target_agreement=0.9)
    labels = ours.predict(ids, mask, fallback=original, min_confidence=found.min_confidence).argmax(-1)
    same = labels == original.eval()(input_ids=ids, attention_mask=mask).logits.argmax(-1)
    assert same.double().mean().item() == pytest.approx(found.agreement)
    assert found.agreement >= 0.9
    assert 0 < found.fallback < 1


def test_modes_and_random_state_stay():
    original, ours = models("Sequence")
    original.train()
    original.bert.eval()
    before = torch.get_rng_state()
    ours.predict(*rows(), fallback=original, min_confidence=0.9)
    assert original.training and not original.bert.training and ours.training
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"min_confidence": None}, "fallback and min_confidence go together"),
        ({"fallback": None}, "fallback and min_confidence go together"),
    ],
)
def test_half_a_cascade_is_refused(change, message):
    original, ours = models("Sequence")
    with pytest.raises(ValueError, match=message):
        ours.predict(*rows(), **{"fallback": original, "min_confidence": 0.5, **change})


def test_a_fallback_of_other_labels_is_refused():
    _, ours = models("Sequence")
    other = transformers.BertForSequenceClassification(BertConfig(num_labels=5, num_hidden_layers=1, hidden_size=24))
    with pytest.raises(ValueError, match="fallback has 5 labels, expected the 3"):
        ours.calibrate(*rows(), fallback=other)
