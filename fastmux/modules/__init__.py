"""The layers of data multiplexing, `torch.nn` modules with plain arguments: no Hugging Face, no config.

A multiplexer takes N sequences of embeddings to one, a demultiplexer one sequence of hidden states to N:

    >>> import torch
    >>> from fastmux.modules import HadamardMultiplexer, UnbindDemultiplexer
    >>> mux, demux = HadamardMultiplexer(4, 32), UnbindDemultiplexer(4, 32)
    >>> y = mux(torch.randn(2, 4, 7, 32))  # 2 groups of 4 instances, 7 positions, width 32; any encoder goes here
    >>> demux(y, None, mux.transforms).shape
    torch.Size([2, 4, 7, 32])
"""

from fastmux.functional.pair_norm import Head
from fastmux.modules.attention_multiplexer import AttentionMultiplexer
from fastmux.modules.demultiplexers import (
    DEMULTIPLEXERS,
    Demultiplexer,
    IndexDemultiplexer,
    KeyDemultiplexer,
    MlpDemultiplexer,
    RsaDemultiplexer,
    UnbindDemultiplexer,
)
from fastmux.modules.elementwise_multiplexers import BinaryMultiplexer, HadamardMultiplexer, IdentityMultiplexer
from fastmux.modules.image_multiplexers import (
    IMAGE_MULTIPLEXERS,
    ConvolutionMultiplexer,
    ImageMultiplexer,
    NonlinearMultiplexer,
    RotationMultiplexer,
)
from fastmux.modules.multiplexed import Multiplexed
from fastmux.modules.multiplexer import MULTIPLEXERS, LinearMultiplexer, Multiplexer
from fastmux.modules.orthogonal_multiplexers import (
    LowRankOrthogonalMultiplexer,
    OrthogonalMultiplexer,
    WalshHadamardMultiplexer,
)

__all__ = [
    "DEMULTIPLEXERS",
    "IMAGE_MULTIPLEXERS",
    "MULTIPLEXERS",
    "AttentionMultiplexer",
    "BinaryMultiplexer",
    "ConvolutionMultiplexer",
    "Demultiplexer",
    "HadamardMultiplexer",
    "Head",
    "IdentityMultiplexer",
    "ImageMultiplexer",
    "IndexDemultiplexer",
    "KeyDemultiplexer",
    "LinearMultiplexer",
    "LowRankOrthogonalMultiplexer",
    "MlpDemultiplexer",
    "Multiplexed",
    "Multiplexer",
    "NonlinearMultiplexer",
    "OrthogonalMultiplexer",
    "RotationMultiplexer",
    "RsaDemultiplexer",
    "UnbindDemultiplexer",
    "WalshHadamardMultiplexer",
]
