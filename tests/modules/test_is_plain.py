"""Whatever somebody does to the modules whose weights the fused ops read takes effect: values, gradients, merging.

One table of things that are done, each to every module that is read past its ``forward``, for every demultiplexer. The
answer is that of the plain route, on which every module is called.
"""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
import torch.distributed as dist
from accelerate import cpu_offload, disk_offload, dispatch_model, infer_auto_device_map
from models import BERT, FAMILIES, batch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrize, prune
from torch.nn.utils.parametrizations import weight_norm
from torch.utils._pytree import tree_map

import fastmux
from fastmux.modules import DEMULTIPLEXERS, MULTIPLEXERS
from fastmux.modules.is_plain import is_plain
from fastmux.testing import assert_agrees, relative_error

LAYERS = (nn.Linear, nn.LayerNorm)


def model_with(demux: str, config=BERT, **options) -> fastmux.TMuxForTokenClassification:
    config = copy.deepcopy(config)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    options = {"conventions": {"retrieval_transform": True}, "multiplexer_options": {"learnable": True}} | options
    if demux == "rsa":
        options["demultiplexer_options"] = {"num_layers": 3}
    model = fastmux.TMuxForTokenClassification.from_backbone(config, 3, demultiplexer=demux, num_labels=4, **options)
    with torch.no_grad():
        for module in read_past_forward(model, LAYERS):
            module.bias.normal_()
    return model.eval()


def read_past_forward(model: nn.Module, kinds=(*LAYERS, nn.Embedding)) -> list[nn.Module]:
    """The modules of these kinds outside of the encoder's own layers."""
    return [m for name, m in model.named_modules() if isinstance(m, kinds) and ".encoder." not in name]


def each(change, kinds=(*LAYERS, nn.Embedding)):
    def apply(model):
        for module in read_past_forward(model, kinds):
            change(module)
        return model

    return apply


def with_forward(module: nn.Module) -> None:
    original = module.forward
    module.forward = lambda *args: 1.5 * original(*args)


def with_class(module: nn.Module) -> None:
    kind = type(module)
    module.__class__ = type("Louder", (kind,), {"forward": lambda self, x: 1.5 * kind.forward(self, x)})


class Louder(nn.Module):
    def forward(self, weight):
        return 1.5 * weight


def with_old_weight_norm(module: nn.Module) -> None:
    nn.utils.weight_norm(module)
    with torch.no_grad():
        module.weight_g.mul_(1.5)


class Rounded(torch.Tensor):
    """A weight kept in another form, as quantisation libraries keep it: any op sees the values that it stands for."""

    @staticmethod
    def __new__(cls, values):
        return torch.Tensor._make_wrapper_subclass(cls, values.shape, dtype=values.dtype, requires_grad=False)

    def __init__(self, values):
        self.quarters = (4 * values).round().to(torch.int8)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        def values(t):
            return t.quarters.to(t.dtype) / 4 if isinstance(t, cls) else t

        if func is torch.ops.aten.detach.default:
            return args[0]
        return func(*tree_map(values, args), **tree_map(values, kwargs or {}))


def with_rounded_weight(module: nn.Linear) -> None:
    module.weight = nn.Parameter(Rounded(module.weight.detach()), requires_grad=False)


def lora(**options):
    return lambda model: get_peft_model(model, LoraConfig(r=2, init_lora_weights=False, **options))


def quantized(model: nn.Module) -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(model.float().requires_grad_(False), {nn.Linear})


CHANGES = {
    "forward hook": each(lambda m: m.register_forward_hook(lambda m, x, y: 1.5 * y)),
    "forward pre-hook": each(lambda m: m.register_forward_pre_hook(lambda m, x: (0.5 * x[0],)), LAYERS),
    "full backward hook": each(lambda m: m.register_full_backward_hook(lambda m, dx, dy: (2 * dx[0],)), LAYERS),
    "full backward pre-hook": each(lambda m: m.register_full_backward_pre_hook(lambda m, dy: (2 * dy[0],))),
    "forward of the instance": each(with_forward),
    "subclass": each(with_class),
    "parametrization": each(lambda m: parametrize.register_parametrization(m, "weight", Louder())),
    "weight norm": each(weight_norm, nn.Linear),
    "old weight norm": each(with_old_weight_norm, nn.Linear),
    "pruning": each(lambda m: prune.random_unstructured(m, "weight", 0.5)),
    "subclass of Tensor": each(with_rounded_weight, nn.Linear),
    "norm of the rows": each(lambda m: setattr(m, "max_norm", 0.5), nn.Embedding),
    "gradient by frequency": each(lambda m: setattr(m, "scale_grad_by_freq", True), nn.Embedding),
    "without bias": each(lambda m: m.register_parameter("bias", None), nn.Linear),
    "LoRA all-linear": lora(target_modules="all-linear"),
    "LoRA dense": lora(target_modules=["dense"]),
    "LoRA of the head": lora(target_modules=["classifier"]),
    "LoRA of the words": lora(target_modules=["word_embeddings"]),
    "LoRA of all tables": lora(target_modules=["word_embeddings", "position_embeddings", "token_type_embeddings"]),
    "trainable tokens": lora(target_modules=["query"], trainable_token_indices={"word_embeddings": [5, 6]}),
    "copies to save": lora(target_modules=["query"], modules_to_save=["layer_norm", "word_embeddings"]),
    "dynamic quantisation": quantized,
    "offload to the CPU": cpu_offload,
}
GRADIENTS_ALONE = {"full backward hook", "full backward pre-hook", "weight norm", "gradient by frequency"}
GRADIENTS_ALONE |= {"offload to the CPU"}


@contextlib.contextmanager
def plain_route():
    """A hook on all modules: every one of them is called."""
    handle = register_module_forward_hook(lambda *_: None)
    yield
    handle.remove()


def step(model: nn.Module, rows: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits and gradients."""
    model.zero_grad()
    out = model(**rows)
    if out.loss.requires_grad:
        out.loss.backward()
    return out.logits.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def labelled(rows: int = 6) -> dict[str, torch.Tensor]:
    inputs = batch(rows, padded=True)
    inputs["labels"] = inputs["input_ids"] % 4
    inputs["retrieval_instances"] = torch.randint(0, 3, (rows // 3, 7))
    return inputs


def assert_takes_the_plain_route(model: nn.Module, rows: dict, tolerance: float = 1e-9) -> torch.Tensor:
    logits, gradients = step(model, rows)
    with plain_route():
        expected, expected_gradients = step(model, rows)
    assert relative_error(logits, expected) < tolerance
    assert_same(gradients, expected_gradients, tolerance)
    return logits


def assert_same(gradients: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    assert gradients.keys() == expected.keys()
    size = max((g.abs().max() for g in expected.values()), default=0)
    for name, gradient in gradients.items():
        assert (gradient - expected[name]).abs().max() <= tolerance * size, name


@pytest.mark.parametrize("demux", list(DEMULTIPLEXERS))
def test_both_routes_are_one_function(demux):
    for multiplexer in ("hadamard", "orthogonal"):
        assert_takes_the_plain_route(model_with(demux, multiplexer=multiplexer).double(), labelled())


@pytest.mark.parametrize("demux", list(DEMULTIPLEXERS))
@pytest.mark.parametrize("kind", list(CHANGES))
def test_what_is_done_to_a_module_takes_effect(kind, demux):
    model, rows = model_with(demux).double(), labelled()
    untouched = model(**rows).logits
    changed = CHANGES[kind](model)
    single = next(changed.parameters(), torch.empty(())).dtype == torch.float32 or kind == "dynamic quantisation"
    logits = assert_takes_the_plain_route(changed, rows, 1e-4 if single else 1e-9)
    assert (relative_error(logits, untouched) > 1e-4) != (kind in GRADIENTS_ALONE)
    if kind == "dynamic quantisation":
        assert relative_error(logits, untouched) < 0.1
    for name, parameter in changed.named_parameters():
        if "lora_" in name or "trainable_tokens_delta" in name or "modules_to_save" in name:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, f"{name} gets no gradient"
    if "LoRA" in kind or kind == "trainable tokens":
        assert relative_error(changed.merge_and_unload()(**rows).logits, logits) < 1e-9


@pytest.mark.parametrize("family", ["roberta", "albert", "modernbert", "electra", "deberta-v2-positions"])
def test_adapters_on_every_layer_of_other_encoders(family):
    """Wrappers lack what tables say of themselves: how many rows, which one is padding."""
    for targets in ("all-linear", r".*embeddings\..*embeddings"):
        model, rows = fastmux.TMux(FAMILIES[family], 3).double().eval(), batch(6, padded=True)
        before = model(**rows).last_hidden_state
        changed = lora(target_modules=targets)(model)
        out = changed(**rows)
        assert relative_error(out.last_hidden_state, before) > 1e-4
        assert out.pooler_output is None or out.pooler_output.shape == (6, 16)
        assert relative_error(changed.merge_and_unload()(**rows).last_hidden_state, out.last_hidden_state) < 1e-9


@pytest.mark.parametrize("demux", list(DEMULTIPLEXERS))
def test_weights_on_disk(tmp_path, demux):
    for cls in (fastmux.TMuxForTokenClassification, fastmux.TMuxForMaskedLM, fastmux.TMuxForRetrieval):
        model, rows = (
            cls.from_backbone(BERT, 3, demultiplexer=demux, multiplexer_options={"learnable": True}).eval(),
            batch(6),
        )
        model.save_pretrained(tmp_path / "model")
        with torch.no_grad():
            expected = model(**rows)[-1]
            disk_offload(model, str(tmp_path / cls.__name__))
            assert all(p.device.type == "meta" for p in model.parameters())
            assert_agrees(model(**rows)[-1], expected)
            options = {"device_map": {"": "disk"}, "offload_folder": tmp_path / "offload"}
            assert_agrees(cls.from_pretrained(tmp_path / "model", **options)(**rows)[-1], expected)


@pytest.mark.parametrize("demux", ["index", "key", "rsa"])
@pytest.mark.parametrize("mux", list(MULTIPLEXERS))
def test_weights_on_disk_in_part(tmp_path, mux, demux):
    """In a map of devices, no module is apart from the tensors that it holds beside its layers."""
    rows = batch(6)
    model = fastmux.TMuxForMaskedLM.from_backbone(BERT, 3, multiplexer=mux, demultiplexer=demux).eval()
    for module in model.modules():
        own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        assert not own or not [*module.children()] or type(module).__name__ in model._no_split_modules
    room = {"cpu": model.get_memory_footprint() * 2 // 3, "disk": 2**40}
    devices = infer_auto_device_map(model, room, no_split_module_classes=model._no_split_modules)
    assert set(devices.values()) == {"cpu", "disk"}
    with torch.no_grad():
        expected = model(**rows).logits
        dispatch_model(model, devices, main_device="cpu", offload_dir=str(tmp_path))
        assert_agrees(model(**rows).logits, expected)


@pytest.fixture
def one_process():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("demux", list(DEMULTIPLEXERS))
def test_sharded_weights(one_process, demux):
    model, rows = model_with(demux).double(), labelled()
    expected, gradients = step(model, rows)
    mesh = dist.init_device_mesh("cpu", (1,))
    for module in (*read_past_forward(model, nn.Linear), model.tmux.demultiplexer, model):
        fully_shard(module, mesh=mesh)
    logits, sharded = step(model, rows)
    assert relative_error(logits, expected) < 1e-9
    assert_same({name: gradient.full_tensor() for name, gradient in sharded.items()}, gradients, 1e-9)


def test_a_module_that_accelerate_let_go_of_is_plain_again():
    from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module

    linear = nn.Linear(2, 2)
    add_hook_to_module(linear, ModelHook())
    assert not is_plain(linear, nn.Linear)
    remove_hook_from_module(linear)
    assert is_plain(linear, nn.Linear) and is_plain(copy.deepcopy(linear), nn.Linear) and is_plain(None, nn.Linear)


@pytest.mark.parametrize("multiplexer", ["orthogonal", "low_rank_orthogonal"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rotations_in_half_precision(multiplexer, dtype):
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        model = fastmux.TMux(BERT, 2, multiplexer=multiplexer)
    finally:
        torch.set_default_dtype(default)
    matrices = model.multiplexer.transforms
    assert matrices.dtype == dtype
    share = 1.0 if multiplexer == "orthogonal" else 0.5
    assert (matrices.float().square().sum((1, 2)) / 16 - share).abs().max() < 0.01
