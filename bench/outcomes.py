"""A plugin of pytest: every test's outcome goes to a file as it ends, so that a run that is killed has lost none.

    python -m pytest -p bench.outcomes --outcomes outcomes.jsonl

One line of JSON a test, {"test", "outcome", "seconds"}, with "why" for those that did not pass; failures are printed at
once as well.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest


def pytest_addoption(parser):
    parser.addoption("--outcomes", type=Path, help="file for a line of JSON a test")


def pytest_configure(config):
    path = config.getoption("outcomes")
    if path is not None and not hasattr(config, "workerinput"):  # workers of xdist report to the process that has them
        path.unlink(missing_ok=True)
        config.pluginmanager.register(Outcomes(path), "outcomes-file")


class Outcomes:
    def __init__(self, path: Path):
        self.path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self._add(report.nodeid, report.outcome, report.duration, report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._add(report.nodeid, "not collected", 0.0, report)

    def _add(self, test: str, outcome: str, seconds: float, report) -> None:
        line = {"test": test, "outcome": outcome, "seconds": round(seconds, 3)}
        if outcome != "passed":
            line["why"] = report.longreprtext or str(report.longrepr)
        if outcome not in ("passed", "skipped"):
            print(f"\n{outcome}: {test}\n{line['why']}", flush=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
