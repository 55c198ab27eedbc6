"""The config of a T-MUX model beside a plain one: what is read from it, set in it and stored with it."""

from __future__ import annotations

import copy

import pytest
import torch
from models import BERT, FAMILIES, batch
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, Trainer, TrainingArguments

import fastmux

SEQUENCE = fastmux.TMuxForSequenceClassification
#: What tools read from a plain config and people set in it, and another value than the tests' encoders have.
OPTIONS = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 99,
    "max_position_embeddings": 33,
    "pad_token_id": 3,
    "initializer_range": 0.5,
    "layer_norm_eps": 1e-3,
    "hidden_dropout_prob": 0.3,
    "attention_probs_dropout_prob": 0.4,
    "intermediate_size": 48,
    "chunk_size_feed_forward": 4,
    "output_hidden_states": True,
}


def config(family: str = "bert", **options) -> fastmux.TMuxConfig:
    return fastmux.TMuxConfig(backbone_config=copy.deepcopy(FAMILIES[family]), num_instances=3, **options)


@pytest.mark.parametrize("name", list(OPTIONS))
@pytest.mark.parametrize("family", list(FAMILIES))
def test_what_a_plain_config_has_is_read_from_and_reaches_the_encoders(tmp_path, family, name):
    plain, value = FAMILIES[family], OPTIONS[name]
    if not hasattr(plain, name) and (family, name) != ("modernbert", "layer_norm_eps"):
        if name not in ("layer_norm_eps", "initializer_range", "pad_token_id"):  # these, layers of our own need
            assert not hasattr(config(family), name)
        return
    theirs = {"layer_norm_eps": "norm_eps"}.get(name, name) if family == "modernbert" else name
    here = config(family)
    prefix = here.prefix_length if name == "max_position_embeddings" else 0
    assert getattr(here, name) == getattr(plain, theirs) - prefix
    setattr(here, name, value)
    (updated := config(family)).update({name: value})
    here.save_pretrained(tmp_path)
    config(family).save_pretrained(tmp_path / "other")
    given = FAMILIES[family]
    for changed in (
        here,
        updated,
        fastmux.TMuxConfig(backbone_config=given, num_instances=3, **{name: value}),
        AutoConfig.from_pretrained(tmp_path),
        AutoConfig.from_pretrained(tmp_path / "other", **{name: value}),
    ):
        assert getattr(changed, name) == value
        assert getattr(changed.backbone_config, theirs) == value + prefix
    assert getattr(given, theirs) != value or name == "num_hidden_layers"  # the caller's stays as it was


@pytest.mark.parametrize("family", list(FAMILIES))
def test_options_at_loading_are_those_of_a_plain_model(tmp_path, family):
    SEQUENCE.from_backbone(FAMILIES[family], 3).save_pretrained(tmp_path / "mux")
    AutoModelForSequenceClassification.from_config(FAMILIES[family]).save_pretrained(tmp_path / "plain")
    options = [{"output_hidden_states": True}, {"output_attentions": True}, {"pad_token_id": 3}, {"return_dict": False}]
    if hasattr(FAMILIES[family], "hidden_dropout_prob"):
        options.append({"hidden_dropout_prob": 0.3})
    if family == "modernbert":
        options.remove({"return_dict": False})  # of which the plain model makes an AttributeError
    rows = batch(4)
    for option in options:
        plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain", **option)
        model = SEQUENCE.from_pretrained(tmp_path / "mux", **option)
        with torch.no_grad():
            first, second = plain(**rows), model(**rows)
        assert type(second) is tuple if option == {"return_dict": False} else first.keys() == second.keys()
        assert model.config._attn_implementation == plain.config._attn_implementation
        padding = [m.get_input_embeddings().padding_idx for m in (plain, model)]
        assert padding[0] == padding[1]
        if "hidden_dropout_prob" in option:
            assert 0.3 in {m.p for m in model.tmux.backbone.modules() if isinstance(m, torch.nn.Dropout)}


def test_options_that_only_the_encoder_knows_are_set_there(tmp_path):
    given = config("modernbert", local_attention=64, mlp_dropout=0.3)
    assert given.backbone_config.local_attention == 64 and given.mlp_dropout == given.backbone_config.mlp_dropout == 0.3
    assert not hasattr(given, "local_attention")  # what no tool asks for is read from the encoder's config
    given.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path, mlp_dropout=0.4).backbone_config.mlp_dropout == 0.4


@pytest.mark.filterwarnings("error::UserWarning:fastmux")
def test_no_option_that_takes_effect_is_warned_of(tmp_path):
    options = {"attn_implementation": "eager", "output_attentions": True}  # sdpa, which BERT may have, gives none
    fastmux.TMuxConfig(backbone_config=copy.deepcopy(BERT), num_instances=2, **options).save_pretrained(tmp_path)
    assert fastmux.TMuxConfig.from_pretrained(tmp_path, attn_implementation="eager").backbone_config.output_attentions


def test_an_option_set_on_a_model_reaches_its_encoder():
    for backbone in (BERT, AutoModel.from_config(BERT)):
        model, rows = SEQUENCE.from_backbone(backbone, 3), batch(3)
        assert model.tmux.backbone.config is model.config.backbone_config
        model.config.output_hidden_states = True
        assert len(model(**rows).hidden_states) == 3
        model.set_attn_implementation("eager")
        assert all(m.config._attn_implementation == "eager" for m in model.modules() if hasattr(m, "config"))
        model.config.output_attentions = True
        assert len(model(**rows).attentions) == 2


def test_options_of_an_encoder_that_is_loaded_by_name(tmp_path):
    AutoModel.from_config(BERT).save_pretrained(tmp_path)
    for model in (
        SEQUENCE.from_backbone(tmp_path, 3, hidden_dropout_prob=0.3),
        SEQUENCE.from_backbone(BERT, 3, hidden_dropout_prob=0.3),
    ):
        assert model.config.backbone_config.hidden_dropout_prob == model.dropout.p == 0.3
        assert model.tmux.backbone.embeddings.dropout.p == 0.3
    assert BERT.hidden_dropout_prob == 0.1


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_model_can_what_its_encoder_can(family):
    plain, model = AutoModel.from_config(FAMILIES[family]), SEQUENCE.from_backbone(FAMILIES[family], 3)
    for what in ("_supports_sdpa", "_supports_flash_attn", "_supports_flex_attn", "supports_gradient_checkpointing"):
        assert getattr(model, what) == getattr(plain, what), what
    assert model.config._attn_implementation == plain.config._attn_implementation


class Tokens(torch.utils.data.Dataset):
    def __len__(self):
        return 24

    def __getitem__(self, i):
        row = torch.arange(i, i + 7) % 50 + 5
        return {"input_ids": row, "attention_mask": torch.ones_like(row), "labels": i % 2}


def train(model, tmp_path, steps: int, size: int, **options) -> list[dict]:
    arguments = TrainingArguments(
        tmp_path / "out", max_steps=1, per_device_train_batch_size=size, gradient_accumulation_steps=steps,
        logging_steps=1, report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=Tokens(), **options)
    trainer.train()
    return trainer.state.log_history


def test_gradient_accumulation_gives_the_gradients_of_the_whole_batch(tmp_path):
    still = copy.deepcopy(BERT)
    still.hidden_dropout_prob = still.attention_probs_dropout_prob = 0.0
    norms = []
    for steps, size in ((1, 12), (4, 3)):
        torch.manual_seed(0)
        model = SEQUENCE.from_backbone(still, 3, retrieval_loss_weight=0.0)
        norms.append(train(model, tmp_path, steps, size)[0]["grad_norm"])
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)


def test_a_trainer_aligns_the_padding_of_model_and_tokenizer(tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(60)}, unk_token="w0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w3", unk_token="w0")
    model = SEQUENCE.from_backbone(BERT, 3)
    train(model, tmp_path, 1, 6, processing_class=tokenizer)
    assert model.config.pad_token_id == model.config.backbone_config.pad_token_id == 3 and BERT.pad_token_id == 1
