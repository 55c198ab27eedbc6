"""Options of ``pytest bench/ops``, which of its cases run, and the fixture `measure` with a JSON file for each op."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.harness import FIRST_SHAPES, Case
from bench.machine import machine_info
from bench.ops.listed import OPS
from bench.timing import DEVICE
from fastmux.files import read_json, write_json
from fastmux.passes.timer import CLOCKS

#: In the folder of results: a line for each case that was begun. A new process goes on behind them, so a case that
#: killed a process is not run again.
BEGUN = "begun.txt"
END = pytest.StashKey[float]()


def add_options(add: Callable[..., object]) -> None:
    """Adds what ``python -m bench.ops`` takes, too."""
    add("--ops", nargs="+", choices=OPS, default=list(OPS), metavar="OP", help=f"The ops to measure: {', '.join(OPS)}.")
    add("--budget", type=float, default=float("inf"), help="The seconds after which no case is begun.")
    add("--first_pass", action="store_true", help="Measure only the first shapes, in the first dtype.")
    add("--case_seconds", type=float, default=1.0, help="The seconds to time a case.")
    add("--clock", choices=CLOCKS, default="wall", help="The time on the clock, or the processor's, if others use it.")


def pytest_addoption(parser):
    group = parser.getgroup("benchmarks of ops")
    group.addoption("--output", type=Path, help="The folder for OP.json, a file for each op, written after each case.")
    group.addoption("--compile_only", action="store_true", help="Compile and check, and time nothing.")
    add_options(group.addoption)


def pytest_configure(config):
    config.stash[END] = time.perf_counter() + config.getoption("budget")


def pytest_collection_modifyitems(config, items):
    ops, first_pass = config.getoption("ops"), config.getoption("first_pass")
    cases = {item: item.callspec.params["case"] for item in items if hasattr(item, "callspec")}

    def asked(case: Case) -> bool:
        return case.op.name in ops and not (first_pass and case.rank >= FIRST_SHAPES)

    items[:] = [item for item in items if item not in cases or asked(cases[item])]


@pytest.fixture
def measure(request):
    """``measure(case)`` runs a case, prints its table and adds it to the op's file. A wrong result fails at the end."""
    config = request.config

    def run(case: Case) -> None:
        output, timed = config.getoption("output"), not config.getoption("compile_only")
        if time.perf_counter() > config.stash[END]:
            pytest.skip("out of time")
        if output and timed:
            output.mkdir(parents=True, exist_ok=True)
            with open(output / BEGUN, "a+", encoding="utf-8") as file:
                file.seek(0)
                if f"{case.op.name} {case}" in file.read().splitlines():
                    pytest.skip("begun before")
                print(case.op.name, case, file=file)
        report = case.run(config.getoption("case_seconds"), config.getoption("clock"), timed)
        if timed:
            with config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
                print(f"\n{report}", flush=True)  # as it goes
            if output:
                add(report, output / f"{case.op.name}.json", config)
        assert not report.refused, report.refused

    return run


def add(report, path: Path, config) -> None:
    """Adds a case's rows to the file of its op, which also says where and how it was timed."""
    result = {"machine": machine_info(DEVICE), "op": report.case.op.name, "clock": config.getoption("clock")}
    result |= {"case_seconds": config.getoption("case_seconds"), "rows": [], "refused": {}}
    former = read_json(path) if path.exists() else result
    result["rows"] = [*former["rows"], *report.rows]
    result["refused"] = former["refused"] | {f"{report.case}-{who}": why for who, why in report.refused.items()}
    write_json(path, result)
