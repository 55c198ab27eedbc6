"""What one may give to a model: inputs of any kind, options at the call and in the configuration."""

from __future__ import annotations

import pytest
import torch
from neighbours.harness import LABELS, LENGTH, PAD, ROWS, VOCAB, Subject, assert_alike, cases, describe, same


def kinds_of(argument: str, *dtypes: torch.dtype):
    """The argument in other dtypes: what comes out, and whether it is what came out before."""

    def thing(s: Subject):
        given = {**s.rows, "token_type_ids": torch.zeros_like(s.rows["input_ids"])}
        expected = s.values(**given)
        return [same(s.values(**{**given, argument: given[argument].to(dtype)}), expected) for dtype in dtypes]

    return thing


def padded_left(s: Subject):
    flipped = {k: t.flip(1).contiguous() for k, t in s.rows.items()}
    return s.values(**flipped)


def positions(s: Subject):
    where = torch.arange(LENGTH)
    expected = s.values()
    given = (where[None], where.expand(ROWS, -1), where[None].int())
    return [same(s.values(position_ids=p), expected) for p in given]


def embeddings_in_place_of_ids(s: Subject):
    words = s.model.get_input_embeddings()(s.rows["input_ids"])
    out = s.model(inputs_embeds=words, attention_mask=s.rows["attention_mask"])
    with_labels = s.model(inputs_embeds=words, attention_mask=s.rows["attention_mask"], **s.labels)
    return same(out[0].detach(), s.values()), out, sorted(with_labels.keys() & {"loss", "logits", "last_hidden_state"})


def gradients_of_embeddings(s: Subject):
    words = s.model.get_input_embeddings()(s.rows["input_ids"]).detach().requires_grad_()
    s.loss(input_ids=None, inputs_embeds=words).backward()
    return words.grad.abs().sum(-1).ne(0).any(1).all().item(), s.model.zero_grad()


def strange_memory(s: Subject):
    """Views and expanded tensors are inputs like any other."""
    expected = s.values()
    wide = {k: torch.stack([t, t + 1], -1)[..., 0] for k, t in s.rows.items()}
    turned = {k: t.t().contiguous().t() for k, t in s.rows.items()}
    one = {k: t[:1].expand(ROWS, -1) for k, t in s.rows.items()}
    return same(s.values(**wide), expected), same(s.values(**turned), expected), s.values(**one)


def option(name: str, value, **more):
    """An option at the call, and the same one set in the configuration: what comes out."""

    def thing(s: Subject):
        if more.get("eager"):
            s.model.set_attn_implementation("eager")
        at_call = s.model(**s.rows, **s.labels, **{name: value})
        before = getattr(s.model.config, name)
        setattr(s.model.config, name, value)
        in_config = s.model(**s.rows, **s.labels)
        setattr(s.model.config, name, before)
        as_tuples = [isinstance(x, tuple) for x in (at_call, in_config)]
        if any(as_tuples):
            return as_tuples, [describe(x[0]) for x in (at_call, in_config)]
        return at_call, in_config

    return thing


def problem(kind: str | None, labels, num_labels: int = LABELS):
    def thing(s: Subject):
        s.model = s.remade(problem_type=kind, num_labels=num_labels)
        s.labels = {"labels": labels}
        out = s.model(**s.rows, **s.labels)
        return out, s.model.config.problem_type

    return thing


def with_labels(change):
    return lambda s: s.model(**s.rows, labels=change(s.labels["labels"]))


def called(**change):
    """A call with some arguments replaced: ``name=function of what it was``."""
    return lambda s: s.values(**{k: f(s.rows.get(k, s.rows["input_ids"])) for k, f in change.items()})


def rows_of(size: int):
    return lambda s: s.model(**s.batch(size), **s.labels_of(s.batch(size)))


def loss_of_evaluation(s: Subject):
    """In eval mode the same loss for the same call, and the generator untouched."""
    first, second = (s.model(**s.rows, **s.labels)[0].detach() for _ in range(2))
    return torch.equal(first, second)


def unlabelled(s: Subject):
    """-100 everywhere: whatever the loss is, the model gives gradients that a step can take."""
    return s.model(**s.rows, labels=torch.full_like(s.labels["labels"], -100)).logits


def half_precision(dtype: torch.dtype):
    def thing(s: Subject):
        s.model.to(dtype)
        loss = s.loss()
        loss.backward()
        kinds = {str(p.grad.dtype) for p in s.model.parameters() if p.grad is not None}
        return loss, s.values(), kinds

    return thing


def autocast(s: Subject):
    with torch.autocast("cpu", torch.bfloat16):
        values, loss = s.values(), s.loss()
    loss.backward()
    return values, loss, {str(p.grad.dtype) for p in s.model.parameters() if p.grad is not None}


THINGS = {
    "rows": lambda s: s.model(**s.rows),
    "rows and labels": lambda s: s.model(**s.rows, **s.labels),
    "one row": rows_of(1),
    "two rows": rows_of(2),
    "one position": lambda s: s.model(**s.batch(ROWS, 1)),
    "labels, by item": lambda s: [sorted(s.model(**s.rows, **s.labels).keys() & {"loss", "logits"})],
    "no mask": lambda s: s.model(input_ids=s.rows["input_ids"]),
    "positional arguments": lambda s: s.model(s.rows["input_ids"], s.rows["attention_mask"]),
    "masks of other dtypes": kinds_of(
        "attention_mask", torch.bool, torch.float32, torch.int32, torch.uint8, torch.float64, torch.bfloat16
    ),
    "ids of 32 bits": kinds_of("input_ids", torch.int32),
    "types of 32 bits": kinds_of("token_type_ids", torch.int32),
    "a row without attention": lambda s: s.values(
        attention_mask=s.rows["attention_mask"] * (torch.arange(ROWS) != 1)[:, None]
    ),
    "no attention at all": lambda s: s.values(attention_mask=torch.zeros_like(s.rows["attention_mask"])),
    "a row of pads": lambda s: s.values(input_ids=torch.full_like(s.rows["input_ids"], PAD)),
    "padding on the left": padded_left,
    "positions": positions,
    "embeddings": embeddings_in_place_of_ids,
    "gradients of embeddings": gradients_of_embeddings,
    "strange memory": strange_memory,
    "output_hidden_states": option("output_hidden_states", True),
    "output_attentions": option("output_attentions", True, eager=True),
    "return_dict": option("return_dict", False),
    "loss in evaluation": loss_of_evaluation,
    "no labels anywhere": unlabelled,
    "labels of 32 bits": with_labels(lambda t: t.int()),
    "labels too large": with_labels(lambda t: t + VOCAB),
    "labels of another shape": with_labels(lambda t: t[:2]),
    "ids out of the vocabulary": called(input_ids=lambda t: t + VOCAB),
    "negative ids": called(input_ids=lambda t: t - VOCAB),
    "ids that are floats": called(input_ids=lambda t: t.float()),
    "ids without rows": called(input_ids=lambda t: t[0], attention_mask=lambda t: t[0]),
    "types out of range": called(token_type_ids=lambda t: t * 0 + 2),
    "positions out of range": called(position_ids=lambda t: t * 0 + 40),
    "nothing": lambda s: s.model(),
    "ids and embeddings": lambda s: s.model(
        **s.rows, inputs_embeds=s.model.get_input_embeddings()(s.rows["input_ids"])
    ),
    "too long": lambda s: s.model(**s.batch(2, 41)),
    "an unknown argument": lambda s: s.model(**s.rows, no_such_argument=1),
    "single label": problem("single_label_classification", torch.arange(ROWS) % LABELS),
    "several labels": problem("multi_label_classification", torch.ones(ROWS, LABELS)),
    "regression": problem("regression", torch.ones(ROWS), num_labels=1),
    "regressions": problem("regression", torch.ones(ROWS, LABELS)),
    "kind from integers": problem(None, torch.arange(ROWS) % LABELS),
    "kind from floats": problem(None, torch.ones(ROWS, LABELS)),
    "kind from one label": problem(None, torch.ones(ROWS), num_labels=1),
    "bfloat16": half_precision(torch.bfloat16),
    "float16": half_precision(torch.float16),
    "float64": half_precision(torch.float64),
    "autocast": autocast,
}
HALVES = ("bfloat16", "float16")
ONLY = {
    **dict.fromkeys(
        ("single label", "several labels", "regression", "regressions", "kind from integers", "kind from floats"),
        ("sequence",),
    ),
    "kind from one label": ("sequence",),
    **dict.fromkeys(
        (
            "labels, by item",
            "loss in evaluation",
            "no labels anywhere",
            "labels of 32 bits",
            "labels too large",
            "labels of another shape",
        ),
        ("sequence", "token", "masked"),
    ),
}


def with_loss(dtype: str):
    """The plain model's answer with a loss of this dtype."""
    return lambda seen: (seen[0], [("tensor", (), dtype, True, True), *seen[1][1:]])


SUM = "the loss is a sum with the vocabulary's cross-entropy, which is kept in float32"
EXPLAINED = {
    **{(half, task): (with_loss("torch.float32"), SUM) for half in HALVES for task in ("sequence", "token", "masked")},
    **{
        ("autocast", "encoder", demultiplexer): (
            lambda seen: (
                seen[0],
                [
                    ("tensor", (ROWS, LENGTH, 16), "torch.bfloat16", True, False),
                    ("tensor", (), "torch.bfloat16", True, True),
                    seen[1][2],
                ],
            ),
            "the demultiplexer's LayerNorm is one op with its linear layer, and writes what autocast computes in",
        )
        for demultiplexer in ("index", "key", "rsa", "unbind")
    },
    ("labels of 32 bits", "masked"): (
        {
            "loss": ("tensor", (), "torch.float32", True, True),
            "logits": ("tensor", (ROWS, LENGTH, VOCAB), "torch.float32", True, True),
        },
        "labels of any integer dtype are taken",
    ),
}


@pytest.mark.parametrize(("thing", "task", "ends"), cases(THINGS, ONLY))
def test_alike(thing, task, ends, tmp_path):
    assert_alike(THINGS[thing], task, ends, tmp_path, EXPLAINED, thing)
