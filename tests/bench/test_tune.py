"""The search for launch parameters, in the interpreter, by clocks that know which tile is best."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch

pytest.importorskip("triton", reason="bench.tune tunes the Triton kernels")

import fastmux
from bench import tune
from fastmux.files import write_json
from fastmux.kernels import hadamard_mux
from fastmux.kernels.common import launch_table


class TestTune:
    LAUNCHER = "hadamard_mux_forward"
    SIZES = {"G": 2, "N": 2, "L": 4, "d": 64}

    def subject(self, launcher=LAUNCHER):
        return tune.Subject(launcher, [self.SIZES], [torch.float32], torch.device("cpu"))

    def run(self, seconds, **options):
        subjects = [self.subject(launcher) for launcher, op in tune.launchers().items() if op == "hadamard_mux"]
        with fastmux.backend("triton"):
            return tune.tune(subjects, seconds, **options)

    def clock(self, best):
        """Seconds of whatever runs: shortest at ``best``, a tile of `LAUNCHER`."""

        def seconds(calls):
            calls[0]()
            now = launch_table.launch_parameters(self.LAUNCHER, torch.ones(1))
            return 1.0 + sum(abs(math.log2(now[name] / best[name])) for name in best)

        return seconds

    def test_the_best_tile_is_found_and_is_what_launchers_use(self, tmp_path, monkeypatch):
        best = {"rows": 2, "columns": 64, "warps": 8}
        outcomes = self.run(self.clock(best))
        assert set(outcomes) == {"hadamard_mux_forward", "hadamard_mux_dx", "hadamard_mux_dv"}
        found = outcomes[self.LAUNCHER]
        # From rows=8 columns=256 warps=4, five halvings and doublings away: 6 seconds against 1.
        assert found.tile == best and found.speedup == pytest.approx(6.0) and not found.refused
        # This clock does not run faster for any other launcher.
        assert outcomes["hadamard_mux_dx"].tile == {} and outcomes["hadamard_mux_dv"].tile == {}

        path = tmp_path / "sm_00.json"
        write_json(path, {"launchers": {"hadamard_mux_dx": {"rows": 4}, self.LAUNCHER: {"rows": 64}}, "found": {}})
        tune.write_table(path, (self.LAUNCHER, found), torch.device("cpu"), "python -m bench.tune --ops hadamard_mux")
        table = json.loads(path.read_text())
        assert table["launchers"] == {"hadamard_mux_dx": {"rows": 4}, self.LAUNCHER: best}
        written = table["found"][self.LAUNCHER]
        assert written["command"] == "python -m bench.tune --ops hadamard_mux" and written["speedup"] > 5
        assert written["machine"]["triton"] and written["machine"]["device"] == "cpu"
        assert "| `hadamard_mux_forward` | rows=2 columns=64 warps=8 | 6.000 |" in "\n".join(tune.section(table))

        monkeypatch.setattr(launch_table, "FOLDER", tmp_path)
        monkeypatch.setattr(launch_table, "architecture", lambda device: "sm_00")
        launch_table.table.cache_clear()
        try:
            assert launch_table.launch_parameters(self.LAUNCHER, torch.ones(1)) == best
        finally:
            launch_table.table.cache_clear()

    def test_noise_is_not_mistaken_for_a_better_tile(self):
        ticks = itertools.cycle([1.0, 1.06, 0.97, 1.02, 0.95])
        assert all(outcome.tile == {} for outcome in self.run(lambda calls: next(ticks)).values())

    def test_a_wrong_result_is_refused(self, monkeypatch):
        forward = hadamard_mux.hadamard_mux_forward

        def wrong(x, v, scale):
            y = forward(x, v, scale)
            return y * 1.1 if launch_table.launch_parameters(self.LAUNCHER, x)["rows"] < 8 else y

        monkeypatch.setattr(hadamard_mux, self.LAUNCHER, wrong)
        found = self.run(self.clock({"rows": 4, "columns": 256, "warps": 4}))[self.LAUNCHER]
        assert found.tile == {}
        assert "relative error 1.0e-01" in found.refused["rows=4 columns=256 warps=4"]

    @pytest.mark.parametrize("error", [RuntimeError("PassManager::run failed"), ValueError("no such layout")], ids=str)
    def test_a_compiler_that_gives_up_refuses_the_candidate(self, monkeypatch, error):
        forward = hadamard_mux.hadamard_mux_forward

        def fails(x, v, scale):
            if launch_table.launch_parameters(self.LAUNCHER, x)["rows"] < 8:
                raise error
            return forward(x, v, scale)

        monkeypatch.setattr(hadamard_mux, self.LAUNCHER, fails)
        found = self.run(self.clock({"rows": 4, "columns": 256, "warps": 4}))[self.LAUNCHER]
        assert found.tile == {} and str(error) in found.refused["rows=4 columns=256 warps=4"]

    def test_what_is_found_is_kept_at_once_and_out_of_time_the_default_stays(self):
        kept = []
        clock = self.clock({"rows": 2, "columns": 64, "warps": 8})
        outcomes = self.run(clock, keep=lambda launcher, outcome: kept.append(launcher))
        assert kept == list(outcomes)
        assert self.run(clock, budget=0) == {}
        with fastmux.backend("triton"):
            found = tune.search(self.subject(), clock, budget=0)
        assert found.tile == {} and found.tried == 1

    def test_candidates_are_tried_in_processes_of_their_own(self):
        """One that is allowed, one that is not, and two whose process is gone."""
        compiler, subject = tune.Compiler(workers=1), self.subject()
        try:
            good, bad = compiler.refusals(subject, [{"rows": 4, "columns": 64, "warps": 4}, {"rows": 3}])
            assert good is None and bad.startswith("ValueError")
            (process,) = compiler._pool._processes.values()
            process.kill()
            process.join()
            assert compiler.refusals(subject, [{}, {}]) == [tune.KILLED] * 2
            assert compiler.refusals(subject, [{"rows": 4, "columns": 64, "warps": 4}]) == [None]
        finally:
            compiler.close()

    def test_every_parameter_is_of_a_launcher_that_is_tuned(self):
        assert set(tune.launchers()) == set(launch_table.DEFAULTS), "bench/audit/launches.py has a call of each"
        assert set(tune.launchers().values()) == set(tune.OPS), "OPS of bench/tune.py"
        for op in tune.OPS:
            assert set(tune.shapes(op)[0]) >= {"G", "N", "L", "d"}

    def test_the_worst_two_ops_are_those_that_a_tile_can_help(self, tmp_path):
        listed = ["mlp_demux", "pair_norm", "pair_norm", "unbind_demux", "hadamard_mux", "embedding_mux"]
        write_json(tmp_path / "ratios.json", {"to_compiled": [{"op": op} for op in listed]})
        assert tune.worst(tmp_path / "ratios.json") == ["pair_norm", "hadamard_mux"]

    def test_without_a_gpu_nothing_is_done(self, monkeypatch, capsys):
        monkeypatch.setattr(tune, "default_device", lambda: torch.device("cpu"))
        monkeypatch.setattr(tune, "tune", None)
        assert tune.main([]) == 2
        assert capsys.readouterr().err.count("\n") == 1
