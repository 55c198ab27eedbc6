"""The benchmark of the server: it finds the highest rate that is sustained, and counts what a crowd gets."""

from __future__ import annotations

import json

import pytest
from amount import on_request

pytest.importorskip("aiohttp", reason="the extra `bench` is not installed")

from bench import serve


class Served:
    """In place of a server: sustains so many requests a second."""

    url = "nowhere"

    def __init__(self, capacity: float):
        self.capacity = capacity

    def group_fill(self):
        return 0.0, 0.0


@pytest.mark.parametrize(("capacity", "first"), [(33.0, 8.0), (33.0, 100.0), (8.0, 8.0), (1.0, 30.0)])
def test_the_search_ends_near_the_highest_rate(monkeypatch, tmp_path, capacity, first):
    asked = []

    class Clients:
        def __init__(self, program, url, texts, seconds, processes, seed, rate):
            asked.append((rate, seconds))
            self.slow = rate * processes > capacity

        def found(self):
            return [(second, 200, 9.0 if self.slow else 0.1) for second in range(60)]

    monkeypatch.setattr(serve, "Clients", Clients)
    options = ["--data_dir", ".", "--first_rate", str(first), "--runs", "30", "--resolution", "0.05"]
    args = serve.parse_args(options)
    search = serve.Search(Served(capacity), 1, tmp_path, args)
    while not search.done:
        search.step()
    assert capacity / 1.05 <= search.good <= capacity
    assert len(search.runs) == len(asked) < 20
    assert all(15 <= seconds <= 60 for _, seconds in asked)


def test_a_latency_counts_only_after_the_queue_has_found_its_length():
    found = [(0.5, 200, 99.0), (1.0, 200, 0.010), (2.0, 200, 0.030), (3.0, 429, 0.001), (4.0, 0, 0.001)]
    counted = serve.summary(found, seconds=5.0)
    assert (counted["requests"], counted["answered"]) == (4, 2)
    assert counted["p50_ms"] == pytest.approx(20.0) and counted["max_ms"] == pytest.approx(30.0)
    assert serve.summary([(1.0, 429, 0.001)], seconds=1.0)["p99_ms"] == float("inf")


@on_request
def test_a_crowd_is_answered_and_leaves_nothing(tmp_path, capsys):
    for name in ("sst2", "tokenizer"):
        (tmp_path / name).mkdir()
    (tmp_path / "tokenizer" / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "fine"]))
    (tmp_path / "sst2" / "train.tsv").write_text("sentence\tlabel\nfine fine \t1\nfine\t0\n")
    options = "--preset tiny --num_instances 4 --crowd 30 --seconds 1 --max_seconds 10 --vocab_size 6"
    output = tmp_path / "out.json"
    result = serve.main(["--data_dir", str(tmp_path), "--output", str(output), *options.split()])
    assert json.loads(output.read_text())["rounds"] == json.loads(json.dumps(result["rounds"]))
    for one in result["rounds"]:
        assert one["answered"] == 30 and one["lost"] == 0
        assert one["probe_while_they_come"]["answered_ms"]["requests"] > 0
    assert result["left"][0]["queued_rows"] == result["left"][-1]["in_flight"] == 0
    assert result["left"][-1]["open_files"] == result["left"][0]["open_files"]
    assert '"clients": 30' in capsys.readouterr().out
