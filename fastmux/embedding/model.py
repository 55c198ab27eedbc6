"""`EmbeddingModel`: an encoder, and what makes one vector of its states."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import normalizers
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import SAFE_WEIGHTS_NAME, WEIGHTS_NAME, cached_file

from fastmux.embedding.config import DenseLayer, EmbeddingConfig
from fastmux.embedding.folder import read_embedding_config, write_embedding_config
from fastmux.embedding.packed import PackedEmbedding
from fastmux.files import finish_replacing
from fastmux.labelling.tokenized_model import check_tokenizer, room_of
from fastmux.models.encoders import drop_pooler
from fastmux.models.exporting import any_groups
from fastmux.models.loading import read_pretrained, read_tokenizer
from fastmux.modules.is_plain import is_plain
from fastmux.passes.masks import unasked_by
from fastmux.passes.packed_model import packed_form


class EmbeddingModel(nn.Module):
    """An encoder, a pooling, and dense layers and a normalisation behind it: tokens (B, L) -> vectors (B, D).

    Args:
        encoder: A Hugging Face model that returns ``last_hidden_state`` (B, L, d): a plain encoder, a
            `fastmux.JoinedModel` or a `fastmux.TMux`. Its pooler, which nothing reads, is taken off.
        embedding_config: What comes behind it.
        dense: The weights of the config's dense layers; drawn if None.

    Raises:
        ValueError: A dense layer has another width than the config says, or than what it is given.

    Example:
        >>> import torch
        >>> from transformers import BertConfig, BertModel
        >>> from fastmux.embedding.config import DenseLayer, EmbeddingConfig, Normalize
        >>> from fastmux.embedding.model import EmbeddingModel
        >>> tiny = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
        >>> steps = (DenseLayer(32, 8, activation="Identity"), Normalize())
        >>> model = EmbeddingModel(BertModel(tiny), EmbeddingConfig("mean", steps=steps)).eval()
        >>> vectors = model(torch.ones(5, 7, dtype=torch.long))
        >>> vectors.shape, vectors.norm(dim=-1).detach().round().tolist()
        (torch.Size([5, 8]), [1.0, 1.0, 1.0, 1.0, 1.0])
    """

    def __init__(
        self, encoder: PreTrainedModel, embedding_config: EmbeddingConfig, dense: Sequence[nn.Linear] | None = None
    ):
        super().__init__()
        given = embedding_config.dense
        if dense is None:
            like = {"device": encoder.device, "dtype": encoder.dtype}
            dense = [nn.Linear(one.in_features, one.out_features, one.bias, **like) for one in given]
        if [(one.in_features, one.out_features) for one in given] != [(w.in_features, w.out_features) for w in dense]:
            raise ValueError("dense has other widths than the dense layers of embedding_config")
        width = encoder.config.hidden_size
        for one in given:
            if one.in_features != width:
                raise ValueError(f"a dense layer takes {one.in_features} numbers, but what is before it gives {width}")
            width = one.out_features
        drop_pooler(_innermost(encoder))
        self.encoder, self.embedding_config = encoder, embedding_config
        self.dense = nn.ModuleList(dense)
        self.activations = nn.ModuleList(getattr(nn, one.activation)() for one in given)
        #: D.
        self.vector_size: int = width
        #: So many first tokens of each row are a prompt's, where a call does not say otherwise.
        self.prompt_length = 0

    @property
    def config(self) -> PreTrainedConfig:
        """The encoder's config."""
        return self.encoder.config

    @property
    def base_model(self) -> nn.Module:
        """The encoder's own encoder."""
        return self.encoder.base_model

    @property
    def device(self) -> torch.device:
        return self.encoder.device

    @any_groups
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        *,
        prompt_length: int | None = None,
    ) -> Tensor:
        """The vectors (B, D) of rows.

        Args:
            input_ids, attention_mask, token_type_ids: The rows, (B, L), padded on either side.
            prompt_length: So many first tokens of each row are a prompt's; the model's ``prompt_length`` if None. They
                are left out of the pooling where the config does not include them.
        """
        given = {"attention_mask": unasked_by(self.encoder, attention_mask), "token_type_ids": token_type_ids}
        states = self.encoder(input_ids, **{name: t for name, t in given.items() if t is not None}, return_dict=True)
        length = self.prompt_length if prompt_length is None else prompt_length
        return self.vectors(states.last_hidden_state, attention_mask, length)

    def vectors(self, states: Tensor, attention_mask: Tensor | None = None, prompt_length: int = 0) -> Tensor:
        """The vectors (B, D) of the encoder's last hidden states (B, L, d)."""
        config = self.embedding_config
        mask = torch.ones_like(states[..., 0], dtype=torch.long) if attention_mask is None else attention_mask
        return self.behind(pool(states, mask, config.pooling, 0 if config.include_prompt else prompt_length))

    def behind(self, pooled: Tensor) -> Tensor:
        """What comes behind the pooling: (B, d) -> the vectors (B, D)."""
        layers = iter(zip(self.dense, self.activations, strict=True))
        for step in self.embedding_config.steps:
            if isinstance(step, DenseLayer):
                linear, activation = next(layers)
                pooled = activation(linear(pooled))
            else:
                pooled = nn.functional.normalize(pooled, dim=-1)
        return pooled

    def packed_form(self) -> PackedEmbedding | None:
        """How the model runs packed rows (`fastmux.passes.packed_model`); None if it only runs padded ones."""
        encoder = packed_form(self.encoder) if is_plain(self, EmbeddingModel) else None
        return None if encoder is None else PackedEmbedding(self, encoder)

    def with_encoder(self, encoder: PreTrainedModel) -> EmbeddingModel:
        """The same pooling and copies of the same dense layers behind another encoder of the same width."""
        dense: Any = copy.deepcopy(self.dense)
        made = EmbeddingModel(encoder, self.embedding_config, dense)
        made.prompt_length = self.prompt_length
        return made.train(self.training)

    def plain(self) -> EmbeddingModel:
        """A copy without fastmux's classes; see `fastmux.JoinedModel.plain`."""
        return self.with_encoder(self.encoder.plain())

    def get_input_embeddings(self) -> nn.Module:
        """The encoder's word embeddings."""
        return self.encoder.get_input_embeddings()

    def save_pretrained(self, folder: str | PathLike, tokenizer: PreTrainedTokenizerBase) -> None:
        """Write a folder that `load_embedding_model` and sentence-transformers load. (The latter knows models of
        fastmux behind an ``import fastmux``.)"""
        with _with_pooler(self.encoder):
            self.encoder.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        config = replace(self.embedding_config, max_seq_length=_cut_at(self.encoder, self.embedding_config, tokenizer))
        found = write_embedding_config(config, folder, self.config.hidden_size)
        for path, linear in zip(found.dense, self.dense, strict=True):
            tensors = {f"linear.{name}": t.detach().cpu().contiguous() for name, t in linear.state_dict().items()}
            save_file(tensors, Path(folder) / path / SAFE_WEIGHTS_NAME)


def _innermost(encoder: PreTrainedModel) -> PreTrainedModel:
    """The encoder in a T-MUX or a joined model; a plain one itself."""
    return getattr(encoder, "backbone", encoder.base_model)


@contextlib.contextmanager
def _with_pooler(encoder: PreTrainedModel) -> Iterator[None]:
    """Has an encoder whose class has a pooler carry one, of zeros. Loading would report it as missing otherwise."""
    holder: Any = _innermost(encoder)
    with torch.device("meta"):
        like: Any = AutoModel.from_config(holder.config)
    if getattr(like, "pooler", None) is None or getattr(holder, "pooler", None) is not None:
        yield
        return
    holder.pooler = like.pooler.to_empty(device=holder.device).to(holder.dtype)
    for tensor in holder.pooler.parameters():
        nn.init.zeros_(tensor)
    try:
        yield
    finally:
        holder.pooler = None


def pool(states: Tensor, mask: Tensor, pooling: str, prompt_length: int = 0) -> Tensor:
    """States (B, L, d) and their mask (B, L), 0 at padding, which is on either side -> (B, d).

    Args:
        pooling: One of `fastmux.embedding.config.POOLINGS`.
        prompt_length: So many first tokens of each row are left out.

    Example:
        >>> import torch
        >>> from fastmux.embedding.model import pool
        >>> states, mask = torch.tensor([[[1.0], [3.0], [5.0]]]), torch.tensor([[1, 1, 0]])
        >>> tuple(pool(states, mask, pooling).item() for pooling in ("mean", "cls", "lasttoken"))
        (2.0, 1.0, 3.0)
    """
    mask = (mask != 0).int()
    if prompt_length:
        mask = mask * (mask.cumsum(1) > prompt_length)
    if pooling == "mean":
        # In half precision a sum of many tokens would round.
        wide = states.float() if states.dtype in (torch.float16, torch.bfloat16) else states
        weights = mask.to(wide.dtype)
        summed = torch.bmm(weights[:, None], wide)[:, 0]
        return (summed / weights.sum(1, keepdim=True).clamp(min=1e-9)).to(states.dtype)
    place = mask.argmax(1) if pooling == "cls" else mask.shape[1] - 1 - mask.flip(1).argmax(1)
    return states.gather(1, place[:, None, None].expand(-1, 1, states.shape[-1]))[:, 0]


def load_embedding_model(
    name: str | PathLike, *, pooling: str | None = None, what: str = "model"
) -> tuple[EmbeddingModel, PreTrainedTokenizerBase]:
    """Load a model of sentence-transformers, or an encoder with a pooling; its tokenizer cuts where the model does.

    Args:
        name: A folder, or a name on the hub.
        pooling: The pooling of an encoder that says none, one of `fastmux.embedding.config.POOLINGS`.
        what: What it is, for errors.

    Returns:
        The model, in eval mode, and its tokenizer, whose ``model_max_length`` is the model's and which lower-cases if
        the model says so.

    Raises:
        ValueError: It cannot be loaded, or says no pooling, or as in `read_embedding_config`.
    """
    if Path(name).is_dir():
        finish_replacing(Path(name))
    found = read_embedding_config(name, pooling, what)
    config, inside = found.config, {"subfolder": found.encoder} if found.encoder else {}
    encoder, info = read_pretrained(AutoModel, name, what, output_loading_info=True, **inside)
    if getattr(encoder.config, "is_encoder_decoder", False):
        raise ValueError(
            f"{what} {str(name)!r} is a {type(encoder).__name__}, which has a decoder; expected an encoder"
        )
    # A pooler of Hugging Face is never read.
    missing = sorted(key for key in info["missing_keys"] if "pooler." not in key)
    if missing:
        raise ValueError(f"{what} {str(name)!r} lacks {len(missing)} tensors, e.g. {', '.join(missing[:3])}")
    dense = [_linear(name, path, one, what) for path, one in zip(found.dense, config.dense, strict=True)]
    tokenizer = read_tokenizer(name, **inside)
    check_tokenizer(encoder, tokenizer, what)
    if config.do_lower_case:
        _lower_case(tokenizer)
    tokenizer.model_max_length = _cut_at(encoder, config, tokenizer)
    return EmbeddingModel(encoder, config, dense).eval(), tokenizer


def _cut_at(encoder: PreTrainedModel, config: EmbeddingConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """The tokens at which a text is cut, as sentence-transformers finds them; never more than there are positions."""
    said = tokenizer.model_max_length if config.max_seq_length is None else config.max_seq_length
    return min(said, room_of(encoder))


def _linear(name: str | PathLike, path: str, layer: DenseLayer, what: str) -> nn.Linear:
    """The weights of a dense layer."""
    linear = nn.Linear(layer.in_features, layer.out_features, layer.bias)
    try:
        file = cached_file(str(name), f"{path}/{SAFE_WEIGHTS_NAME}", _raise_exceptions_for_missing_entries=False)
        if file is not None:
            stored = load_file(file)
        else:
            stored = torch.load(cached_file(str(name), f"{path}/{WEIGHTS_NAME}"), "cpu", weights_only=True)
        linear.load_state_dict({key.removeprefix("linear."): tensor for key, tensor in stored.items()})
    except (OSError, RuntimeError, HFValidationError, SafetensorError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"{what} {str(name)!r} has a dense layer {path} that cannot be loaded: {said}") from error
    return linear


def _lower_case(tokenizer: PreTrainedTokenizerBase) -> None:
    """Have a tokenizer lower-case text first, unless it does so already."""
    rust = getattr(tokenizer, "backend_tokenizer", None)
    if rust is None:
        raise ValueError("do_lower_case of the model is true, which needs a tokenizer in Rust")
    own: Any = rust.normalizer
    listed: list[Any] = (
        [own[i] for i in range(len(own))] if isinstance(own, normalizers.Sequence) else [own] * bool(own)
    )
    if not any(isinstance(one, normalizers.Lowercase) for one in listed):
        rust.normalizer = normalizers.Sequence([normalizers.Lowercase(), *listed])
