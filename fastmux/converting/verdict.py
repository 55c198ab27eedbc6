"""What the figures of a conversion say: what it gives at which speed, whether that is worth it, what would help."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from fastmux.converting.kept import figure, in_words
from fastmux.converting.plain_copies import PlainCopy
from fastmux.distillation.agreement import Agreement
from fastmux.models.problems import TokenLabels, Vectors
from fastmux.searching.kinds import ROWS, TOKENS, VECTORS
from fastmux.searching.need import percent
from fastmux.searching.verdict import gives, times_as_fast

#: A model that is not so much faster is not worth a loss.
_FASTER = 1.1
#: What the loss must have fallen by in the second half of the steps, as a share, for more steps to be worth a try.
_FALL = 0.1


def sentence(agreement: Agreement, speed_up: float, speed_up_forward: float) -> str:
    """The verdict, in the words of a search.

    Args:
        agreement: The agreement with the original.
        speed_up, speed_up_forward: How many times as fast as the original the model is, through the same engine and as
            Hugging Face runs it.
    """
    kind = {TokenLabels.name: TOKENS, Vectors.name: VECTORS}.get(agreement.problem or "", ROWS)
    share = agreement.neighbours if kind is VECTORS else agreement.labels
    if share is not None and agreement.interval is not None:
        what = gives(kind, share, agreement.interval)
    elif agreement.r2 is not None:
        what = f"explains {percent(agreement.r2)} of the variance of your model's outputs"
    else:
        what = f"gives states that have a mean cosine of {agreement.cosine:.3f} with your model's"
    return f"It is {times_as_fast(speed_up, speed_up_forward)} and {what}."


def advice(
    speed_up: float,
    log: Sequence[dict],
    plain: Sequence[PlainCopy] = (),
    problem: str | None = None,
    at_end: float | None = None,
) -> list[str]:
    """Sentences for the user.

    Args:
        speed_up: How many times as fast as the original the model is, through the same engine.
        log: The trainer's log history.
        plain: Plain copies of about this speed, beside it after a few steps.
        problem: The original's kind of labels; None without a head.
        at_end: What the model keeps after all steps, as `PlainCopy.beside` after a few.

    Example:
        >>> from fastmux.converting.verdict import advice
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
    found += [beside_plain(one, problem, speed_up) for one in plain]
    if plain and at_end is not None:
        found.append(
            f"The steps after the first {plain[0].steps:,} brought it from {in_words(plain[0].beside, problem)} to "
            f"{figure(at_end, problem)}."
        )
    if (fall := _late_fall(log)) is not None:
        helps = "more steps should help" if fall > _FALL else "more steps would change little"
        found.append(
            f"The loss fell by {max(0.0, fall):.0%} in the second half of the steps: {helps}.".replace("%", " %")
        )
    return found


def beside_plain(plain: PlainCopy, problem: str | None, speed_up: float | None = None) -> str:
    """How a plain copy compares, and the command that makes it where it is the better buy.

    Args:
        speed_up: How many times as fast as the original the model is, if that is known.
    """
    theirs, ours = in_words(plain.kept, problem), figure(plain.beside, problem)
    after = f"after the same {plain.steps:,} steps"
    speed = "as fast as this one" if plain.speed_up is None else f"{plain.speed_up:.1f} x as fast as your model"
    what = f"plain copy ({plain.words}; {speed})"
    faster = plain.speed_up is not None and speed_up is not None and plain.speed_up >= _FASTER * speed_up
    if plain.better or (faster and not plain.worse):
        more = "" if plain.better else ", which is as much,"
        return (
            f"A {what} kept {theirs}{more} {after}, this one {ours}: `fastmux convert MODEL --text FILE "
            f"{plain.options} --output_dir DIR` makes it, and fastmux search tries more."
        )
    how = "less" if plain.worse else "about as much"
    return f"A {what} kept {how} {after}: {theirs}, this one {ours}."


def _late_fall(log: Sequence[dict]) -> float | None:
    """By which share the loss fell from the middle of the steps to their end; None where too little was logged."""
    losses = [entry["loss"] for entry in log if "loss" in entry]
    some = max(1, len(losses) // 10)
    if len(losses) < 4 or not (middle := statistics.fmean(losses[len(losses) // 2 - some : len(losses) // 2])):
        return None
    return 1 - statistics.fmean(losses[-some:]) / middle
