"""What one may save, and load with other options."""

from __future__ import annotations

import copy
import json
import os
import pickle

import pytest
import torch
from neighbours.harness import LABELS, PLAIN, VOCAB, Subject, assert_alike, cases, same
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel


def changed(s: Subject):
    """A model with other weights."""
    other = copy.deepcopy(s.model)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(torch.rand_like(p) + 0.1)
    return other


def weights(folder) -> list[str]:
    return sorted(f.name for f in folder.iterdir() if f.name.startswith("model"))


def named_weights(folder) -> list[str]:
    """The files that a loader reads."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return ["model.safetensors"]
    return sorted({*json.loads(index.read_text())["weight_map"].values(), index.name})


def saved_over(first: dict, second: dict):
    """What was saved last is what is loaded, nothing is left of what was there before, and other files are."""

    def thing(s: Subject):
        folder = s.saved(**first)
        (folder / "notes.txt").write_text("mine")
        (folder / "optimizer.pt").write_text("mine")
        last = changed(s)
        s.saved(model=last, **second)
        mine = [(folder / name).read_text() for name in ("notes.txt", "optimizer.pt")]
        return same(s.values(s.loaded(folder)), s.values(last)), weights(folder) == named_weights(folder), mine

    return thing


def saved_here(s: Subject):
    before = os.getcwd()
    os.chdir(s.folder)
    try:
        s.model.save_pretrained(".")
        loaded = s.loaded(".")
    finally:
        os.chdir(before)
    card = s.folder / "README.md"
    return same(s.values(loaded), s.values()), 'from_pretrained("")' in (card.read_text() if card.exists() else "")


def not_the_main_process(s: Subject):
    s.model.save_pretrained(s.folder / "other", is_main_process=False)
    return sorted(f.name for f in (s.folder / "other").iterdir()) if (s.folder / "other").exists() else []


def through_a_link(s: Subject):
    (s.folder / "real").mkdir()
    (s.folder / "link").symlink_to(s.folder / "real")
    s.model.save_pretrained(s.folder / "link")
    real = weights(s.folder / "real")
    return (s.folder / "link").is_symlink(), real, same(s.values(s.loaded(s.folder / "link")), s.values())


def with_a_state_dict(s: Subject):
    """What is given is saved, not what the model holds."""
    other = changed(s)
    folder = s.saved(state_dict=other.state_dict())
    return same(s.values(s.loaded(folder)), s.values(other))


def a_variant(s: Subject):
    folder = s.saved(variant="fp16")
    return weights(folder), same(s.values(s.loaded(folder, variant="fp16")), s.values())


def nested(s: Subject):
    s.model.save_pretrained(s.folder / "a" / "b" / "c")
    return same(s.values(s.loaded(s.folder / "a" / "b" / "c")), s.values())


def as_text(s: Subject):
    s.model.save_pretrained(str(s.folder / "text"))
    return same(s.values(s.loaded(str(s.folder / "text"))), s.values())


def over_a_file(s: Subject):
    (s.folder / "file").write_text("mine")
    try:
        s.model.save_pretrained(s.folder / "file")
    finally:
        assert (s.folder / "file").read_text() == "mine"


def in_half(s: Subject):
    s.model.to(torch.bfloat16)
    loaded = s.loaded(s.saved(), dtype="auto")
    return loaded, same(s.values(loaded), s.values()), s.loaded(s.folder / "saved", dtype=torch.float32)


def tied(s: Subject):
    """Tied weights are stored once, and tied when they are loaded."""
    copied = copy.deepcopy(s.model)
    loaded = s.loaded(s.saved(model=copied))

    def ends(model):
        output = model.get_output_embeddings()
        return output is not None and output.weight is model.get_input_embeddings().weight

    return ends(s.model), ends(copied), ends(loaded)


def overridden(check=None, eager: bool = False, **options):
    """`from_pretrained` with options of the configuration: what then comes out, and what the model says of itself."""

    def thing(s: Subject):
        folder = s.saved()
        extra = {"attn_implementation": "eager"} if eager else {}
        model = s.loaded(folder, **options, **extra)
        out = model(**s.rows)
        kept = {k: getattr(model.config, k) for k in options if hasattr(PLAIN, k) or k == "pad_token_id"}
        again = s.loaded(s.saved("again", model)).config
        return out, kept, {k: getattr(again, k) for k in kept}, check(model) if check else None

    return thing


def other_number_of_labels(s: Subject):
    folder = s.saved()
    model, info = s.loaded(folder, num_labels=7, ignore_mismatched_sizes=True, output_loading_info=True)
    return model(**s.rows), sorted(key[0] for key in info["mismatched_keys"])


def other_labels_refused(s: Subject):
    return s.loaded(s.saved(), num_labels=7)


def dropout(model) -> set[float]:
    return {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)}


def config_of_a_plain_model(s: Subject):
    """What is read of a plain configuration, is read of ours."""
    given = PLAIN.to_dict()
    return {k: getattr(s.model.config, k, "lacking") == v for k, v in given.items() if k not in CONFIG_OF_ITS_OWN}


CONFIG_OF_ITS_OWN = {"model_type", "architectures", "transformers_version", "id2label", "label2id", "problem_type"}


def config_set(**options):
    """Set an option on the configuration; it is there, in a copy, in the file, and in a model that is made of it."""

    def thing(s: Subject):
        config = copy.deepcopy(s.model.config)
        for name, value in options.items():
            setattr(config, name, value)
        updated = copy.deepcopy(s.model.config)
        updated.update(options)
        config.save_pretrained(s.folder / "config")
        read = AutoConfig.from_pretrained(s.folder / "config")
        made = s.cls(copy.deepcopy(config))
        seen = [
            {k: getattr(c, k) for k in options}
            for c in (
                config,
                updated,
                copy.deepcopy(config),
                read,
                made.config,
                type(config).from_dict(config.to_dict()),
            )
        ]
        return seen, made.eval()(**s.rows)

    return thing


def pickled(s: Subject):
    again = pickle.loads(pickle.dumps(s.model))
    torch.save(s.model, s.folder / "whole.pt")
    read = torch.load(s.folder / "whole.pt", weights_only=False)
    return same(s.values(again), s.values()), same(s.values(read), s.values()), again, read


def copied(s: Subject):
    """A copy shares nothing with the original."""
    expected, other = s.values(), copy.deepcopy(s.model)
    alike = same(s.values(other), expected)
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    return alike, same(s.values(), expected), other


def state_loaded(s: Subject):
    """After `load_state_dict`, nothing of the former weights is remembered."""
    s.values()
    other = changed(s)
    s.model.load_state_dict(other.state_dict())
    return same(s.values(), s.values(other))


def state_assigned(s: Subject):
    other = changed(s)
    s.values()
    s.model.load_state_dict(other.state_dict(), assign=True)
    return same(s.values(), s.values(other))


def loaded_by_auto_class(s: Subject):
    folder = s.saved()
    with torch.random.fork_rng():  # a pooler that the checkpoint of a task lacks is drawn
        model = AutoModel.from_pretrained(folder)
    return model(**s.rows).last_hidden_state


def loaded_elsewhere(s: Subject):
    """A file of a model's tensors is one of its `state_dict`."""
    folder = s.saved()
    names = set(load_file(folder / "model.safetensors"))
    return names <= set(s.model.state_dict())


def a_state_dict_given(s: Subject):
    other = changed(s)
    model = s.cls.from_pretrained(None, config=copy.deepcopy(s.model.config), state_dict=other.state_dict())
    return same(s.values(model), s.values(other)), model


SHARDS = {"max_shard_size": "2KB"}
THINGS = {
    "save over a former save": saved_over({}, {}),
    "shards over one file": saved_over({}, SHARDS),
    "one file over shards": saved_over(SHARDS, {}),
    "fewer shards over many": saved_over(SHARDS, {"max_shard_size": "8KB"}),
    "save here": saved_here,
    "save from another process": not_the_main_process,
    "save through a link": through_a_link,
    "save a state_dict": with_a_state_dict,
    "save a variant": a_variant,
    "save in a folder to be made": nested,
    "save at a path as text": as_text,
    "save over a file": over_a_file,
    "save in bfloat16": in_half,
    "tied weights": tied,
    "load with output_hidden_states": overridden(output_hidden_states=True),
    "load with output_attentions": overridden(output_attentions=True, eager=True),
    "load with return_dict": overridden(
        lambda m: isinstance(m(input_ids=torch.ones(2, 3).long()), tuple), return_dict=False
    ),
    "load with pad_token_id": overridden(pad_token_id=3),
    "load with hidden_dropout_prob": overridden(lambda m: 0.25 in dropout(m), hidden_dropout_prob=0.25),
    "load with attention_probs_dropout_prob": overridden(attention_probs_dropout_prob=0.25),
    "load with layer_norm_eps": overridden(layer_norm_eps=1e-3),
    "load with initializer_range": overridden(initializer_range=0.5),
    "load with problem_type": overridden(problem_type="multi_label_classification"),
    "load with names of labels": overridden(
        id2label={i: f"l{i}" for i in range(LABELS)}, label2id={f"l{i}": i for i in range(LABELS)}
    ),
    "load with dtype": overridden(lambda m: str(m.dtype), dtype=torch.bfloat16),
    "load with attn_implementation": overridden(lambda m: m.config._attn_implementation, attn_implementation="eager"),
    "load with device_map": overridden(device_map="cpu"),
    "load with an unknown option": lambda s: s.loaded(s.saved(), no_such_option=1),
    "load with other labels": other_number_of_labels,
    "load with other labels, not allowed": other_labels_refused,
    "load a state_dict": a_state_dict_given,
    "load by AutoModel": loaded_by_auto_class,
    "names of tensors": loaded_elsewhere,
    "read the configuration": config_of_a_plain_model,
    "set pad_token_id": config_set(pad_token_id=3),
    "set initializer_range": config_set(initializer_range=0.1),
    "set layer_norm_eps": config_set(layer_norm_eps=1e-3),
    "set hidden_dropout_prob": config_set(hidden_dropout_prob=0.3),
    "set the vocabulary's size": config_set(vocab_size=VOCAB + 3),
    "set output_hidden_states": config_set(output_hidden_states=True),
    "pickle": pickled,
    "deepcopy": copied,
    "load_state_dict": state_loaded,
    "load_state_dict, assigned": state_assigned,
}
LABELLED = ("sequence", "token")
ONLY = {
    "tied weights": ("masked",),
    "load with problem_type": ("sequence",),
    "load with names of labels": LABELLED,
    "load with other labels": LABELLED,
    "load with other labels, not allowed": LABELLED,
}
REPLACED = ("tuple", [True, True, ("list", ["mine", "mine"])])
EXPLAINED = {
    ("shards over one file",): (REPLACED, "what was there is replaced; the plain model leaves it, and loads it"),
    ("one file over shards",): (REPLACED, "what was there is replaced; the plain model leaves it"),
    ("save over a file",): ("raises", "the plain model logs an error and saves nothing"),
    ("read the configuration", "index"): (
        lambda seen: seen | {"max_position_embeddings": False},
        "the prefix takes some of the encoder's positions",
    ),
}


@pytest.mark.parametrize(("thing", "task", "ends"), cases(THINGS, ONLY))
def test_alike(thing, task, ends, tmp_path):
    assert_alike(THINGS[thing], task, ends, tmp_path, EXPLAINED, thing)
