"""Matrix products of 8 bits with a scale for each position: nothing of a row depends on the rows beside it.

ONNX Runtime's own dynamic quantisation takes one scale for a whole tensor, so that padding and other rows of the batch
change a row's answer. Here a position is divided by its largest element, quantised by a constant scale, multiplied, and
multiplied by that element again:

    y = |x|_max ⊙ MatMulInteger(round(127 x / |x|_max), W_q) · s / 127

with a scale s for each column of W. The four small steps cost a tenth of a pass; the product is ONNX Runtime's fused
one of unsigned and signed bytes. (Of two signed ones it is three times slower than of float32.)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

#: Matrices that are narrower at either side stay as they are: a head costs nothing and decides everything.
_LEAST_WIDTH = 64
_DOMAIN = "com.microsoft"
_LEVELS = 127
_SCALE, _ZERO, _AXIS, _TINY = "row_int8.scale", "row_int8.zero", "row_int8.axis", "row_int8.tiny"


def quantize_rows(model: onnx.ModelProto) -> int:
    """Replace every product with a constant matrix, in place.

    Args:
        model: ``MatMul`` and ``Gemm`` by an initializer of at least 64 rows and columns are replaced.

    Returns:
        The number of products that were replaced.
    """
    graph, rewriting = model.graph, _Rewriting(model)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        found = rewriting.matrix(node)
        nodes += [node] if found is None else rewriting.product(node, *found)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend([*kept, *rewriting.constants()])
    if all(opset.domain != _DOMAIN for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    return rewriting.products


def quantize_file(path: Path) -> None:
    """`quantize_rows` of a file.

    Raises:
        ValueError: No matrix of it is wide enough.
    """
    model = onnx.load(path)
    if not quantize_rows(model):
        raise ValueError(
            f"precision is 'int8', but no matrix of the model has {_LEAST_WIDTH} rows and columns: 8 bits gain nothing"
        )
    onnx.save(model, path)


class _Rewriting:
    """The quantised inputs and matrices of one graph."""

    def __init__(self, model: onnx.ModelProto):
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._rows: dict[str, tuple[str, str]] = {}  # input -> its quantised rows, their largest elements
        self._matrices: list[onnx.TensorProto] = []
        self.products = 0

    def matrix(self, node: onnx.NodeProto) -> tuple[np.ndarray, str | None] | None:
        """The constant matrix (K, M) of a product, and the name of its bias; None of any other node."""
        if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in self._constants:
            return None
        given: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if given.get("transA") or given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0:
            return None
        matrix = numpy_helper.to_array(self._constants[node.input[1]])
        if matrix.ndim != 2 or matrix.dtype != np.float32 or min(matrix.shape) < _LEAST_WIDTH:
            return None
        return matrix.T if given.get("transB") else matrix, node.input[2] if len(node.input) > 2 else None

    def product(self, node: onnx.NodeProto, matrix: np.ndarray, bias: str | None) -> list[onnx.NodeProto]:
        """The nodes in place of one."""
        self.products += 1
        own = f"row_int8.{self.products}"
        scale = np.maximum(np.abs(matrix).max(0), np.finfo(np.float32).tiny) / _LEVELS
        for name, value in (
            ("matrix", np.round(matrix / scale).astype(np.int8)),
            ("scale", scale.astype(np.float32)),
            ("zero", np.zeros(matrix.shape[1], np.int8)),
        ):
            self._matrices.append(numpy_helper.from_array(value, f"{own}.{name}"))
        nodes, rows, largest = self._quantized(node.input[0], own)
        operands = [rows, f"{own}.matrix", _SCALE, f"{own}.scale", _ZERO, f"{own}.zero"]
        nodes.append(helper.make_node("MatMulIntegerToFloat", operands, [f"{own}.unit"], domain=_DOMAIN))
        scaled = node.output[0] if bias is None else f"{own}.scaled"
        nodes.append(helper.make_node("Mul", [f"{own}.unit", largest], [scaled]))
        if bias is not None:
            nodes.append(helper.make_node("Add", [scaled, bias], [node.output[0]]))
        return nodes

    def _quantized(self, given: str, own: str) -> tuple[list[onnx.NodeProto], str, str]:
        """The nodes that quantise an input, once for all of its products; its rows, and their largest elements."""
        if given in self._rows:
            return [], *self._rows[given]
        name = f"{own}.{{}}".format
        steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
            ("ReduceMax", [given, _AXIS], name("high"), {"keepdims": 1}),
            ("ReduceMin", [given, _AXIS], name("low"), {"keepdims": 1}),
            ("Neg", [name("low")], name("minus_low"), {}),
            ("Max", [name("high"), name("minus_low"), _TINY], name("largest"), {}),
            ("Div", [given, name("largest")], name("rows"), {}),
            ("QuantizeLinear", [name("rows"), _SCALE, _ZERO], name("quantized"), {}),
        ]
        self._rows[given] = name("quantized"), name("largest")
        nodes = [helper.make_node(kind, inputs, [output], **options) for kind, inputs, output, options in steps]
        return nodes, *self._rows[given]

    def constants(self) -> list[onnx.TensorProto]:
        """What the new nodes read."""
        shared: dict[str, np.ndarray] = {
            _SCALE: np.array(1 / _LEVELS, np.float32),
            _ZERO: np.array(128, np.uint8),
            _AXIS: np.array([-1]),
            _TINY: np.array(np.finfo(np.float32).tiny),
        }
        return [*(numpy_helper.from_array(value, name) for name, value in shared.items()), *self._matrices]
