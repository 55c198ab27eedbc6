"""The checkpoints that the authors of DataMUX and MUX-PLM published, read as fastmux models.

Their config has the fields ``muxing_variant`` and ``demuxing_variant``. fastmux computes the same as the authors' code
with the options that `published_config` sets; `published_state_dict` gives every tensor its name in fastmux. The
authors' index prefix consists of words of the vocabulary; in fastmux it has its own embeddings, copied from them.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import AutoConfig
from transformers.utils import SAFE_WEIGHTS_NAME, WEIGHTS_NAME

from fastmux.configuration import TMuxConfig
from fastmux.conventions import Conventions
from fastmux.models.checkpoints import load_file, weight_files

#: Fields of a published config that describe multiplexing. All others are the encoder's.
_MUX_FIELDS = (
    "muxing_variant",
    "demuxing_variant",
    "num_instances",
    "binary_hadamard_epsilon",
    "gaussian_hadamard_norm",
    "learn_muxing",
    "num_hidden_demux_layers",
    "retrieval_loss_coeff",
    "retrieval_percentage",
    "task_loss_coeff",
)
_MULTIPLEXERS = {
    "gaussian_hadamard": "hadamard",
    "binary_hadamard": "binary",
    "random_ortho": "orthogonal",
    "random_ortho_low_rank": "low_rank_orthogonal",
    "gaussian_attention_v2": "attention",
}
_DEMULTIPLEXERS = {"index": "index", "mlp": "mlp", "index_pos": "rsa"}


@dataclass(frozen=True)
class Layout:
    """One of the authors' model classes: what it computes with every multiplexer.

    Args:
        encoder: The model type of its encoder in Hugging Face.
        task: The name of its class in fastmux.
        classifiers: The kinds of its head: with an index prefix, and without one.
        first_token_id: The token that replaces each row's first token, without a prefix.
        types: Whether it uses segment ids. A class that does not reads a pair as one segment.
        padded_length: The length to which the authors' scripts pad every row. None where rows are packed.
        retrieval_skips_first: Whether retrieval leaves out the first position, without a prefix.
    """

    encoder: str
    task: str
    classifiers: tuple[str, str] = ("linear", "linear")
    first_token_id: int | None = None
    types: bool = False
    padded_length: int | None = 128
    retrieval_skips_first: bool = False

    def conventions(self, demultiplexer: str, task_loss_weight: float | None) -> Conventions:
        """What it does differently from fastmux, with one of fastmux's demultiplexers."""
        has_prefix = demultiplexer == "index"
        roberta, tokens = self.encoder == "roberta", self.task == "TMuxForTokenClassification"
        return Conventions(
            classifier_type=self.classifiers[0 if has_prefix else 1],
            # In `rsa` both heads share keys and layers; in the others each has its own demultiplexer.
            retrieval_demultiplexer="shared" if demultiplexer == "rsa" else "own",
            retrieval_transform=not has_prefix,
            retrieval_residual=self.encoder == "electra",
            retrieval_skips_first=self.retrieval_skips_first and not has_prefix,
            retrieval_counts_padding=self.task == "TMuxForMaskedLM",
            task_loss_weight=task_loss_weight,
            first_token_id=None if has_prefix else self.first_token_id,
            ignore_token_types=not self.types,
            attend_padding=True,
            padded_length=self.padded_length,
            ignore_padding_labels=roberta and tokens,
        )


_ROBERTA_CLS, _ROBERTA_PREFIX_PAD = 49923, 50000
_BERT_CLS, _BERT_PREFIX_PAD = 101, 680
_SEQUENCE, _TOKEN = "TMuxForSequenceClassification", "TMuxForTokenClassification"
#: The authors' class -> its layout. RoBERTa has a single segment, and its tokenizers return no segment ids.
ARCHITECTURES = {
    "RobertaSequenceClassificationMuxed": Layout(
        "roberta", _SEQUENCE, ("mlp", "mlp_norm"), _ROBERTA_CLS, types=True, retrieval_skips_first=True
    ),
    "RobertaTokenClassificationMuxed": Layout("roberta", _TOKEN, ("linear", "mlp_norm"), _ROBERTA_CLS, types=True),
    "MuxedBertForSequenceClassification": Layout("bert", _SEQUENCE, first_token_id=_BERT_CLS),
    "MuxedBertForTokenClassification": Layout("bert", _TOKEN, first_token_id=_BERT_CLS),
    "MuxedBertForMaskedLM": Layout("bert", "TMuxForMaskedLM", first_token_id=_BERT_CLS, types=True, padded_length=None),
    "MuxedElectraForSequenceClassification": Layout("electra", _SEQUENCE, ("mlp", "mlp"), retrieval_skips_first=True),
    "MuxedElectraForTokenClassification": Layout("electra", _TOKEN),
}


def is_published(config: dict) -> bool:
    """Whether a stored config belongs to a published checkpoint."""
    return "muxing_variant" in config and "demuxing_variant" in config


def _lookup(name: str, stored: dict, field: str, known: dict):
    value = stored.get(field)
    if value not in known:
        raise ValueError(f"the checkpoint {name!r} has {field} = {value!r}, expected one of {', '.join(known)}")
    return known[value]


def _layout(name: str, stored: dict) -> Layout:
    first = {"architecture": (stored.get("architectures") or [None])[0]}
    return _lookup(name, first, "architecture", ARCHITECTURES)


def published_config(name: str, stored: dict) -> TMuxConfig:
    """Converts the stored config of a published checkpoint.

    Raises:
        ValueError: An architecture, multiplexer or demultiplexer was never published, or a value is out of range.
    """
    layout = _layout(name, stored)
    multiplexer = _lookup(name, stored, "muxing_variant", _MULTIPLEXERS)
    demultiplexer = _lookup(name, stored, "demuxing_variant", _DEMULTIPLEXERS)
    own = {k: v for k, v in stored.items() if k not in _MUX_FIELDS and k not in ("architectures", "model_type")}
    labels = {k: own.pop(k) for k in ("id2label", "label2id", "problem_type") if own.get(k) is not None}
    if "num_instances" not in stored:
        raise ValueError(f"the config of {name!r} has no num_instances")
    return TMuxConfig(
        backbone_config=AutoConfig.for_model(layout.encoder, **own),
        num_instances=stored["num_instances"],
        multiplexer=multiplexer,
        demultiplexer=demultiplexer,
        multiplexer_options=_multiplexer_options(multiplexer, stored, layout.task == _SEQUENCE),
        demultiplexer_options=_demultiplexer_options(demultiplexer, stored),
        conventions=layout.conventions(demultiplexer, stored.get("task_loss_coeff")),
        tie_word_embeddings=False,
        retrieval_loss_weight=stored.get("retrieval_loss_coeff", 0.1),
        retrieval_percentage=stored.get("retrieval_percentage", 1.0),
        architectures=[layout.task],
        **labels,
    )


def _demultiplexer_options(demultiplexer: str, stored: dict) -> dict:
    return {"num_layers": stored.get("num_hidden_demux_layers", 2)} if demultiplexer == "rsa" else {}


def _multiplexer_options(multiplexer: str, stored: dict, sequence: bool) -> dict:
    options = {"learnable": bool(stored.get("learn_muxing", 0))}
    if multiplexer == "attention":
        options["mask_instances"] = sequence
    if multiplexer in ("hadamard", "attention"):
        options["norm"] = float(stored.get("gaussian_hadamard_norm", 1.0))
    elif multiplexer == "binary":
        options["overlap"] = stored.get("binary_hadamard_epsilon", 0.3)
    return options


def _prefix_tokens(config: TMuxConfig) -> list[int]:
    """The words that make up the authors' prefix: N index tokens, the pad between them, the CLS after them."""
    n = config.num_instances
    if config.backbone_config.model_type == "roberta":
        return [config.vocab_size - 2 - i for i in range(n)] + [_ROBERTA_PREFIX_PAD, _ROBERTA_CLS]
    return [_BERT_PREFIX_PAD - 2 - i for i in range(n)] + [_BERT_PREFIX_PAD, _BERT_CLS]


def _linear(here: str, there: str) -> list[tuple[str, str]]:
    return [(f"{here}.{kind}", f"{there}.{kind}") for kind in ("weight", "bias")]


def _names(config: TMuxConfig, encoder: str, task: str) -> dict[str, str | list[str]]:
    """The name in fastmux -> the name in the published state dict, or a list of names to stack. Without the
    encoder's."""
    n = config.num_instances
    pairs: list[tuple[str, str | list[str]]] = [(f"tmux.multiplexer.{_transforms(config)}", "instance_embedding")]
    if config.demultiplexer == "index":
        for here, there in (("tmux.demultiplexer", "demultiplexer"), ("retrieval.demultiplexer", "retrieval_head")):
            pairs += _linear(f"{here}.dense", f"{there}.dense") + _linear(f"{here}.layer_norm", f"{there}.layer_norm")
    elif config.demultiplexer == "mlp":
        for here, there in (("tmux.demultiplexer", "demultiplexer"), ("retrieval.demultiplexer", "retrieval_head")):
            for kind in ("weight", "bias"):
                pairs.append((f"{here}.{kind}", [f"{there}.demux_module.dense_{i}.{kind}" for i in range(n)]))
                pairs.append((f"{here}.ln_{kind}", [f"{there}.demux_module.layer_norm_{i}.{kind}" for i in range(n)]))
        pairs += _linear("retrieval.dense", "retrieval_head.dense_pre_vocab")
        pairs += _linear("retrieval.layer_norm", "retrieval_head.layer_norm_pre_vocab")
    else:
        here = "tmux.demultiplexer"
        pairs.append((f"{here}.instance_keys", "demux_module.demux_instance_embedding"))
        for m in range(config.demultiplexer_options["num_layers"]):
            pairs += _linear(f"{here}.layers.{m}", f"demux_module.dense_{m + 1}")
            pairs += _linear(f"{here}.retrieval_norms.{m}", f"demux_module.layer_norm_{m + 1}")
        pairs += _linear(f"{here}.output", "demultiplexer.pre_decoder")
        pairs += _linear(f"{here}.layer_norm", "demultiplexer.pre_decoder_layer_norm")
        pairs += _linear("retrieval.dense", "retrieval_head.pre_decoder")
        pairs += _linear("retrieval.layer_norm", "retrieval_head.pre_decoder_layer_norm")
    if config.multiplexer == "attention":
        for here, there in (("over_positions", "muxing_attention"), ("over_instances", "muxing_attention_2")):
            for own, part in _LAYER.items():
                pairs += _linear(f"tmux.multiplexer.{here}.{own}", f"{there}.{part}")
    pairs.append(("retrieval.decoder.weight", "retrieval_head.decoder.weight"))
    pairs.append(("retrieval.decoder.bias", "retrieval_head.bias"))
    if task != "TMuxForMaskedLM":
        pairs += _classifier(config, encoder)
    return dict(pairs)


def _transforms(config: TMuxConfig) -> str:
    return "binding.transforms" if config.multiplexer == "attention" else "transforms"


#: The parts of a transformer layer in fastmux -> in the published state dict.
_LAYER = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "output_norm": "output.LayerNorm",
}


def _classifier(config: TMuxConfig, encoder: str) -> list[tuple[str, str]]:
    if config.conventions.classifier_type == "linear":
        return _linear("classifier", "demultiplexer.decoder" if encoder == "roberta" else "classifier")
    there = "demultiplexer" if encoder == "roberta" else "classifier"
    dense = "dense_before_out_proj" if encoder == "roberta" else "dense"
    pairs = _linear("classifier.dense", f"{there}.{dense}") + _linear("classifier.out_proj", f"{there}.out_proj")
    if config.conventions.classifier_type == "mlp_norm":
        pairs += _linear("classifier.layer_norm", f"{there}.layernorm_presoftmax")
    return pairs


#: Second names of tensors, as patterns, and the first names.
_DUPLICATES = (
    (re.compile(r"^(?:demultiplexer|retrieval_head)\.demux_module\."), "demux_module."),
    (re.compile(r"^retrieval_head\.decoder\.bias$"), "retrieval_head.bias"),
    (re.compile(r"^demultiplexer\.bias$"), "demultiplexer.decoder.bias"),
)
#: Tensors that the authors' library stored and that are not weights.
_IGNORED = re.compile(r"\.position_ids$|\.pooler\.|embeddings\.token_type_ids$")


def published_state_dict(name: str, stored: dict, config: TMuxConfig, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gives the tensors of a published checkpoint the names that they have in fastmux. If the retrieval decoder equals
    the word embeddings, this sets ``config.tie_word_embeddings``.

    Raises:
        ValueError: Tensors are missing, or are left over.
    """
    layout = _layout(name, stored)
    encoder = layout.encoder
    names = _names(config, encoder, layout.task)
    wanted = {t for there in names.values() for t in ([there] if isinstance(there, str) else there)}
    lacking = sorted(wanted - tensors.keys())
    if lacking:
        raise ValueError(f"the checkpoint {name!r} lacks {len(lacking)} tensors, e.g. {lacking[:3]}")
    backbone = {k: t for k, t in tensors.items() if k.startswith(f"{encoder}.") and not _IGNORED.search(k)}
    surplus = sorted(
        k
        for k in tensors.keys() - wanted - backbone.keys()
        if not _IGNORED.search(k) and not _is_duplicate(k, tensors, wanted)
    )
    if surplus:
        raise ValueError(
            f"the checkpoint {name!r} has {len(surplus)} tensors that its config has no place for, e.g. {surplus[:3]}"
        )
    converted = {
        here: tensors[there] if isinstance(there, str) else torch.stack([tensors[t] for t in there])
        for here, there in names.items()
    }
    for key, tensor in backbone.items():
        converted[f"tmux.backbone.{key.removeprefix(f'{encoder}.')}"] = tensor
    words = "tmux.backbone.embeddings.word_embeddings.weight"
    if words not in converted:
        raise ValueError(f"the checkpoint {name!r} lacks {encoder}.embeddings.word_embeddings.weight")
    if torch.equal(converted["retrieval.decoder.weight"], converted[words]):
        config.tie_word_embeddings = True
        del converted["retrieval.decoder.weight"]
    if config.prefix_length:
        tokens = _prefix_tokens(config)
        if min(tokens) < 0 or max(tokens) >= len(converted[words]):
            raise ValueError(
                f"the checkpoint {name!r} makes its prefix of the words {tokens}, but has {len(converted[words])}"
            )
        converted["tmux.prefix_tokens.weight"] = converted[words][tokens]
    return converted


def _is_duplicate(key: str, tensors: dict[str, Tensor], wanted: set[str]) -> bool:
    originals = [pattern.sub(first, key) for pattern, first in _DUPLICATES if pattern.match(key)]
    return any(first in wanted and torch.equal(tensors[key], tensors[first]) for first in originals)


def load_tensors(name: str | os.PathLike, **where) -> dict[str, Tensor]:
    """Reads the tensors of a published checkpoint: safetensors, or a pickle that holds nothing but tensors.

    Args:
        name: A folder, or a name on the hub.
        where: The options listed in `fastmux.models.checkpoints.HUB_OPTIONS` and ``FILE_OPTIONS``.

    Raises:
        ValueError: Neither file is there, or it is damaged or holds anything but tensors.
    """
    files = weight_files(name, **where)
    if not files:
        raise ValueError(f"{str(name)!r} has no weights, expected one of {SAFE_WEIGHTS_NAME}, {WEIGHTS_NAME}")
    return {key: tensor for file in files for key, tensor in load_file(file).items()}
