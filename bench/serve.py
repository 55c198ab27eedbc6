"""Requests a second that `fastmux serve` sustains, plain encoder and T-MUX, each within the same bound of latency.

    python bench/serve.py --data_dir DATA                           # base size, N = 10, minutes a model
    python bench/serve.py --data_dir DATA --preset tiny --crowd 5000

Open loop: requests of one row each come at moments of a Poisson process from processes of their own (bench/load.py),
over the loopback. Rows are SST-2's, so that lengths are real; models have random weights, which cost what trained ones
do. A rate is sustained where every request is answered with 200 and the 99th percentile of the latency, from the moment
that a request was due, is within ``--p99_ms``; the highest such rate is searched for. The first fifth of every run is
for the queue to find its length, and does not count.

``--crowd`` measures overload (bench/crowd.py): so many clients, who come within ``--arrive_seconds`` and ask again when
they were told to, and in a second round clients who ask again after a second or two whatever they were told. How fast
429 comes is seen by a probe, a client in a process of its own; how late the probe woke from its pauses says how much of
that is the machine's. And what the crowd leaves behind in the server. The server runs with ``--threads`` for the model.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import torch
import transformers
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

import fastmux
from bench import encoders
from bench.encoders import positive
from bench.machine import default_device, machine_info, results_folder
from bench.predict import stored_tokenizer, texts_of
from fastmux.files import write_json

_LOAD, _CROWD = (Path(__file__).with_name(name) for name in ("load.py", "crowd.py"))
#: Where a rate is too much, the latency is to say so.
_NO_LIMIT = ["--max_concurrent_requests", "100000", "--max_queued_rows", "100000"]


@contextlib.contextmanager
def server(folder: Path, threads: int, options: list[str]) -> Iterator[Server]:
    """A server of a stored model, on a free port, once it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "fastmux", "serve", str(folder), "--port", str(port)]
    env = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(_LOAD.parent.parent)}
    process = subprocess.Popen([*command, "--log_level", "warning", *options], env=env)
    found = Server(f"http://127.0.0.1:{port}", process)
    try:
        found.wait_until_ready(300)
        yield found
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Server:
    """A running server."""

    def __init__(self, url: str, process: subprocess.Popen):
        self.url, self.process = url, process

    def wait_until_ready(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(OSError):
                self.get("/health")
                return
            time.sleep(0.2)
        raise RuntimeError(f"the server did not become ready (exit status {self.process.poll()})")

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return answer.read().decode()

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", self.get("/metrics"), re.MULTILINE)
        return sum(map(float, lines))

    def group_fill(self) -> tuple[float, float]:
        """Groups so far, each counted by the share of its room that was taken; and all of them."""
        return self.metric("fastmux_group_fill_sum"), self.metric("fastmux_group_fill_count")

    def left(self) -> dict[str, float]:
        """What a crowd may leave behind."""
        names = {"queued_rows": "fastmux_queued_rows", "in_flight": "fastmux_requests_in_flight"}
        names |= {"open_files": "process_open_fds", "resident_bytes": "process_resident_memory_bytes"}
        names |= {"cpu_seconds": "process_cpu_seconds_total"}
        return {name: self.metric(metric) for name, metric in names.items()}


class Clients:
    """Processes that ask, bounded in number and time; ``how`` are the options of their program."""

    def __init__(self, program: Path, address: str, texts: Path, seconds: float, processes: int, seed: int, **how):
        self.seconds = seconds
        options = [
            part
            for name, value in how.items()
            for part in ([f"--{name}", str(value)] if value is not True else [f"--{name}"])
        ]
        command = [sys.executable, str(program), address, "--texts", str(texts), "--seconds", str(seconds), *options]
        self.running = [
            subprocess.Popen([*command, "--seed", str(seed + number)], stdout=subprocess.PIPE, text=True)
            for number in range(processes)
        ]

    def found(self) -> list[tuple]:
        """What they saw: (second it was due, status, latency, ...) of every request."""
        try:
            outputs = [process.communicate(timeout=self.seconds + 120)[0] for process in self.running]
        finally:
            for process in self.running:
                process.kill()
        return [tuple(one) for output in outputs for one in json.loads(output)]


def summary(found: list[tuple], seconds: float) -> dict:
    """Rate, latencies in milliseconds and statuses of the requests that came after the first fifth of a run."""
    counted = [one for one in found if one[0] >= seconds / 5]
    answered = _latencies(counted, 200)
    return {
        "requests": len(counted),
        "answered": answered["requests"],
        **{f"{name}_ms": answered.get(name, float("inf")) for name in ("p50", "p99", "max")},
    }


class Search:
    """For the highest rate that a server sustains, run by run."""

    def __init__(self, one: Server, num_instances: int, texts: Path, args: argparse.Namespace):
        self.server, self.num_instances, self.texts, self.args = one, num_instances, texts, args
        self.good, self.bad, self.next = 0.0, None, args.first_rate * num_instances
        self.runs: list[dict] = []

    @property
    def done(self) -> bool:
        """Whether the rate is known as well as was asked for, or as many runs were made."""
        near = self.good and self.bad is not None and self.bad / self.good <= 1 + self.args.resolution
        return bool(near) or len(self.runs) == self.args.runs

    def step(self) -> None:
        """A run at the next rate."""
        args, rate = self.args, self.next
        seconds = min(args.max_seconds, max(args.seconds, args.requests / rate))
        filled, groups = self.server.group_fill()
        share = rate / args.processes
        clients = Clients(_LOAD, self.server.url, self.texts, seconds, args.processes, len(self.runs), rate=share)
        run = {"rate": rate, **summary(clients.found(), seconds)}
        now_filled, now_groups = self.server.group_fill()
        run |= {"group_fill": (now_filled - filled) / max(1.0, now_groups - groups)}
        run |= {"load_average": os.getloadavg()[0]}
        run["sustained"] = run["answered"] == run["requests"] and run["p99_ms"] <= args.p99_ms
        self.runs.append(run)
        told = "{rate:8.1f} /s  p50 {p50_ms:7.1f} ms  p99 {p99_ms:7.1f} ms  groups {group_fill:.2f} full".format(**run)
        print(f"N = {self.num_instances:2}: {told}{'' if run['sustained'] else '  too much'}", flush=True)
        if run["sustained"]:
            self.good = rate
        else:
            self.bad = rate
        if self.bad is None:
            self.next = 1.5 * self.good
        else:
            self.next = (self.good * self.bad) ** 0.5 if self.good else 0.6 * self.bad


def overload(one: Server, texts: Path, args: argparse.Namespace) -> dict:
    """A crowd of clients, twice: who is answered, how fast a probe beside it is refused, what is left."""
    Clients(_LOAD, one.url, texts, 5.0, 1, 1, rate=50.0).found()
    address = one.url.removeprefix("http://")
    left, rounds = [one.left()], []
    for impatient in (False, True):
        probe = Clients(_CROWD, address, texts, args.max_seconds, 1, 0, probe=True)
        how = {"clients": args.crowd, "arrive_seconds": args.arrive_seconds} | (
            {"impatient": True} if impatient else {}
        )
        found = Clients(_CROWD, address, texts, args.max_seconds, 1, len(rounds), **how).found()
        seen = probe.found()
        time.sleep(2.0)
        left.append(one.left())
        statuses = [status for _, status, _ in found]
        last, here = max(due for due, _, _ in found), args.arrive_seconds + 1.0
        rounds.append(
            {
                "impatient": impatient,
                "requests": len(found),
                "answered": statuses.count(200),
                "refused": statuses.count(429),
                "lost": len(found) - statuses.count(200) - statuses.count(429),
                "seconds": last,
                "refused_ms": _latencies(found, 429),
                "server_cpu_seconds": left[-1]["cpu_seconds"] - left[-2]["cpu_seconds"],
                "probe_while_they_come": _probed([row for row in seen if row[0] < here]),
                "probe_while_they_stand": _probed([row for row in seen if here <= row[0] < last]),
            }
        )
    return {"clients": args.crowd, "arrive_seconds": args.arrive_seconds, "rounds": rounds, "left": left}


def _probed(seen: list[tuple]) -> dict[str, dict[str, float]]:
    """What a probe saw, in milliseconds."""
    return {
        "refused_ms": _latencies(seen, 429),
        "answered_ms": _latencies(seen, 200),
        "connected_ms": _percentiles([1000 * row[3] for row in seen]),
        "woke_late_ms": _percentiles([1000 * row[4] for row in seen]),
    }


def _latencies(found: Iterable[tuple], wanted: int) -> dict[str, float]:
    return _percentiles([1000 * row[2] for row in found if row[1] == wanted])


def _percentiles(milliseconds: list[float]) -> dict[str, float]:
    if not milliseconds:
        return {"requests": 0}
    p50, p90, p99 = np.percentile(milliseconds, [50, 90, 99]).tolist()
    return {"requests": len(milliseconds), "p50": p50, "p90": p90, "p99": p99, "max": max(milliseconds)}


def store(model, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True, help="with the folders sst2 and tokenizer")
    parser.add_argument("--num_instances", nargs="+", type=positive, default=[10], metavar="N")
    parser.add_argument("--demultiplexer", default="unbind")
    parser.add_argument("--p99_ms", type=float, default=1000.0, help="bound of the latency (default: 1000)")
    parser.add_argument("--max_wait_ms", type=float, default=50.0, help="of the server (default: 50)")
    parser.add_argument("--batch_tokens", type=positive, default=256, help="of the server (default: 256)")
    parser.add_argument("--threads", type=positive, default=1, help="for the model (default: 1)")
    parser.add_argument("--processes", type=positive, default=1, help="of clients (default: 1)")
    parser.add_argument("--seconds", type=float, default=15.0, help="of a run, at least (default: 15)")
    parser.add_argument("--requests", type=positive, default=800, help="of a run, at least (default: 800)")
    parser.add_argument("--max_seconds", type=float, default=60.0, help="of a run, at most (default: 60)")
    parser.add_argument("--runs", type=positive, default=10, help="for a model, at most (default: 10)")
    parser.add_argument("--resolution", type=float, default=0.07, help="of the rate that is found (default: 0.07)")
    parser.add_argument(
        "--first_rate", type=float, default=8.0, help="of the plain encoder, N times it of others (default: 8)"
    )
    parser.add_argument("--crowd", type=int, default=0, help="measure overload by so many clients, not rates")
    parser.add_argument("--arrive_seconds", type=float, default=2.0, help="in which a crowd comes (default: 2)")
    parser.add_argument(
        "--max_concurrent_requests", type=positive, default=512, help="of a crowd's server (default: 512)"
    )
    parser.add_argument(
        "--output", type=Path, help="JSON file; default: serve.json, or crowd.json, in the results folder"
    )
    encoders.add_arguments(parser, preset="base", vocab_size=30522)
    args = parser.parse_args(argv)
    args.config = encoders.config(parser, args, 512)
    return args


def main(argv: list[str] | None = None) -> dict:
    args = parse_args(argv)
    transformers.utils.logging.set_verbosity_error()
    torch.manual_seed(0)
    tokenizer = stored_tokenizer(args.data_dir)
    device = default_device()
    names = ("p99_ms", "max_wait_ms", "batch_tokens", "threads", "processes", "seconds", "requests")
    result = {"machine": machine_info(device), "encoder": encoders.sizes(args.config)}
    result |= {name: getattr(args, name) for name in names} | {"load_average_before": os.getloadavg()}
    options = ["--truncation", "--max_wait_ms", str(args.max_wait_ms), "--batch_tokens", str(args.batch_tokens)]
    args.config.num_labels = 2
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        texts = work / "rows.txt"
        texts.write_text("\n".join(texts_of("sequence", args.data_dir)), encoding="utf-8")

        def stored(n: int) -> Path:
            if n == 1:
                return store(AutoModelForSequenceClassification.from_config(args.config), tokenizer, work / "plain")
            make = fastmux.TMuxForSequenceClassification.from_backbone
            model = make(args.config, n, demultiplexer=args.demultiplexer, num_labels=2)
            return store(model, tokenizer, work / f"{n}")

        if args.crowd:
            taken = args.max_concurrent_requests
            options += ["--max_concurrent_requests", str(taken)]
            result["max_concurrent_requests"] = taken
            with server(stored(args.num_instances[0]), args.threads, options) as one:
                result |= {"num_instances": args.num_instances[0], **overload(one, texts, args)}
            print(json.dumps({name: result[name] for name in ("clients", "rounds", "left")}, indent=1))
        else:
            with contextlib.ExitStack() as held:
                searches = []
                for n in [1, *args.num_instances]:
                    one = held.enter_context(server(stored(n), args.threads, [*options, *_NO_LIMIT]))
                    searches.append(Search(one, n, texts, args))
                # In turns, so that what else the machine does meanwhile is the same for all.
                while waiting := [search for search in searches if not search.done]:
                    for search in waiting:
                        search.step()
            plain = searches[0].good
            rows = [
                {"num_instances": one.num_instances, "rate": one.good, "x_plain": one.good / plain if plain else None}
                | {"runs": one.runs}
                for one in searches
            ]
            for row in rows:
                print("N = {num_instances}: {rate:.1f} requests a second, {x_plain} x plain".format(**row), flush=True)
            result["rows"] = rows
    result["load_average_after"] = os.getloadavg()
    write_json(args.output or results_folder(device) / ("crowd.json" if args.crowd else "serve.json"), result)
    return result


if __name__ == "__main__":
    main()
