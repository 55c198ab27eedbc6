"""What is exported runs none of the kernels of ONNX Runtime that are known to be slow."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from fastmux.exporting.slow_kernels import avoid_slow_kernels

DRAW = np.random.default_rng(0)
VECTORS = {name: DRAW.normal(size=16).astype(np.float32) for name in ("bias", "weight", "shift")}


def optimised(model, path):
    """The operations that ONNX Runtime runs of a model."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("kind", ["plain", "positions", "unbind"])
def test_what_runs_of_an_exported_model(kind, precision, exported, tmp_path):
    runs = optimised(exported(kind, precision) / "model.onnx", tmp_path / "optimised.onnx")
    assert "LayerNormalization" in runs and "Softmax" in runs
    assert not {"SkipLayerNormalization", "EmbedLayerNormalization", "IsNaN"} & set(runs)


def graph(kept):
    """``LN(x + bias + r)``; with ``kept``, x + bias is an output too."""
    nodes = [
        helper.make_node("Add", ["x", "bias"], ["biased"]),
        helper.make_node("Add", ["biased", "r"], ["added"]),
        helper.make_node("LayerNormalization", ["added", "weight", "shift"], ["y"], axis=-1),
    ]
    outputs = ["y", *(["biased"] if kept else [])]
    values = [
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["b", "l", 16]) for n in s] for s in (["x", "r"], outputs)
    ]
    constants = [numpy_helper.from_array(value, name) for name, value in VECTORS.items()]
    made = helper.make_graph(nodes, "sum", *values, constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize("kept", [False, True])
def test_a_sum_before_a_layer_norm(kept, tmp_path):
    before, model = graph(kept), graph(kept)
    avoid_slow_kernels(model)
    onnx.checker.check_model(model)
    inputs = {name: DRAW.normal(size=(2, 3, 16)).astype(np.float32) for name in "xr"}
    found, expected = (onnxruntime.InferenceSession(m.SerializeToString()).run(None, inputs) for m in (model, before))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    assert "SkipLayerNormalization" in optimised(before.SerializeToString(), tmp_path / "before.onnx")
    runs = optimised(model.SerializeToString(), tmp_path / "after.onnx")
    assert runs == (["Add", "Sum", "LayerNormalization"] if kept else ["Sum", "LayerNormalization"])
