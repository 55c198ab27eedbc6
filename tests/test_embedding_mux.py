"""`embedding_mux` beyond the common contract (tests/test_op_contract.py)."""

from __future__ import annotations

import pytest
import torch
from numerics import assert_meets, relative_error
from ops import embedding_mux as draw

from fastmux import reference
from fastmux.functional import embedding_mux, hadamard_mux


def test_shared_positions_and_types():
    """Ids (L), the same for every row, are the ids (G, N, L) written out."""
    inputs = draw(2, 3, 5, 12)
    positions, types = torch.arange(5) + 2, torch.tensor([0, 1, 1, 0, 1])
    del inputs["position_ids"], inputs["token_type_ids"]
    assert_meets(
        lambda **tensors: embedding_mux(**tensors, position_ids=positions, token_type_ids=types),
        lambda **tensors: reference.embedding_mux(
            **tensors, position_ids=positions.expand(2, 3, 5), token_type_ids=types.expand(2, 3, 5)
        ),
        inputs,
        torch.float64,
    )


def test_word_embeddings_alone():
    """No positions, no types, no LayerNorm: for encoders that add those later."""
    ids, words, v = torch.randint(0, 9, (2, 3, 5)), torch.randn(9, 8).double(), torch.randn(3, 8).double()
    assert relative_error(embedding_mux(ids, v, words), hadamard_mux(words[ids], v)) < 1e-12


def test_padding_rows_get_no_gradient():
    inputs = draw(2, 3, 50, 4)
    words = inputs.pop("word_embeddings").requires_grad_()
    positions = inputs.pop("position_embeddings").requires_grad_()
    y = embedding_mux(
        word_embeddings=words, position_embeddings=positions, padding_idx=1, position_padding_idx=0, **inputs
    )
    y.square().sum().backward()
    assert not words.grad[1].any() and words.grad[2].any()
    assert not positions.grad[0].any() and positions.grad[1].any()


def test_dropout_is_drawn_anew_and_differentiated_with_its_own_mask():
    inputs = draw(3, 2, 4, 16)
    inputs["word_embeddings"].requires_grad_()

    def loss(seed):
        torch.manual_seed(seed)
        return embedding_mux(**inputs, dropout=0.3).square().sum()

    assert torch.equal(loss(0), loss(0)) and not torch.equal(loss(0), loss(1))
    words = inputs["word_embeddings"]
    (gradient,) = torch.autograd.grad(loss(0), words)
    direction = torch.randn_like(words)
    step = 1e-6 * direction
    inputs["word_embeddings"] = (words + step).detach()
    above = loss(0)
    inputs["word_embeddings"] = (words - step).detach()
    numeric = (above - loss(0)) / 2e-6
    assert float((gradient * direction).sum()) == pytest.approx(float(numeric), rel=1e-5)


def test_dropout_has_the_distribution_of_nn_dropout():
    """One instance with v = 1 is the embedding itself: a share p is zero and the mean is kept."""
    words = torch.ones(1, 4000)
    y = embedding_mux(torch.zeros(1, 1, 50, dtype=torch.long), torch.ones(1, 4000), words, dropout=0.25)
    assert float((y == 0).float().mean()) == pytest.approx(0.25, abs=0.01)
    assert float(y.max()) == pytest.approx(1 / 0.75) and float(y.mean()) == pytest.approx(1.0, abs=0.01)


def test_backward_keeps_ids_and_tables_only():
    """What outlives forward is inputs: no (G, N, L, d) tensor waits for backward."""
    inputs = draw(2, 8, 16, 32)
    inputs["word_embeddings"].requires_grad_()
    known = {t.untyped_storage().data_ptr() for t in inputs.values()}
    foreign = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: foreign.append(t.shape) if t.untyped_storage().data_ptr() not in known else None or t, lambda t: t
    ):
        embedding_mux(**inputs)
    assert not foreign


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_ids": torch.full((2, 3, 4), 11)}, "input_ids holds 11, expected values from 0 to 10"),
        ({"input_ids": torch.zeros(2, 3, 4)}, "input_ids has dtype torch.float32, expected an integer"),
        ({"position_ids": torch.zeros(3, dtype=torch.long)}, r"position_ids has shape \(3,\), expected \(L\)"),
        ({"position_ids": None}, "give both position_embeddings and position_ids"),
        ({"ln_bias": None}, "give both ln_weight and ln_bias"),
        ({"dropout": 1.0}, r"dropout is 1.0, expected a probability in \[0, 1\)"),
        ({"instance_vectors": torch.ones(2, 8)}, r"instance_vectors has shape \(2, 8\), expected \(N, d\)"),
    ],
)
def test_bad_input(change, message):
    inputs = {k: t.float() if t.is_floating_point() else t for k, t in draw(2, 3, 4, 8).items()}
    with pytest.raises(ValueError, match=message):
        embedding_mux(**(inputs | change))
