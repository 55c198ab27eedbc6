"""Have Inductor write the Triton kernels that `torch.compile` would run on a GPU that is not here.

A function is traced on tensors without data, its graphs are moved to a GPU that there seems to be (`pretended`) and
lowered for it, and the code that Inductor writes is run on meta tensors: its kernels note how they are called in place
of being launched. Each can then be compiled as it would be, in all the tiles and warps that Inductor would time against
each other; what it adds to them once it has seen a kernel's registers is left out. So are its patterns of attention,
and its folding of constants, of which these ops have none.

It stands on what Inductor keeps to itself, that of torch 2.13.
"""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from unittest import mock

import torch
import torch._inductor.config
import triton
from torch import Tensor
from torch._dynamo.device_interface import CudaInterface
from torch._functorch.aot_autograd import aot_export_joint_simple
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor.async_compile import AsyncCompile
from torch._inductor.codecache import PyCodeCache
from torch._inductor.debug import DebugContext
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.fx_passes import joint_graph
from torch._inductor.fx_passes.post_grad import post_grad_passes, view_to_reshape
from torch._inductor.graph import GraphLowering
from torch._inductor.runtime import triton_helpers
from torch._inductor.runtime.hints import DeviceProperties
from torch._inductor.runtime.triton_heuristics import GridExpr
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.node import map_aggregate
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from triton.backends.compiler import GPUTarget

from bench.audit.predict import Device

_GPU = torch.device("cuda", 0)


@dataclass
class Step:
    """A kernel that is launched, or an operation of PyTorch's own that is called between kernels.

    Args:
        tensors: its arguments, without data.
        elements: that the kernel runs over, or of the operation's largest tensor.
        bytes: that it moves at least, of a kernel as Inductor estimates them: each argument once, or its slices.
        flops: of an operation that multiplies matrices.
        autotuner: Inductor's, of a kernel.
        numels: of a kernel's dimensions (xnumel, r0_numel).
    """

    name: str
    tensors: list[Tensor]
    elements: int
    bytes: int
    flops: int = 0
    autotuner: object = None
    numels: dict[str, int] = field(default_factory=dict)


@dataclass
class Variant:
    """A kernel compiled in one choice of tiles and warps.

    Args:
        turns: how often its nested loops turn, outermost first.
        passes: loops that stand one after another in its source.
        stride: what a turn of the innermost adds to its counter.
    """

    binary: object
    programs: int
    turns: list[int]
    passes: int
    stride: int


@contextlib.contextmanager
def pretended(device: Device) -> Iterator[None]:
    """There seems to be such a GPU, to Inductor and to Triton; nothing can be put on it."""
    capability = divmod(int(device.target.removeprefix("sm_")), 10)
    properties = SimpleNamespace(
        name=device.target,
        gcnArchName=device.target,
        major=capability[0],
        minor=capability[1],
        multi_processor_count=device.multiprocessors,
        regs_per_multiprocessor=device.registers,
        max_threads_per_multi_processor=32 * device.warps,
        max_threads_per_block=1024,
        warp_size=32,
    )
    cuda = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda _: None,
        "get_device_properties": lambda *_: properties,
        "get_device_capability": lambda *_: capability,
        "_DeviceGuard": contextlib.nullcontext,
    }
    target = GPUTarget("cuda", 10 * capability[0] + capability[1], 32)
    former = triton.runtime.driver._active
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        for name, value in cuda.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        for place in (CudaInterface, CudaInterface.Worker):
            stack.enter_context(mock.patch.object(place, "get_device_properties", cuda["get_device_properties"]))
        stack.enter_context(mock.patch.object(torch._C, "_cuda_getCurrentRawStream", lambda _: 0, create=True))
        stack.enter_context(mock.patch.object(triton_helpers, "set_driver_to_gpu", lambda: None))
        # What a kernel moves is estimated for its benchmark.
        stack.enter_context(torch._inductor.config.patch(use_static_triton_launcher=False, benchmark_kernel=True))
        # What Inductor found on a GPU that was there is in its cache; Triton's own goes by the target.
        folders = {"TORCHINDUCTOR_CACHE_DIR": folder, "TRITON_CACHE_DIR": triton.knobs.cache.dir}
        stack.enter_context(mock.patch.dict(os.environ, folders))
        DeviceProperties.create.cache_clear()
        triton.runtime.driver.set_active(
            SimpleNamespace(get_current_target=lambda: target, get_current_device=lambda: 0)
        )
        try:
            yield
        finally:
            triton.runtime.driver._active = former
            DeviceProperties.create.cache_clear()


def steps(function: Callable[..., Tensor], inputs: Sequence[Tensor], device: Device, gradients: bool) -> list[Step]:
    """What `torch.compile` of ``function`` would run on ``device``, forward and, with ``gradients``, backward.

    Args:
        inputs: on any device, only looked at; backward is for all that are floating.
    """
    graphs = _graphs(function, inputs, gradients)
    taken: list[Step] = []
    with pretended(device):
        for graph in graphs:
            taken += _run(*_written(graph, inference=not gradients))
    return taken


def variants(step: Step, device: Device) -> Iterator[Variant]:
    """A kernel compiled for ``device``, as many times as Inductor would try it."""
    for config in step.autotuner.configs:
        with pretended(device):
            binary = step.autotuner._precompile_config(config).kernel
        tiles = config.kwargs
        loops = [(tiles["RSPLIT_SIZE"], tiles["XBLOCK"])] if "RSPLIT_SIZE" in tiles else []
        for name, numel in step.numels.items():
            block = tiles.get(f"{name.removesuffix('numel').upper()}BLOCK") if name.startswith("r") else None
            if block:  # and not one tile for all of it
                loops.append((numel, block))
        turns = [-(-numel // block) for numel, block in loops]
        grid = GridExpr.from_meta(step.autotuner.inductor_meta, config).eval_slow(step.numels)
        passes = step.autotuner.fn.src.count("\n    for ")
        stride = loops[-1][1] if loops else 0
        yield Variant(binary, math.prod(grid), [t for t in turns if t != 1], passes, stride)


def _graphs(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], gradients: bool
) -> Sequence[torch.fx.GraphModule]:
    """The graph of forward or, with ``gradients``, those of forward and backward, on the GPU that there seems to be."""
    with torch._functorch.config.patch(fake_tensor_allow_meta=True), FakeTensorMode() as mode, V.set_fake_mode(mode):
        # Traced as on no device: what is traced on a CPU takes a CPU's decompositions, and a GPU takes a GPU.
        fake = [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta") for t in inputs]
        for t in fake:
            t.requires_grad_(gradients and t.is_floating_point())
        graph = aot_export_joint_simple(
            lambda *values: (function(*values),),
            tuple(fake),
            trace_joint=gradients,
            decompositions=select_decomp_table(),
        )
        moved = []
        for node in graph.graph.nodes:
            node.args, node.kwargs = map_aggregate((node.args, node.kwargs), _to_gpu)
            if node.op == "placeholder":
                t = node.meta["val"]
                moved.append(torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=_GPU))
        with torch.no_grad():
            FakeTensorProp(graph, mode).propagate_dont_convert_inputs(*moved)
        with (
            mock.patch.object(joint_graph, "lazy_init", lambda *_: None),  # of patterns that are traced on the GPU
            torch._inductor.config.patch(joint_graph_constant_folding=False),  # which runs there
        ):
            joint_graph.joint_graph_passes(graph)
        return min_cut_rematerialization_partition(graph, None, num_fwd_outputs=1) if gradients else [graph]


def _to_gpu(argument):
    return _GPU if isinstance(argument, torch.device) else argument


def _written(module: torch.fx.GraphModule, inference: bool) -> tuple[str, list[Tensor]]:
    """Inductor's code for a graph, and the tensors that it takes."""
    inputs = [node.meta["val"] for node in module.graph.nodes if node.op == "placeholder"]
    with inputs[0].fake_mode as mode, V.set_fake_mode(mode):
        view_to_reshape(module)
        with torch.no_grad():
            FakeTensorProp(module, mode).propagate_dont_convert_inputs(*inputs)
        post_grad_passes(module, inference)
        graph = GraphLowering(module, example_inputs=inputs, is_inference=inference)
        with V.set_graph_handler(graph), V.set_debug_handler(DebugContext()):
            graph.run(*inputs)
            code, _ = graph.codegen()
    return code.value, inputs


def _run(code: str, inputs: list[Tensor]) -> list[Step]:
    """Run the code on tensors without data."""
    taken: list[Step] = []

    def kernel(_, name: str, source: str, **__) -> SimpleNamespace:
        autotuner = getattr(PyCodeCache.load(source), name)

        def run(*arguments, **__):
            named = dict(zip(autotuner.fn.arg_names, arguments, strict=False))
            numels = {k: v for k, v in named.items() if k.endswith("numel")}
            moved = round(1e9 * autotuner.inductor_meta["kernel_num_gb"])
            if "ws_ptr" in named:  # partial sums, which are not in the estimate
                moved += named["ws_ptr"].nbytes
            tensors = [v for v in named.values() if isinstance(v, Tensor)]
            taken.append(Step(name, tensors, math.prod(numels.values()), moved, 0, autotuner, numels))

        return SimpleNamespace(run=run)

    def empty(shape, stride, dtype):
        return torch.empty_strided(shape, stride, dtype=dtype, device="meta")

    given = [empty(t.shape, t.stride(), t.dtype) for t in inputs]
    with (
        mock.patch.object(AsyncCompile, "triton", kernel),
        mock.patch.object(torch._C._dynamo.guards, "_empty_strided_cuda", empty),
        _Operations(taken),
    ):
        names: dict = {"__name__": "written"}
        exec(code, names)
        names["call"](given)
    return taken


class _Operations(TorchDispatchMode):
    """Notes the operations of PyTorch's own that move bytes."""

    def __init__(self, taken: list[Step]):
        super().__init__()
        self.taken = taken

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        options = options or {}
        out = function(*arguments, **options)
        if function.namespace == "aten" and not function.is_view and not function.name().startswith("aten::empty"):
            # Those it reads, those it is given to write in among them, and those it makes.
            tensors = [t for t in tree_leaves((arguments, options)) if isinstance(t, Tensor)]
            tensors += [t for t in tree_leaves(out) if all(t is not other for other in tensors)]
            count = flop_registry.get(function.overloadpacket)
            flops = count(*arguments, **options, out_val=out) if count else 0
            moved = sum(t.nbytes for t in tensors)
            self.taken.append(Step(function.name(), tensors, max(t.numel() for t in tensors), moved, flops))
        return out
