"""What `torch.compile` would make of the specification of an op: the bytes that its kernels must move, and how many.

Inductor lowers and fuses the graphs of forward and backward on fake CPU tensors, and nothing is run: how it fuses for
a GPU, which takes a build of PyTorch for one, may differ a little. Rows that are looked up in a table count as the
table; so that they count as for our kernels, the table is small and each direction's rows are added once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch._functorch.aot_autograd import aot_function, make_boxed_func
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor.debug import DebugContext
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.fx_passes import post_grad
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.audit.predict import DEVICES, LAUNCH, LAUNCHERS
from bench.harness import DIRECTIONS, Op, Sizes
from bench.ops import (
    test_embedding_mux,
    test_hadamard_mux,
    test_index_demux,
    test_instance_embeddings,
    test_pair_norm,
)

#: `walsh_hadamard_mux` is left out: its specification makes matrices as it runs, which fake tensors do not take.
OPS = [
    m.OP for m in (test_hadamard_mux, test_embedding_mux, test_instance_embeddings, test_pair_norm, test_index_demux)
]
#: Words of a table that rows are looked up in.
VOCABULARY = 1024
#: Ratios of predicted times that are no difference.
TIE = 0.98


def reference_bytes(op: Op, sizes: Sizes, direction: str, dtype: torch.dtype = torch.bfloat16) -> tuple[int, int]:
    """(bytes, kernels) of the compiled reference of ``op`` in a direction ("forward", "forward+backward")."""
    gradients, counted = "backward" in direction, []

    def count(module: torch.fx.GraphModule, inputs: list, **_):
        post_grad.post_grad_passes(module, not gradients)
        graph = GraphLowering(module, example_inputs=list(inputs))
        with V.set_graph_handler(graph), V.set_debug_handler(DebugContext()):
            graph.run(*inputs)
            graph._update_scheduler()
            kernels = [n for n in graph.scheduler.nodes if type(n).__name__ != "NopKernelSchedulerNode"]
            counted.append((graph.count_bytes()[0], len(kernels)))
        return make_boxed_func(module.forward)

    with torch.device("meta"):
        inputs = op.inputs(**sizes)
    mode = FakeTensorMode()
    with mode, V.set_fake_mode(mode):
        fake = [
            torch.empty(t.shape, dtype=dtype, requires_grad=gradients)
            if t.is_floating_point()
            else torch.empty(t.shape, dtype=t.dtype)
            for t in inputs.values()
        ]
        compiled = aot_function(
            lambda *values: op.reference(**dict(zip(inputs, values, strict=True))),
            count,
            count,
            partition_fn=min_cut_rematerialization_partition,
            decompositions=select_decomp_table(),
        )
        y = compiled(*fake)
        if gradients:
            y.backward(torch.empty_like(y))
    return sum(b for b, _ in counted), sum(k for _, k in counted)


def beside(counted: list[dict], sizes: Mapping[str, int]) -> list[dict]:
    """Of each op and direction the predicted times of our kernels and the least of the compiled reference, the bytes
    and launches alone, by device.

    Args:
        counted: of `bench.audit.kernels.predict`, at ``sizes``.
    """
    launchers: dict[str, list[dict]] = {}
    for entry in counted:
        launchers.setdefault(entry["launcher"], []).append(entry)
    rows = []
    for op in OPS:
        own = dict(sizes) | ({"V": VOCABULARY} if "embedding" in op.name else {})
        forward, backward = LAUNCHERS[op.name]
        for direction in DIRECTIONS:
            listed = [*forward, *(backward if "backward" in direction else [])]
            moved, kernels = reference_bytes(op, own, direction)
            elements = math.prod(sizes.values())
            if "V" in own:
                moved += torch.bfloat16.itemsize * elements * (1 + ("backward" in direction))
            products = op.flops(own, direction) or 0
            ours, least = {}, {}
            for name, device in DEVICES.items():
                known = sum(launchers[launcher][i]["predicted_us"][name] for launcher, i in listed)
                ours[name] = known + 1e6 * products / device.matrix_flops
                least[name] = 1e6 * max(moved / device.bandwidth, kernels * LAUNCH)
            row = {"op": op.name, "direction": direction, "kernels": kernels, "bytes_per_element": moved / elements}
            rows.append(row | {"ours_us": ours, "compiled_least_us": least})
    return rows


def table(rows: list[dict]) -> str:
    """As text: our time, and how many times as long the compiled reference takes at least."""
    lines = [f"{'op, direction':40}{'passes':>7}{'bytes':>7}" + "".join(f"{name + ' us, x':>16}" for name in DEVICES)]
    for row in rows:
        ratios = {name: row["compiled_least_us"][name] / us for name, us in row["ours_us"].items()}
        times = "".join(f"{us:>10.1f}{ratios[name]:>6.2f}" for name, us in row["ours_us"].items())
        lost = [name for name, ratio in ratios.items() if ratio < TIE]
        label = f"{row['op']}, {row['direction']}"
        warning = f"  <- may lose on {', '.join(lost)}" if lost else ""
        lines.append(f"{label:40}{row['kernels']:>7}{row['bytes_per_element']:>7.1f}{times}{warning}")
    return "\n".join(lines)
