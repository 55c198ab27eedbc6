"""Results of ``pytest bench/`` name the machine, the versions and the commit they belong to."""

from __future__ import annotations

from bench.machine import commit, default_device, machine_info


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info |= _machine()


def pytest_benchmark_update_commit_info(config, commit_info):
    commit_info["sha"] = commit()


def _machine() -> dict:
    return {f"fastmux_{name}": value for name, value in machine_info(default_device()).items()}
