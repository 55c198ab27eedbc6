"""Matrix products of 8 bits with a scale for each position: nothing of a row depends on the rows beside it.

ONNX Runtime's own dynamic quantisation takes one scale for a whole tensor, so that padding and other rows of the batch
change a row's answer. Here each position x is quantised by a scale of its own, and each column of W by one:

    y = s_x s_w MatMulInteger(round(x / s_x), round(W / s_w)),    s_x = |x|_max / 127,    s_w = |w|_max / 127

``QuantizeLinear`` takes a scale for each block of an input, and a block here is a position. Behind a GELU or a ReLU,
which hardly fall below 0, nearly all of the 256 steps are those above it, where they are finer by three quarters. The
product is ONNX Runtime's fused one of unsigned and signed bytes. (Of two signed ones it is three times slower than of
float32.)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

#: Matrices that are narrower at either side stay as they are: a head costs nothing and decides everything.
_LEAST_WIDTH = 64
_DOMAIN = "com.microsoft"
_LEVELS = 127
#: How far below 0 an activation goes at most, and the steps below 0 that hold this.
_BELOW = {"Gelu": (0.1701, 32), "Relu": (0.0, 0)}
#: Of a row of zeros; its scale is still no denormal number.
_TINY = _LEVELS * float(np.finfo(np.float32).tiny)


def quantize_rows(model: onnx.ModelProto) -> int:
    """Replace every product with a constant matrix, in place.

    Args:
        model: ``MatMul`` and ``Gemm`` by an initializer of at least 64 rows and columns are replaced. Its opset is 21
            or later.

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
    graph.initializer.extend([*kept, *rewriting.made.values()])
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


class _Rows(NamedTuple):
    """The names of a quantised input: its bytes (..., K), the byte that is 0, and the scales (..., 1)."""

    bytes: str
    zero: str
    scale: str


class _Rewriting:
    """The quantised inputs and matrices of one graph."""

    def __init__(self, model: onnx.ModelProto):
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._kinds = {name: node.op_type for node in model.graph.node for name in node.output}
        self._rows: dict[str, _Rows] = {}
        self.made: dict[str, onnx.TensorProto] = {}
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
        nodes, rows = self._quantized(node.input[0], matrix.shape[0], own)
        scale = np.maximum(np.abs(matrix).max(0), np.finfo(np.float32).tiny) / _LEVELS
        operands = [
            rows.bytes,
            self._constant(f"{own}.matrix", np.round(matrix / scale).astype(np.int8)),
            self._constant("row_int8.one", np.array(1, np.float32)),
            self._constant(f"{own}.scale", scale.astype(np.float32)),
            rows.zero,
            self._constant(f"{own}.zero", np.zeros(matrix.shape[1], np.int8)),
        ]
        nodes.append(helper.make_node("MatMulIntegerToFloat", operands, [f"{own}.unit"], domain=_DOMAIN))
        scaled = node.output[0] if bias is None else f"{own}.scaled"
        nodes.append(helper.make_node("Mul", [f"{own}.unit", rows.scale], [scaled]))
        if bias is not None:
            nodes.append(helper.make_node("Add", [scaled, bias], [node.output[0]]))
        return nodes

    def _quantized(self, given: str, width: int, own: str) -> tuple[list[onnx.NodeProto], _Rows]:
        """The nodes that quantise an input, once for all of its products; and what they make."""
        if given in self._rows:
            return [], self._rows[given]
        name = f"{own}.{{}}".format
        axis, high = self._constant("row_int8.axis", np.array([-1])), name("high")
        nodes = [helper.make_node("ReduceMax", [given, axis], [high], keepdims=1)]
        if (kind := self._kinds.get(given, "")) in _BELOW:
            below, steps_below = _BELOW[kind]
            steps = 255 - steps_below
            least = max(_TINY, steps * below / max(1, steps_below))
            extremes = [high]
        else:
            steps_below, steps, least = 128, _LEVELS, _TINY
            extremes = [high, name("minus_low")]
            nodes.append(helper.make_node("ReduceMin", [given, axis], [name("low")], keepdims=1))
            nodes.append(helper.make_node("Neg", [name("low")], [name("minus_low")]))
        extremes.append(self._constant(f"row_int8.least_{steps_below}", np.array(least, np.float32)))
        step = self._constant(f"row_int8.step_{steps_below}", np.array(1 / steps, np.float32))
        rows = _Rows(name("bytes"), f"row_int8.zero_{steps_below}", name("row_scale"))
        self._constant(rows.zero, np.array(steps_below, np.uint8))
        operations: list[tuple[str, list[str], str, dict[str, Any]]] = [
            ("Max", extremes, name("largest"), {}),
            ("Mul", [name("largest"), step], rows.scale, {}),
            ("Shape", [rows.scale], name("shape"), {}),
            ("Expand", [rows.zero, name("shape")], name("zeros"), {}),
            ("QuantizeLinear", [given, rows.scale, name("zeros")], rows.bytes, {"axis": -1, "block_size": width}),
        ]
        for operation, inputs, output, options in operations:
            nodes.append(helper.make_node(operation, inputs, [output], **options))
        self._rows[given] = rows
        return nodes, rows

    def _constant(self, name: str, value: np.ndarray) -> str:
        """The name of a tensor that the new nodes read."""
        self.made.setdefault(name, numpy_helper.from_array(value, name))
        return name
