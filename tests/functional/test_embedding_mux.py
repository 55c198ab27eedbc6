"""`embedding_mux` beyond the common contract (tests/functional/test_op_contract.py)."""

from __future__ import annotations

import pytest
import torch

from fastmux import reference
from fastmux.functional import embedding_mux, instance_embeddings, orthogonal_mux
from fastmux.testing import assert_agrees, assert_meets
from fastmux.testing import embedding_mux as draw


def _written_out(inputs, position_ids, type_ids):
    """The reference, with ids written out for every row."""
    shape = inputs["input_ids"].shape
    return lambda **tensors: reference.embedding_mux(
        **tensors, position_ids=position_ids.expand(shape), token_type_ids=type_ids.expand(shape)
    )


@pytest.mark.parametrize("deterministic", [False, True], ids=["atomics", "deterministic"])
@pytest.mark.parametrize("shared", [("position", "type"), ("position",), ("type",), ()], ids=lambda s: "-".join(s))
def test_shared_positions_and_types(backend, device, poisoned, monkeypatch, shared, deterministic):
    """Ids (L), the same for every row, are the ids (G, N, L) written out; with atomics and without."""
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: deterministic)
    inputs = draw(2, 3, 5, 12)
    positions, types = inputs.pop("position_ids"), inputs.pop("token_type_ids")
    positions = torch.arange(5) + 2 if "position" in shared else positions
    types = torch.tensor([0, 1, 1, 0, 1]) if "type" in shared else types
    assert_meets(
        lambda **t: embedding_mux(**t, position_ids=positions.to(device), token_type_ids=types.to(device)),
        _written_out(inputs, positions, types),
        inputs,
        torch.float64,
        device,
    )


@pytest.mark.parametrize("types", [1, 2, 11])
def test_any_number_of_types(backend, device, types):
    inputs = draw(2, 3, 5, 12) | {
        "token_type_embeddings": torch.randn(types, 12).double(),
        "token_type_ids": torch.randint(types, (2, 3, 5)),
    }
    assert_meets(embedding_mux, reference.embedding_mux, inputs, torch.float64, device)


def test_word_embeddings_alone(backend, device):
    """No positions, no types, no LayerNorm: for encoders that add those later."""
    ids = torch.randint(0, 9, (2, 3, 5), device=device)
    assert_meets(
        lambda words, v: embedding_mux(ids, v, words),
        lambda words, v: reference.hadamard_mux(words[ids.cpu()], v),
        {"words": torch.randn(9, 8).double(), "v": torch.randn(3, 8).double()},
        torch.float64,
        device,
    )


@pytest.mark.parametrize("shape", [(5, 2, 9, 130), (2, 9, 7, 24)], ids=str)
def test_groups_split_differently_the_same_result(triton_device, monkeypatch, shape):
    """How a launcher cuts the work must not show in the result."""
    from fastmux.kernels import embedding_mux as kernels

    inputs = {k: t.to(triton_device) for k, t in draw(*shape).items()}
    for multiprocessors in (1, 132):
        monkeypatch.setattr(kernels, "multiprocessors", lambda t, count=multiprocessors: count)
        assert_meets(embedding_mux, reference.embedding_mux, inputs, torch.float64, triton_device)


@pytest.mark.parametrize("deterministic", [False, True], ids=["atomics", "deterministic"])
def test_padding_rows_get_no_gradient(backend, device, monkeypatch, deterministic):
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: deterministic)
    inputs = {k: t.to(device) for k, t in draw(2, 3, 20, 4).items()}
    words = inputs.pop("word_embeddings").requires_grad_()
    positions = inputs.pop("position_embeddings").requires_grad_()
    y = embedding_mux(
        word_embeddings=words, position_embeddings=positions, padding_idx=1, position_padding_idx=-23, **inputs
    )
    y.square().sum().backward()
    assert not words.grad[1].any() and words.grad[2].any()
    assert not positions.grad[0].any() and positions.grad[1].any()


@pytest.mark.parametrize("shape", [(3, 2, 4, 16), (1, 2, 2, 384)], ids=str)  # 384: three blocks of columns
def test_dropout_is_drawn_anew_and_differentiated_with_its_own_mask(backend, device, shape):
    inputs = {k: t.to(device) for k, t in draw(*shape).items()}

    def loss(seed, **changed):
        torch.manual_seed(seed)
        return embedding_mux(**(inputs | changed), dropout=0.3).square().sum()

    assert torch.equal(loss(0), loss(0)) and not torch.equal(loss(0), loss(1))
    for name in ("word_embeddings", "position_embeddings", "ln_weight", "ln_bias", "instance_vectors"):
        leaf = inputs[name].detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(0, **{name: leaf}), leaf)
        direction = torch.randn_like(leaf)
        with torch.no_grad():
            numeric = (loss(0, **{name: leaf + 1e-6 * direction}) - loss(0, **{name: leaf - 1e-6 * direction})) / 2e-6
        assert float((gradient * direction).sum()) == pytest.approx(float(numeric), rel=1e-5), name


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_has_the_distribution_of_nn_dropout(backend, device, p):
    """One instance with v = 1 is the embedding itself: a share p is zero and the mean is kept, in every column alike;
    neighbours are drawn on their own."""
    words, ids = torch.ones(1, 40, device=device), torch.zeros(40, 1, 50, dtype=torch.long, device=device)
    y = embedding_mux(ids, words, words, dropout=p).flatten(0, 1)
    dropped = (y == 0).double()
    assert float(dropped.mean()) == pytest.approx(p, abs=0.006)
    assert float(dropped.mean(0).max()) < p + 0.05 and float(dropped.mean(0).min()) > p - 0.05
    assert float(y.max()) == pytest.approx(1 / (1 - p)) and float(y.mean()) == pytest.approx(1.0, abs=0.015)
    for shift in range(1, 9):
        for a, b in ((dropped[:, shift:], dropped[:, :-shift]), (dropped[shift:], dropped[:-shift])):
            assert float((a * b).mean()) == pytest.approx(p * p, abs=0.01), shift


def test_dropout_differs_between_instances_groups_and_blocks_of_columns(backend, device):
    ids = torch.zeros(2, 2, 3, dtype=torch.long, device=device)
    eye = torch.tensor([[1.0] * 384, [0.0] * 384], device=device)

    def masks(v):
        torch.manual_seed(5)
        return embedding_mux(ids, v, torch.ones(1, 384, device=device), dropout=0.5) != 0

    rows = torch.stack([masks(eye), masks(eye.flip(0))]).view(-1, 128).float()
    agreement = (rows[:, None] == rows[None]).float().mean(-1)
    agreement.fill_diagonal_(0.5)
    assert float(agreement.min()) > 0.2 and float(agreement.max()) < 0.8


def test_instances_are_what_the_mux_sums(backend, device):
    """Dropout masks and all."""
    inputs = {k: t.to(device) for k, t in draw(2, 3, 5, 12).items()}
    v = inputs.pop("instance_vectors")
    torch.manual_seed(3)
    x = instance_embeddings(**inputs, dropout=0.3)
    torch.manual_seed(3)
    y = embedding_mux(**inputs, instance_vectors=v, dropout=0.3)
    assert_agrees((v[:, None] * x).mean(1), y)


def test_matrices_read_instances_as_they_lie(backend, device):
    """The matrix product over instances and features copies neither its operand nor the operand's gradient."""
    inputs = {k: t.to(device) for k, t in draw(2, 3, 5, 12).items() if k != "instance_vectors"}
    x = instance_embeddings(**inputs).requires_grad_()
    assert x.transpose(1, 2).is_contiguous()
    copied = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: copied.append(t.data_ptr()) or t, lambda t: t):
        y = orthogonal_mux(x, torch.randn(3, 12, 12, device=device, dtype=x.dtype, requires_grad=True))
    assert x.data_ptr() in copied, "the product saved something else than x itself"
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert gradient.transpose(1, 2).is_contiguous()


def test_backward_keeps_ids_and_tables_only(backend, device):
    """What outlives forward is inputs: no (G, N, L, d) tensor waits for backward."""
    inputs = {k: t.to(device) for k, t in draw(2, 8, 16, 32).items()}
    inputs["word_embeddings"].requires_grad_()
    known = {t.untyped_storage().data_ptr() for t in inputs.values()}
    foreign = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: foreign.append(t.shape) if t.untyped_storage().data_ptr() not in known else None or t, lambda t: t
    ):
        embedding_mux(**inputs)
    assert not foreign


def test_mixed_dtypes(backend, device):
    inputs = {k: t.to(device) for k, t in draw(2, 3, 4, 8).items()}
    kinds = {"word_embeddings": torch.bfloat16, "position_embeddings": torch.float16}
    leaves = {
        k: t.to(kinds.get(k, torch.float32)).requires_grad_() if t.is_floating_point() else t.int()
        for k, t in inputs.items()
    }
    y = embedding_mux(**leaves)
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert all(t.grad.dtype == t.dtype for t in leaves.values() if t.is_floating_point())


def test_registered_ops_pass_opcheck(triton_device):
    names = ("input_ids", "position_ids", "token_type_ids", "word_embeddings", "position_embeddings")
    names += ("token_type_embeddings", "ln_weight", "ln_bias", "instance_vectors")
    inputs = {k: t.to(triton_device) for k, t in draw(2, 3, 4, 6).items()}
    seed = torch.tensor(7, device=triton_device)
    everything = (*(inputs[name] for name in names), seed)
    words = (inputs["input_ids"], None, None, inputs["word_embeddings"], *[None] * 4, inputs["instance_vectors"], seed)
    dy = torch.randn(2, 4, 6, dtype=torch.float64, device=triton_device)
    ops = torch.ops.fastmux
    instances = (*everything[:-2], None, seed)
    for tensors, need in (
        (everything, [True] * 6),
        (words, [True, *[False] * 4, True]),
        (instances, [True] * 5 + [False]),
    ):
        options = (1e-5, 0.5, 0.1)
        torch.library.opcheck(ops.embedding_mux_forward.default, (*tensors, *options))
        upstream = dy if tensors[-2] is not None else dy[:, None].expand(2, 3, 4, 6)
        torch.library.opcheck(ops.embedding_mux_backward.default, (upstream, *tensors, *options, 0, -1, need, True))


def within(storage, table):
    """``table`` amid a larger storage, of which nothing else may be read or written."""
    view = storage[3 : 3 + table.shape[0], : table.shape[1]]
    view.copy_(table)
    return view


@pytest.mark.parametrize("deterministic", [False, True], ids=["atomics", "deterministic"])
@pytest.mark.parametrize("types", [2, 12], ids=["few_types", "many_types"])
@pytest.mark.parametrize("vectors", [True, False], ids=["mux", "instances"])
@pytest.mark.parametrize("table", ["input_ids", "position_ids", "token_type_ids"])
def test_an_id_without_a_row_is_nan_and_touches_nothing(
    triton_device, monkeypatch, table, vectors, types, deterministic
):
    """What the kernels do with ids that nobody looked at: no word behind a table is read, nor added to behind its
    gradient; the row is NaN, and others are what they were."""
    from fastmux.kernels import embedding_mux as kernels

    inputs = {k: t.to(triton_device) for k, t in draw(2, 3, 20, 12).items()}
    inputs["token_type_embeddings"] = torch.randn(types, 12, dtype=torch.float64, device=triton_device)
    names = {"input_ids": "word_embeddings", "position_ids": "position_embeddings"}
    names |= {"token_type_ids": "token_type_embeddings"}
    order = (*names, *names.values(), "ln_weight", "ln_bias", "instance_vectors")
    tensors = [*(inputs[name] for name in order), None]
    if not vectors:
        tensors[-2] = None
    ids = tensors[list(names).index(table)] = inputs[table].clone()
    rows = inputs[names[table]].shape[0]
    clean = kernels.embedding_mux_forward(tensors, (1e-12, 0.5, 0.0))
    ids[0, 0, 3], ids[1, 2, 5], ids[1, 1, 7], ids[0, 2, 0] = rows, -1, 2**40, -(2**40)
    if table == "input_ids":
        storage = torch.full((rows + 6, 15), 1e30, dtype=torch.float64, device=triton_device)
        tensors[3] = within(storage, tensors[3])

    y = kernels.embedding_mux_forward(tensors, (1e-12, 0.5, 0.0))
    bad = torch.zeros(2, 3, 20, dtype=torch.bool, device=triton_device)
    bad[0, 0, 3] = bad[1, 2, 5] = bad[1, 1, 7] = bad[0, 2, 0] = True
    bad = bad.any(1) if vectors else bad
    assert y[bad].isnan().all() and torch.equal(y[~bad], clean[~bad])

    # Gradients are allocated by torch.zeros: amid a larger storage, of which the rest must stay as it is.
    storages = []

    def zeros(shape, **options):
        if len(shape) != 2:
            return torch.full(shape, 0.0, **options)
        storages.append(torch.full((shape[0] + 6, shape[1]), 1e30, **options))
        return storages[-1][3:-3].zero_()

    monkeypatch.setattr(torch, "zeros", zeros)
    need, upstream = [True] * 5 + [vectors], torch.ones_like(y)
    gradients = kernels.embedding_mux_backward(upstream, tensors, (1e-12, 0.5, 0.0), -1, -1, need, deterministic)
    assert storages and all((t[:3] == 1e30).all() and (t[-3:] == 1e30).all() for t in storages)
    own = gradients[list(names).index(table)]
    assert own.isfinite().all() and own.shape == inputs[names[table]].shape
    assert gradients[3].isnan().all(), "a sum over all rows does not leave one out in silence"


def test_ids_are_looked_at_on_a_cpu():
    inputs = {k: t.float() if t.is_floating_point() else t for k, t in draw(2, 3, 4, 8).items()}
    for name, rows in (("input_ids", 11), ("position_ids", 7), ("token_type_ids", 2)):
        for bad in (rows, -1):
            ids = inputs[name].clone()
            ids[1, 2, 3] = bad
            with pytest.raises(ValueError, match=f"{name} holds {bad}, expected values from 0 to {rows - 1}"):
                embedding_mux(**(inputs | {name: ids}))


@pytest.mark.parametrize("shape", [(1, 2, 3, 8), (2, 2, 5, 12)], ids=str)
def test_rows_that_are_not_there_leave_no_nan_where_eps_is_zero(backend, device, shape):
    """In a tile of four positions three are real; eps is 0 in float32."""
    assert_meets(
        lambda **inputs: embedding_mux(**inputs, eps=1e-50),
        lambda **inputs: reference.embedding_mux(**inputs, eps=1e-50),
        draw(*shape),
        torch.float32,
        device,
    )


def test_a_padding_row_of_no_table_and_one_out_of_range(backend, device):
    inputs = {k: t.to(device) for k, t in draw(2, 3, 4, 8).items() if not k.startswith("position")}
    words = inputs["word_embeddings"].requires_grad_()
    embedding_mux(**inputs, padding_idx=1, position_padding_idx=0).sum().backward()
    assert not words.grad[1].any()
    with pytest.raises(ValueError, match="padding_idx is 11, expected a row of the table, from -11 to 10"):
        embedding_mux(**inputs, padding_idx=11)


def test_dropout_wherever_tensors_are_made_by_default(backend, device):
    inputs = {k: t.to(device) for k, t in draw(1, 2, 3, 8).items()}
    torch.manual_seed(0)
    expected = embedding_mux(**inputs, dropout=0.5)
    torch.manual_seed(0)
    with torch.device("meta"):
        assert torch.equal(embedding_mux(**inputs, dropout=0.5), expected)
    on_meta = {k: t.to("meta") for k, t in inputs.items()}
    if backend == "torch":
        assert embedding_mux(**on_meta, dropout=0.5).shape == expected.shape


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
