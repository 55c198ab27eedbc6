#!/usr/bin/env bash
# onnxruntime 1.32.0 on a CPU: ReduceMax over an axis of float32 that holds a single NaN returns the largest of the other
# values, unless the NaN comes first. NumPy and PyTorch return NaN wherever it stands. A graph that scales its activations by
# the largest one, as symmetric quantisation does, therefore turns a NaN into an ordinary number on its way, and a check of
# the outputs alone no longer sees that the model is broken. Check activations before they are quantised, or the float32
# model on the same rows.
# Seen: NaN at place 0 gives nan; at any of the places 1, 7, 31 and 63 of 64 it gives the largest finite value.
# Fails where ReduceMax returns NaN for any of these, or no longer does at place 0.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$folder/packages" onnxruntime==1.32.0 onnx==1.23.2

PYTHONPATH=$folder/packages python3 - <<'PYTHON'
import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

graph = helper.make_graph(
    [helper.make_node("ReduceMax", ["x", "axes"], ["y"], keepdims=0)],
    "largest",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 64])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows"])],
    [numpy_helper.from_array(np.array([-1]), "axes")],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

places = [0, 1, 7, 31, 63]
x = np.tile(np.linspace(-1, 1, 64, dtype=np.float32), (len(places), 1))
x[range(len(places)), places] = np.nan
(found,) = session.run(None, {"x": x})
print("onnxruntime", onnxruntime.__version__)
for place, ours, numpy in zip(places, found, x.max(-1)):
    print(f"NaN at place {place:2}: ReduceMax {ours:.4f}, NumPy {numpy}")
seen = bool(np.isnan(found[0]) and np.isfinite(found[1:]).all())
print("a NaN that does not come first is passed over:", "yes" if seen else "no")
raise SystemExit(0 if seen else 1)
PYTHON
