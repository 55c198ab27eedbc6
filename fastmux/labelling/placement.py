"""What runs a model, where and in which precision, and how large a pass is there."""

from __future__ import annotations

from dataclasses import dataclass

from fastmux.passes.plan import PASS_TOKENS, PASS_TOKENS_GPU

#: The default on a CPU, and on any other device.
_BATCH_TOKENS = (1024, 65536)


@dataclass(frozen=True)
class Placement:
    """What runs a model, where and how.

    Args:
        device: As torch names it, "cpu" or "cuda:1".
        dtype: Of the weights, as torch names it; of an exported model its precision.
        asked: ``batch_tokens``, if it was given.
        torch_compile: Whether the model is compiled.
        runtime: One of `fastmux.labelling.settings.RUNTIMES`; "auto" until it is chosen, and then ``dtype`` is the
            precision that it must have, or "any".
        captured: Whether small passes are captured as CUDA graphs.
    """

    device: str = "cpu"
    dtype: str = "float32"
    asked: int | None = None
    torch_compile: bool = False
    runtime: str = "torch"
    captured: bool = False

    @property
    def on_cpu(self) -> bool:
        return self.device.partition(":")[0] == "cpu"

    @property
    def batch_tokens(self) -> int:
        """The positions, padding counted, that a pass of the encoder takes at most."""
        return self.asked or _BATCH_TOKENS[not self.on_cpu]

    @property
    def pass_tokens(self) -> int:
        """The overhead of a pass on that device, in positions."""
        return PASS_TOKENS if self.on_cpu else PASS_TOKENS_GPU
