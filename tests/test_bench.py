"""The benchmarks count what they say they count, refuse wrong results, and run from the command line.

One class a program of bench/, which makes this file longer than others.
"""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import BertConfig

pytest.importorskip("triton", reason="bench.tune tunes the Triton kernels")

import fastmux
from bench import candidates, harness, loading, memory, peers, problems, throughput, throughput_report, timing, tune
from bench.audit import predict
from bench.audit.storage import Scopes, StorageTracker
from bench.ops import (
    test_embedding_mux,
    test_hadamard_mux,
    test_index_demux,
    test_linear_cross_entropy,
    test_orthogonal_mux,
    test_walsh_hadamard_mux,
)
from bench.throughput import encoder_flops, limit
from fastmux import reference
from fastmux.files import write_json
from fastmux.kernels import hadamard_mux
from fastmux.kernels.common import launch_table
from training.recipe import read_recipe

ROOT = Path(__file__).resolve().parent.parent
BASE = BertConfig()  # 12 layers, d = 768, f = 3072
TINY = ["--num_hidden_layers", "1", "--hidden_size", "16", "--num_attention_heads", "2", "--intermediate_size", "32"]


def run_script(name: str, *options: str) -> str:
    command = [sys.executable, str(ROOT / "bench" / name), "--vocab_size", "50", "--disable_tqdm", *TINY, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


class TestLimits:
    def test_flops_of_the_encoder_by_hand(self):
        # four 768 x 768 projections, two 768 x 3072, and 128 scores and weights of 768, two operations a multiply-add
        by_hand = 12 * 2 * (4 * 768 * 768 + 2 * 768 * 3072 + 2 * 128 * 768)
        assert encoder_flops(BASE, 128) == by_hand == 174_587_904

    @pytest.mark.parametrize("task", ["sequence", "token"])
    @pytest.mark.parametrize(("n", "expected"), [(1, 128 / 130), (2, 256 / 131), (10, 1280 / 139), (40, 5120 / 169)])
    def test_index_pays_for_its_prefix(self, task, n, expected):
        assert limit(task, "index", n, 128, BASE) == pytest.approx(expected)

    def test_unbind_pays_for_its_linear_layer_on_tokens_only(self):
        assert limit("sequence", "unbind", 40, 128, BASE) == 40
        assert limit("token", "key", 40, 128, BASE) == 40
        # 174,587,904 of the encoder and 40 * 1,179,648 of the linear layer for a position of 40 instances
        assert limit("token", "unbind", 40, 128, BASE) == pytest.approx(40 * 174_587_904 / 221_773_824)


class TestTraffic:
    """Minimal traffic, beside the design's table written out."""

    SIZES = {"G": 2, "N": 3, "L": 5, "d": 7}  # 210 elements of x, 70 of y

    def test_hadamard_mux(self):
        op, vectors = test_hadamard_mux.OP, 21
        assert op.traffic(self.SIZES, torch.float32, "forward") == 4 * (210 + vectors + 70)
        forward_and_backward = 210 + vectors + 70 + 70 + 2 * (210 + vectors)
        assert op.traffic(self.SIZES, torch.bfloat16, "forward+backward") == 2 * forward_and_backward

    def test_embedding_mux_reads_ids_of_eight_bytes_in_each_direction(self):
        op, sizes = test_embedding_mux.OP, self.SIZES | {"V": 11}
        assert op.traffic(sizes, torch.float32, "forward") == 8 * 30 + 4 * (210 + 70)
        parameters = 4 * 7 * (11 + test_embedding_mux.POSITIONS + 3 + 2)
        assert op.traffic(sizes, torch.float32, "forward+backward") == 2 * (8 * 30 + 4 * (210 + 70)) + parameters

    def test_index_demux(self):
        op, parameters = test_index_demux.OP, 7 * 14 + 3 * 7
        read = 70 + 42 + parameters
        assert op.traffic(self.SIZES, torch.float32, "forward") == 4 * (read + 210)
        assert op.traffic(self.SIZES, torch.float32, "forward+backward") == 4 * (read + 210 + 210 + 2 * read)
        assert op.flops(self.SIZES, "forward") == 2 * (2 * 5 + 2 * 3) * 7 * 7

    def test_walsh_hadamard_reads_signs_of_one_byte_and_needs_no_input_again(self):
        op, sizes = test_walsh_hadamard_mux.OP, {"G": 2, "N": 3, "L": 5, "d": 8}
        assert op.traffic(sizes, torch.float32, "forward") == 4 * (240 + 80) + 48
        assert op.traffic(sizes, torch.float32, "forward+backward") == 2 * (4 * (240 + 80) + 48)

    def test_linear_cross_entropy(self):
        sizes = {"R": 4, "V": 6, "d": 5}
        assert test_linear_cross_entropy.OP.traffic(sizes, torch.float32, "forward") == 4 * (20 + 30 + 6 + 1) + 8 * 4


@pytest.fixture
def eager(monkeypatch):
    """Without the compiled reference: compiling takes seconds."""
    monkeypatch.setattr(harness, "REFERENCES", ("reference",))
    monkeypatch.setattr(harness, "copy_bandwidth", lambda clock: 1e9)


class TestCorrectnessGate:
    """An implementation is timed only if output and gradients are the reference's."""

    SIZES = {"G": 2, "N": 3, "L": 4, "d": 8}

    def report(self, direction, function=test_hadamard_mux.OP.function, **peers):
        op = harness.Op("hadamard_mux", [self.SIZES], [], function=function, peers=peers)
        return harness.Case(op, tuple(self.SIZES.items()), torch.float32, direction).run(seconds=0)

    @pytest.mark.parametrize("direction", harness.DIRECTIONS)
    def test_a_right_op_is_timed_beside_its_reference(self, eager, direction):
        report = self.report(direction)
        assert [row["implementation"] for row in report.rows] == ["torch", "reference"] and not report.refused
        for row in report.rows:
            low, median, high = row["wall_us"]
            assert 0 < low <= median <= high and row["device_us"] is None
            assert row["gb_per_s"] == pytest.approx(row["minimal_bytes"] / median / 1e3)
            assert row["fraction_of_copy"] == pytest.approx(row["gb_per_s"])
            # at least the output: 2 * 4 * 8 floats
            assert row["peak_bytes"] >= 256
        assert "wall us" in str(report) and "torch" in str(report)

    @pytest.mark.parametrize(
        "wrong",
        [
            lambda x, instance_vectors: reference.hadamard_mux(x, instance_vectors) * 1.001,
            lambda x, instance_vectors: reference.hadamard_mux(x, instance_vectors) * float("nan"),
            lambda x, instance_vectors: reference.hadamard_mux(x, instance_vectors)[:1],
        ],
        ids=["slightly off", "nan", "shape"],
    )
    def test_a_wrong_output_is_not(self, eager, wrong):
        report = self.report("forward", wrong)
        assert report.refused["torch"].startswith("output: relative error")
        assert [row["implementation"] for row in report.rows] == ["reference"]
        assert "a wrong result is not timed" in str(report)

    def test_a_wrong_gradient_is_not(self, eager):
        def wrong(x, instance_vectors):
            v = instance_vectors
            return reference.hadamard_mux(x, v.detach() + (v - v.detach()) * 2)

        report = self.report("forward+backward", wrong)
        assert report.refused["torch"].startswith("gradient of instance_vectors") and len(report.rows) == 1

    def test_a_peer_is_held_to_the_same_and_may_decline_sizes(self, eager):
        def declines(x, instance_vectors):
            raise NotImplementedError("d = 8 is no power of three")

        report = self.report(
            "forward",
            right=lambda x, instance_vectors: torch.einsum("nd,gnld->gld", instance_vectors, x) / 3,
            wrong=lambda x, instance_vectors: x.mean(1),
            other=declines,
        )
        assert [row["implementation"] for row in report.rows] == ["torch", "right", "reference"]
        assert report.refused["wrong"].startswith("output") and report.left_out == {
            "other": "d = 8 is no power of three"
        }
        with pytest.raises(NotImplementedError):
            self.report("forward", declines)

    def test_a_slower_turn_slows_all(self):
        """The ratio to the compiled reference is taken turn by turn."""
        ours, compiled = timing.Times(wall=[1.0, 10.0, 2.0]), timing.Times(wall=[3.0, 30.0, 6.0])
        case = harness.Case(test_hadamard_mux.OP, tuple(self.SIZES.items()), torch.float32, "forward")
        row = case._row("torch", {"torch": ours, "reference-compiled": compiled}, 0, "cpu")
        assert row["speed_to_compiled"] == [3.0, 3.0, 3.0] and row["wall_us"] == pytest.approx([1.5e6, 2e6, 6e6])

    def test_the_first_pass_comes_first(self):
        (cases,) = (mark.args[1] for mark in [test_hadamard_mux.OP.cases.mark])
        firsts = [case.first for case in cases]
        assert firsts == sorted(firsts, reverse=True) and any(firsts)

    @pytest.mark.parametrize("direction", harness.DIRECTIONS)
    def test_a_bare_product_is_orthogonal_mux(self, eager, direction):
        sizes = {"G": 2, "N": 3, "L": 4, "d": 8}
        report = harness.Case(test_orthogonal_mux.OP, tuple(sizes.items()), torch.float32, direction).run(seconds=0)
        assert not report.refused and "gemm" in [row["implementation"] for row in report.rows]


def test_predictions_stand_on_launchers_that_there_are():
    from bench.audit.launches import calls

    counts = Counter(call.launcher for call in calls(torch.float32, 64, 1, 1, 1))
    for op, directions in predict.LAUNCHERS.items():
        assert all(i < counts[launcher] for launchers in directions for launcher, i in launchers), op


def test_prediction_is_the_slower_of_bytes_and_operations(monkeypatch):
    counted = {"hadamard_mux_forward": [{"elements": 100, "bytes": 300, "flops": 200}]}
    monkeypatch.setattr(predict, "_counted", lambda: counted)
    sizes = {"G": 1, "N": 10, "L": 10, "d": 10}  # ten times what was counted

    def of(name, **more):
        return predict.predicted_seconds("hadamard_mux", "forward", sizes, torch.bfloat16, name, **more)

    assert of("NVIDIA H100 80GB HBM3") == pytest.approx(3000 / 3.35e12)
    assert of("NVIDIA H100 80GB HBM3", matrix_flops=989e3) == pytest.approx(3000 / 3.35e12 + 1e-9)
    counted["hadamard_mux_forward"][0]["flops"] = 6700
    assert of("NVIDIA H100 80GB HBM3") == pytest.approx(1e-9)
    assert of("Voodoo2") is None


def test_a_benchmark_writes_a_small_file_for_its_op(tmp_path):
    """One case, compiled reference and all, as from the command line."""
    command = [sys.executable, "-m", "pytest", "-q", "bench/ops/test_orthogonal_mux.py", "--output", str(tmp_path)]
    options = ["--case_seconds", "0.1", "--clock", "cpu", "-k", "forward-G2", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    result = json.loads((tmp_path / "orthogonal_mux.json").read_text())
    assert [row["implementation"] for row in result["rows"]] == ["torch", "gemm", "reference", "reference-compiled"]
    assert all(len(row["speed_to_compiled"]) == 3 for row in result["rows"])
    assert result["machine"]["torch"] == torch.__version__ and result["clock"] == "cpu" and not result["refused"]
    assert "to compiled" in done.stdout and "reference-compiled" in done.stdout


class TestPeers:
    def test_formulas_written_for_the_benchmarks_are_the_specification(self):
        x = torch.randn(2, 3, 4, 8, dtype=torch.float64)
        matrices, signs = torch.randn(3, 8, 8, dtype=torch.float64), torch.randint(0, 2, (3, 8)) * 2 - 1
        expected = reference.orthogonal_mux(x, matrices, 1.0)
        torch.testing.assert_close(test_orthogonal_mux.product(x, matrices), expected)
        inputs = {"x": x, "inner_signs": signs, "outer_signs": signs.flip(0)}
        torch.testing.assert_close(
            test_walsh_hadamard_mux.written_out(**inputs), reference.walsh_hadamard_mux(**inputs)
        )

    @pytest.mark.parametrize(
        ("op", "load", "sizes"),
        [
            (test_linear_cross_entropy.OP, peers.liger_linear_cross_entropy, {"R": 5, "V": 7, "d": 8}),
            (test_index_demux.OP, peers.liger_index_demux, {"G": 2, "N": 3, "L": 4, "d": 8}),
            (test_embedding_mux.OP, peers.liger_embedding_mux, {"G": 2, "N": 3, "L": 4, "d": 8, "V": 11}),
            (test_walsh_hadamard_mux.OP, peers.fast_hadamard_transform, {"G": 2, "N": 3, "L": 4, "d": 8}),
        ],
        ids=["cross entropy", "index_demux", "embedding_mux", "walsh_hadamard"],
    )
    def test_what_is_built_around_a_package_is_the_op(self, eager, monkeypatch, op, load, sizes):
        """Plain PyTorch stands for the packages, which need a GPU."""
        liger, hadamard = ModuleType("liger_kernel.transformers.functional"), ModuleType("fast_hadamard_transform")
        liger.liger_layer_norm = lambda x, weight, bias, eps: F.layer_norm(x, x.shape[-1:], weight, bias, eps)
        liger.liger_fused_linear_cross_entropy = lambda x, weight, target, bias: F.cross_entropy(
            F.linear(x, weight, bias), target
        )
        hadamard.hadamard_transform = lambda x, scale: x @ reference.hadamard_matrix(x.shape[-1]).to(x) * scale
        for name in ("liger_kernel", "liger_kernel.transformers"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        for module in (liger, hadamard):
            monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(op.peers, "peer", load())
        report = harness.Case(op, tuple(sizes.items()), torch.float32, "forward+backward").run(seconds=0)
        assert not report.refused and "peer" in [row["implementation"] for row in report.rows]

    def test_a_transform_of_another_order_is_declined(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "fast_hadamard_transform", ModuleType("fast_hadamard_transform"))
        sys.modules["fast_hadamard_transform"].hadamard_transform = None
        with pytest.raises(NotImplementedError, match="d = 12 is no power of two"):
            peers.fast_hadamard_transform()(torch.ones(1, 2, 1, 12), torch.ones(2, 12), torch.ones(2, 12))

    def test_only_what_is_installed_on_a_gpu_is_measured(self, monkeypatch):
        def missing():
            raise ModuleNotFoundError

        monkeypatch.setattr(peers, "default_device", lambda: torch.device("cpu"))
        assert peers.installed(there=lambda: abs) == {}
        monkeypatch.setattr(peers, "default_device", lambda: torch.device("cuda"))
        assert peers.installed(there=lambda: abs, missing=missing) == {"there": abs}


class TestTune:
    """The search, in the interpreter, by clocks that know which tile is best."""

    LAUNCHER = "hadamard_mux_forward"
    SIZES = {"G": 2, "N": 2, "L": 4, "d": 64}

    def run(self, seconds, op="hadamard_mux", **options):
        device = torch.device("cpu")
        with fastmux.backend("triton"):
            return tune.tune([op], lambda _: [self.SIZES], [torch.float32], device, seconds, progress=False, **options)

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
        tune.write_table(path, {self.LAUNCHER: found}, torch.device("cpu"), "python -m bench.tune --ops hadamard_mux")
        table = json.loads(path.read_text())
        assert table["launchers"] == {"hadamard_mux_dx": {"rows": 4}, self.LAUNCHER: best}
        written = table["found"][self.LAUNCHER]
        assert written["command"] == "python -m bench.tune --ops hadamard_mux" and written["speedup"] > 5
        assert written["machine"]["triton"] and written["machine"]["device"] == "cpu"

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
        listed = list(problems.problems(self.LAUNCHER, [self.SIZES], [torch.float32], torch.device("cpu")))
        with fastmux.backend("triton"):
            found = tune.search(self.LAUNCHER, listed, clock, lambda what: None, tune._none_refused, budget=0)
        assert found.tile == {} and found.tried == 1

    def test_candidates_are_tried_in_processes_of_their_own(self):
        """One that is allowed, one that is not, and two whose process is gone."""
        compiler = candidates.Compiler(torch.device("cpu"), workers=1)
        subject = (self.LAUNCHER, [self.SIZES], [torch.float32])
        try:
            good, bad = compiler.refusals(subject, [{"rows": 4, "columns": 64, "warps": 4}, {"rows": 3}])
            assert good is None and bad.startswith("ValueError")
            (process,) = compiler._pool._processes.values()
            process.kill()
            process.join()
            assert compiler.refusals(subject, [{}, {}]) == [candidates.KILLED] * 2
            assert compiler.refusals(subject, [{"rows": 4, "columns": 64, "warps": 4}]) == [None]
        finally:
            compiler.close()

    def test_every_parameter_is_of_a_launcher_that_is_tuned(self):
        assert set(tune.launchers()) == set(launch_table.DEFAULTS)
        assert set(tune.launchers().values()) == set(tune.OPS)
        for op in tune.OPS:
            assert set(tune.shapes(op)[0]) >= {"G", "N", "L", "d"}

    def test_without_a_gpu_nothing_is_done(self, monkeypatch, capsys):
        monkeypatch.setattr(tune, "default_device", lambda: torch.device("cpu"))
        monkeypatch.setattr(tune, "tune", None)
        assert tune.main([]) == 2
        assert capsys.readouterr().err.count("\n") == 1


class TestStorageTracker:
    def test_a_hand_computed_step(self):
        """exp(x W^T), summed: every tensor of forward and backward is known."""
        layer, x = nn.Linear(64, 32, bias=False), torch.randn(128, 64)
        weight, inputs, out, scalar = 4 * 64 * 32, 4 * 128 * 64, 4 * 128 * 32, 4
        tracker = StorageTracker()
        tracker.adopt(layer.weight, "weight")
        tracker.adopt(x, "x")
        with tracker:
            y = layer(x)
            views = y.view(-1), y[3:], y.T
            assert tracker.current == weight + inputs + out
            z = y.exp()
            del views
            assert tracker.current == weight + inputs + 2 * out
            del y  # exp keeps its result, not its argument
            assert tracker.current == weight + inputs + out
            loss = z.sum()
            loss.backward()
            assert tracker.current == weight + inputs + out + scalar + weight
            # With the weight's gradient there are z, the gradient of y, the loss and the gradient of the loss.
            assert tracker.peak == weight + inputs + 2 * out + 2 * scalar + weight
            del z, loss
            assert tracker.current == weight + inputs + weight
        tracker.stop()

    def test_holders_at_the_peak(self):
        class Model(nn.Module):
            def forward(self, x):
                return torch.cat([x, x]).sum()

        tracker, model = StorageTracker(), Model()
        scopes = Scopes(tracker, {"model": (model, "forward")})
        with tracker:
            x = torch.ones(1000)
            tracker.name(x, "batch")
            model(x)
        scopes.remove()
        tracker.stop()
        assert tracker.at_peak() == {"model": 8004, "batch": 4000}
        assert "forward" not in vars(model)

    def test_agrees_with_the_allocator(self):
        """Over operators without workspaces, the profiler's count of the allocator is the same to the last byte."""

        def work():
            a = torch.randn(300, 200)
            b = a @ a.T
            c = torch.softmax(b, -1)
            del b
            d = c.mul(a[:, :1])
            return torch.cat([d, c])

        tracker = StorageTracker()
        with tracker:
            out = work()
        tracker.stop()
        del out
        assert timing.peak_bytes(work) == tracker.peak


def test_throughput_runs(tmp_path):
    options = ["--num_instances", "1", "3", "--length", "8", "--batch_sizes", "2", "4", "--group_counts", "2"]
    printed = run_script("throughput.py", *options, "--repeats", "2", "--output_dir", str(tmp_path))
    result = json.loads((tmp_path / "throughput.json").read_text())
    rows = result["rows"]
    assert [(r["task"], r["demultiplexer"], r["num_instances"]) for r in rows] == [
        (task, name, n) for task in ("sequence", "token") for name in ("index", "unbind") for n in (1, 3)
    ]
    for row in rows:
        assert row["instances_per_second"] > 0 and row["plain_batch_size"] in (2, 4) and row["groups"] == 2
        assert row["fraction_of_limit"] == pytest.approx(row["ratio"] / row["limit"])
        assert row["ratio_quartiles"][0] <= row["ratio"] <= row["ratio_quartiles"][1]
    assert rows[1]["limit"] == pytest.approx(3 * 8 / 12)
    assert result["machine"]["torch"] == torch.__version__ and result["encoder"]["hidden_size"] == 16
    assert (tmp_path / "throughput.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["throughput.json", "throughput.png"]
    assert all(f"{row['limit']:.2f}" in printed for row in rows)


def test_every_group_has_a_row_beside_the_compiled_encoder(tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda model, **_: compiled.append(model) or model)
    options = ["--preset", "tiny", "--tasks", "sequence", "--demultiplexers", "unbind", "--num_instances", "2", "3"]
    sizes = ["--length", "8", "--batch_sizes", "2", "--group_counts", "1", "2", "--repeats", "1", "--device", "cpu"]
    how = ["--every_group", "--compiled_plain", "--disable_tqdm", "--name", "swept", "--output_dir", str(tmp_path)]
    rows = throughput.main([*options, *sizes, *how])
    assert [(r.num_instances, r.groups) for r in rows] == [(2, 1), (2, 2), (3, 1), (3, 2)] and len(compiled) == 1
    assert all(r.ratio_to_compiled_plain > 0 for r in rows) and (tmp_path / "swept.png").exists()
    best = throughput_report.best_groups(rows)
    assert [r.num_instances for r in best] == [2, 3] and all(r.limit == r.num_instances for r in best)
    assert len(json.loads((tmp_path / "swept.json").read_text())["rows"]) == 4
    assert throughput.main([*options, *sizes, *how, "--budget", "0"]) == []


def test_the_default_of_memory_is_the_embedded_default():
    args, recipe = memory.parse_args([]), read_recipe("stdlib")
    sizes = (args.config.num_hidden_layers, args.config.hidden_size, args.config.num_attention_heads)
    assert sizes == (recipe.num_layers, recipe.hidden_size, recipe.num_heads)
    assert args.config.intermediate_size == recipe.intermediate_size and args.vocab_size == recipe.vocab_size
    assert (args.length, args.dropout) == (recipe.max_length, recipe.dropout)
    assert args.groups == [recipe.task_rows // recipe.num_instances]


def test_memory_runs(tmp_path):
    options = [
        "--num_instances",
        "3",
        "--length",
        "8",
        "--groups",
        "2",
        "--output_dir",
        str(tmp_path),
        "--device",
        "cpu",
    ]
    printed = run_script("memory.py", *options)
    plain, index, unbind, longer = json.loads((tmp_path / "memory.json").read_text())["rows"]
    assert [r["model"] for r in (plain, index, unbind, longer)] == ["plain", "index", "unbind", "plain"]
    assert (plain["rows"], index["rows"], longer["length"]) == (2, 6, 12)
    for row in (plain, index, unbind, longer):
        assert row["peak_bytes"] == sum(row["at_peak"].values())
        # parameters and both moments are there all the time
        assert row["peak_bytes"] >= 3 * row["parameter_bytes"]
        assert row["ratio_to_plain"] == pytest.approx(row["peak_bytes"] / plain["peak_bytes"])
        assert f"{row['ratio_to_plain']:.3f}" in printed
    assert longer["peak_bytes"] > plain["peak_bytes"] and index["peak_bytes"] > unbind["peak_bytes"]


@pytest.mark.parametrize(
    ("script", "options", "message"),
    [
        (throughput, ["--num_instances", "0"], "0, expected an integer of at least 1"),
        (throughput, ["--num_attention_heads", "5"], "no multiple of --num_attention_heads 5"),
        (throughput, ["--clock", "cpu", "--num_threads", "2"], "--clock cpu is for one thread"),
        (throughput, ["--execution", "graphed", "--device", "cpu"], "--execution graphed needs a GPU"),
        (memory, ["--groups", "0"], "0, expected an integer of at least 1"),
        (memory, ["--hidden_size", "50"], "--hidden_size 50 is no multiple of --num_attention_heads 4"),
    ],
)
def test_bad_options(script, options, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        script.parse_args(options)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_loading(tmp_path, monkeypatch):
    """The figures are there, in order, and the slower statement is the slower one."""
    monkeypatch.setattr(loading, "IMPORTS", {"fast": "pass", "slow": "import time; time.sleep(0.2)"})
    output = tmp_path / "loading.json"
    loading.main(["--repeats", "1", "--num_hidden_layers", "1", "--output", str(output)])
    report = json.loads(output.read_text())
    assert report["imports"]["slow"] > 0.2 > report["imports"]["fast"] and report["num_hidden_layers"] == 1
    assert len(report["loading"]) == 3 and all(seconds > 0 for seconds in report["loading"].values())
