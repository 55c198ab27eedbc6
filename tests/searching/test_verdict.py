"""What is chosen, and what is said, computed from figures."""

from __future__ import annotations

import dataclasses

import pytest

from fastmux.passes.shares import Share
from fastmux.searching.floor import Floor
from fastmux.searching.kinds import VECTORS
from fastmux.searching.need import Need
from fastmux.searching.picture import Mark, draw
from fastmux.searching.points import Point
from fastmux.searching.verdict import LINES, Told, decide, on_front, sentence, still_rising, table

TOLD = Told("my-model", "out", candidates=6, still_rising=False, passes=1.0, minutes=20)


def point(model: str, agreement: float, speed: float, precision="float32", behind=None, choosing=None, rows=2000):
    runtime = "ONNX Runtime" if precision == "int8" else "PyTorch"
    form = f"{model}, 8 bits" if precision == "int8" else model
    return Point(
        name=f"{form} + {behind}" if behind else form,
        form=form,
        model=model,
        words="your model" if model == "original" else "3 of 6 layers",
        runtime=runtime,
        precision=precision,
        multiplexed=False,
        choosing=Share(agreement if choosing is None else choosing, rows, rows),
        agreement=Share(agreement, rows, rows),
        score=None,
        rows_per_second=100 * speed,
        speed_up=speed,
        speed_up_forward=2 * speed,
        went_on=0.2 if behind else None,
        min_confidence=0.9 if behind else None,
        behind=behind,
    )


ORIGINAL = point("original", 1.0, 1.0)


def test_the_fastest_that_agrees_is_chosen_and_said():
    points = [
        ORIGINAL,
        point("original", 0.99, 2.5, "int8"),
        point("cut-3", 0.99, 4.1, "int8"),
        point("cut-3", 0.995, 2.6, "int8", behind="original"),
        point("cut-1", 0.9, 9.0, "int8"),
    ]
    verdict = decide(points, Need(None, 0.98))
    assert verdict.chosen == points[2] and verdict.met and verdict.behind == points[3]
    assert sentence(verdict, ORIGINAL, Need(None, 0.98), TOLD) == (
        "Cut-3 (3 of 6 layers) in 8 bits is 4.1 x as fast as your model through the same engine (8.2 x Hugging Face's "
        "forward) and gives 99 % of the rows the same labels (98.5 % to 99.4 %); rows of doubt can go to the original: "
        "99.5 % at 2.6 x: `fastmux predict out ROWS --output LABELS --fallback my-model`."
    )


def test_of_vectors_neighbours_are_said_and_the_command_that_embeds():
    need = Need(None, 0.8, VECTORS)
    points = [ORIGINAL, point("cut-3", 0.84, 4.1, "int8"), point("cut-1", 0.795, 9.0, "int8")]
    points = [dataclasses.replace(p, cosine=0.95, similarities=0.9) for p in points]
    verdict, floor = decide(points, need), Floor(Share(0.85, 2000, 2000), 1e4)
    assert sentence(verdict, points[0], need, TOLD, floor) == (
        "Cut-3 (3 of 6 layers) in 8 bits is 4.1 x as fast as your model through the same engine (8.2 x Hugging Face's "
        "forward) and finds 84 % of each text's ten nearest neighbours (82.3 % to 85.6 %), its vectors at a mean "
        "cosine of 0.950 with your model's: `fastmux embed out ROWS --output vectors.parquet`. A near miss: cut-1 (3 "
        "of 6 layers) in 8 bits has 79.5 % the same neighbours at 9.0 x. Words alone go as far: TF-IDF with a ridge "
        "regression on your model's vectors gives 85 % the same neighbours; you may need no transformer."
    )
    header, lines = table(points, verdict, floor, VECTORS)
    assert header[4:8] == ["same neighbours", "between", "cosine", "rank correlation"]
    assert all(len(line) == len(header) for line in lines) and lines[1][6:8] == ["0.9500", "0.9000"]
    unmet = sentence(decide(points[:1], Need(8.0, None, VECTORS)), points[0], Need(8.0, None, VECTORS), TOLD)
    assert unmet.startswith("Nothing that was tried reaches 8 x the speed") and "`fastmux embed out ROWS" in unmet


def test_a_need_is_met_where_it_surely_holds_on_other_rows():
    """A share of 0.981 of 500 rows that chose may be 0.97 on others."""
    lucky = point("cut-3", 0.97, 4.0, choosing=0.981, rows=500)
    assert decide([ORIGINAL, lucky], Need(None, 0.98)).chosen == ORIGINAL
    certain = point("cut-3", 0.98, 4.0, choosing=0.981, rows=50_000)
    assert decide([ORIGINAL, certain], Need(None, 0.98)).chosen == certain


def test_the_best_at_a_speed_is_chosen():
    points = [ORIGINAL, point("cut-3", 0.97, 4.1), point("cut-2", 0.95, 6.0), point("cut-4", 0.99, 3.9)]
    verdict = decide(points, Need(4.0, None))
    assert verdict.chosen == points[1] and verdict.met
    both = point("cut-2", 0.985, 4.05, behind="original")
    assert decide([*points, both], Need(4.0, None)).chosen == both
    said = sentence(decide([*points, both], Need(4.0, None)), ORIGINAL, Need(4.0, None), TOLD)
    assert "with your model behind it is 4.0 x" in said or "with your model behind it is 4.1 x" in said
    assert "20 % of the rows go on to your model: `fastmux predict out" in said
    both = point("cut-2", 0.985, 4.05, "int8", behind="original, 8 bits")
    said = sentence(decide([*points, both], Need(4.0, None)), ORIGINAL, Need(4.0, None), TOLD)
    assert "in 8 bits with your model in 8 bits behind it is 4.0 x" in said
    assert said.endswith("--output LABELS --fallback my-model --runtime onnxruntime --precision int8`.")


@pytest.mark.parametrize(
    ("points", "need", "begins"),
    [
        (
            [ORIGINAL, point("original", 0.99, 2.7, "int8")],
            Need(None, 0.98),
            "Your model itself, in 8 bits, is the answer: it is 2.7 x",
        ),
        (
            [ORIGINAL, point("cut-3", 0.9, 3.0)],
            Need(None, 0.98),
            "No candidate is faster than your model and reaches 98 % the same labels: stay with it",
        ),
        (
            [ORIGINAL, point("cut-3", 0.9, 3.0)],
            Need(8.0, None),
            "Nothing that was tried reaches 8 x the speed; the best there is, cut-3 (3 of 6 layers), is 3.0 x",
        ),
    ],
)
def test_what_is_said_of_the_original_and_where_nothing_is_enough(points, need, begins):
    assert sentence(decide(points, need), ORIGINAL, need, TOLD).startswith(begins)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"still_rising": True}, "more minutes than 20"),
        ({"passes": 7.0}, "more text, as each row was read 7 times"),
        ({}, "a lower speedup"),
        ({"interrupted": True}, "the same command goes on with it"),
        ({"candidates": 0}, "No candidate could be trained"),
    ],
)
def test_it_says_what_would_help(changed, said):
    need = Need(8.0, None)
    told = dataclasses.replace(TOLD, **changed)
    assert said in sentence(decide([ORIGINAL, point("cut-3", 0.9, 3.0)], need), ORIGINAL, need, told)


def test_words_alone_are_named_where_they_are_enough():
    verdict = decide([ORIGINAL, point("cut-3", 0.985, 4.0)], Need(4.0, None))
    low, high = (Floor(Share(share, 2000, 2000), 1e4) for share in (0.8, 0.984))
    assert "TF-IDF" not in sentence(verdict, ORIGINAL, Need(4.0, None), TOLD, low)
    assert "you may need no transformer" in sentence(verdict, ORIGINAL, Need(4.0, None), TOLD, high)


def test_the_table_has_at_most_eight_lines_with_the_chosen_one_among_them():
    points = [ORIGINAL, *(point(f"cut-{k}", 0.99 - 0.01 * k, 1.5 + k) for k in range(12)), point("slow", 0.5, 0.5)]
    for need in (Need(None, 0.98), Need(3.0, None), Need(20.0, None)):
        verdict = decide(points, need)
        for floor in (None, Floor(Share(0.8, 2000, 2000), 1e4)):
            header, lines = table(points, verdict, floor)
            assert len(lines) == LINES == 8
            assert [line[1] for line in lines if line[0] == "\u2192"] == [verdict.chosen.name]
            assert "original" in [line[1] for line in lines]
            assert all(len(line) == len(header) for line in lines)


def test_the_front_is_what_no_other_beats():
    points = [ORIGINAL, point("cut-3", 0.9, 3.0), point("worse", 0.85, 2.0)]
    assert [on_front(p, points) for p in points] == [True, True, False]


def test_rising_is_seen_in_the_last_rung():
    assert still_rising([(10, 0.9, 0.0)]) and still_rising([(10, 0.9, 0.0), (20, 0.92, 0.0)])
    assert not still_rising([(10, 0.9, 0.0), (20, 0.901, 0.0)])


def test_names_in_the_picture_cover_no_name_and_no_point(tmp_path, monkeypatch):
    from matplotlib.text import Text

    from fastmux.searching import picture

    boxes = []
    name = picture.write_names

    def kept(figure, axis, marks):
        renderer = figure.canvas.get_renderer()
        texts = name(figure, axis, marks)
        boxes.extend(Text.get_window_extent(text, renderer) for text in texts)
        spots.extend(axis.transData.transform((mark.x, mark.y)) for mark in marks)
        return texts

    spots: list = []
    monkeypatch.setattr(picture, "write_names", kept)
    marks = [Mark(3.0 + 0.02 * k, 0.95 + 0.001 * (k % 3), 0.94, 0.96, f"candidate {k}, 8 bits") for k in range(8)]
    draw(tmp_path / "p.png", [*marks, Mark(1, 1, 1, 1, "original", front=True)], "title", "share", ("y", 0.98))
    assert (tmp_path / "p.png").stat().st_size > 1000
    assert len(boxes) >= 7
    for k, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:k])
        assert not any(box.contains(x, y) for x, y in spots)


def test_a_near_miss_is_named():
    points = [ORIGINAL, point("cut-1", 0.88, 5.0), point("narrow", 0.945, 3.7), point("wide", 0.99, 2.0)]
    verdict = decide(points, Need(4.0, None))
    assert verdict.chosen == points[1] and verdict.near == points[2]
    assert sentence(verdict, ORIGINAL, Need(4.0, None), TOLD).endswith(
        "A near miss: narrow (3 of 6 layers) has 94.5 % the same labels at 3.7 x."
    )
    nearly = [ORIGINAL, point("safe", 0.99, 2.0), point("quick", 0.975, 4.0)]
    assert decide(nearly, Need(None, 0.98)).near == nearly[2]
    assert decide([ORIGINAL, point("safe", 0.99, 3.5), point("quick", 0.975, 4.0)], Need(None, 0.98)).near is None
