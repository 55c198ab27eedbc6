"""Options of ``pytest bench/ops``, the fixture `measure`, and a small JSON file for each op."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from bench.machine import machine_info
from bench.timing import CLOCKS, DEVICE
from fastmux.files import write_json


def pytest_addoption(parser):
    group = parser.getgroup("benchmarks of ops")
    group.addoption("--output", type=Path, help="folder for OP.json, one an op, rewritten after each case")
    group.addoption("--first_pass", action="store_true", help="the first shapes and the first dtype of every op alone")
    group.addoption("--case_seconds", type=float, default=1.0, help="of timing a case (default: 1)")
    group.addoption(
        "--budget", type=float, default=float("inf"), help="seconds; each file has its share of what is left"
    )
    group.addoption("--clock", choices=CLOCKS, default="wall", help="cpu: on a CPU that others use as well")
    group.addoption("--compile_only", action="store_true", help="compile and check, and time nothing")


ENDS, REPORTS = pytest.StashKey[dict](), pytest.StashKey[dict]()


def pytest_configure(config):
    config.stash[ENDS], config.stash[REPORTS] = {None: time.perf_counter() + config.getoption("budget")}, {}


def _ends(request) -> float:
    """When this file's time is over: shared anew among the files that are left, as each begins."""
    ends, path = request.config.stash[ENDS], request.node.path
    if path not in ends:
        left = {item.path for item in request.session.items} - set(ends)
        now = time.perf_counter()
        ends[path] = now + (ends[None] - now) / len(left)
    return ends[path]


@pytest.fixture
def measure(request):
    """``measure(case)`` runs a case, prints its table and adds it to the op's file; a wrong result fails at the end."""
    config = request.config

    def run(case) -> None:
        if config.getoption("first_pass") and not case.first:
            pytest.skip("not of the first pass")
        if time.perf_counter() > _ends(request):
            pytest.skip("out of time")
        timed = not config.getoption("compile_only")
        report = case.run(config.getoption("case_seconds"), config.getoption("clock"), timed)
        if timed:
            with config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
                print(f"\n{report}", flush=True)  # as it goes
            done = config.stash[REPORTS].setdefault(case.op.name, [])
            done.append(report)
            if config.getoption("output"):
                write_json(config.getoption("output") / f"{case.op.name}.json", summary(done, config))
        assert not report.refused, report.refused

    return run


def summary(reports: list, config) -> dict:
    """Of one op: the machine, how was timed, and a row for each implementation of each case."""
    return {
        "machine": machine_info(DEVICE),
        "op": reports[0].case.op.name,
        "clock": config.getoption("clock"),
        "case_seconds": config.getoption("case_seconds"),
        "rows": [row for report in reports for row in report.rows],
        "refused": {f"{r.case}-{who}": reason for r in reports for who, reason in r.refused.items()},
    }
