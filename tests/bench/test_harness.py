"""Ops are timed only where they are right, beside the bytes that they must move."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from thoroughness import on_request

from bench import harness, timing
from bench.ops import listed
from bench.ops.listed import OPS
from fastmux import reference

ROOT = Path(__file__).resolve().parents[2]


class TestTraffic:
    """Minimal traffic, beside the design's table written out."""

    SIZES = {"G": 2, "N": 3, "L": 5, "d": 7}  # 210 elements of x, 70 of y

    def test_hadamard_mux(self):
        op, vectors = OPS["hadamard_mux"], 21
        assert op.traffic(self.SIZES, torch.float32, "forward") == 4 * (210 + vectors + 70)
        forward_and_backward = 210 + vectors + 70 + 70 + 2 * (210 + vectors)
        assert op.traffic(self.SIZES, torch.bfloat16, "forward+backward") == 2 * forward_and_backward

    def test_embedding_mux_reads_ids_of_eight_bytes_in_each_direction(self):
        op, sizes = OPS["embedding_mux"], self.SIZES | {"V": 11}
        assert op.traffic(sizes, torch.float32, "forward") == 8 * 30 + 4 * (210 + 70)
        parameters = 4 * 7 * (11 + listed.POSITIONS + 3 + 2)
        assert op.traffic(sizes, torch.float32, "forward+backward") == 2 * (8 * 30 + 4 * (210 + 70)) + parameters

    def test_index_demux(self):
        op, parameters = OPS["index_demux"], 7 * 14 + 3 * 7
        read = 70 + 42 + parameters
        assert op.traffic(self.SIZES, torch.float32, "forward") == 4 * (read + 210)
        assert op.traffic(self.SIZES, torch.float32, "forward+backward") == 4 * (read + 210 + 210 + 2 * read)
        assert op.flops(self.SIZES, "forward") == 2 * (2 * 5 + 2 * 3) * 7 * 7

    def test_walsh_hadamard_reads_signs_of_one_byte_and_needs_no_input_again(self):
        op, sizes = OPS["walsh_hadamard_mux"], {"G": 2, "N": 3, "L": 5, "d": 8}
        assert op.traffic(sizes, torch.float32, "forward") == 4 * (240 + 80) + 48
        assert op.traffic(sizes, torch.float32, "forward+backward") == 2 * (4 * (240 + 80) + 48)

    def test_linear_cross_entropy(self):
        sizes = {"R": 4, "V": 6, "d": 5}
        assert OPS["linear_cross_entropy"].traffic(sizes, torch.float32, "forward") == 4 * (20 + 30 + 6 + 1) + 8 * 4


class TestCorrectnessGate:
    """An implementation is timed only if output and gradients are the reference's."""

    SIZES = {"G": 2, "N": 3, "L": 4, "d": 8}

    def report(self, direction, function=OPS["hadamard_mux"].function, **peers):
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
        assert "wall us" in str(report) and "| torch |" in str(report)

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
        case = harness.Case(OPS["hadamard_mux"], tuple(self.SIZES.items()), torch.float32, "forward")
        row = case._row("torch", {"torch": ours, "reference-compiled": compiled}, 0, "cpu")
        assert row["speed_to_compiled"] == [3.0, 3.0, 3.0] and row["wall_us"] == pytest.approx([1.5e6, 2e6, 6e6])

    @pytest.mark.parametrize(("device", "expected"), [("NVIDIA H200", 0.25), ("Voodoo2", None)])
    def test_a_gpu_is_also_held_to_its_data_sheet(self, eager, monkeypatch, device, expected):
        case = harness.Case(OPS["hadamard_mux"], tuple(self.SIZES.items()), torch.float32, "forward")
        moved = case.op.traffic(case.sizes, case.dtype, "forward")
        monkeypatch.setattr(harness, "DEVICE", torch.device("cuda"))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: device)
        row = case._row("triton", {"triton": timing.Times(wall=[moved / 1.2e12])}, 0, "wall")
        assert row.get("fraction_of_datasheet") == (expected and pytest.approx(expected))
        assert row["fraction_of_copy"] == pytest.approx(1200)


ORDER = """
import pytest, sys

class Order:
    def pytest_collection_finish(self, session):
        print("order", *(item.callspec.params["case"].rank for item in session.items))

sys.exit(pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", *sys.argv[1:]], plugins=[Order()]))
"""


@pytest.mark.parametrize("options", [[], ["--first_pass"]], ids=str)
def test_the_first_shape_of_every_op_comes_before_the_second_of_any(options):
    command = [sys.executable, "-c", ORDER, "bench/ops", "--ops", "hadamard_mux", "pair_norm", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("order")]
    ranks = [int(rank) for rank in line.split()[1:]]
    assert ranks == sorted(ranks) and ranks.count(0) == ranks.count(1) == 4


@on_request
def test_a_benchmark_writes_a_small_file_for_its_op(tmp_path):
    """One case, compiled reference and all, as from the command line."""
    command = [sys.executable, "-m", "pytest", "-q", "bench/ops", "--ops", "orthogonal_mux", "--output", str(tmp_path)]
    options = ["--case_seconds", "0.1", "--clock", "cpu", "-k", "forward-G2", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    result = json.loads((tmp_path / "orthogonal_mux.json").read_text())
    implementations = [row["implementation"] for row in result["rows"]]
    assert implementations == ["torch", "torch-compiled", "reference", "reference-compiled"]
    assert all(len(row["speed_to_compiled"]) == 3 for row in result["rows"])
    assert result["machine"]["torch"] == torch.__version__ and result["clock"] == "cpu" and not result["refused"]
    assert "to compiled" in done.stdout and "reference-compiled" in done.stdout
