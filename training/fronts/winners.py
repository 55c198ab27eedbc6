"""Which lever wins at which speed, and how far multiplexed models are from plain ones there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict

from fastmux.searching.forms import FLOAT32
from fastmux.training.formatting import interval, number, table
from fastmux.training.fronts.candidates import ORIGINAL
from fastmux.training.fronts.measure import Point
from fastmux.training.fronts.verdict import AS_FAST, SPEEDS, score_of
from fastmux.training.run_result import Difference

#: The lever of cascades, and that of the original itself: nothing else makes it faster than 8 bits.
_BEHIND, _EIGHT = "original behind", "8 bits alone"
#: The files of candidates that a table need not name.
_USUAL = ("winners", "winners_words")
#: The forms that are compared, by the word for them: all, or those of PyTorch in float32 alone.
_FORMS = {"any runtime": None, "float32 in PyTorch": FLOAT32}


def winners(points: Sequence[Point], less: Callable[[str, str], Difference]) -> list[dict]:
    """For each speed, over all forms and over those of PyTorch: the best model of each lever that is as fast, and the
    best multiplexed model beside the best plain one.

    Args:
        points: The points of a front, that of the original among them.
        less: The score of a model, by name, less another's, with its interval.

    Returns:
        For JSON: ``speed``, ``forms``, ``levers`` (lever -> the best model's name, score and speed), ``plain`` and
        ``multiplexed`` (the best model's name; None if there is none), and ``difference``, the latter's score less the
        former's.
    """
    found = []
    for forms, precision in _FORMS.items():
        for speed in SPEEDS:
            fast = [
                point for point in points if point.speed_up >= speed * AS_FAST and precision in (None, point.precision)
            ]
            levers: dict[str, Point] = {}
            for point in sorted(fast, key=score_of):
                levers[_BEHIND if point.cascade else point.lever] = point
            plain, mux = (_best([point for point in fast if point.multiplexed is kind]) for kind in (False, True))
            found.append(
                {
                    "speed": speed,
                    "forms": forms,
                    "levers": {
                        lever: {"name": one.name, "score": score_of(one), "speed_up": one.speed_up}
                        for lever, one in levers.items()
                    },
                    "plain": plain,
                    "multiplexed": mux,
                    "difference": asdict(less(mux, plain)) if mux and plain else None,
                }
            )
    return found


def _best(points: Sequence[Point]) -> str | None:
    return max(points, key=score_of).name if points else None


def summary(results: Sequence[dict]) -> Iterator[str]:
    """The fronts that know their winners, in Markdown: a table for each speed, tasks by levers, and a sentence. Those
    without a model at the highest speed are of another question."""
    results = sorted((one for one in results if _at_all_speeds(one.get("winners"))), key=lambda one: one["task"])
    if results:
        yield "### Who wins where"
    for forms in _FORMS if results else ():
        for speed in SPEEDS:
            rows = [(result, _at(result["winners"], forms, speed)) for result in results]
            levers = sorted({lever for _, row in rows for lever in row["levers"]}, key=_place)
            columns = {"task": "{task}", "original": "{own}"}
            columns |= {_EIGHT if lever == ORIGINAL else lever: _cell(lever) for lever in levers}
            columns["multiplexed less plain"] = lambda row: interval(**row["difference"]) if row["difference"] else "-"
            lines = [row | {"task": _title(result), "own": number(_own(result))} for result, row in rows]
            yield f"**At {speed} times the original's speed, {forms}**"
            yield table(lines, columns)
            yield _said(lines, speed)


def _place(lever: str) -> tuple[int, str]:
    """Plain levers first, cascades last."""
    plain = (ORIGINAL, "fewer layers", "narrower layers")
    return (plain.index(lever) if lever in plain else 8 if lever == _BEHIND else 4), lever


def _at_all_speeds(found: Sequence[dict] | None) -> bool:
    return bool(found) and any(row["levers"] for row in found if row["speed"] == max(SPEEDS))


def _at(found: Sequence[dict], forms: str, speed: int) -> dict:
    return next(row for row in found if row["forms"] == forms and row["speed"] == speed)


def _title(result: dict) -> str:
    settings = result["settings"]
    file = "" if settings.get("candidates", _USUAL[0]) in _USUAL else f", {settings['candidates']}"
    return f"{result['task']}, {settings['encoder']}{file}"


def _own(result: dict) -> float:
    return next(entry["score"]["mean"] for entry in result["entries"] if entry["name"] == ORIGINAL)


def _cell(lever: str) -> Callable[[dict], str]:
    def written(row: dict) -> str:
        if (one := row["levers"].get(lever)) is None:
            return "-"
        best = max(other["score"] for other in row["levers"].values())
        cell = f"{number(one['score'])} at {one['speed_up']:.1f}"
        return f"**{cell}**" if one["score"] == best else cell

    return written


def _said(lines: Sequence[dict], speed: int) -> str:
    """Where a multiplexed model is ahead of every plain one that is as fast, where behind, where neither."""
    apart = [line for line in lines if line["difference"]]
    ahead = [line["task"] for line in apart if line["difference"]["low"] > 0]
    behind = [line["task"] for line in apart if line["difference"]["high"] < 0]
    open_ = [line["task"] for line in apart if line["task"] not in (*ahead, *behind)]
    counted = [
        f"{what} on {len(tasks)} ({'; '.join(tasks)})"
        for what, tasks in (("ahead", ahead), ("behind", behind), ("not told apart from it", open_))
        if tasks
    ]
    if not counted:
        return f"At {speed} times there is no multiplexed model to compare."
    found = f"At {speed} times, beside the best plain model, the best multiplexed one is {', '.join(counted)}."
    return found if ahead else f"{found} No multiplexed model is on the front there beyond its interval."
