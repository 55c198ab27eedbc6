"""`TMux` as a drop-in: what it computes, for any encoder, batch size and padding.

Longer than other files: one subject, over every encoder and demultiplexer.
"""

from __future__ import annotations

import copy

import pytest
import torch
from models import BERT, FAMILIES, PAD, VOCAB, batch
from thoroughness import ALL
from transformers import AutoModel, AutoModelForSequenceClassification, BertModel, ElectraConfig, GPT2Config, T5Config

import fastmux
from fastmux import reference
from fastmux.models.encoders import embeddings_of
from fastmux.modules import DEMULTIPLEXERS, MULTIPLEXERS
from fastmux.testing import assert_agrees, relative_error

COMBINATIONS = [(mux, demux) for mux in MULTIPLEXERS for demux in DEMULTIPLEXERS]


def tmux(config=BERT, num_instances=3, **options) -> fastmux.TMux:
    return fastmux.TMux(config, num_instances, **options).eval().double()


def specification(model: fastmux.TMux, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """What the papers compute, instance by instance and without any identity: whole prefixes embedded, groups
    expanded, pairs concatenated. Rows must fill whole groups."""
    encoder, n = model.backbone, model.num_instances
    groups, length = input_ids.shape[0] // n, input_ids.shape[1]
    prefix_length = model.config.prefix_length
    tables = encoder.embeddings
    words = encoder.get_input_embeddings()(input_ids)
    position_table = getattr(tables, "position_embeddings", None)
    counts_from_pad = position_table is not None and position_table.padding_idx is not None
    first = PAD + 1 if counts_from_pad else 0
    positions = torch.arange(prefix_length + length).expand(len(words), -1) + first
    if prefix_length:
        tokens = model.prefix_tokens.weight
        rows = reference.index_prefix(lambda w: w, tokens[:n], tokens[n], tokens[n + 1])
        words = torch.cat([rows.repeat(groups, 1, 1), words], dim=1)
    if counts_from_pad:
        pads = torch.cat([torch.zeros(len(words), prefix_length, dtype=torch.bool), input_ids == PAD], dim=1)
        positions = positions.masked_fill(pads, PAD)
    if position_table is not None:
        positions = positions.clamp(max=position_table.num_embeddings - 1)
    x = words if position_table is None else words + position_table(positions)
    if getattr(tables, "token_type_embeddings", None) is not None:
        x = x + tables.token_type_embeddings.weight[0]
    norm = tables.norm if hasattr(tables, "norm") else tables.LayerNorm
    x = norm(x).unflatten(0, (groups, n))
    whole = attention_mask.unflatten(0, (groups, n))
    mask = torch.cat([torch.ones(groups, prefix_length), whole.amax(1)], dim=1)
    joined = multiplexed(model, x, whole)
    options = {}
    if position_table is not None:  # the encoder's embedding module runs on what was joined, too
        own = torch.arange(joined.shape[1])[None] + first
        options["position_ids"] = own.clamp(max=position_table.num_embeddings - 1)
    h = encoder(inputs_embeds=joined, attention_mask=mask, **options).last_hidden_state
    return demultiplexed(model, h[:, prefix_length:], h[:, :n]).flatten(0, 1)


def multiplexed(model: fastmux.TMux, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """x (G, N, prefix + L, d), mask (G, N, L) -> (G, prefix + L, d)."""
    multiplexer, kind = model.multiplexer, model.config.multiplexer
    transforms = multiplexer.transforms
    if kind == "attention":
        mask = torch.nn.functional.pad(mask, (model.config.prefix_length, 0), value=1)

        def run(layer, x, mask):
            return layer(x, mask != 0)

        return reference.attention_mux(
            x,
            transforms,
            lambda rows, i: run(multiplexer.over_positions, rows, mask[:, i]),
            lambda column, l: run(multiplexer.over_instances, column, mask[:, :, l]),
        )
    if kind in ("hadamard", "binary", "identity"):
        return reference.hadamard_mux(x, transforms)
    if kind in ("orthogonal", "low_rank_orthogonal", "walsh_hadamard"):
        return reference.orthogonal_mux(x, transforms)
    pytest.fail(f"there is no formula here that multiplexer {kind!r} could be held to: add it")


def demultiplexed(model: fastmux.TMux, content: torch.Tensor, prefix_states: torch.Tensor) -> torch.Tensor:
    """content (G, L, d), prefix_states (G, N, d) -> (G, N, L, d)."""
    demux, kind = model.demultiplexer, model.config.demultiplexer
    if kind == "mlp":
        return reference.mlp_demux(content, demux.weight, demux.bias, demux.ln_weight, demux.ln_bias, demux.eps)
    ln = (demux.layer_norm.weight, demux.layer_norm.bias, demux.layer_norm.eps)
    if kind == "rsa":
        layers = [(layer.weight, layer.bias) for layer in demux.layers[:-1]]
        output = (demux.output.weight, demux.output.bias)
        return reference.rsa_demux(content, demux.instance_keys, layers, output, ln)
    dense = (demux.dense.weight, demux.dense.bias)
    if kind == "index":
        return reference.index_demux(content, prefix_states, *dense, *ln)
    if kind == "key":
        return reference.key_demux(content, demux.instance_keys, *dense, *ln)
    if kind == "unbind":
        return reference.unbind_demux(content, model.multiplexer.transforms, *dense, *ln)
    pytest.fail(f"there is no formula here that demultiplexer {kind!r} could be held to: add it")


@pytest.mark.parametrize(("mux", "demux"), COMBINATIONS)
def test_computes_what_the_papers_write(backend, mux, demux):
    model = tmux(multiplexer=mux, demultiplexer=demux)
    rows = batch(6, padded=True)
    with torch.no_grad():
        assert relative_error(model(**rows).last_hidden_state, specification(model, **rows)) < 1e-10


@pytest.mark.parametrize("family", list(FAMILIES))
def test_every_family(family):
    model = tmux(FAMILIES[family])
    rows = batch(6, padded=True)
    with torch.no_grad():
        assert relative_error(model(**rows).last_hidden_state, specification(model, **rows)) < 1e-10


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("padded", [False, True])
def test_rows_as_long_as_the_encoder_takes(family, padded):
    """Behind an index prefix the last tokens share the last position: a pipeline's ``truncation=True`` leaves them."""
    model = tmux(FAMILIES[family], demultiplexer="index")
    rows = batch(3, length=embeddings_of(model.backbone).max_length, padded=padded)
    rows["attention_mask"][0] = 1
    with torch.no_grad():
        assert relative_error(model(**rows).last_hidden_state, specification(model, **rows)) < 1e-10


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 4, 7])
@pytest.mark.parametrize("demux", ["index", "unbind"])
def test_any_batch_size(rows, demux):
    """Same shapes and order of rows as the encoder; a short last group is filled with rows from the start."""
    model = tmux(demultiplexer=demux)
    encoder = BertModel(BERT).eval().double()
    whole = batch(7)
    part = {k: t[:rows] for k, t in whole.items()}
    with torch.no_grad():
        ours = model(**part)
        if rows:
            plain = encoder(**part)
            assert ours.last_hidden_state.shape == plain.last_hidden_state.shape
            assert ours.pooler_output.shape == plain.pooler_output.shape
        else:
            assert ours.last_hidden_state.shape == (0, 7, 16)
        if rows % 3:
            filled = {k: torch.cat([t, t.repeat(3, 1)])[: -(-rows // 3) * 3] for k, t in part.items()}
            assert relative_error(ours.last_hidden_state, model(**filled).last_hidden_state[:rows]) < 1e-12


def test_groups_do_not_see_each_other():
    model, rows = tmux(), batch(9)["input_ids"]
    changed = rows.clone()
    changed[4] = torch.randint(5, VOCAB, (7,))
    with torch.no_grad():
        before, after = model(rows).last_hidden_state, model(changed).last_hidden_state
    same = [relative_error(after[i], before[i]) < 1e-12 for i in range(9)]
    assert same == [True] * 3 + [False] * 3 + [True] * 3  # the whole group of row 4, and no other


def test_positions_that_are_padding_in_every_row_are_masked():
    model, rows = tmux(), batch(3, length=5)
    pads = {"input_ids": torch.full((3, 4), PAD), "attention_mask": torch.zeros(3, 4, dtype=torch.long)}
    longer = {k: torch.cat([t, pads[k]], dim=1) for k, t in rows.items()}
    with torch.no_grad():
        short, long = model(**rows).last_hidden_state, model(**longer).last_hidden_state
    assert relative_error(long[:, :5], short) < 1e-10


def test_inputs_are_never_modified():
    model, rows = fastmux.TMux(BERT, 3), batch(4, padded=True)
    rows["token_type_ids"] = torch.randint(0, 2, (4, 7))
    before = copy.deepcopy(rows)
    model(**rows)
    assert all(torch.equal(rows[k], before[k]) for k in rows)


def test_arguments_of_the_encoder():
    # Other implementations of attention do not return their probabilities.
    model, rows = tmux(BertModel._from_config(copy.deepcopy(BERT), attn_implementation="eager")), batch(3)
    ids = rows["input_ids"]
    with torch.no_grad():
        out = model(**rows, output_hidden_states=True, output_attentions=True)
        assert len(out.hidden_states) == 3 and len(out.attentions) == 2
        as_tuple = model(**rows, return_dict=False)
        assert isinstance(as_tuple, tuple) and torch.equal(as_tuple[0], out.last_hidden_state)
        explicit = model(ids, token_type_ids=torch.zeros_like(ids), position_ids=torch.arange(7)[None])
        assert relative_error(explicit.last_hidden_state, out.last_hidden_state) < 1e-12
        types = model(ids, token_type_ids=torch.ones_like(ids)).last_hidden_state
        assert relative_error(types, out.last_hidden_state) > 1e-3
        words = model.get_input_embeddings()(ids)
        assert relative_error(model(inputs_embeds=words).last_hidden_state, out.last_hidden_state) < 1e-12


def test_one_instance_is_allowed():
    assert fastmux.TMux(BERT, 1)(**batch(2)).last_hidden_state.shape == (2, 7, 16)


def test_the_prefix_is_embedded_once_not_once_a_group(monkeypatch):
    from fastmux.modules.embeddings import EmbeddingAdapter

    embedded = []
    original = EmbeddingAdapter.embed

    def counting(self, words, *rest):
        embedded.append(words.shape[:-1].numel())
        return original(self, words, *rest)

    monkeypatch.setattr(EmbeddingAdapter, "embed", counting)
    fastmux.TMux(BERT, 5, demultiplexer="index").eval()(**batch(20))
    assert embedded == [2 * 5 + 1]


def test_training_and_evaluation_agree_without_dropout():
    """The fused embedding of training, dropout at 0, is the one of evaluation; with hooks on a table it steps aside."""
    config = copy.deepcopy(BERT)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    model, rows = fastmux.TMux(config, 3).double(), batch(6)
    expected = model.eval()(**rows).last_hidden_state
    assert relative_error(model.train()(**rows).last_hidden_state.detach(), expected.detach()) < 1e-12
    calls = []
    model.get_input_embeddings().register_forward_hook(lambda *_: calls.append(1))
    assert relative_error(model(**rows).last_hidden_state.detach(), expected.detach()) < 1e-12
    assert calls


def test_dropout_of_the_embeddings_is_drawn_for_every_instance():
    config = copy.deepcopy(BERT)
    config.attention_probs_dropout_prob = 0.0
    model, rows = fastmux.TMux(config, 3).train(), batch(6)
    assert not torch.equal(model(**rows).last_hidden_state, model(**rows).last_hidden_state)
    torch.manual_seed(0)
    first = model(**rows).last_hidden_state
    torch.manual_seed(0)
    assert_agrees(first, model(**rows).last_hidden_state)


@pytest.mark.parametrize("demux", list(DEMULTIPLEXERS) if ALL else ["index", "unbind"])
def test_compiles_without_a_graph_break(demux):
    torch.compiler.reset()
    config = copy.deepcopy(BERT)
    config.num_hidden_layers = 1  # what is compiled of an encoder is Hugging Face's
    model, rows = tmux(config, demultiplexer=demux), batch(6)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert relative_error(compiled(**rows).last_hidden_state, model(**rows).last_hidden_state) < 1e-10


def test_gradient_checkpointing_gives_the_same_gradients():
    config = copy.deepcopy(BERT)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    model, rows = fastmux.TMux(config, 3).double().train(), batch(6)

    def gradients():
        model.zero_grad()
        model(**rows).last_hidden_state.square().sum().backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    expected = gradients()
    model.gradient_checkpointing_enable()
    for name, gradient in gradients().items():
        assert relative_error(gradient, expected[name]) < 1e-10, name


def test_the_demultiplexer_is_unbind_where_the_encoder_allows_it():
    assert fastmux.TMux(BERT, 3).config.demultiplexer == "unbind"
    narrow = ElectraConfig(hidden_size=16, embedding_size=8, num_hidden_layers=1, num_attention_heads=2)
    assert fastmux.TMux(narrow, 3).config.demultiplexer == "index"


class TestFromABackbone:
    def test_a_model_keeps_its_weights_and_is_left_alone(self):
        plain = AutoModelForSequenceClassification.from_config(BERT)
        state, config = copy.deepcopy(plain.state_dict()), copy.deepcopy(plain.config.to_dict())
        model = fastmux.TMuxForSequenceClassification.from_backbone(plain, 3, num_labels=4)
        assert model.tmux.backbone.embeddings.word_embeddings.weight is plain.bert.embeddings.word_embeddings.weight
        assert plain.bert.pooler is not None and plain.config.to_dict() == config
        assert all(torch.equal(t, state[k]) for k, t in plain.state_dict().items())

    def test_attention_implementation_is_kept(self):
        for implementation in ("sdpa", "eager"):
            plain = AutoModel.from_config(BERT, attn_implementation=implementation)
            model = fastmux.TMux(plain, 3)
            for config in (plain.config, model.config, model.backbone.config):
                assert config._attn_implementation == implementation

    def test_a_folder(self, tmp_path):
        plain = AutoModel.from_config(BERT)
        plain.save_pretrained(tmp_path)
        model = fastmux.TMux(str(tmp_path), num_instances=3)
        assert torch.equal(model.get_input_embeddings().weight, plain.embeddings.word_embeddings.weight)

    @pytest.mark.parametrize(
        ("backbone", "message"),
        [
            (GPT2Config(n_embd=16, n_layer=1, n_head=2), "GPT2Model whose embeddings are"),
            (T5Config(), "'t5' model with a decoder"),
            (42, "backbone is a int, expected a hub name"),
            ("no/such-model-anywhere", "backbone is 'no/such-model-anywhere', expected the name of a model"),
            (fastmux.TMuxConfig(backbone_config=BERT), "num_instances is missing|multiplexed already|TMuxConfig"),
        ],
    )
    def test_what_cannot_be_multiplexed_is_refused_with_the_reason(self, backbone, message):
        with pytest.raises(ValueError, match=message):
            fastmux.TMux(backbone, num_instances=2)

    def test_num_instances_is_needed(self):
        with pytest.raises(ValueError, match="num_instances is missing"):
            fastmux.TMux(BERT)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_ids": torch.full((2, 7), VOCAB)}, f"input_ids holds {VOCAB}, expected values from 0 to {VOCAB - 1}"),
        ({"input_ids": torch.full((2, 7), -1)}, "input_ids holds -1"),
        ({"input_ids": torch.ones(2, 41, dtype=torch.long)}, "41 positions, expected at most 40"),
        ({"input_ids": torch.ones(2, 0, dtype=torch.long)}, "0 positions, expected at least 1"),
        ({"input_ids": torch.ones(7, dtype=torch.long)}, r"input_ids has shape \(7,\), expected \(rows, length\)"),
        ({"input_ids": torch.ones(2, 7)}, "input_ids has dtype torch.float32"),
        ({}, "exactly one of input_ids and inputs_embeds"),
        (
            {"inputs_embeds": torch.ones(2, 7, 15)},
            r"inputs_embeds has shape \(2, 7, 15\), expected \(rows, length, 16\)",
        ),
        (batch(2) | {"attention_mask": torch.ones(2, 6)}, r"attention_mask has shape \(2, 6\), expected \(2, 7\)"),
        ({"input_ids": torch.ones(2, 7, dtype=torch.long, device="meta")}, "input_ids is on meta, expected cpu"),
        (batch(2) | {"attention_mask": torch.ones(2, 7, device="meta")}, "attention_mask is on meta, expected cpu"),
        (batch(2) | {"token_type_ids": torch.full((2, 7), 2)}, "token_type_ids holds 2, expected values from 0 to 1"),
        (batch(2) | {"position_ids": torch.full((2, 7), 40)}, "position_ids holds 40, expected values from 0 to 39"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        fastmux.TMux(BERT, 3, demultiplexer="index")(**arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_instances": 0}, "num_instances is 0, expected an integer of at least 1"),
        ({"num_instances": 2.5}, "num_instances is 2.5"),
        (
            {"num_instances": 39, "demultiplexer": "index"},
            "num_instances is 39, whose index prefix takes 40 positions; the encoder has 40",
        ),
        ({"num_instances": 2, "multiplexer": "hadamar"}, "multiplexer is 'hadamar', .* did you mean 'hadamard'"),
        ({"num_instances": 2, "demultiplexer": "prefix"}, "demultiplexer is 'prefix', expected one of 'index'"),
        ({"num_instances": 2, "retrieval_loss_weight": 1.5}, "retrieval_loss_weight is 1.5, expected .* 0 to 1"),
        ({"num_instances": 2, "sequence_summary": "max"}, "sequence_summary is 'max', expected one of 'first', 'mean'"),
        ({"num_instances": 2, "multiplexer_options": {"norm": 0.0}}, "norm is 0.0, expected a number above 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        fastmux.TMux(BERT, **options)


def test_unbind_needs_one_width():
    config = copy.deepcopy(FAMILIES["electra"])
    config.embedding_size = 8
    with pytest.raises(ValueError, match="embedding_size = 8, to hidden states of width hidden_size = 16"):
        fastmux.TMux(config, 2, demultiplexer="unbind")
    assert fastmux.TMux(config, 2)(**batch(4)).last_hidden_state.shape == (4, 7, 16)


class Recurrent(torch.nn.LSTM):
    """A module that knows nothing of transformers."""

    def forward(self, inputs_embeds, attention_mask=None):
        states, _ = super().forward(inputs_embeds)
        return states if attention_mask is None else states * attention_mask[..., None]


def recurrent(width=16, hidden=8) -> fastmux.ModuleEncoder:
    module = Recurrent(width, hidden, batch_first=True, bidirectional=True)
    return fastmux.ModuleEncoder(module, torch.nn.Embedding(VOCAB, width), hidden_size=2 * hidden)


@pytest.mark.parametrize("demux", list(DEMULTIPLEXERS))
def test_a_module_of_ones_own(tmp_path, demux):
    encoder = recurrent()
    model = fastmux.TMuxForTokenClassification.from_backbone(encoder, 3, demultiplexer=demux, num_labels=5)
    rows = batch(7, padded=True)
    labels = rows["input_ids"] % 5
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        losses.append(model(**rows, labels=labels).task_loss)
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]

    model.eval().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a module that its author wrote"):
        fastmux.TMuxForTokenClassification.from_pretrained(tmp_path)
    loaded = fastmux.TMuxForTokenClassification.from_pretrained(tmp_path, encoder=recurrent()).eval()
    with torch.no_grad():
        assert_agrees(loaded(**rows).logits, model(**rows).logits)


def test_a_module_is_multiplexed_as_specified():
    encoder = recurrent().double()
    model = fastmux.TMux(encoder, 3, demultiplexer="unbind").eval().double()
    rows = batch(6, padded=True)
    x = encoder.get_input_embeddings()(rows["input_ids"]).unflatten(0, (2, 3))
    mask = rows["attention_mask"].unflatten(0, (2, 3)).amax(1)
    with torch.no_grad():
        h = encoder.module(reference.hadamard_mux(x, model.multiplexer.transforms), mask)
        expected = demultiplexed(model, h, h[:, :3]).flatten(0, 1)
        assert relative_error(model(**rows).last_hidden_state, expected) < 1e-10


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (torch.nn.Linear(16, 16), {}, "embeddings is a Linear, expected a torch.nn.Embedding"),
        (torch.nn.Embedding(VOCAB, 16), {"hidden_size": 12}, r"states of shape \(2, 7, 16\), expected \(2, 7, 12\)"),
    ],
)
def test_a_module_that_does_not_fit_is_refused(module, options, message):
    states = Recurrent(16, 8, batch_first=True, bidirectional=True)
    with pytest.raises(ValueError, match=message):
        encoder = fastmux.ModuleEncoder(states, module, **options)
        fastmux.TMux(encoder, 3, demultiplexer="key")(**batch(6))


@pytest.mark.parametrize(
    ("family", "argument"),
    [("distilbert", "token_type_ids"), ("modernbert", "token_type_ids"), ("modernbert", "position_ids")],
)
def test_arguments_that_the_encoder_has_no_embeddings_for_are_refused(family, argument):
    rows = batch(3)
    with pytest.raises(ValueError, match=f"{argument} was given, but a .* has no embeddings for them"):
        tmux(FAMILIES[family])(**rows, **{argument: torch.zeros_like(rows["input_ids"])})
