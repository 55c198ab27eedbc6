"""What the figures of a conversion say about whether it was worth it, and what would help."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

#: A model that is not so much faster is not worth a loss.
_FASTER = 1.1
#: What the loss must have fallen by in the second half of the steps, as a share, for more steps to be worth a try.
_FALL = 0.1


def advice(speed_up: float, log: Sequence[dict]) -> list[str]:
    """Sentences for the user.

    Args:
        speed_up: How many times as fast as the original the model is, through the same engine.
        log: The trainer's log history.

    Example:
        >>> from fastmux.converting.advice import advice
        >>> for line in advice(1.02, [{"loss": 1.0}, {"loss": 0.5}, {"loss": 0.49}, {"loss": 0.48}]):
        ...     print(line)
        It is hardly faster than the original: fewer joined layers or a larger N give more; so does fastmux search.
        The loss fell by 4 % in the second half of the steps: more steps would change little.
    """
    found = []
    if speed_up < _FASTER:
        how = "slower" if speed_up < 1 else "hardly faster"
        found.append(
            f"It is {how} than the original: fewer joined layers or a larger N give more; so does fastmux search."
        )
    if (fall := _late_fall(log)) is not None:
        helps = "more steps should help" if fall > _FALL else "more steps would change little"
        found.append(
            f"The loss fell by {max(0.0, fall):.0%} in the second half of the steps: {helps}.".replace("%", " %")
        )
    return found


def _late_fall(log: Sequence[dict]) -> float | None:
    """By which share the loss fell from the middle of the steps to their end; None where too little was logged."""
    losses = [entry["loss"] for entry in log if "loss" in entry]
    some = max(1, len(losses) // 10)
    if len(losses) < 4 or not (middle := statistics.fmean(losses[len(losses) // 2 - some : len(losses) // 2])):
        return None
    return 1 - statistics.fmean(losses[-some:]) / middle
