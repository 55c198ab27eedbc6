"""A race that fits into the time there is."""

from __future__ import annotations

import pytest

from fastmux.searching.plan import FINALISTS, LEAST_STEPS, Plan, make_plan

NAMES = list("abcdefghij")


@pytest.mark.parametrize("seconds", [60.0, 200.0, 3600.0])
def test_it_takes_the_time_that_there_is(seconds):
    plan = make_plan(NAMES, {name: 0.2 + 0.1 * k for k, name in enumerate(NAMES)}, seconds)
    assert 0.8 * seconds < plan.seconds() <= seconds
    assert plan.steps >= LEAST_STEPS and plan.rungs[-1].candidates <= FINALISTS
    counts, steps = [r.candidates for r in plan.rungs], [r.steps for r in plan.rungs]
    assert counts == sorted(counts, reverse=True) and steps == sorted(steps)
    assert Plan.from_dict(plan.as_dict()) == plan


def test_what_a_turn_takes_beside_its_steps_is_time_too():
    steps = dict.fromkeys(NAMES, 0.2)
    bare, judged = make_plan(NAMES, steps, 600.0), make_plan(NAMES, steps, 600.0, turn_seconds=5.0)
    assert judged.steps < bare.steps and 0.8 * 600 < judged.seconds() <= 600
    assert judged.seconds_of("a", 0, judged.rungs) == pytest.approx(0.2 * judged.steps + 5.0 * len(judged.rungs))
    assert judged.seconds_of("a", judged.steps, judged.rungs) == 0.0
    assert Plan.from_dict(judged.as_dict()) == judged


def test_where_time_is_short_the_most_promising_run():
    plan = make_plan(NAMES, dict.fromkeys(NAMES, 1.0), 1.5 * LEAST_STEPS)
    assert plan.names == ("a",) and plan.steps >= LEAST_STEPS
    with pytest.raises(ValueError, match=r"minutes leaves 30 s for training, too few for one candidate"):
        make_plan(NAMES, dict.fromkeys(NAMES, 1.0), 30.0)


def test_steps_may_be_given_whatever_the_time():
    plan = make_plan(NAMES, dict.fromkeys(NAMES, 1.0), 1.0, max_steps=8)
    assert plan.names == tuple(NAMES) and plan.steps == 8
