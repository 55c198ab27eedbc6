"""A plain encoder with its head as files that CTranslate2 and `CTranslate2Runtime` load."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from fastmux.joins import BERT_LIKE
from fastmux.modules.is_plain import is_plain
from fastmux.passes.runtimes.ctranslate2 import HEAD, MODEL_FOLDER

#: transformers' names of activations -> those of `ctranslate2.specs.common_spec.Activation`.
_ACTIVATIONS = {
    "gelu": "GELU",
    "gelu_new": "GELUTanh",
    "gelu_pytorch_tanh": "GELUTanh",
    "relu": "RELU",
    "silu": "SWISH",
}
Layers = list[tuple[nn.Linear, str]]


def check_ctranslate2(model: PreTrainedModel) -> None:
    """Raise ValueError for a model that `write_ctranslate2` cannot write."""
    config: Any = model.config
    kind = type(model)
    if hasattr(model, "vector_size"):
        raise ValueError("runtime is 'ctranslate2', which runs models that label, not those that embed")
    known = config.model_type in BERT_LIKE and kind.__module__.startswith("transformers.models.")
    if not known or getattr(config, "is_decoder", False) or getattr(config, "num_instances", 1) > 1:
        raise ValueError(
            f"runtime is 'ctranslate2', which runs no {kind.__name__}; expected a plain encoder with a head of "
            f"transformers, of the kinds {', '.join(BERT_LIKE)}"
        )
    if not all(is_plain(module, type(module)) for module in model.modules()):
        raise ValueError("runtime is 'ctranslate2', which runs no model with hooks, adapters or quantised tensors")
    positions = getattr(config, "position_embedding_type", None) or "absolute"
    if positions != "absolute" or config.hidden_act not in _ACTIVATIONS:
        raise ValueError(
            f"runtime is 'ctranslate2', which runs no encoder with hidden_act {config.hidden_act!r} and "
            f"{positions} positions; expected {', '.join(_ACTIVATIONS)}, and absolute ones"
        )
    if hasattr(model.base_model, "embeddings_project"):
        raise ValueError("runtime is 'ctranslate2', which runs no ELECTRA whose embeddings have a width of their own")
    _head(model)


def write_ctranslate2(model: PreTrainedModel, folder: Path, precision: str) -> list[str]:
    """Write a model in eval mode that `check_ctranslate2` takes.

    Returns:
        The names of the files in the folder, the one with the weights first.
    """
    from ctranslate2.specs import common_spec, transformer_spec

    model = copy.deepcopy(model)  # CTranslate2 quantises the tensors that it is given in place
    encoder: Any = model.base_model
    config: Any = model.config
    layers = encoder.encoder.layer
    activation = getattr(common_spec.Activation, _ACTIVATIONS[config.hidden_act])
    spec = transformer_spec.TransformerEncoderModelSpec(
        transformer_spec.TransformerEncoderSpec(
            len(layers),
            config.num_attention_heads,
            pre_norm=False,
            activation=activation,
            num_source_embeddings=2,
            embeddings_merge=common_spec.EmbeddingsMerge.ADD,
            layernorm_embedding=True,
        )
    )
    ours, given = spec.encoder, encoder.embeddings
    ours.scale_embeddings = False
    ours.embeddings[0].weight = given.word_embeddings.weight
    ours.embeddings[1].weight = given.token_type_embeddings.weight
    # RoBERTa and its kin count positions from padding_idx + 1.
    first = 0 if (pad := getattr(given, "padding_idx", None)) is None else pad + 1
    ours.position_encodings.encodings = given.position_embeddings.weight[first:]
    _norm(ours.layernorm_embedding, given.LayerNorm)
    for layer, source in zip(ours.layer, layers, strict=True):
        attention = source.attention
        three = [getattr(attention.self, name) for name in ("query", "key", "value")]
        layer.self_attention.linear[0].weight = torch.cat([linear.weight for linear in three])
        layer.self_attention.linear[0].bias = torch.cat([linear.bias for linear in three])
        _linear(layer.self_attention.linear[1], attention.output.dense)
        _norm(layer.self_attention.layer_norm, attention.output.LayerNorm)
        _linear(layer.ffn.linear_0, source.intermediate.dense)
        _linear(layer.ffn.linear_1, source.output.dense)
        _norm(layer.ffn.layer_norm, source.output.LayerNorm)
    spec.config.layer_norm_epsilon = config.layer_norm_eps
    # It is given ids, and never looks a word up.
    spec.register_vocabulary([str(index) for index in range(given.word_embeddings.num_embeddings)])
    spec.validate()
    spec.optimize(quantization=precision)
    (folder / MODEL_FOLDER).mkdir()
    spec.save(str(folder / MODEL_FOLDER))
    head = _head(model)
    tensors = {f"{i}.weight": linear.weight.detach().contiguous() for i, (linear, _) in enumerate(head)}
    tensors |= {f"{i}.bias": linear.bias.detach() for i, (linear, _) in enumerate(head)}
    save_file(tensors, folder / HEAD, metadata={"activations": " ".join(name for _, name in head)})
    there = sorted(path.name for path in (folder / MODEL_FOLDER).iterdir())
    there.sort(key=lambda name: name != "model.bin")
    return [*(f"{MODEL_FOLDER}/{name}" for name in there), HEAD]


def _head(model: PreTrainedModel) -> Layers:
    """The layers between the last hidden states, of every token or of the first one, and the logits."""
    parts: Any = model
    classifier = getattr(parts, "classifier", None)
    if type(classifier) is nn.Linear:
        if type(model).__name__.endswith("ForTokenClassification"):
            return [(classifier, "none")]
        pooler = getattr(model.base_model, "pooler", None)
        if pooler is not None and type(pooler.activation) is nn.Tanh:
            return [(pooler.dense, "tanh"), (classifier, "none")]
    elif model.config.model_type in ("roberta", "xlm-roberta", "camembert"):
        return [(classifier.dense, "tanh"), (classifier.out_proj, "none")]
    raise ValueError(f"runtime is 'ctranslate2', which does not know the head of a {type(model).__name__}")


def _linear(spec: Any, linear: nn.Linear) -> None:
    spec.weight, spec.bias = linear.weight, linear.bias


def _norm(spec: Any, norm: nn.LayerNorm) -> None:
    spec.gamma, spec.beta = norm.weight, norm.bias
