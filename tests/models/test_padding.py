"""Where a token is, the mask says: rows padded on the left, and rows of which nobody says where they are padded."""

import pytest
import torch
import transformers
from transformers import BertConfig, RobertaConfig

import fastmux
from fastmux.models.alignment import moved, padding_before

TINY = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50}
TINY |= {"initializer_range": 0.4, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
CONFIGS = {"bert": BertConfig, "roberta": RobertaConfig}
LENGTHS = [7, 3, 1, 6, 5]


def rows(side, pad=0):
    """Five rows of tokens and labels, padded on one side to 8 positions."""
    draw = torch.Generator().manual_seed(0)
    batch = {"input_ids": [], "attention_mask": [], "token_type_ids": [], "labels": []}
    for length in LENGTHS:
        ids, labels = torch.randint(3, 50, (length,), generator=draw), torch.randint(0, 3, (length,), generator=draw)
        own = {"input_ids": (ids, pad), "attention_mask": (torch.ones_like(ids), 0)}
        own |= {"token_type_ids": ((ids % 2), 0), "labels": (labels, -100)}
        for name, (values, fill) in own.items():
            padding = torch.full((8 - length,), fill)
            batch[name].append(torch.cat([padding, values] if side == "left" else [values, padding]))
    return {name: torch.stack(values) for name, values in batch.items()}


def models():
    found = {}
    for kind in CONFIGS:
        config = CONFIGS[kind](**TINY, num_labels=3, type_vocab_size=2)
        for demux in ("index", "unbind") if kind == "bert" else ("unbind",):
            for task in ("SequenceClassification", "TokenClassification", "MaskedLM", "Retrieval"):
                found[f"tmux-{kind}-{demux}-{task}"] = lambda task=task, config=config, demux=demux: getattr(
                    fastmux, f"TMuxFor{task}"
                ).from_backbone(config, 2, demultiplexer=demux, **({"num_labels": 3} if "Class" in task else {}))
        for join in ("positions", "rows"):
            for task in ("SequenceClassification", "TokenClassification"):
                plain = getattr(transformers, f"{kind.capitalize()}For{task}")
                found[f"joined-{kind}-{join}-{task}"] = lambda task=task, config=config, plain=plain, join=join: (
                    getattr(fastmux, f"JoinedFor{task}").from_backbone(plain(config), 2, join=join)
                )
    found["tmux-mean"] = lambda: fastmux.TMuxForSequenceClassification.from_backbone(
        BertConfig(**TINY), 2, num_labels=3, sequence_summary="mean"
    )
    found["encoder"] = lambda: fastmux.TMux(BertConfig(**TINY), 2)
    found["joined"] = lambda: fastmux.JoinedModel.from_backbone(transformers.BertModel(BertConfig(**TINY)), 2)
    return found


MODELS = models()


def real(t, mask):
    """What is said of tokens, row after row; of whole rows, as it is."""
    return t[mask != 0] if t.shape[:2] == mask.shape else t


@pytest.mark.parametrize("name", MODELS)
def test_the_side_of_padding_changes_nothing(name):
    torch.manual_seed(0)
    model = MODELS[name]().double().eval()
    pad = model.config.pad_token_id
    left, right = rows("left", pad), rows("right", pad)
    if "roberta" in name:  # one kind of segment
        left["token_type_ids"], right["token_type_ids"] = (torch.zeros_like(b["token_type_ids"]) for b in (left, right))
    per_token = model.labels_of_tokens
    for batch in (left, right):
        labels = batch.pop("labels")
        if not per_token:
            labels = torch.arange(len(LENGTHS)) % 3
        if "For" in type(model).__name__ and "Retrieval" not in type(model).__name__:
            batch["labels"] = labels
    ours, theirs = model(**left), model(**right)
    for field in ("logits", "last_hidden_state", "predictions", "pooler_output", "loss"):
        if field in theirs:
            a, b = real(ours[field], left["attention_mask"]), real(theirs[field], right["attention_mask"])
            torch.testing.assert_close(a, b, msg=lambda said, field=field: f"{field}: {said}")
    if hasattr(model, "predict"):
        for batch in (left, right):
            batch.pop("labels", None)
        options = {"grouping": "length", "groups_per_batch": 1}
        a, b = (model.predict(**batch, **options) for batch in (left, right))
        if a.dim() == 3:
            assert not a[left["attention_mask"] == 0].any()
        torch.testing.assert_close(real(a, left["attention_mask"]), real(b, right["attention_mask"]))


def test_positions_that_are_given_go_along():
    torch.manual_seed(0)
    model = fastmux.TMux(BertConfig(**TINY), 2).double().eval()
    left, right = rows("left"), rows("right")
    for batch in (left, right):
        batch.pop("labels")
        batch["position_ids"] = (2 * batch["attention_mask"].cumsum(1) - 1) * batch["attention_mask"]
    a, b = model(**left).last_hidden_state, model(**right).last_hidden_state
    torch.testing.assert_close(a[left["attention_mask"] != 0], b[right["attention_mask"] != 0])


def test_a_tuple_is_moved_back_too():
    torch.manual_seed(0)
    model = MODELS["joined-bert-positions-TokenClassification"]().double().eval()
    left = rows("left")
    left.pop("labels")
    (logits,) = model(**left, return_dict=False)
    assert torch.equal(logits, model(**left).logits)


def test_tokens_that_no_row_begins_with_and_rows_without_tokens():
    mask = torch.tensor([[0, 0, 1, 1], [1, 0, 1, 1], [0, 0, 0, 0]])
    before = padding_before(mask)
    assert before.tolist() == [2, 0, 0]
    assert moved(mask, before).tolist() == [[1, 1, 0, 0], [1, 0, 1, 1], [0, 0, 0, 0]]
    assert torch.equal(moved(moved(mask, before), before, back=True), mask)
    for nothing in (None, mask[:0], mask[:, :0], torch.ones(3, 4), mask[:, None, None]):
        assert padding_before(nothing) is None


# Padding that no mask tells of


def classifier(**options):
    torch.manual_seed(0)
    config = BertConfig(**{**TINY, "pad_token_id": 0, **options}, num_labels=3)
    return fastmux.TMuxForSequenceClassification.from_backbone(config, 2, demultiplexer="unbind")


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("call", ["predict", "calibrate"])
def test_padding_without_a_mask_is_refused(side, call):
    model, ids = classifier(), rows(side)["input_ids"]
    options = {"fallback": model} if call == "calibrate" else {}
    model.forward = None  # before any pass
    with pytest.raises(ValueError, match="attention_mask is None, but row 1 of input_ids begins or ends with padding"):
        getattr(model, call)(ids, **options)


def test_padding_with_a_mask_and_rows_without_padding_are_taken():
    model, batch = classifier(), rows("right")
    batch.pop("labels")
    assert model.predict(**batch).shape == (5, 3)
    assert model.predict(batch["input_ids"], torch.ones_like(batch["input_ids"])).shape == (5, 3)
    assert model.predict(batch["input_ids"][:, :1]).shape == (5, 3)


def test_the_id_of_an_end_is_padding_where_there_are_two():
    """Where the padding is also the end of a text, one at the end says nothing; a model without one is never asked."""
    ends = torch.tensor([[5, 6, 7, 2], [5, 6, 8, 2]])
    model = classifier(pad_token_id=2, eos_token_id=2)
    assert model.predict(ends).shape == (2, 3)
    with pytest.raises(ValueError, match="row 2 of input_ids begins or ends with padding, pad_token_id = 2"):
        model.predict(torch.tensor([[5, 6, 7, 2], [5, 6, 2, 2]]))
    assert classifier(pad_token_id=None).predict(torch.zeros(2, 4, dtype=torch.long)).shape == (2, 3)
