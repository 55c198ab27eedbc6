"""Where a model runs, in which dtype, and how much of a pass is good there."""

from __future__ import annotations

from dataclasses import dataclass

import torch

#: On a CPU, and on anything else.
_BATCH_TOKENS = (1024, 65536)


@dataclass(frozen=True)
class Placement:
    """Where and how a model runs.

    Attributes:
        batch_tokens: positions, padding counted, that a pass of the encoder takes at most.
        torch_compile: the model is compiled.
    """

    device: torch.device
    dtype: torch.dtype
    batch_tokens: int
    torch_compile: bool

    @classmethod
    def of(cls, device: str | None, dtype: str | None, batch_tokens: int | None, torch_compile: bool) -> Placement:
        """What is asked for; where that is None: the GPU if there is one, and what is usual there."""
        where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        slow = where.type == "cpu"
        named = getattr(torch, dtype or ("float32" if slow else "bfloat16"))
        return cls(where, named, batch_tokens or _BATCH_TOKENS[not slow], torch_compile)
