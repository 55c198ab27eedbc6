"""What one may put in the place of a layer, or around it: adapters, hooks, pruning, quantisation, parametrisations.

A fused op reads the weights of layers past their `forward`. What changes a layer must change what comes out as
it does in the plain model, and be trained as it is there.

Longer than other files: one table of things that meet every task.
"""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from neighbours.harness import VOCAB, Subject, assert_alike, cases, same
from peft import IA3Config, LoraConfig, PromptTuningConfig, get_peft_model
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

LEAVES = (nn.Linear, nn.Embedding, nn.LayerNorm)


def leaves(s: Subject, *kinds: type) -> dict[str, nn.Module]:
    """The layers that the task uses, by name, but for a decoder whose weight is the words' and belongs to them."""
    words = s.model.get_input_embeddings()
    found = {name: m for name, m in s.model.named_modules() if isinstance(m, kinds or LEAVES) and s.used(name)}
    return {name: m for name, m in found.items() if m is words or m.weight is not words.weight}


def lora(targets, **options):
    """Train an adapter, merge it, take it off: gradients, effect, and the same logits before and after merging."""

    def thing(s: Subject):
        plain = s.values()
        config = LoraConfig(r=2, target_modules=targets, init_lora_weights=False, **options)
        peft = get_peft_model(s.model, config).eval()
        before = s.values(peft)
        lacking = s.lacking_gradients(peft)
        with torch.no_grad():
            for name, p in peft.named_parameters():
                if "lora_B" in name or "lora_embedding_B" in name:
                    p.add_(torch.randn_like(p))
        after = s.values(peft)
        with peft.disable_adapter():
            disabled = s.values(peft)
        merged = peft.merge_and_unload().eval()
        return {
            "lacking gradients": lacking,
            "effect": not same(before, plain),
            "adapter has effect": not same(after, before),
            "disabled is plain": same(disabled, plain),
            "merged is adapted": same(s.values(merged), after, 1e-3),
            "output": before,
        }

    return thing


def each_adapter_counts(s: Subject):
    """Every single adapter that "all-linear" puts in place changes what comes out."""
    peft = get_peft_model(s.model, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)).eval()
    without = []
    before = s.loss(peft).detach()
    for name, p in peft.named_parameters():
        if "lora_B" in name and s.used(name):
            with torch.no_grad():
                kept = p.clone()
                p.copy_(torch.randn_like(p))
                if torch.equal(s.loss(peft).detach(), before):
                    without.append(name)
                p.copy_(kept)
    return without


def trainable_tokens(s: Subject):
    plain = s.values()
    config = LoraConfig(r=2, target_modules=["query"], trainable_token_indices={"word_embeddings": [7, 9, 11]})
    peft = get_peft_model(s.model, config).eval()
    alike = same(s.values(peft), plain)
    lacking = [n for n in s.lacking_gradients(peft) if "token" in n]
    with torch.no_grad():
        for name, p in peft.named_parameters():
            if "trainable_tokens_delta" in name:
                p.add_(1.0)
    after = s.values(peft)
    merged = peft.merge_and_unload().eval()
    return alike, lacking, same(after, plain), same(s.values(merged), after)


def heads_to_save(s: Subject):
    head = {"sequence": "classifier", "token": "classifier"}[s.task]
    peft = get_peft_model(s.model, LoraConfig(r=2, target_modules=["query"], modules_to_save=[head])).eval()
    lacking = [n for n in s.lacking_gradients(peft) if "lora" not in n]
    before = s.values(peft)
    with torch.no_grad():
        for name, p in peft.named_parameters():
            if "modules_to_save" in name:
                p.add_(torch.rand_like(p))
    after = s.values(peft)
    return lacking, same(before, after), same(s.values(peft.merge_and_unload().eval()), after)


def ia3(s: Subject):
    config = IA3Config(target_modules=["query", "dense"], feedforward_modules=["dense"], init_ia3_weights=False)
    peft = get_peft_model(s.model, config).eval()
    lacking, values = s.lacking_gradients(peft), s.values(peft)
    return lacking, same(s.values(peft.merge_and_unload().eval()), values, 1e-3)


def prompt_tuning(s: Subject):
    kinds = {"sequence": "SEQ_CLS", "token": "TOKEN_CLS"}
    # PEFT looks for the width in the dict of a configuration, where ours has it inside the encoder's.
    config = PromptTuningConfig(task_type=kinds[s.task], num_virtual_tokens=3, token_dim=16, num_attention_heads=2)
    peft = get_peft_model(s.model, config).eval()
    return peft(**s.rows).logits, peft.num_parameters() > 0


def hugging_face_adapter(s: Subject):
    """transformers' own integration: `add_adapter`, saving what was trained, loading it."""
    plain = s.values()
    s.model.add_adapter(LoraConfig(r=2, target_modules=["query", "value"], init_lora_weights=False))
    s.model.eval()
    adapted = s.values()
    folder = s.saved()
    files = sorted(f.name for f in folder.iterdir() if f.name.startswith("adapter") or f.name.startswith("model"))
    s.model.disable_adapters()
    disabled = s.values()
    s.model.enable_adapters()
    fresh = Subject(s.task, s.ends, s.folder)
    fresh.model.load_adapter(str(folder))
    return same(plain, adapted), same(disabled, plain), files, same(fresh.values(), adapted)


def watched(register: str, backward: bool = False):
    """Watch one layer at a time: which hooks do not run, of those that stand in the way of this task's output?"""

    def thing(s: Subject):
        silent = []
        for name, module in leaves(s).items():
            seen = []
            handle = getattr(module, register)(lambda *_, seen=seen: seen.append(1))
            loss = s.loss()
            if backward:
                loss.backward()
            handle.remove()
            if not seen:
                silent.append(name)
        s.model.zero_grad()
        return silent

    return thing


def replaced_output(s: Subject):
    """A hook that replaces what one layer gives: the loss follows, whichever layer it is."""
    before, unchanged = s.loss().detach(), []
    for name, module in leaves(s).items():
        handle = module.register_forward_hook(lambda m, args, out: out * 0.5 + 0.3)
        if torch.equal(s.loss().detach(), before):
            unchanged.append(name)
        handle.remove()
    return unchanged, torch.equal(s.loss().detach(), before)


def replaced_input(s: Subject):
    before, unchanged = s.loss().detach(), []
    for name, module in leaves(s, nn.Linear).items():
        handle = module.register_forward_pre_hook(lambda m, args: (args[0] * 0.5, *args[1:]))
        if torch.equal(s.loss().detach(), before):
            unchanged.append(name)
        handle.remove()
    return unchanged


def global_hook(s: Subject):
    seen = set()
    handle = nn.modules.module.register_module_forward_hook(lambda m, args, out: seen.add(m))
    s.loss()
    handle.remove()
    return [name for name, m in leaves(s).items() if m not in seen]


class Louder(nn.Linear):
    def forward(self, x):
        return 2.0 * super().forward(x) + 0.1


class OtherTable(nn.Embedding):
    def forward(self, ids):
        return super().forward(ids) * 0.5


class OtherNorm(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x) * 0.5


def of_another_class(s: Subject):
    """Subclasses of layers, one at a time."""
    before, unchanged = s.loss().detach(), []
    others = {nn.Linear: Louder, nn.Embedding: OtherTable, nn.LayerNorm: OtherNorm}
    for name, module in leaves(s).items():
        kind = type(module)
        if kind not in others:
            continue
        module.__class__ = others[kind]
        if torch.equal(s.loss().detach(), before):
            unchanged.append(name)
        module.__class__ = kind
    return unchanged


def of_another_forward(s: Subject):
    """What Accelerate does: the instance gets a `forward` of its own."""
    before, unchanged = s.loss().detach(), []
    for name, module in leaves(s).items():
        module.forward = lambda *args, kept=module.forward: kept(*args) * 0.5 + 0.3
        if torch.equal(s.loss().detach(), before):
            unchanged.append(name)
        del module.forward
    return unchanged


class Wrapped(nn.Module):
    """A layer inside a module that has none of its attributes."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, *args):
        return self.inner(*args) * 0.5 + 0.3


def wrapped(s: Subject):
    before, unchanged = s.loss().detach(), []
    for name, module in leaves(s).items():
        s.model.set_submodule(name, Wrapped(module))
        if torch.equal(s.loss().detach(), before):
            unchanged.append(name)
        s.model.set_submodule(name, module)
    return unchanged


def pruned(s: Subject):
    before, unchanged, lacking = s.loss().detach(), [], []
    for name, module in leaves(s, nn.Linear).items():
        prune.random_unstructured(module, "weight", 0.9)
        if torch.equal(s.loss().detach(), before):
            unchanged.append(name)
        lacking += [n for n in s.lacking_gradients() if n == f"{name}.weight_orig"]
        prune.remove(module, "weight")
        before = s.loss().detach()
    return unchanged, lacking, s.model.zero_grad()


class Half(nn.Module):
    def forward(self, w):
        return w * 0.5


def parametrised(s: Subject):
    before, unchanged, lacking = s.loss().detach(), [], []
    for name, module in leaves(s).items():
        parametrize.register_parametrization(module, "weight", Half())
        if torch.equal(s.loss().detach(), before):
            unchanged.append(name)
        lacking += [n for n in s.lacking_gradients() if n == f"{name}.parametrizations.weight.original"]
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
    return unchanged, lacking, s.model.zero_grad()


def weight_norm(s: Subject):
    before = s.values()
    for module in leaves(s, nn.Linear).values():
        parametrizations.weight_norm(module)
    return same(s.values(), before), [n for n in s.lacking_gradients() if "parametrizations" in n], s.model.zero_grad()


class Marked(torch.Tensor):
    """A weight of another tensor class, as quantisation and sharding put in place: as a matrix it is twice itself."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is nn.functional.linear:
            x, w, *b = args
            return nn.functional.linear(x, 2.0 * w.as_subclass(torch.Tensor), *b, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs or {})


def weights_of_another_class(s: Subject):
    before, unchanged = s.loss().detach(), []
    for name, module in leaves(s, nn.Linear).items():
        kept = module.weight
        module.weight = nn.Parameter(kept.detach().as_subclass(Marked), requires_grad=False)
        if torch.equal(s.loss().detach(), before):
            unchanged.append(name)
        module.weight = kept
    return unchanged


def quantised(s: Subject):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(s.model), {nn.Linear})
    return s.values(quantised), same(s.values(quantised), s.values(), 0.3)


def no_dropout(s: Subject):
    before = s.values()
    for module in s.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    alike = same(s.values(s.model.train()), before)
    return alike, s.model.eval().training


def resized(*sizes: int):
    """Other vocabularies: the old tokens keep their meaning, new ones can be given, all is saved and loaded."""

    def thing(s: Subject):
        before = s.values()
        for size in sizes:
            s.model.resize_token_embeddings(size, mean_resizing=False)
        out = s.values()
        new = s.batch(4)
        new["input_ids"][0, 0] = sizes[-1] - 1
        s.model(**new)
        loaded = s.loaded(s.saved()).eval()
        alike = same(out[..., : before.shape[-1]], before[..., : out.shape[-1]])
        return (
            alike,
            out,
            s.model.config.vocab_size,
            same(s.values(loaded), out),
            s.lacking_gradients() == [],
            s.model.zero_grad(),
        )

    return thing


def embeddings_replaced(s: Subject):
    table = nn.Embedding(VOCAB + 4, 16)
    before = s.values()
    s.model.set_input_embeddings(table)
    return s.model.get_input_embeddings() is table, same(s.values(), before)


def frozen(*parts: str):
    """Freeze what a name begins with; a step reaches what is left, and leaves the flags alone."""

    def thing(s: Subject):
        for name, p in s.model.named_parameters():
            p.requires_grad_(not any(part in name for part in parts))
        flags = [p.requires_grad for p in s.model.parameters()]
        lacking = s.lacking_gradients(s.model.train())
        s.model.eval().zero_grad()
        return lacking, flags == [p.requires_grad for p in s.model.parameters()], s.model.requires_grad_(True).training

    return thing


def frozen_encoder(s: Subject):
    for p in s.model.base_model.parameters():
        p.requires_grad_(False)
    lacking = s.lacking_gradients(s.model.train())
    s.model.eval().zero_grad()
    return lacking, s.model.requires_grad_(True).training


THINGS = {
    "LoRA on attention": lora(["query", "value"]),
    "LoRA on everything": lora("all-linear"),
    "LoRA on dense": lora(["dense"]),
    "LoRA on the words": lora(["word_embeddings"]),
    "LoRA on positions": lora(["position_embeddings"]),
    "LoRA with its magnitude": lora(["query", "dense"], use_dora=True),
    "LoRA with biases": lora(["query", "dense"], bias="lora_only"),
    "every adapter": each_adapter_counts,
    "trainable tokens": trainable_tokens,
    "heads to save": heads_to_save,
    "IA3": ia3,
    "prompt tuning": prompt_tuning,
    "add_adapter": hugging_face_adapter,
    "forward hooks": watched("register_forward_hook"),
    "forward pre-hooks": watched("register_forward_pre_hook"),
    "backward hooks": watched("register_full_backward_hook", backward=True),
    "backward pre-hooks": watched("register_full_backward_pre_hook", backward=True),
    "hooks on all modules": global_hook,
    "hooks that replace the output": replaced_output,
    "hooks that replace the input": replaced_input,
    "subclasses": of_another_class,
    "another forward": of_another_forward,
    "wrapped": wrapped,
    "pruned": pruned,
    "parametrised": parametrised,
    "weight norm": weight_norm,
    "tensors of another class": weights_of_another_class,
    "dynamic quantisation": quantised,
    "no dropout": no_dropout,
    "a larger vocabulary": resized(VOCAB + 9),
    "a smaller vocabulary": resized(VOCAB + 9, VOCAB + 1),
    "other embeddings": embeddings_replaced,
    "frozen embeddings": frozen("embeddings"),
    "frozen biases": frozen("bias"),
    "frozen attention": frozen("attention"),
    "frozen encoder": frozen_encoder,
}
LABELLED = ("sequence", "token")
ONLY = {
    "heads to save": LABELLED,
    "prompt tuning": LABELLED,
    "frozen encoder": ("sequence", "token", "masked"),
    "other embeddings": ("encoder", "sequence", "token"),
}


@pytest.mark.parametrize(("thing", "task", "ends"), cases(THINGS, ONLY))
def test_alike(thing, task, ends, tmp_path):
    assert_alike(THINGS[thing], task, ends, tmp_path, name=thing)
