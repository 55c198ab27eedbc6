"""Published checkpoints of random weights, and random batches for them: one of every layout."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import torch
from published_models import CLASSES, MATRICES, PRODUCTS, Published
from safetensors.torch import save_file
from torch import Tensor

LAYOUTS = [
    (name, muxing, demuxing)
    for name, (encoder, _) in CLASSES.items()
    for muxing, demuxing in product(
        (*PRODUCTS, *MATRICES, *(() if encoder == "roberta" else ("gaussian_attention_v2",))),
        ("index", "mlp" if encoder == "roberta" else "index_pos"),
    )
]


def store(published: Published, folder: Path) -> Path:
    """As its authors stored it."""
    (folder / "config.json").write_text(json.dumps(published.config))
    save_file({k: t.clone() for k, t in published.tensors.items()}, folder / "model.safetensors")
    return folder


def _layer_shapes(name: str, width: int, wide: int) -> dict[str, tuple[int, ...]]:
    shapes = {f"{name}.attention.self.{part}": (width, width) for part in ("query", "key", "value")}
    shapes |= {f"{name}.attention.output.dense": (width, width), f"{name}.attention.output.LayerNorm": (width,)}
    shapes |= {f"{name}.intermediate.dense": (wide, width), f"{name}.output.dense": (width, wide)}
    return shapes | {f"{name}.output.LayerNorm": (width,)}


def _shapes(config: dict) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Shapes of the linear layers' and norms' weights, whose biases go with them; and of tensors that have none."""
    encoder, task = CLASSES[config["architectures"][0]]
    n, d, wide, vocab = (config[k] for k in ("num_instances", "hidden_size", "intermediate_size", "vocab_size"))
    muxing, demuxing = config["muxing_variant"], config["demuxing_variant"]
    labels = len(config["id2label"])
    with_bias: dict[str, tuple[int, ...]] = {f"{encoder}.embeddings.LayerNorm": (d,)}
    alone = {
        f"{encoder}.embeddings.word_embeddings.weight": (vocab, d),
        f"{encoder}.embeddings.position_embeddings.weight": (config["max_position_embeddings"], d),
        f"{encoder}.embeddings.token_type_embeddings.weight": (config["type_vocab_size"], d),
        "instance_embedding": (n, d, d) if muxing in MATRICES else (n, d),
        "retrieval_head.decoder.weight": (vocab, d),
        "retrieval_head.bias": (vocab,),
    }
    for m in range(config["num_hidden_layers"]):
        with_bias |= _layer_shapes(f"{encoder}.encoder.layer.{m}", d, wide)
    if muxing == "gaussian_attention_v2":
        with_bias |= _layer_shapes("muxing_attention", d, wide) | _layer_shapes("muxing_attention_2", d, wide)
    if demuxing == "index":
        for head in ("demultiplexer", "retrieval_head"):
            with_bias |= {f"{head}.dense": (d, 2 * d), f"{head}.layer_norm": (d,)}
    elif demuxing == "mlp":
        for head, i in product(("demultiplexer", "retrieval_head"), range(n)):
            with_bias |= {f"{head}.demux_module.dense_{i}": (d, d), f"{head}.demux_module.layer_norm_{i}": (d,)}
        with_bias |= {"demultiplexer.layernorm_presoftmax": (d,)}
        with_bias |= {"retrieval_head.dense_pre_vocab": (d, d), "retrieval_head.layer_norm_pre_vocab": (d,)}
    else:
        alone["demux_module.demux_instance_embedding"] = (n, d)
        for m in range(1, config.get("num_hidden_demux_layers", 2) + 1):
            with_bias[f"demux_module.dense_{m}"] = (d, 2 * d if m == 1 else d)
            with_bias[f"demux_module.layer_norm_{m}"] = (d,)
        for head in ("demultiplexer", "retrieval_head"):
            with_bias |= {f"{head}.pre_decoder": (d, d), f"{head}.pre_decoder_layer_norm": (d,)}
    if encoder == "roberta" and demuxing == "index" and task == "tok":
        with_bias["demultiplexer.decoder"] = (labels, d)
    elif encoder == "roberta":
        with_bias |= {"demultiplexer.dense_before_out_proj": (d, d), "demultiplexer.out_proj": (labels, d)}
    elif encoder == "electra" and task == "seq":
        with_bias |= {"classifier.dense": (d, d), "classifier.out_proj": (labels, d)}
    elif task != "mlm":
        with_bias["classifier"] = (labels, d)
    return with_bias, alone


def random_checkpoint(name: str, muxing: str, demuxing: str, seed: int, **fields) -> Published:
    """A checkpoint of random weights, in the layout of the published ones, shared tensors under all of their names."""
    encoder, task = CLASSES[name]
    roberta = encoder == "roberta"
    config = {"architectures": [name], "model_type": encoder, "muxing_variant": muxing, "demuxing_variant": demuxing}
    config |= {"num_instances": 2 + seed % 4, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
    config |= {"intermediate_size": 24, "layer_norm_eps": 1e-5 if roberta else 1e-12}
    config |= {"max_position_embeddings": 34 if roberta else 32, "type_vocab_size": 1 if roberta else 2}
    # The words of the prefix are in the vocabulary.
    config |= {"vocab_size": 50265 if roberta else 700, "pad_token_id": 1 if roberta else 0}
    config |= {"id2label": {str(i): f"LABEL_{i}" for i in range(5 if task == "tok" else 3)}, "learn_muxing": seed % 2}
    config |= {"gaussian_hadamard_norm": 1, "binary_hadamard_epsilon": 0.3}
    config |= {"task_loss_coeff": 0.9, "retrieval_loss_coeff": 0.1, "retrieval_percentage": 1.0}
    if encoder == "electra":
        config["embedding_size"] = 16
    if demuxing == "index_pos" and seed % 3:
        config["num_hidden_demux_layers"] = 1 + seed % 3 + seed % 2
    config |= fields
    generator = torch.Generator().manual_seed(seed)
    with_bias, alone = _shapes(config)
    tensors = {key: torch.randn(shape, generator=generator) for key, shape in alone.items()}
    for key, shape in with_bias.items():
        weight = torch.randn(shape, generator=generator)
        tensors[f"{key}.weight"] = 1 + 0.2 * weight if len(shape) == 1 else weight / shape[1] ** 0.5
        tensors[f"{key}.bias"] = 0.2 * torch.randn(shape[0], generator=generator)
    tensors["retrieval_head.decoder.bias"] = tensors["retrieval_head.bias"]
    if "demultiplexer.decoder.bias" in tensors:
        tensors["demultiplexer.bias"] = tensors["demultiplexer.decoder.bias"]
    for key in [k for k in tensors if k.startswith("demux_module.")]:
        tensors[f"demultiplexer.{key}"] = tensors[f"retrieval_head.{key}"] = tensors[key]
    return Published(config, tensors)


def random_batch(model: Published, seed: int, groups: int = 2, length: int = 7, missing: int = 1) -> dict[str, Tensor]:
    """Inputs as in the fixtures: rows of every length, and ``missing`` rows short of whole groups, which are then
    filled with the first ones."""
    generator = torch.Generator().manual_seed(seed)
    rows = groups * model.num_instances - missing

    def draw(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=generator)

    ids = 5 + draw(model.config["vocab_size"] - 5, rows, length)
    lengths = 1 + draw(length, rows)
    lengths[0] = length
    mask = (torch.arange(length) < lengths[:, None]).long()
    ids = ids.masked_fill(mask == 0, model.config["pad_token_id"])
    size = model.config["vocab_size"] if model.task == "mlm" else len(model.config["id2label"])
    labels = draw(size, rows) if model.task == "seq" else draw(size, rows, length)
    if model.task != "seq":
        labels = labels.masked_fill(draw(3, rows, length) == 0, -100)
    skipped = model.retrieval_skips - model.prefix
    batch = {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": labels,
        "retrieval_instance": draw(model.num_instances, groups, length - max(skipped, 0)),
        # Also at padding, for which a tokenizer has 0: whoever leaves them out leaves all of them out.
        "token_type_ids": draw(model.config["type_vocab_size"], rows, length),
    }
    if missing:
        batch["padding_rows"] = torch.arange(missing) % rows
    return batch
