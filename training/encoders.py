"""The pretrained encoder that a program starts from: what is wrong with it is said before anything is written."""

from __future__ import annotations

import torch
import transformers
from transformers import AutoModel, PreTrainedTokenizerBase

from fastmux.labelling.tokenized_model import room_of
from fastmux.models.loading import read_pretrained, read_tokenizer


def read_encoder(encoder: str) -> tuple[PreTrainedTokenizerBase, int]:
    """Loads an encoder, to see that this can be done.

    Args:
        encoder: A hub name or a folder.

    Returns:
        Its tokenizer, which pads on the right, whatever it was used for before: heads read the first position. And how
        many tokens of a row it has room for.

    Raises:
        ValueError: It has no weights, or no tokenizer.
    """
    tokenizer = read_tokenizer(encoder)
    tokenizer.padding_side = "right"
    verbosity = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()  # of weights that it has no use for, or lacks
    try:
        with torch.random.fork_rng(devices=[]):
            return tokenizer, room_of(read_pretrained(AutoModel, encoder, "--encoder"))
    finally:
        transformers.utils.logging.set_verbosity(verbosity)
