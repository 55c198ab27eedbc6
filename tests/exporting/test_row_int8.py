"""Products of 8 bits with a scale for each row."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from fastmux.exporting.row_int8 import quantize_rows

DRAW = np.random.default_rng(0)
MATRIX, BIAS = DRAW.normal(size=(96, 80)).astype(np.float32), DRAW.normal(size=80).astype(np.float32)


def model(kind, matrix=MATRIX, **attributes):
    """x (..., K) by a matrix, twice, with and without a bias."""
    bias = ["bias"] if kind == "Gemm" else []
    nodes = [helper.make_node(kind, ["x", "matrix", *bias], [out], **attributes) for out in ("y", "z")]
    shape = ["b", matrix.shape[0]] if kind == "Gemm" else ["b", "l", matrix.shape[0]]
    if attributes.get("transB"):
        matrix = matrix.T
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(out, TensorProto.FLOAT, [*shape[:-1], None]) for out in ("y", "z")],
        [numpy_helper.from_array(np.ascontiguousarray(matrix), "matrix"), numpy_helper.from_array(BIAS, "bias")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def run(graph, x):
    return onnxruntime.InferenceSession(graph.SerializeToString()).run(None, {"x": x})


@pytest.fixture(scope="module")
def quantized():
    graph = model("MatMul")
    assert quantize_rows(graph) == 2
    onnx.checker.check_model(graph)
    return onnxruntime.InferenceSession(graph.SerializeToString())


@pytest.mark.parametrize(("kind", "attributes"), [("MatMul", {}), ("Gemm", {}), ("Gemm", {"transB": 1})])
def test_near_the_product(kind, attributes):
    x = DRAW.normal(size=(5, 96) if kind == "Gemm" else (2, 5, 96)).astype(np.float32)
    graph = model(kind, **attributes)
    expected = x @ MATRIX + (BIAS if kind == "Gemm" else 0)
    quantize_rows(graph)
    for found in run(graph, x):
        assert np.abs(found - expected).max() < 0.03 * expected.std() * 3


def test_one_input_is_quantized_once_for_all_of_its_products():
    graph = model("MatMul")
    quantize_rows(graph)
    kinds = [node.op_type for node in graph.graph.node]
    assert kinds.count("QuantizeLinear") == 1 and kinds.count("MatMulIntegerToFloat") == 2


@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-20, 1e-3, 1.0, 1e3, 1e20]), st.integers(1, 6))
def test_a_row_depends_on_nothing_beside_it(quantized, seed, factor, others):
    draw = np.random.default_rng(seed)
    row = draw.normal(size=(1, 1, 96)).astype(np.float32)
    beside = (factor * draw.normal(size=(1, others, 96))).astype(np.float32)
    alone, _ = quantized.run(None, {"x": row})
    place = int(draw.integers(others + 1))
    together, _ = quantized.run(None, {"x": np.insert(beside, place, row[0, 0], axis=1)})
    assert np.array_equal(together[0, place], alone[0, 0])


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e6])
def test_rows_of_any_size_keep_their_digits(quantized, scale):
    x = DRAW.normal(size=(1, 4, 96))
    expected = x @ MATRIX.astype(np.float64)
    found, _ = quantized.run(None, {"x": (scale * x).astype(np.float32)})
    assert np.abs(found / scale - expected).max() < 0.1 * expected.std()


def test_zero_stays_zero_and_what_is_not_finite_stays_so(quantized):
    x = np.zeros((1, 2, 96), np.float32)
    assert not quantized.run(None, {"x": x})[0].any()
    x[0, 1] = np.nan  # as a layer norm leaves a row of which one element is NaN; ReduceMax passes over single ones
    found, _ = quantized.run(None, {"x": x})
    assert np.isnan(found[0, 1]).all() and not found[0, 0].any()
    x[0, 1] = DRAW.normal(size=96)
    x[0, 1, 3] = np.inf
    found, _ = quantized.run(None, {"x": x})
    assert not np.isfinite(found[0, 1]).any() and not found[0, 0].any()


def test_a_narrow_matrix_stays_as_it_is():
    graph = model("MatMul", MATRIX[:, :4])
    before = graph.SerializeToString()
    assert quantize_rows(graph) == 0
    assert [node.op_type for node in graph.graph.node] == ["MatMul", "MatMul"] and before


@pytest.mark.parametrize(("kind", "factor"), [("Gelu", 0.7), ("Relu", 0.6)])
@pytest.mark.parametrize("scale", [1e-3, 0.3, 3.0, 100.0])
def test_behind_an_activation_steps_are_finer(kind, factor, scale):
    """Nearly all steps lie above 0, where those of an input that may be negative lie on both sides of it."""
    activation = {
        "Gelu": lambda x: 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
        "Relu": lambda x: x.clip(0),
    }
    x = (scale * DRAW.normal(size=(2, 50, 96))).astype(np.float32)
    active = activation[kind](x).astype(np.float32)
    graph, plain = model("MatMul"), model("MatMul")
    for node in graph.graph.node:
        node.input[0] = "active"
    graph.graph.node.insert(0, helper.make_node(kind, ["x"], ["active"]))
    quantize_rows(graph), quantize_rows(plain)
    assert [node.op_type for node in graph.graph.node].count("ReduceMin") == 0
    expected = active.astype(np.float64) @ MATRIX
    error, usual = (np.abs(run(m, given)[0] - expected).mean() for m, given in ((graph, x), (plain, active)))
    assert error < 0.03 * np.abs(expected).mean() + 0.1 * (kind == "Gelu") * 0.17
    assert scale < 3 or error < (factor + 0.3) * usual
