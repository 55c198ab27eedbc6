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
#: A plain copy of less than this share of the speed is slower.
_AS_FAST = 0.9
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
) -> list[str]:
    """Sentences for the user.

    Args:
        speed_up: How many times as fast as the original the model is, through the same engine.
        log: The trainer's log history.
        plain: Plain copies of about this speed, beside it after a few steps.
        problem: The original's kind of labels; None without a head.

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
    if plain and plain[0].at_end is not None:
        found.append(
            f"The steps after the first {plain[0].steps:,} brought it from {in_words(plain[0].beside, problem)} to "
            f"{figure(plain[0].at_end, problem)}."
        )
    if (fall := _late_fall(log)) is not None:
        helps = "more steps should help" if fall > _FALL else "more steps would change little"
        found.append(
            f"The loss fell by {max(0.0, fall):.0%} in the second half of the steps: {helps}.".replace("%", " %")
        )
    return found


def beside_plain(plain: PlainCopy, problem: str | None, speed_up: float | None = None) -> str:
    """How a plain copy compares, and the command that makes it where it is the better buy.

    The lead of a plain copy after a few steps shrinks, as joined layers have more to learn. So in the end the command
    is named where the plain copy keeps as much after its few steps as the conversion does after all.

    Args:
        speed_up: How many times as fast as the original the model is, if that is known.
    """
    theirs, ours = in_words(plain.kept, problem), figure(plain.beside, problem)
    after = f"after the same {plain.steps:,} steps"
    known = plain.speed_up is not None and speed_up is not None
    speed = f"{plain.speed_up:.1f} x as fast as your model" if known else "as fast as this one"
    what = f"A plain copy ({plain.words}; {speed})"
    makes = (
        f"`fastmux convert MODEL --text FILE {plain.options} --output_dir DIR` makes it, and fastmux search tries more."
    )
    if known and plain.speed_up < _AS_FAST * speed_up:
        return f"{what} is slower; it kept {theirs} {after}, this one {ours}."
    if plain.at_end is None:
        return f"{what} kept {theirs} {after}, this one {ours}: {makes}"
    if plain.as_good_as_all:
        more = "more than" if plain.better_than_all else "as much as"
        end = figure(plain.at_end, problem)
        return f"{what} kept {theirs} after {plain.steps:,} steps, {more} this one after all ({end}): {makes}"
    if plain.better:
        return f"{what} kept more {after}: {theirs}, this one {ours}; the lead shrinks with further steps."
    return f"{what} kept {'less' if plain.worse else 'about as much'} {after}: {theirs}, this one {ours}."


def _late_fall(log: Sequence[dict]) -> float | None:
    """By which share the loss fell from the middle of the steps to their end; None where too little was logged."""
    losses = [entry["loss"] for entry in log if "loss" in entry]
    some = max(1, len(losses) // 10)
    if len(losses) < 4 or not (middle := statistics.fmean(losses[len(losses) // 2 - some : len(losses) // 2])):
        return None
    return 1 - statistics.fmean(losses[-some:]) / middle
