"""How one may run a model: compiled, exported, traced, offloaded, wrapped, moved, copied, after what it did before.

Longer than other files: one table of things that meet every task.
"""

from __future__ import annotations

import copy
import itertools
import os
import warnings

import pytest
import torch
import torch.distributed as dist
from accelerate import cpu_offload, disk_offload, dispatch_model
from accelerate.hooks import remove_hook_from_submodules
from neighbours.harness import LENGTH, Subject, assert_alike, cases, main, same
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def step(s: Subject, model: nn.Module | None = None) -> torch.Tensor:
    """A step of training that moves every weight."""
    model = s.model if model is None else model
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    s.loss(model).backward()
    optimizer.step()
    model.zero_grad(set_to_none=True)
    return s.values(model)


def compiled(s: Subject):
    torch.compiler.reset()
    model = torch.compile(s.model, backend="eager")
    return same(s.values(model), s.values()), same(s.loss(model).detach(), s.loss().detach())


def exported(s: Subject):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(s.model, (), s.rows).module()
    return same(s.values(program), s.values())


def traced(s: Subject):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        s.model.config.return_dict = False
        given = (s.rows["input_ids"], s.rows["attention_mask"])
        program = torch.jit.trace(s.model, given, strict=False)
    with torch.no_grad():
        out = main(program(*given))
    return same(out, main(s.model(*given)).detach())


def offloaded(how):
    """Weights live elsewhere and come when their module runs."""

    def thing(s: Subject):
        before = s.values()
        how(s)
        alike = same(s.values(), before), same(s.values(), before)
        remove_hook_from_submodules(s.model)
        return alike

    return thing


def parts(model: nn.Module) -> dict[str, str]:
    """Some of the model on disk: every other of the smallest parts that a map of devices may name."""
    names: list[str] = []
    for name, module in model.named_modules():
        within = any(name.startswith(f"{whole}.") for whole in names)
        if not within and any(True for _ in (*module.parameters(recurse=False), *module.buffers(recurse=False))):
            names.append(name)
    return {name: "disk" if i % 2 else "cpu" for i, name in enumerate(names)}


def loaded_offloaded(s: Subject):
    folder = s.saved()
    model = s.loaded(folder, device_map={"": "disk"}, offload_folder=str(s.folder / "offload"))
    return same(s.values(model), s.values())


def checkpointed(**options):
    """Gradient checkpointing gives the gradients that it saves the memory of."""

    def thing(s: Subject):
        s.model = s.remade(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()

        def gradients():
            s.model.zero_grad()
            s.loss().backward()
            return torch.cat([p.grad.flatten() for p in s.model.parameters() if p.grad is not None])

        expected = gradients()
        s.model.gradient_checkpointing_enable(**options)
        enabled, ours = s.model.is_gradient_checkpointing, gradients()
        s.model.gradient_checkpointing_disable()
        alike = same(ours, expected), same(gradients(), expected)
        torch.manual_seed(0)  # training draws what retrieval is asked for
        s.model.zero_grad()
        return alike, enabled, s.model.is_gradient_checkpointing, s.model.eval().training

    return thing


def inputs_require_gradients(s: Subject):
    s.model.requires_grad_(False)
    s.model.enable_input_require_grads()
    loss = s.loss()
    s.model.disable_input_require_grads()
    return loss.requires_grad, s.loss().requires_grad, s.model.requires_grad_(True).training


def after_inference_mode(s: Subject):
    """Nothing that was made in inference mode is used in training."""
    with torch.inference_mode():
        before = main(s.model(**s.rows)).clone()
    alike = same(s.values(), before)
    s.loss(s.model.train()).backward()
    s.model.eval().zero_grad()
    return alike


def after_steps(s: Subject):
    """Weights that change between two passes are used as they are, however they changed."""
    seen = [s.values()]
    seen.append(step(s))
    with torch.no_grad():
        for p in s.model.parameters():
            p.mul_(1.5)
    seen.append(s.values())
    for p in s.model.parameters():
        p.data = p.data * 0.9
    seen.append(s.values())
    fresh = copy.deepcopy(s.model)
    return [same(a, b) for a, b in itertools.pairwise(seen)], same(s.values(fresh), seen[-1])


def moved(s: Subject):
    """To another dtype and back, after a pass: what is remembered moves along."""
    before = s.values()
    wide = s.values(s.model.double())
    s.model.float()
    return same(wide, before), same(s.values(), before), wide


def averaged(s: Subject):
    """An exponential average of the weights, buffers included."""
    ema = AveragedModel(s.model, multi_avg_fn=get_ema_multi_avg_fn(0.0), use_buffers=True)
    after = step(s)
    ema.update_parameters(s.model)
    ema.update_parameters(s.model)
    return same(s.values(ema.module.eval()), after), same(s.values(ema.eval()), after)


def functional(s: Subject):
    """The model as a function of its weights."""
    tensors = {**dict(s.model.named_parameters()), **dict(s.model.named_buffers())}
    half = {k: v * 0.5 if v.is_floating_point() else v for k, v in tensors.items()}
    out = main(torch.func.functional_call(s.model, half, kwargs=s.rows))
    copied = copy.deepcopy(s.model)
    copied.load_state_dict({k: half[k] for k in copied.state_dict() if k in half}, strict=False)
    return same(out.detach(), s.values(copied))


def functional_gradient(s: Subject):
    weights = {k: p.detach() for k, p in s.model.named_parameters()}

    def energy(weights):
        return main(torch.func.functional_call(s.model, weights, kwargs=s.rows)).float().square().mean()

    return len(torch.func.grad(energy)(weights)) == len(weights)


def in_parallel(s: Subject):
    """DistributedDataParallel with one process, twice, so that every parameter must have had its gradient."""
    before = s.values()

    def two_steps() -> bool:
        model = nn.parallel.DistributedDataParallel(s.model)
        alike = same(s.values(model), before)
        for _ in range(2):
            s.loss(model).backward()
        return alike

    os.environ.setdefault("MASTER_ADDR", "localhost")
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    try:
        # The wrapper is gone before the group is: where it is the last to hold the group, it takes it down with
        # Python's lock in hand, for which the group's own thread may wait.
        alike = two_steps()
    finally:
        dist.destroy_process_group()
    s.model.zero_grad()
    return alike


def sharded(s: Subject):
    """FSDP2 with one process: weights are DTensors between passes."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    before, loss_before = s.values(), s.loss().detach()
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    try:
        mesh = init_device_mesh("cpu", (1,))
        fully_shard(s.model, mesh=mesh)
        loss = s.loss()
        loss.backward()
        graded = [type(p.grad).__name__ for p in s.model.parameters() if p.grad is not None]
        return same(s.values(), before), same(loss.detach(), loss_before), sorted(set(graded))
    finally:
        dist.destroy_process_group()


def replicated(s: Subject):
    return same(s.values(nn.DataParallel(s.model)), s.values())


def other_attention(s: Subject):
    before = s.values()
    s.model.set_attn_implementation("eager")
    out = s.model(**s.rows, output_attentions=True)
    alike = same(main(out).detach(), before), len(out.attentions)
    s.model.set_attn_implementation("sdpa")
    return alike, same(s.values(), before)


def counted(s: Subject):
    """What tools ask of a model."""
    total = sum(p.numel() for p in s.model.parameters())
    return (
        s.model.num_parameters() == total,
        str(s.model.dtype),
        str(s.model.device),
        s.model.get_memory_footprint() > 4 * total,
        s.model.main_input_name,
        s.model.base_model is not None,
        type(s.model.dummy_inputs).__name__,
        s.model.can_generate(),
        sorted({"input_ids", "attention_mask", "token_type_ids"} & set(s.model.forward.__code__.co_varnames)) != [],
    )


def drawn_anew(s: Subject):
    """`init_weights` leaves weights alone that a checkpoint gave."""
    model = s.loaded(s.saved())
    before = s.values(model)
    model.init_weights()
    return same(s.values(model), before)


def shared_memory(s: Subject):
    before = s.values()
    return s.model.share_memory() is s.model, same(s.values(), before)


def in_inference_mode(s: Subject):
    with torch.inference_mode():
        return main(s.model(**s.rows)).is_inference(), s.model(**s.rows, **s.labels)


def twice_backward(s: Subject):
    """Gradients add up over two passes."""
    s.loss().backward()
    first = torch.cat([p.grad.flatten() for p in s.model.parameters() if p.grad is not None]).clone()
    s.loss().backward()
    second = torch.cat([p.grad.flatten() for p in s.model.parameters() if p.grad is not None])
    s.model.zero_grad()
    return same(second, 2 * first)


def trained_in_modes(s: Subject):
    """Parts in other modes stay in them, whatever runs."""
    s.model.train()
    s.model.get_input_embeddings().eval()
    s.model.base_model.eval()
    before = [m.training for m in s.model.modules()]
    s.loss().backward()
    torch.manual_seed(0)  # training draws what retrieval is asked for
    s.model.zero_grad()
    kept = before == [m.training for m in s.model.modules()]
    return kept, s.model.eval().training


def deterministic(s: Subject):
    """The same seed, the same dropout."""
    s.model.train()
    first, second, third = (s.loss(seed=seed).detach() for seed in (0, 0, 1))
    return torch.equal(first, second), torch.equal(first, third), s.model.eval().training


def deterministic_algorithms(s: Subject):
    torch.use_deterministic_algorithms(True)
    try:
        s.loss().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    s.model.zero_grad()


def anomalies(s: Subject):
    with warnings.catch_warnings(), torch.autograd.set_detect_anomaly(True):
        warnings.simplefilter("ignore")
        s.loss().backward()
    s.model.zero_grad()


def many_lengths(s: Subject):
    """Batches of every size and length one after another, as an evaluation has them."""
    return [
        tuple(main(s.model(**s.batch(rows, length))).shape) for rows, length in ((1, 1), (6, 9), (2, 3), (3, LENGTH))
    ]


THINGS = {
    "compile": compiled,
    "export": exported,
    "trace": traced,
    "offload to the CPU": offloaded(lambda s: cpu_offload(s.model, execution_device=torch.device("cpu"))),
    "offload to disk": offloaded(
        lambda s: disk_offload(s.model, str(s.folder / "offload"), execution_device=torch.device("cpu"))
    ),
    "dispatch": offloaded(
        lambda s: dispatch_model(s.model, parts(s.model), main_device="cpu", offload_dir=str(s.folder / "offload"))
    ),
    "load to disk": loaded_offloaded,
    "gradient checkpointing": checkpointed(),
    "reentrant checkpointing": checkpointed(gradient_checkpointing_kwargs={"use_reentrant": True}),
    "inputs that require gradients": inputs_require_gradients,
    "after inference mode": after_inference_mode,
    "after steps": after_steps,
    "after a move": moved,
    "moving average": averaged,
    "as a function": functional,
    "torch.func.grad": functional_gradient,
    "DistributedDataParallel": in_parallel,
    "fully_shard": sharded,
    "DataParallel": replicated,
    "set_attn_implementation": other_attention,
    "what tools ask": counted,
    "init_weights": drawn_anew,
    "shared memory": shared_memory,
    "inference mode": in_inference_mode,
    "two passes": twice_backward,
    "modes of parts": trained_in_modes,
    "the same seed": deterministic,
    "deterministic algorithms": deterministic_algorithms,
    "anomaly detection": anomalies,
    "many lengths": many_lengths,
}
# Of every task and demultiplexer elsewhere: tests/test_modeling.py, tests/test_ecosystem.py.
ONLY = {"compile": ("masked",), "export": ("masked",), "trace": ("sequence",)}
SLOW = set(ONLY)
EXPLAINED = {
    ("torch.func.grad",): (
        "raises",
        "PyTorch refuses function transforms of the fused ops' autograd Functions, by name",
    ),
}


@pytest.mark.parametrize(("thing", "task", "ends"), cases(THINGS, ONLY, SLOW))
def test_alike(thing, task, ends, tmp_path):
    assert_alike(THINGS[thing], task, ends, tmp_path, EXPLAINED, thing)
