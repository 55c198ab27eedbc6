"""Which lever wins at which speed: what is compared with what, and what the page says of it."""

from __future__ import annotations

import pytest

from fastmux.training.fronts.measure import Point
from fastmux.training.fronts.winners import summary, winners
from fastmux.training.run_result import Difference, Score


def point(name: str, lever: str, score: float, speed: float, **more) -> Point:
    speeds = {"rows_per_second": speed, "speed_up": speed, "speed_up_forward": 2 * speed}
    return Point(name=name, lever=lever, score=Score.of([score]), agreement=1.0, **speeds, **more)


POINTS = [
    point("original", "original", 0.90, 1.0),
    point("original, int8", "original", 0.895, 3.0, precision="int8"),
    point("cut-3", "fewer layers", 0.86, 1.96),
    point("cut-2", "fewer layers", 0.83, 4.0),
    point("cut-2, int8", "fewer layers", 0.82, 9.0, precision="int8"),
    point("rows-2", "joined rows", 0.85, 2.0, multiplexed=True),
    point("positions-4, int8", "joined positions", 0.84, 8.5, precision="int8", multiplexed=True),
    point("cut-2, int8 + original, int8", "fewer layers", 0.88, 5.0, precision="int8", cascade=True),
]


@pytest.fixture
def found():
    asked = []

    def less(name: str, other: str) -> Difference:
        asked.append((name, other))
        apart = next(p for p in POINTS if p.name == name).score.mean
        apart -= next(p for p in POINTS if p.name == other).score.mean
        return Difference(apart, apart - 0.005, apart + 0.005)

    rows = winners(POINTS, less)
    return {(row["forms"], row["speed"]): row for row in rows}, asked


def test_at_each_speed_the_best_of_each_lever_that_is_as_fast(found):
    rows, asked = found
    two = rows["any runtime", 2]
    assert {lever: one["name"] for lever, one in two["levers"].items()} == {
        "original": "original, int8",
        "fewer layers": "cut-3",  # 1.96 x is near enough to 2 x
        "joined rows": "rows-2",
        "joined positions": "positions-4, int8",
        "original behind": "cut-2, int8 + original, int8",
    }
    assert (two["plain"], two["multiplexed"]) == ("original, int8", "rows-2")
    assert two["difference"]["mean"] == pytest.approx(-0.045)
    four, eight = rows["any runtime", 4], rows["any runtime", 8]
    assert (four["plain"], four["multiplexed"]) == ("cut-2, int8 + original, int8", "positions-4, int8")
    assert eight["levers"].keys() == {"fewer layers", "joined positions"}
    assert eight["difference"]["low"] == pytest.approx(0.015)
    assert len(asked) == 4  # where there is nothing to compare, nothing is


def test_one_runtime_is_compared_with_itself(found):
    rows, _ = found
    two, four = (rows["float32 in PyTorch", speed] for speed in (2, 4))
    assert {one["name"] for one in two["levers"].values()} == {"cut-3", "rows-2"}
    assert four["multiplexed"] is None and four["difference"] is None


def test_the_page_says_where_multiplexed_models_win_and_where_none_does(found):
    rows, _ = found
    entries = [{"name": "original", "score": {"mean": 0.9}}]
    result = {"task": "sst2", "settings": {"encoder": "minilm"}, "entries": entries, "winners": list(rows.values())}
    slow = [row | {"levers": {}} if row["speed"] == 8 else row for row in rows.values()]
    others = [{"task": "older", "entries": entries}, result | {"task": "slow", "winners": slow}]
    page = list(summary([result, *others]))
    text = "\n".join(page)
    assert page[0] == "### Who wins where" and "older" not in text and "slow" not in text
    at = {part: page[page.index(part) + 1 : page.index(part) + 3] for part in page if part.startswith("**At")}
    table, said = at["**At 8 times the original's speed, any runtime**"]
    assert "| task | original | fewer layers | joined positions | multiplexed less plain |" in table
    two = at["**At 2 times the original's speed, any runtime**"][0]
    assert "| task | original | 8 bits alone |" in two and "| sst2, minilm | 0.9000 | **0.8950 at 3.0** |" in two
    assert "**0.8400 at 8.5**" in table and "0.8200 at 9.0" in table and "+0.0200 (+0.0150 to +0.0250)" in table
    assert said == "At 8 times, beside the best plain model, the best multiplexed one is ahead on 1 (sst2, minilm)."
    _, said = at["**At 2 times the original's speed, any runtime**"]
    assert "behind on 1 (sst2, minilm). No multiplexed model is on the front there beyond its interval." in said
    _, said = at["**At 4 times the original's speed, float32 in PyTorch**"]
    assert said == "At 4 times there is no multiplexed model to compare."
    assert list(summary([])) == []
