"""What a search found: which models are on the front, which one is chosen, a short table, and one sentence."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fastmux.searching.floor import Floor
from fastmux.searching.forms import INT8, ORIGINAL, SMALL_ORIGINAL
from fastmux.searching.kinds import ROWS, Kind
from fastmux.searching.need import Need, percent
from fastmux.searching.points import Point

#: The most lines of the table.
LINES = 8
#: More steps still help if the last doubling gained so much; text is scarce if it was read so often.
_GAIN, _PASSES = 0.004, 4.0
#: What is worth a word although it misses the need: a speed of this share of it, or an agreement so little below it at
#: so many times the chosen model's speed.
_NEAR_SPEED, _NEAR_SHARE, _MUCH_FASTER = 0.85, 0.01, 1.3


@dataclass(frozen=True)
class Verdict:
    """What is chosen, and why.

    Attributes:
        chosen: The chosen point.
        met: Whether it meets the need.
        behind: The chosen model with the original behind it, where that is another point; None if there is none.
        near: A model that narrowly misses the need and is much better in the other figure; None if there is none.
    """

    chosen: Point
    met: bool
    behind: Point | None
    near: Point | None = None


def decide(points: Sequence[Point], need: Need) -> Verdict:
    """Choose among measured points, by the rows that choose."""
    chosen, met = need.choose(points)
    behind = [p for p in points if p.cascade and not chosen.cascade and p.form == chosen.form]
    return Verdict(chosen, met, max(behind, key=lambda p: p.choosing.mean, default=None), _near(points, chosen, need))


def _near(points: Sequence[Point], chosen: Point, need: Need) -> Point | None:
    alone = [p for p in points if not p.cascade and not need.met_by(p)]
    if need.speedup is not None:  # half of the chosen model's errors or fewer, at nearly the speed
        close = [p for p in alone if p.speed_up >= _NEAR_SPEED * need.speedup]
        close = [p for p in close if 1 - p.choosing.mean <= (1 - chosen.choosing.mean) / 2]
        return max(close, key=lambda p: p.choosing.mean, default=None)
    close = [p for p in alone if p.choosing.mean >= need.agreement - _NEAR_SHARE]
    close = [p for p in close if p.speed_up >= _MUCH_FASTER * chosen.speed_up]
    return max(close, key=lambda p: p.speed_up, default=None)


def on_front(point: Point, others: Sequence[Point]) -> bool:
    """Whether no other is at least as good and as fast, and better in one of both."""
    return unbeaten(_place(point), map(_place, others))


def _place(point: Point) -> tuple[float, float]:
    return point.agreement.mean, point.speed_up


def unbeaten(own: tuple[float, float], others: Iterable[tuple[float, float]]) -> bool:
    """Whether no other pair is at least as large in both numbers, and larger in one.

    Example:
        >>> from fastmux.searching.verdict import unbeaten
        >>> unbeaten((0.9, 2.0), [(1.0, 1.0), (0.9, 2.0), (0.8, 3.0)]), unbeaten((0.8, 2.0), [(0.8, 3.0)])
        (True, False)
    """
    return not any(other != own and other[0] >= own[0] and other[1] >= own[1] for other in others)


@dataclass(frozen=True)
class Told:
    """What the sentence has to know beside the points.

    Attributes:
        model, output_dir: As the user gave them.
        candidates: How many candidates were trained.
        still_rising: Whether the best candidates' agreement still rose with their last steps.
        passes: How often the best candidates have read each learning row.
        minutes: How long the race was allowed to take.
        interrupted: Whether the search was stopped before its end.
    """

    model: str
    output_dir: str
    candidates: int
    still_rising: bool
    passes: float
    minutes: float
    interrupted: bool = False


def sentence(verdict: Verdict, original: Point, need: Need, told: Told, floor: Floor | None = None) -> str:
    """What was found, in one sentence; one more where nothing meets the need, and one where words alone are enough."""
    chosen = verdict.chosen
    parts = []
    if not verdict.met:
        parts.append(f"Nothing that was tried reaches {need}; the best there is, {_described(chosen)},")
    elif chosen.model == ORIGINAL and chosen.precision == INT8:
        parts.append("Your model itself, in 8 bits, is the answer: it")
    elif chosen.model == ORIGINAL and chosen.speed_up < 1.02:
        parts.append(f"No candidate is faster than your model and reaches {need}: stay with it; it")
    elif chosen.model == ORIGINAL:
        parts.append(f"Your model itself, in {chosen.runtime}, is the answer: it")
    else:
        parts.append(f"{_described(chosen)[0].upper()}{_described(chosen)[1:]}")
    parts.append(f"is {_figures(chosen, need.kind)}{_scores(chosen, original)}")
    out = " ".join(parts)
    if chosen.cascade:
        out += f"; {percent(chosen.went_on or 0.0)} of the rows go on to your model: {_command(told, chosen)}"
    elif verdict.behind is not None and verdict.behind.speed_up > 1:
        both = verdict.behind
        out += (
            f"; rows of doubt can go to the original: {percent(both.agreement.mean)} at {both.speed_up:.1f} x: "
            f"{_command(told, both)}"
        )
    elif need.kind.command is not None:
        out += f": `{need.kind.command.format(folder=shlex.quote(told.output_dir))}`"
    out += "."
    if verdict.near is not None:
        near = verdict.near
        figures = f"{percent(near.agreement.mean)} {need.kind.same} at {near.speed_up:.1f} x"
        out += f" A near miss: {_described(near)} has {figures}."
    if not verdict.met or told.interrupted:
        out += " " + _would_help(told, need)
    if floor is not None and floor.agreement.mean >= chosen.agreement.mean - chosen.agreement.margin:
        out += (
            f" Words alone go as far: {need.kind.floor_does} {percent(floor.agreement.mean)} {need.kind.same}; you may "
            "need no transformer."
        )
    return out


def _described(point: Point) -> str:
    """A point in words: "2 of 6 layers in 8 bits, with the original behind them"."""
    form = " in 8 bits" if point.precision == INT8 else f" in {point.runtime}" if point.runtime != "PyTorch" else ""
    words = "your model" if point.model == ORIGINAL else f"{point.model} ({point.words})"
    if not point.cascade:
        return words + form
    return f"{words}{form} with your model {'in 8 bits ' if point.behind == SMALL_ORIGINAL else ''}behind it"


def _figures(point: Point, kind: Kind) -> str:
    share = gives(kind, point.agreement.mean, point.agreement.interval())
    return f"{times_as_fast(point.speed_up, point.speed_up_forward)} and {share}"


def times_as_fast(speed_up: float, speed_up_forward: float) -> str:
    """How fast a model is, in words; see `Point`."""
    return (
        f"{speed_up:.1f} x as fast as your model through the same engine ({speed_up_forward:.1f} x Hugging Face's "
        "forward)"
    )


def gives(kind: Kind, share: float, interval: tuple[float, float]) -> str:
    """What a model gives, in words: "gives 98 % of the rows the same labels (97.1 % to 98.7 %)"."""
    low, high = interval
    return f"{kind.gives.format(share=percent(share))} ({percent(low)} to {percent(high)})"


def _scores(point: Point, original: Point) -> str:
    if point.cosine is not None:
        return f", its vectors at a mean cosine of {point.cosine:.3f} with your model's"
    if point.score is None or original.score is None:
        return ""
    return f"; by the true labels it has {point.score:.4f}, your model {original.score:.4f}"


def _command(told: Told, point: Point) -> str:
    both = " --runtime onnxruntime --precision int8" if point.behind == SMALL_ORIGINAL else ""
    where, behind = shlex.quote(told.output_dir), shlex.quote(told.model)
    return f"`fastmux predict {where} ROWS --output LABELS --fallback {behind}{both}`"


def _would_help(told: Told, need: Need) -> str:
    if told.interrupted:
        return "The search was interrupted: the same command goes on with it."
    if not told.candidates:
        return "No candidate could be trained: the model's layers are of a kind that none of them is made of."
    helps = []
    if told.still_rising:
        helps.append(f"more minutes than {told.minutes:g}, as the candidates still got better")
    if told.passes >= _PASSES:
        helps.append(f"more text, as each row was read {told.passes:.0f} times")
    if not helps:
        asked = "a lower speedup" if need.speedup is not None else "a lower agreement"
        helps.append(f"{asked}, or a smaller original; more minutes would change little")
    return f"What would help: {'; '.join(helps)}."


def still_rising(history: Sequence[tuple[int, float, float]]) -> bool:
    """Whether the last rung of a candidate gained enough to expect something of more steps."""
    return len(history) < 2 or history[-1][1] - history[-2][1] > _GAIN


def shown(points: Sequence[Point], verdict: Verdict, most: int = LINES) -> list[Point]:
    """The points for the table, the slowest first, at most so many: the original, the chosen one and the one with the
    original behind it; what is on the front; then the best of the rest."""
    always = list(dict.fromkeys([points[0], verdict.chosen, *filter(None, [verdict.behind])]))
    rest = [p for p in points if p not in always]
    rest.sort(key=lambda p: (not on_front(p, points), -p.agreement.mean))
    return sorted((always + rest)[:most], key=lambda p: p.speed_up)


def table(
    points: Sequence[Point], verdict: Verdict, floor: Floor | None, kind: Kind = ROWS
) -> tuple[list[str], list[list[str]]]:
    """The header and the lines of the table: at most eight, words alone among them."""
    further = {"score": "right", "cosine": "cosine", "similarities": "rank correlation"}
    further = {name: title for name, title in further.items() if getattr(points[0], name) is not None}
    same = kind.same.removeprefix("the ")
    header = ["", "model", "x faster", "x Hugging Face's", same, "between", *further.values(), "what it is"]
    lines = []
    for point in shown(points, verdict, LINES - (floor is not None)):
        low, high = point.agreement.interval()
        mark = "\u2192" if point == verdict.chosen else "*" if on_front(point, points) else ""
        what = point.words + (f"; {percent(point.went_on or 0.0)} go on" if point.cascade else "")
        figures = [f"{point.speed_up:.2f}", f"{point.speed_up_forward:.2f}", f"{point.agreement.mean:.4f}"]
        others = [f"{getattr(point, name):.4f}" for name in further]
        lines.append([mark, point.name, *figures, f"{low:.3f} to {high:.3f}", *others, what])
    if floor is not None:
        low, high = floor.agreement.interval()
        figures = ["", "", f"{floor.agreement.mean:.4f}", f"{low:.3f} to {high:.3f}"]
        lines.append(["", "words alone", *figures, *[""] * len(further), kind.floor])
    return header, lines
