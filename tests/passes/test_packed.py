"""Packed rows, which lie end to end, have the answers of padded ones: in float64 on a CPU, where a mask parts them."""

from __future__ import annotations

from functools import partial

import joined_models
import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification

import fastmux
from fastmux.embedding.config import DenseLayer, EmbeddingConfig, Normalize
from fastmux.embedding.model import EmbeddingModel
from fastmux.passes import sequences
from fastmux.passes.engine import Engine
from fastmux.passes.packed_model import packed_form
from fastmux.passes.packing import PackedRows
from fastmux.passes.runtimes import torch as torch_runtime
from fastmux.passes.runtimes.torch import TorchRuntime
from fastmux.passes.sequences import Sequences, attend, has_kernel
from fastmux.passes.tokens import Tokens
from fastmux.testing import assert_agrees

PAD, ROOM, VOCABULARY = 1, 40, 50
SEQUENCES, TAGGER = fastmux.TMuxForSequenceClassification, fastmux.TMuxForTokenClassification


def config(family="Bert", **options):
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
    if family == "Electra":
        sizes["embedding_size"] = 12
    # RoBERTa and its kin count positions from behind the padding token.
    room = ROOM + (PAD + 1 if "oberta" in family.lower() or family == "Camembert" else 0)
    options |= {"vocab_size": VOCABULARY, "max_position_embeddings": room, "pad_token_id": PAD, "num_labels": 3}
    return getattr(transformers, f"{family}Config")(type_vocab_size=2, **sizes, **options)


def tmux(made, num_instances, demultiplexer, family="Bert", **options):
    return made.from_backbone(config(family), num_instances, demultiplexer=demultiplexer, **options)


def joined(auto, num_instances, **options):
    return joined_models.joined(auto.from_config(config()), num_instances, **options)


def narrowed():
    model = joined(AutoModelForSequenceClassification, 1, joined_layers=[])
    fastmux.models.narrowing.resize_heads(model.model.base_model.encoder.layer, 1)
    return model


def embeds(encoder, pooling):
    steps = (DenseLayer(16, 8, activation="Tanh"), Normalize())
    model = EmbeddingModel(encoder(), EmbeddingConfig(pooling, steps=steps, include_prompt=False))
    # The last token of a row that is all prompt is, padded, that of the longest row beside it.
    model.prompt_length = 0 if pooling == "lasttoken" else 2
    return model


#: What makes each kind of model, by name.
KINDS = {}
for family in ("Bert", "Roberta", "Electra", "Camembert", "XLMRoberta"):
    for kind, auto in {"rows": AutoModelForSequenceClassification, "tokens": AutoModelForTokenClassification}.items():
        KINDS[f"{family}, {kind}"] = partial(auto.from_config, config(family))
KINDS["Bert"] = partial(AutoModel.from_config, config())
for count in (1, 2, 5):
    for demultiplexer in ("index", "key", "unbind"):
        for made in (SEQUENCES, TAGGER):
            KINDS[f"{made.__name__}, {demultiplexer}, {count}"] = partial(
                tmux, made, count, demultiplexer, num_labels=3
            )
for demultiplexer in ("index", "rsa"):
    KINDS[f"mean, {demultiplexer}"] = partial(tmux, SEQUENCES, 3, demultiplexer, sequence_summary="mean", num_labels=3)
    KINDS[f"states, {demultiplexer}"] = partial(tmux, fastmux.TMux, 2, demultiplexer)
    KINDS[f"Roberta, {demultiplexer}"] = partial(tmux, TAGGER, 3, demultiplexer, "Roberta", num_labels=3)
    KINDS[f"Electra, {demultiplexer}"] = partial(tmux, SEQUENCES, 3, demultiplexer, "Electra", num_labels=3)
for multiplexer in ("orthogonal", "walsh_hadamard"):
    KINDS[multiplexer] = partial(tmux, TAGGER, 2, "mlp", multiplexer=multiplexer, num_labels=3)
KINDS["conventions"] = partial(
    tmux, TAGGER, 3, "index", conventions={"first_token_id": 7, "ignore_token_types": True}, num_labels=3
)
for join in ("rows", "positions", "pooled", "feed_forward"):
    KINDS[f"joined {join}, rows"] = partial(joined, AutoModelForSequenceClassification, 3, join=join)
    KINDS[f"joined {join}, states"] = partial(joined, AutoModel, 2, join=join)
    if join != "pooled":
        KINDS[f"joined {join}, tokens"] = partial(joined, AutoModelForTokenClassification, 2, join=join)
KINDS["cut"] = partial(joined, AutoModelForSequenceClassification, 1, last_layers=2, first_layers=2)
KINDS["cut, tokens"] = partial(joined, AutoModelForTokenClassification, 1)
KINDS["narrowed"] = narrowed
for pooling in ("mean", "cls", "lasttoken"):
    KINDS[f"embeds, {pooling}"] = partial(embeds, KINDS["Bert"], pooling)
KINDS["embeds, T-MUX"] = partial(embeds, KINDS["states, index"], "mean")
KINDS["embeds, joined rows"] = partial(embeds, KINDS["joined rows, states"], "mean")


def made_of(kind):
    torch.manual_seed(0)
    model = KINDS[kind]().double().eval()
    with torch.no_grad():  # so that every position and every bias counts
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model


def rows_of(lengths, draw):
    ids = [draw.integers(PAD + 1, VOCABULARY, length).tolist() for length in lengths]
    return Tokens.of_rows(ids, [[int(place > length // 2) for place in range(length)] for length in lengths])


def runtimes(model):
    takes_types = "oberta" not in type(model).__name__
    return (TorchRuntime(model, PAD, takes_types=takes_types, packed=packed) for packed in (False, True))


#: Rows of drawn lengths, and of lengths that fill the room that there is.
DRAWN, FULL = np.random.default_rng(1).integers(1, 30, 17), np.array([ROOM, 3, 1, ROOM, 2])


@pytest.mark.parametrize("kind", KINDS)
def test_packed_rows_have_the_answers_of_padded_ones(kind):
    padded, packed = runtimes(made_of(kind))
    assert packed.layout.packed and not padded.layout.packed
    draw = np.random.default_rng(0)
    for lengths in (DRAWN, FULL):
        tokens = rows_of(lengths, draw)
        for copies in {1, padded.num_instances}:
            engine = Engine(packed, 70, copies)
            plan = engine.plan(tokens.lengths)
            expected = Engine(padded, 70, copies).run(tokens, plan).logits
            assert_agrees(engine.run(tokens, plan).logits, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_groups_of_one_length_and_one_group(kind):
    padded, packed = runtimes(made_of(kind))
    draw, n = np.random.default_rng(0), padded.num_instances
    for groups, length in ((3, 9), (1, 6), (1, 1)):
        tokens, rows = rows_of([length] * groups * n, draw), np.arange(groups * n)
        expected = padded.start(tokens.padded(rows, length, PAD))()
        found = packed.start_packed(PackedRows.of(tokens, rows.reshape(groups, n), PAD))()
        if packed.per_token:
            found = found.reshape(n, groups, length, -1).swapaxes(0, 1).reshape(expected.shape)
        assert_agrees(found, expected)


@pytest.mark.parametrize("kind", ["mean, index", "TMuxForTokenClassification, index, 5", "joined rows, rows", "Bert"])
def test_packed_rows_of_any_order(kind):
    padded, packed = (Engine(runtime, 1000) for runtime in runtimes(made_of(kind)))
    tokens = rows_of([3, 12, 7, 7, 30, 1, 2], np.random.default_rng(0))
    # Groups of lengths that neither rise nor fall, and of rows that take several slots.
    slots = np.array([2, 3, 2, 6, 0, 5, 4, 1, 1, 4, 5, 6, 3, 0, 2]).reshape(-1, padded.layout.rows)
    expected, _ = padded.one_pass(tokens, slots)
    assert_agrees(packed.one_pass(tokens, slots)[0], expected)


def by_sequence(query, key, value, ends, key_ends, longest, longest_key):
    """What `varlen_attn` computes."""
    assert ends.dtype == key_ends.dtype == torch.int32
    out = torch.full_like(query, float("nan"))
    for at, last, begin, end in zip(ends, ends[1:], key_ends, key_ends[1:], strict=False):
        assert last - at <= longest and end - begin <= longest_key
        heads = (t.transpose(0, 1) for t in (query[at:last], key[begin:end], value[begin:end]))
        out[at:last] = torch.nn.functional.scaled_dot_product_attention(*heads).transpose(0, 1)
    sizes = [int((t[1:] - t[:-1]).max()) for t in (ends, key_ends)]
    assert sizes == [longest, longest_key] and len(ends) == len(key_ends)
    return out


@pytest.mark.parametrize(
    "kind", ["Bert, rows", "TMuxForSequenceClassification, index, 5", "joined pooled, rows", "joined rows, rows"]
)
def test_the_kernel_is_given_the_ends_of_sequences_and_the_longest(kind, monkeypatch):
    _, packed = runtimes(made_of(kind))
    tokens = rows_of(DRAWN, np.random.default_rng(0))
    expected = Engine(packed, 200).run(tokens).logits
    monkeypatch.setattr(sequences, "needs_mask", lambda query: False)
    monkeypatch.setattr(sequences, "varlen_attn", by_sequence)
    assert_agrees(Engine(packed, 200).run(tokens).logits, expected)


def test_attention_stays_within_sequences():
    torch.manual_seed(0)
    query, key, value = (torch.randn(7, 2, 4, dtype=torch.float64) for _ in range(3))
    two = Sequences(torch.tensor([0, 3, 7], dtype=torch.int32), 4)
    assert_agrees(attend(query, key, value, two, two), by_sequence(query, key, value, two.ends, two.ends, 4, 4))


def changed(kind, **options):
    model = made_of(kind)
    for name, value in options.items():
        setattr(model.config, name, value)
    return model


def hooked():
    model = made_of("Bert, rows")
    model.bert.encoder.layer[1].attention.self.register_forward_hook(lambda module, given, output: None)
    return model


def compiled():
    model = made_of("Bert, rows")
    model.compile()
    return model


#: Models that run padded rows alone: those of which a part may not be run by itself, or reads other positions.
PADDED = {
    "another attention": lambda: changed("Bert, rows", _attn_implementation="eager"),
    "states asked for": lambda: changed("Bert", output_hidden_states=True),
    "a hook": hooked,
    "compiled": compiled,
    "another family": lambda: AutoModelForSequenceClassification.from_config(
        transformers.DistilBertConfig(vocab_size=VOCABULARY, dim=16, n_heads=2, n_layers=1, hidden_dim=24)
    ),
    "a multiplexer over positions": partial(tmux, SEQUENCES, 2, "unbind", multiplexer="attention"),
    "padding that is attended to": partial(tmux, SEQUENCES, 2, "unbind", conventions={"attend_padding": True}),
    "a module of one's own": lambda: fastmux.TMux(
        fastmux.ModuleEncoder(torch.nn.Identity(), torch.nn.Embedding(VOCABULARY, 16)), 2
    ),
}


@pytest.mark.parametrize("why", PADDED)
def test_other_models_run_padded(why):
    model = PADDED[why]()
    assert packed_form(model) is None
    assert not TorchRuntime(model, PAD, packed=True).layout.packed


def test_a_cpu_packs_only_if_told_so():
    assert not TorchRuntime(made_of("Bert, rows"), PAD).layout.packed


def test_which_gpus_pack(monkeypatch):
    capability = [8, 0]
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: tuple(capability))
    gpu, half = torch.device("cuda"), torch.bfloat16
    assert has_kernel(gpu, half, 64) and has_kernel(gpu, torch.float16, 256)
    assert not has_kernel(gpu, torch.float32, 64) and not has_kernel(torch.device("cpu"), half, 64)
    assert not has_kernel(gpu, half, 12) and not has_kernel(gpu, half, 264)
    capability[0] = 7
    assert not has_kernel(gpu, half, 64)


def test_there_is_one_copy_each_way(monkeypatch):
    _, packed = runtimes(made_of("TMuxForTokenClassification, index, 2"))
    copied, moved = [], torch_runtime._moved
    monkeypatch.setattr(torch_runtime, "_moved", lambda array, device: copied.append(array) or moved(array, device))
    tokens = rows_of(DRAWN, np.random.default_rng(0))
    packed.start_packed(PackedRows.of(tokens, np.arange(16).reshape(8, 2), PAD))
    assert len(copied) == 1 and copied[0].dtype == np.int32
