"""The benchmark of the server: it finds the highest rate that is sustained, and counts what a crowd gets."""

from __future__ import annotations

import http.server
import itertools
import json
import threading

import pytest
from thoroughness import on_request
from transformers import BertConfig, BertModel

from bench import clients, open_load, serve, workload
from fastmux.embedding.config import EmbeddingConfig
from fastmux.embedding.model import EmbeddingModel


class Served:
    """In place of a server: sustains so many requests a second."""

    url = "nowhere"

    def __init__(self, capacity: float):
        self.capacity = capacity

    def metrics(self, names):
        return dict.fromkeys(names, 0.0)


@pytest.mark.parametrize(("capacity", "first"), [(33.0, 8.0), (33.0, 100.0), (8.0, 8.0), (1.0, 30.0)])
def test_the_search_ends_near_the_highest_rate(monkeypatch, tmp_path, capacity, first):
    asked = []

    class Clients:
        def __init__(self, url, texts, seconds, processes, seed, rate):
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


@pytest.fixture
def address():
    """A server that answers every second request with 429, and one row with nothing."""
    seen = itertools.count()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = asked[{"/predict": "inputs", "/v1/embeddings": "input"}[self.path]]
            if text == "silence":
                self.close_connection = True
                return
            self.send_response(429 if next(seen) % 2 else 200)
            self.send_header("Retry-After", "1")
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class TestClients:
    def asked(self, address, tmp_path, text, seconds, **how):
        (tmp_path / "rows.txt").write_text(text)
        return clients.Clients(address, tmp_path / "rows.txt", seconds, **how).found()

    def test_requests_at_a_rate_are_all_accounted_for(self, address, tmp_path):
        found = self.asked(address, tmp_path, "a row", 2.0, processes=2, rate=20.0)
        assert 40 < len(found) < 140 and {status for _, status, *_ in found} == {200, 429}
        assert all(0 <= due < 2 and 0 < latency < 2 for due, _, latency, _ in found)

    def test_who_gets_no_answer_counts_as_lost(self, address, tmp_path):
        found = self.asked(address, tmp_path, "silence", 1.0, rate=10.0)
        assert found and {status for _, status, *_ in found} == {0}

    def test_a_crowd_asks_again_after_as_long_as_it_was_told(self, address, tmp_path):
        found = self.asked(address, tmp_path, "a row", 20.0, crowd=8, arrive_seconds=0.1)
        assert [status for _, status, *_ in found].count(200) == 8
        first = [due for due, *_ in found if due < 0.1]
        again = [due for due, *_ in found if due >= 0.1]
        assert len(first) == 8 and again and min(again) >= 1.0

    @pytest.mark.parametrize("path", ["/predict", pytest.param("/v1/embeddings", marks=on_request)])
    def test_the_patient_come_back_when_they_were_told_to(self, address, tmp_path, path):
        found = self.asked(address, tmp_path, "a row", 1.0, rate=20.0, patient=True, timeout=20.0, path=path)
        told = open_load.summary(found)
        assert told["clients"] == told["answered"] > 5 and told["lost"] == 0
        assert told["refused"] == {"429": told["requests"] - told["clients"]} and told["refused"]["429"] > 0
        assert told["answer_ms"]["max"] >= 1000
        assert all(due >= first + 1 for due, _, _, first in found if due != first)

    def test_the_patient_who_get_no_answer_are_lost(self, address, tmp_path):
        found = self.asked(address, tmp_path, "silence", 0.5, rate=20.0, patient=True)
        told = open_load.summary(found)
        assert told["lost"] == told["clients"] == len(found) > 0 == told["answered"]
        assert told["other"] == {"0": len(found)}

    def test_who_still_waits_in_the_end_is_lost(self, address, tmp_path):
        found = self.asked(address, tmp_path, "a row", 1.0, rate=20.0, patient=True, timeout=0.0)
        told = open_load.summary(found)
        assert 0 < told["lost"] == told["clients"] - told["answered"]

    def test_a_closed_load_asks_on_and_on(self, address, tmp_path):
        found = self.asked(address, tmp_path, "a row", 1.0, closed=3)
        assert len(found) > 9 and {status for _, status, *_ in found} == {200, 429}
        assert {first for *_, first in found} == {0.0}
        rate = open_load.answered_rate(found, 1.0)
        assert 0 < rate < len(found) / 0.8

    def test_a_probe_says_how_late_it_woke(self, address, tmp_path):
        found = self.asked(address, tmp_path, "a row", 0.5, probe=True)
        assert len(found) > 3 and all(connected <= took and late >= 0 for *_, took, connected, late in found)


def _data(folder):
    """What the benchmark needs of ``--data_dir``."""
    for name in ("sst2", "tokenizer"):
        (folder / name).mkdir()
    (folder / "tokenizer" / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "fine"]))
    (folder / "sst2" / "train.tsv").write_text("sentence\tlabel\nfine fine \t1\nfine\t0\n")


@on_request
def test_a_crowd_is_answered_and_leaves_nothing(tmp_path, capsys):
    _data(tmp_path)
    options = "--preset tiny --num_instances 4 --crowd 30 --seconds 1 --max_seconds 10 --vocab_size 6"
    output = tmp_path / "out.json"
    result = serve.main(["--data_dir", str(tmp_path), "--output", str(output), *options.split()])
    assert json.loads(output.read_text())["rounds"] == json.loads(json.dumps(result["rounds"]))
    for one in result["rounds"]:
        assert one["answered"] == 30 and one["lost"] == 0
        assert one["probe_while_they_come"]["answered_ms"]["requests"] > 0
    assert result["left"][0]["queued_rows"] == result["left"][-1]["in_flight"] == 0
    assert result["left"][-1]["open_files"] == result["left"][0]["open_files"]
    assert "30 clients who come" in capsys.readouterr().out


@on_request
def test_an_open_load_of_more_than_it_can_answer_loses_none(tmp_path, capsys):
    _data(tmp_path)
    tiny = BertConfig(vocab_size=6, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    EmbeddingModel(BertModel(tiny), EmbeddingConfig("mean")).save_pretrained(
        tmp_path / "embedder", workload.stored_tokenizer(tmp_path)
    )
    options = "--preset tiny --num_instances 4 --overload 3 --seconds 1 --vocab_size 6 --max_concurrent_requests 16"
    options += f" --model {tmp_path / 'embedder'}"
    output = tmp_path / "out.json"
    result = serve.main(["--data_dir", str(tmp_path), "--output", str(output), *options.split()])
    assert json.loads(output.read_text())["open_load"] == json.loads(json.dumps(result["open_load"]))
    assert [one["model"] for one in result["open_load"]] == ["plain", "N = 4", "embedder"]
    for one in result["open_load"]:
        assert one["lost"] == 0 and one["answered"] == one["clients"] and sum(one["refused"].values()) > 0
        assert one["left"][-1]["queued_rows"] == one["left"][-1]["in_flight"] == 0
    assert "3 times as many as the server answers" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--overload 1", "--overload is 1, expected more than 1"),
        ("--overload 3 --crowd 5", "--overload and --crowd are given"),
        ("--model somewhere", "--model is given, but --overload is not"),
    ],
)
def test_options_that_contradict_one_another(options, said, capsys):
    with pytest.raises(SystemExit):
        serve.parse_args(["--data_dir", ".", *options.split()])
    assert said in capsys.readouterr().err
