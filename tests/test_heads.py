"""Task heads: retrieval, sequence and token classification.

Longer than other files: the heads share what their losses and outputs are held to.
"""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from models import BERT, PAD, VOCAB, batch
from torch import nn
from transformers.modeling_outputs import MaskedLMOutput, SequenceClassifierOutput, TokenClassifierOutput

import fastmux
from fastmux import reference
from fastmux.conventions import Conventions
from fastmux.models.checkpoints import stored_dtypes, weight_files
from fastmux.modules import DEMULTIPLEXERS
from fastmux.testing import assert_agrees, relative_error

STILL = copy.deepcopy(BERT)  # without dropout
STILL.hidden_dropout_prob = STILL.attention_probs_dropout_prob = 0.0


#: Parameters that retrieval has no use for.
UNUSED = {"rsa": [f"tmux.demultiplexer.{m}.{k}" for m in ("output", "layer_norm") for k in ("weight", "bias")]}


CONVENTIONS = {field.name for field in dataclasses.fields(Conventions)}


def build(cls, demux="index", config=STILL, num_instances=3, **options):
    conventions = {name: options.pop(name) for name in CONVENTIONS & options.keys()}
    return (
        cls.from_backbone(config, num_instances, demultiplexer=demux, conventions=conventions, **options)
        .double()
        .train()
    )


def retrieval_states(model, rows) -> torch.Tensor:
    """(G, N, L, d): the task's states, of which only `rsa` has others for retrieval."""
    mux, demux = model.tmux.encode(**rows), model.tmux.demultiplexer
    if model.config.demultiplexer != "rsa":
        return model.tmux.demultiplexer(mux.content, mux.prefix_states, mux.transforms)
    dense = [(layer.weight, layer.bias) for layer in demux.layers]
    norms = [(norm.weight, norm.bias, norm.eps) for norm in demux.retrieval_norms]
    return reference.rsa_retrieval(
        mux.content, demux.instance_keys, dense, norms, model.config.conventions.retrieval_residual
    )


@pytest.mark.parametrize("demux", list(DEMULTIPLEXERS))
class TestRetrieval:
    def test_loss_is_the_specification(self, demux):
        model, rows = build(fastmux.TMuxForRetrieval, demux), batch(6, padded=True)
        instances = torch.randint(0, 3, (2, 7))
        loss = model(**rows, retrieval_instances=instances).loss
        z = retrieval_states(model, rows)
        targets = rows["input_ids"].masked_fill(rows["attention_mask"] == 0, -100).unflatten(0, (2, 3))
        decoder = model.get_input_embeddings().weight
        expected = reference.retrieval_loss(z, instances, targets, decoder, model.retrieval.decoder.bias)
        assert relative_error(loss.detach(), expected.detach()) < 1e-10
        parameters = [p for name, p in model.named_parameters() if name not in UNUSED.get(demux, ())]
        gradients = [torch.autograd.grad(x, parameters) for x in (loss, expected)]
        # All at once: some, like those of the keys' biases, are zero but for rounding.
        ours, gold = (torch.cat([g.flatten() for g in parts]) for parts in gradients)
        assert relative_error(ours, gold) < 1e-10

    def test_predictions_are_the_argmax_of_every_row(self, demux):
        model, rows = build(fastmux.TMuxForRetrieval, demux).eval(), batch(7)
        with torch.no_grad():
            out = model(**rows)
            states = retrieval_states(model, rows).flatten(0, 1)[:7]
        logits = states @ model.get_input_embeddings().weight.T + model.retrieval.decoder.bias
        assert torch.equal(out.predictions, logits.argmax(-1))
        assert model.train()(**rows).predictions is None


def test_retrieval_draws_every_instance_and_only_real_tokens():
    model, rows = build(fastmux.TMuxForRetrieval), batch(6)
    torch.manual_seed(0)
    assert len({round(model(**rows).loss.item(), 9) for _ in range(5)}) == 5
    nothing = torch.full_like(rows["input_ids"], -100)
    assert model(**rows, labels=nothing).loss.item() == 0.0


@pytest.mark.parametrize("demux", list(DEMULTIPLEXERS))
@pytest.mark.parametrize(
    ("problem", "num_labels", "labels", "criterion"),
    [
        ("single_label_classification", 4, torch.randint(0, 4, (7,)), nn.CrossEntropyLoss()),
        ("multi_label_classification", 4, torch.randint(0, 2, (7, 4)).double(), nn.BCEWithLogitsLoss()),
        ("regression", 1, torch.randn(7).double(), nn.MSELoss()),
        ("regression", 2, torch.randn(7, 2).double(), nn.MSELoss()),
        (None, 4, torch.randint(0, 4, (7,)), nn.CrossEntropyLoss()),
    ],
)
def test_sequence_classification(demux, problem, num_labels, labels, criterion):
    model = build(fastmux.TMuxForSequenceClassification, demux, num_labels=num_labels, problem_type=problem)
    out = model(**batch(7), labels=labels)
    assert isinstance(out, SequenceClassifierOutput) and out.logits.shape == (7, num_labels)
    task = criterion(out.logits.squeeze(-1) if num_labels == 1 else out.logits, labels)
    assert relative_error(out.task_loss.detach(), task.detach()) < 1e-12
    assert relative_error(out.loss.detach(), (0.9 * task + 0.1 * out.retrieval_loss).detach()) < 1e-12
    loss, _ = model(**batch(7), labels=labels)[:2]
    loss.backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None]  # DDP asks that


@pytest.mark.parametrize("demux", list(DEMULTIPLEXERS))
def test_token_classification(demux):
    model, rows = build(fastmux.TMuxForTokenClassification, demux, num_labels=5), batch(7, padded=True)
    labels = torch.randint(0, 5, (7, 7)).masked_fill(rows["attention_mask"] == 0, -100)
    out = model(**rows, labels=labels)
    assert isinstance(out, TokenClassifierOutput) and out.logits.shape == (7, 7, 5)
    task = nn.functional.cross_entropy(out.logits.float().flatten(0, 1), labels.flatten())
    assert relative_error(out.task_loss.detach(), task.detach()) < 1e-6
    out.loss.backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None]


@pytest.mark.parametrize("demux", list(DEMULTIPLEXERS))
def test_the_fused_head_is_the_head(backend, demux):
    """Without dropout the classifier is applied inside the demultiplexing op."""
    model, rows = build(fastmux.TMuxForTokenClassification, demux, num_labels=5).eval(), batch(6)
    with torch.no_grad():
        expected = model.classifier(model.tmux(**rows).last_hidden_state)
        assert relative_error(model(**rows).logits, expected) < 1e-10


def test_the_summary_is_the_prefix_cls_or_the_first_position():
    rows = batch(6)
    for demux, position in (("index", 3), ("unbind", 0)):
        model = build(fastmux.TMuxForSequenceClassification, demux, num_labels=2).eval()
        with torch.no_grad():
            mux = model.tmux.encode(**rows)
            states = mux.encoder_outputs.last_hidden_state[:, position : position + 1]
            expected = model.classifier(model.tmux.demultiplex(mux, states)).squeeze(1)
            assert relative_error(model(**rows).logits, expected) < 1e-12


@pytest.mark.parametrize("demux", list(DEMULTIPLEXERS))
def test_the_summary_may_be_the_mean_of_a_rows_states(demux):
    model = build(fastmux.TMuxForSequenceClassification, demux, num_labels=2, sequence_summary="mean").eval()
    rows = batch(7, padded=True)
    with torch.no_grad():
        states = model.tmux(**rows).last_hidden_state
        means = [state[mask.bool()].mean(0) for state, mask in zip(states, rows["attention_mask"], strict=True)]
        assert relative_error(model(**rows).logits, model.classifier(torch.stack(means))) < 1e-10
        whole = batch(6)["input_ids"]
        assert relative_error(model(whole).logits, model(whole, torch.ones_like(whole)).logits) < 1e-10
    model.train()(**rows, labels=torch.zeros(7, dtype=torch.long)).loss.backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None]


def test_no_retrieval_without_its_weight():
    model = build(fastmux.TMuxForSequenceClassification, num_labels=2, retrieval_loss_weight=0.0)
    out = model(**batch(6), labels=torch.zeros(6, dtype=torch.long))
    assert model.retrieval is None and out.retrieval_loss is None and torch.equal(out.loss, out.task_loss)


def test_learning_to_retrieve():
    """The whole chain learns: from chance to most tokens of two sequences in one."""
    torch.manual_seed(0)
    config = copy.deepcopy(STILL)
    config.hidden_size, config.initializer_range = 64, 0.02
    model = fastmux.TMuxForRetrieval.from_backbone(config, 2, demultiplexer="unbind")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(100):
        optimizer.zero_grad()
        model.train()(torch.randint(5, VOCAB, (32, 7))).loss.backward()
        optimizer.step()
    ids = torch.randint(5, VOCAB, (64, 7))
    accuracy = (model.eval()(ids).predictions == ids).float().mean().item()
    assert accuracy > 0.6, f"retrieval accuracy {accuracy:.2f}, chance {1 / (VOCAB - 5):.2f}"


SEQUENCE, TOKEN = fastmux.TMuxForSequenceClassification, fastmux.TMuxForTokenClassification


@pytest.mark.parametrize(
    ("cls", "options", "labels", "message"),
    [
        (SEQUENCE, {}, torch.zeros(5, dtype=torch.long), r"labels has shape \(5,\), expected \(6,\)"),
        (SEQUENCE, {}, torch.full((6,), 3), "labels holds 3, expected values from 0 to 2"),
        (SEQUENCE, {}, torch.zeros(6, 2), r"labels has shape \(6, 2\), expected \(6, 3\) for multi_label"),
        (
            SEQUENCE,
            {"problem_type": "multi_label_classification"},
            torch.zeros(6, 3).long(),
            "labels has dtype torch.int64",
        ),
        (SEQUENCE, {"problem_type": "single_label_classification"}, torch.zeros(6), "labels has dtype torch.float32"),
        (SEQUENCE, {"problem_type": "regression"}, torch.zeros(6), r"shape \(6,\), expected \(6, 3\) for regression"),
        (TOKEN, {}, torch.zeros(6, dtype=torch.long), r"labels has shape \(6,\), expected \(6, 7\)"),
        (TOKEN, {}, torch.full((6, 7), 3), "labels holds 3, expected values from 0 to 2"),
        (TOKEN, {}, torch.zeros(6, 7), "labels has dtype torch.float32, expected an integer"),
        (fastmux.TMuxForRetrieval, {}, torch.full((6, 7), VOCAB), f"labels holds {VOCAB}"),
    ],
)
def test_bad_labels(cls, options, labels, message):
    options = options if cls is fastmux.TMuxForRetrieval else {"num_labels": 3, **options}
    model = cls.from_backbone(STILL, 3, **options)
    with pytest.raises(ValueError, match=message):
        model(**batch(6), labels=labels)


def test_labels_may_be_absent_from_padding():
    model, rows = build(TOKEN, num_labels=3), batch(6, padded=True)
    assert rows["input_ids"].eq(PAD).any()
    labels = torch.where(rows["attention_mask"] == 0, -100, 2)
    assert model(**rows, labels=labels).loss.isfinite()


@pytest.mark.parametrize("demux", list(DEMULTIPLEXERS))
def test_masked_language_model(demux):
    model, rows = build(fastmux.TMuxForMaskedLM, demux), batch(6, padded=True)
    labels = rows["input_ids"].masked_fill(torch.rand(6, 7) < 0.6, -100)
    labels[0, 0] = 5
    instances = torch.randint(0, 3, (2, 7))
    training = model(**rows, labels=labels, retrieval_instances=instances)
    assert training.logits is None
    out = model.eval()(**rows, labels=labels, retrieval_instances=instances)
    states = retrieval_states(model, rows).flatten(0, 1)
    logits = states @ model.get_input_embeddings().weight.T + model.retrieval.decoder.bias
    assert isinstance(out, MaskedLMOutput) and relative_error(out.logits.detach(), logits.detach()) < 1e-12
    task = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    retrieval = fastmux.TMuxForRetrieval.from_backbone(STILL, 3, demultiplexer=demux).double()
    retrieval.load_state_dict(model.state_dict())
    expected = 0.9 * task + 0.1 * retrieval(**rows, retrieval_instances=instances).loss
    for loss in (training.loss, out.loss):
        assert relative_error(loss.detach(), expected.detach()) < 1e-10


@pytest.mark.parametrize("demux", list(DEMULTIPLEXERS))
@pytest.mark.parametrize("kind", [fastmux.TMuxForRetrieval, fastmux.TMuxForMaskedLM])
def test_all_that_learns_has_a_gradient(kind, demux):
    model = kind.from_backbone(STILL, 3, demultiplexer=demux).train()
    labels = {"labels": torch.randint(0, VOCAB, (6, 7))} if kind is fastmux.TMuxForMaskedLM else {}
    model(**batch(6), **labels).loss.backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without


def test_deeper_heads_and_retrieval_of_its_own():
    options = {"retrieval_demultiplexer": "own", "retrieval_transform": True, "retrieval_residual": True}
    options |= {"tie_word_embeddings": False, "task_loss_weight": 2.0, "num_labels": 4}
    rows, labels = batch(6), torch.randint(0, 4, (6,))
    for kind in ("linear", "mlp", "mlp_norm"):
        model = build(fastmux.TMuxForSequenceClassification, classifier_type=kind, **options)
        out = model(**rows, labels=labels)
        z = model.tmux.demultiplex(mux := model.tmux.encode(**rows), mux.summary).squeeze(1)
        if kind != "linear":
            z = nn.functional.gelu(model.classifier.dense(z))
        if kind == "mlp_norm":
            z = model.classifier.layer_norm(z)
        last = model.classifier if kind == "linear" else model.classifier.out_proj
        assert relative_error(out.logits.detach(), last(z).detach()) < 1e-12
        assert relative_error(out.loss.detach(), (2.0 * out.task_loss + 0.1 * out.retrieval_loss).detach()) < 1e-12
        own = model.retrieval.demultiplexer(mux.content, mux.prefix_states, None)
        layer = model.retrieval.layer_norm(nn.functional.gelu(model.retrieval.dense(own)))
        states = model.retrieval.states(model.tmux, mux)
        assert relative_error(states.detach(), (own + layer).detach()) < 1e-10
        out.loss.backward()
        assert not [n for n, p in model.named_parameters() if p.grad is None]


def test_the_papers_treatment_of_padding_and_first_tokens():
    options = {"attend_padding": True, "first_token_id": 7, "demux": "key", "num_labels": 5}
    model = build(fastmux.TMuxForTokenClassification, config=STILL, **options, ignore_padding_labels=True)
    rows, labels = batch(6, padded=True), torch.randint(0, 5, (6, 7))
    out = model(**rows, labels=labels)
    ids = torch.cat([torch.full((6, 1), 7), rows["input_ids"][:, 1:]], dim=1)
    plain = build(fastmux.TMuxForTokenClassification, config=STILL, demux="key", num_labels=5)
    plain.load_state_dict(model.state_dict())
    assert relative_error(out.logits.detach(), plain(ids).logits.detach()) < 1e-12
    kept = rows["attention_mask"] == 1
    expected = nn.functional.cross_entropy(out.logits[kept], labels[kept])
    assert relative_error(out.task_loss.detach(), expected.detach()) < 1e-6  # Hugging Face's, in float32
    instances = torch.randint(0, 3, (2, 7))
    for skips, counts in ((False, False), (True, False), (False, True)):
        model.config.conventions = dataclasses.replace(
            model.config.conventions, retrieval_skips_first=skips, retrieval_counts_padding=counts
        )
        asked = torch.ones_like(kept) if counts else ids != PAD
        asked[:, 0] &= not skips
        targets = ids.masked_fill(~asked, -100).unflatten(0, (2, 3))
        states = retrieval_states(model, rows)
        expected = reference.retrieval_loss(
            states, instances, targets, model.get_input_embeddings().weight, model.retrieval.decoder.bias
        )
        loss = model(**rows, labels=labels, retrieval_instances=instances).retrieval_loss
        assert relative_error(loss.detach(), expected.detach()) < 1e-10


def test_retrieval_may_ask_at_some_positions_only():
    model = build(fastmux.TMuxForSequenceClassification, "index", retrieval_percentage=0.4)
    rows, labels = batch(6, padded=True), torch.randint(0, 2, (6,))
    instances = torch.randint(0, 3, (2, 7))
    torch.manual_seed(1)
    ours = model(**rows, labels=labels, retrieval_instances=instances).retrieval_loss
    torch.manual_seed(1)
    positions = torch.randperm(7)[:3]
    targets = rows["input_ids"].masked_fill(rows["attention_mask"] == 0, -100).unflatten(0, (2, 3))
    z = retrieval_states(model, rows)[:, :, positions]
    decoder, bias = model.get_input_embeddings().weight, model.retrieval.decoder.bias
    expected = reference.retrieval_loss(z, instances[:, positions], targets[..., positions], decoder, bias)
    assert relative_error(ours.detach(), expected.detach()) < 1e-10
    model.eval()
    whole = reference.retrieval_loss(retrieval_states(model, rows), instances, targets, decoder, bias)
    loss = model(**rows, labels=labels, retrieval_instances=instances).retrieval_loss
    assert relative_error(loss.detach(), whole.detach()) < 1e-10
    with pytest.raises(ValueError, match=r"retrieval_percentage is 0\.0, expected"):
        build(fastmux.TMuxForSequenceClassification, retrieval_percentage=0.0)


@pytest.mark.parametrize("demux", list(DEMULTIPLEXERS))
def test_a_loss_is_the_same_from_call_to_call_in_evaluation(demux):
    rows = batch(7, padded=True)
    for cls, labels in (
        (fastmux.TMuxForRetrieval, None),
        (fastmux.TMuxForMaskedLM, rows["input_ids"]),
        (SEQUENCE, torch.zeros(7, dtype=torch.long)),
    ):
        model = build(cls, demux).eval()
        losses = [model(**rows, labels=labels).loss for _ in range(3)]
        assert losses[0] == losses[1] == losses[2], cls
        seen = []
        model.retrieval.loss = lambda tmux, mux, labels, instances, seen=seen: seen.append(instances) or labels.sum()
        model(**rows, labels=labels)
        assert set(seen[0].flatten().tolist()) == {0, 1, 2}, "every instance has its turn"


def test_predicting_leaves_modes_requires_grad_and_inputs_as_they_were():
    model, rows = build(SEQUENCE, num_labels=2), batch(7, padded=True)
    model.tmux.backbone.eval().requires_grad_(False)
    model.classifier.eval()
    before = [(m.training, [p.requires_grad for p in m.parameters(False)]) for m in model.modules()]
    inputs, state = copy.deepcopy(rows), torch.get_rng_state()
    config = copy.deepcopy(model.config.to_dict())
    for call in (rows, {k: t[:0] for k, t in rows.items()}):
        model.predict(**call, copies=2, grouping="random", seed=3)
    with pytest.raises(ValueError, match="input_ids holds"):
        model.predict(rows["input_ids"] + VOCAB)
    assert [(m.training, [p.requires_grad for p in m.parameters(False)]) for m in model.modules()] == before
    assert all(torch.equal(rows[k], inputs[k]) for k in rows) and torch.equal(torch.get_rng_state(), state)
    assert model.config.to_dict() == config


@pytest.mark.parametrize("own", ["shared", "own"])
@pytest.mark.parametrize("cls", [fastmux.TMuxForRetrieval, fastmux.TMuxForMaskedLM, SEQUENCE, TOKEN])
def test_every_parameter_that_asks_for_a_gradient_gets_one(cls, own):
    model, rows = build(cls, retrieval_demultiplexer=own), batch(6)
    labels = torch.zeros(6, dtype=torch.long) if cls is SEQUENCE else torch.zeros_like(rows["input_ids"])
    model(**rows, labels=labels).loss.backward()
    assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("cls", [fastmux.TMuxForMaskedLM, fastmux.TMuxForRetrieval])
def test_the_decoder_is_the_output_embeddings(tmp_path, cls, tied):
    model, rows = build(cls, tie_word_embeddings=tied).eval(), batch(6)
    layer, words = model.get_output_embeddings(), model.get_input_embeddings().weight
    assert (layer.weight is words) == tied and layer.weight.shape == (VOCAB, 16)
    states = retrieval_states(model, rows).flatten(0, 1)
    if cls is fastmux.TMuxForMaskedLM:
        assert relative_error(model(**rows).logits.detach(), layer(states).detach()) < 1e-12
    model.resize_token_embeddings(VOCAB + 9)
    layer, words = model.get_output_embeddings(), model.get_input_embeddings().weight
    assert (layer.weight is words) == tied and layer.weight.shape[0] == len(layer.bias) == VOCAB + 9
    model.save_pretrained(tmp_path)
    assert ("retrieval.decoder.weight" in stored_dtypes(weight_files(tmp_path))) == (not tied)
    loaded = cls.from_pretrained(tmp_path)
    assert (loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight) == tied
    other = nn.Linear(16, VOCAB + 9).double()
    model.set_output_embeddings(other)
    assert model.get_output_embeddings() is other and other in model.modules()
    model.save_pretrained(tmp_path)
    assert torch.equal(cls.from_pretrained(tmp_path).get_output_embeddings().weight, other.weight)


@pytest.mark.parametrize("cls", [fastmux.TMuxForMaskedLM, fastmux.TMuxForRetrieval])
def test_a_hook_on_the_decoder_runs(cls):
    model, rows = build(cls, tie_word_embeddings=False).eval(), batch(6)
    labels = rows["input_ids"]
    expected, seen = model(**rows, labels=labels), []
    model.retrieval.decoder.register_forward_hook(lambda *_: seen.append(1))
    given = model(**rows, labels=labels)
    assert seen and relative_error(given.loss.detach(), expected.loss.detach()) < 1e-12
    if cls is fastmux.TMuxForRetrieval:
        assert torch.equal(given.predictions, expected.predictions)
        assert model(**rows, labels=torch.full_like(labels, -100)).loss.item() == 0.0


@pytest.mark.parametrize("cls", [fastmux.TMuxForMaskedLM, fastmux.TMuxForRetrieval, SEQUENCE, TOKEN])
def test_word_embeddings_in_place_of_ids(cls):
    model, rows = build(cls).eval(), batch(6)
    labels = torch.zeros(6, dtype=torch.long) if cls is SEQUENCE else torch.ones_like(rows["input_ids"])
    words = model.get_input_embeddings()(rows["input_ids"])
    with torch.no_grad():
        given = model(inputs_embeds=words, labels=labels)
        expected = model(rows["input_ids"], labels=labels)
    name = "predictions" if cls is fastmux.TMuxForRetrieval else "logits"
    assert_agrees(given[name], expected[name])
    if cls is fastmux.TMuxForRetrieval:
        assert_agrees(given.loss, expected.loss)
        with pytest.raises(ValueError, match="labels is missing"):
            model(inputs_embeds=words)
    else:
        assert_agrees(given.loss, expected.task_loss)
