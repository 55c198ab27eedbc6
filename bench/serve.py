"""Requests a second that `fastmux serve` sustains, plain encoder and T-MUX, each within the same bound of latency.

    python bench/serve.py --data_dir DATA                           # base size, N = 10, minutes a model
    python bench/serve.py --data_dir DATA --preset tiny --crowd 5000

Other processes (bench/clients.py) send requests of one row each over the loopback, at the moments of a Poisson process.
Rows are SST-2's, so their lengths are real. Models have random weights, which cost what trained ones do. A server
sustains a rate if it answers every request with 200 and the 99th percentile of the latency is within ``--p99_ms``. The
program searches for the highest such rate. The first fifth of every run does not count, because the queue has yet to
find its length.

``--crowd`` measures overload: so many clients come within ``--arrive_seconds`` and ask again when they were told to. In
a second round they ask again after a second or two, whatever they were told. A probe in a process of its own sees how
fast it is refused, and how late it woke from its sleeps, which is the machine's share of that. The program also looks
at what the crowd leaves behind in the server.
"""

from __future__ import annotations

import argparse
import contextlib
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
from transformers import AutoModelForSequenceClassification

import fastmux
from bench import workload
from bench.clients import Clients
from bench.machine import machine_info, results_folder
from bench.record import positive
from bench.workload import stored_tokenizer, texts_of
from fastmux.files import write_json
from training.formatting import markdown

#: A rate that is too high shows in the latency, and not in refusals.
_NO_LIMIT = ["--max_concurrent_requests", "100000", "--max_queued_rows", "100000"]


@contextlib.contextmanager
def server(folder: Path, threads: int, options: list[str]) -> Iterator[Server]:
    """Starts a server of a stored model on a free port, and waits until it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "fastmux", "serve", str(folder), "--port", str(port)]
    env = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    process = subprocess.Popen([*command, "--log_level", "warning", *options], env=env)
    found = Server(f"http://127.0.0.1:{port}")
    try:
        end = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(OSError):
                found.get("/health")
                break
            time.sleep(0.2)
        else:
            raise RuntimeError(f"the server did not become ready (exit status {process.poll()})")
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

    def __init__(self, url: str):
        self.url = url

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return answer.read().decode()

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", self.get("/metrics"), re.MULTILINE)
        return sum(map(float, lines))

    def group_fill(self) -> tuple[float, float]:
        """The sum of the shares to which groups were filled so far, and the number of groups."""
        return self.metric("fastmux_group_fill_sum"), self.metric("fastmux_group_fill_count")

    def left(self) -> dict[str, float]:
        """The metrics that show what a crowd left behind."""
        names = {"queued_rows": "fastmux_queued_rows", "in_flight": "fastmux_requests_in_flight"}
        names |= {"open_files": "process_open_fds", "resident_bytes": "process_resident_memory_bytes"}
        names |= {"cpu_seconds": "process_cpu_seconds_total"}
        return {name: self.metric(metric) for name, metric in names.items()}


def summary(found: list[tuple], seconds: float) -> dict:
    """Number and latencies in milliseconds of the requests that came after the first fifth of a run."""
    counted = [one for one in found if one[0] >= seconds / 5]
    answered = _latencies(counted, 200)
    times = {f"{name}_ms": answered.get(name, float("inf")) for name in ("p50", "p99", "max")}
    return {"requests": len(counted), "answered": answered["requests"], **times}


class Search:
    """The search for the highest rate that a server sustains, run by run."""

    def __init__(self, one: Server, num_instances: int, texts: Path, args: argparse.Namespace):
        self.server, self.num_instances, self.texts, self.args = one, num_instances, texts, args
        self.good, self.bad, self.next = 0.0, None, args.first_rate * num_instances
        self.runs: list[dict] = []

    @property
    def done(self) -> bool:
        """Whether the rate is known to ``--resolution``, or ``--runs`` runs were made."""
        near = self.good and self.bad is not None and self.bad / self.good <= 1 + self.args.resolution
        return bool(near) or len(self.runs) == self.args.runs

    def row(self, plain: float) -> dict:
        """What is known, beside the rate of the plain encoder."""
        ratio = self.good / plain if plain else None
        return {"num_instances": self.num_instances, "rate": self.good, "x_plain": ratio, "runs": self.runs}

    def step(self) -> None:
        """Makes a run at the next rate."""
        args, rate = self.args, self.next
        seconds = min(args.max_seconds, max(args.seconds, args.requests / rate))
        filled, groups = self.server.group_fill()
        share, seed = rate / args.processes, len(self.runs)
        clients = Clients(self.server.url, self.texts, seconds, args.processes, seed, rate=share)
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
    """A crowd comes twice: who is answered, how fast a probe beside it is refused, and what is left."""
    Clients(one.url, texts, 5.0, seed=1, rate=50.0).found()
    left, rounds = [one.left()], []
    for impatient in (False, True):
        probe = Clients(one.url, texts, args.max_seconds, probe=True)
        how = {"crowd": args.crowd, "arrive_seconds": args.arrive_seconds} | ({"impatient": True} if impatient else {})
        found = Clients(one.url, texts, args.max_seconds, seed=len(rounds), **how).found()
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


def rates_section(result: dict) -> Iterator[str]:
    """The page's section on a search for rates."""
    encoder = result["encoder"]
    load = [result[f"load_average_{when}"][0] for when in ("before", "after")]
    yield (
        f"Highest rate of single-row requests, at Poisson moments, with {result['p99_ms'] / 1000:g} s at the 99th "
        f"percentile: {encoder['num_hidden_layers']} layers, d = {encoder['hidden_size']}, random weights; "
        f"load average {load[0]:.1f} before and {load[1]:.1f} after. `python bench/serve.py`."
    )
    rows = []
    for r in result["rows"]:
        best = max((run for run in r["runs"] if run["sustained"]), key=lambda run: run["rate"], default=None)
        cells = ["-"] * 3 if best is None else [f"{best['p50_ms'] / 1000:.2f}", f"{best['p99_ms'] / 1000:.2f}"]
        cells += [] if best is None else [f"{best['group_fill']:.2f}"]
        ratio = "-" if r["x_plain"] is None else f"{r['x_plain']:.2f}"
        rows.append([str(r["num_instances"]), f"{r['rate']:.1f}", ratio, *cells])
    yield markdown(["N", "requests/s", "x plain", "p50, s", "p99, s", "groups filled"], rows)


def crowd_section(result: dict) -> Iterator[str]:
    """The page's section on ``--crowd``."""
    yield (
        f"{result['clients']:,} clients who come within {result['arrive_seconds']:g} s, N = {result['num_instances']}, "
        f"a model of {result['encoder']['num_hidden_layers']} layers, d = {result['encoder']['hidden_size']}. Refusals "
        "as a probe beside the crowd sees them, and how late it wakes from its sleeps, ms, p50 / p99. "
        f"`python bench/serve.py --crowd {result['clients']}`."
    )

    def both(found: dict) -> str:
        return f"{found['p50']:.1f} / {found['p99']:.1f}" if found["requests"] else "-"

    rows = []
    for r, left in zip(result["rounds"], result["left"][1:], strict=True):
        counts = [f"{r[name]:,}" for name in ("requests", "answered", "refused", "lost")]
        come, stand = r["probe_while_they_come"], r["probe_while_they_stand"]
        seen = [both(come["refused_ms"]), both(stand["refused_ms"]), both(stand["woke_late_ms"])]
        after = [f"{left['queued_rows'] + left['in_flight']:.0f}", f"{left['open_files']:.0f}"]
        who = "ask again at once" if r["impatient"] else "wait as told"
        rows.append([who, *counts, *seen, *after, f"{left['resident_bytes'] / 2**20:.0f}"])
    names = ["requests", "answered", "refused", "lost", "refused while they come", "while they stand", "woke late"]
    yield markdown(["clients", *names, "left over", "open files", "MiB"], rows)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = workload.parser(__doc__, preset="base", vocab_size=30522)
    add = parser.add_argument
    add("--data_dir", type=Path, required=True, help="folder with the folders sst2 and tokenizer")
    add("--num_instances", nargs="+", type=positive, default=[10], metavar="N")
    add("--demultiplexer", default="unbind")
    add("--p99_ms", type=float, default=1000.0, help="highest allowed 99th percentile of the latency (default: 1000)")
    add("--max_wait_ms", type=float, default=50.0, help="the server's option (default: 50)")
    add("--batch_tokens", type=positive, default=256, help="the server's option (default: 256)")
    add("--threads", type=positive, default=1, help="threads that run the model (default: 1)")
    add("--processes", type=positive, default=1, help="processes that send requests (default: 1)")
    add("--seconds", type=float, default=15.0, help="shortest run (default: 15)")
    add("--requests", type=positive, default=800, help="fewest requests of a run (default: 800)")
    add("--max_seconds", type=float, default=60.0, help="longest run (default: 60)")
    add("--runs", type=positive, default=10, help="most runs a model (default: 10)")
    add("--resolution", type=float, default=0.07, help="how well the rate has to be known (default: 0.07)")
    add("--first_rate", type=float, default=8.0, help="tried first; N times this for a T-MUX (default: 8)")
    add("--crowd", type=int, default=0, help="measure overload by so many clients, not rates")
    add("--arrive_seconds", type=float, default=2.0, help="seconds within which a crowd comes (default: 2)")
    add("--max_concurrent_requests", type=positive, default=512, help="the option of a crowd's server (default: 512)")
    args = parser.parse_args(argv)
    args.config = workload.config(parser, args, 512, num_labels=2)
    args.output = args.output or results_folder(args.device) / ("crowd.json" if args.crowd else "serve.json")
    return args


def main(argv: list[str] | None = None) -> dict:
    args = parse_args(argv)
    transformers.utils.logging.set_verbosity_error()
    torch.manual_seed(args.seed)
    tokenizer = stored_tokenizer(args.data_dir)
    names = ("p99_ms", "max_wait_ms", "batch_tokens", "threads", "processes", "seconds", "requests")
    result = {"machine": machine_info(args.device), "encoder": workload.sizes(args.config)}
    result |= {name: getattr(args, name) for name in names} | {"load_average_before": os.getloadavg()}
    options = ["--truncation", "--max_wait_ms", str(args.max_wait_ms), "--batch_tokens", str(args.batch_tokens)]
    options += ["--device", str(args.device)]
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        texts = work / "rows.txt"
        texts.write_text("\n".join(texts_of("sequence", args.data_dir)), encoding="utf-8")

        def stored(n: int) -> Path:
            if n == 1:
                model = AutoModelForSequenceClassification.from_config(args.config)
            else:
                make = fastmux.TMuxForSequenceClassification.from_backbone
                model = make(args.config, n, demultiplexer=args.demultiplexer, num_labels=2)
            for part in (model, tokenizer):
                part.save_pretrained(work / f"{n}")
            return work / f"{n}"

        if args.crowd:
            n, taken = args.num_instances[0], args.max_concurrent_requests
            result |= {"max_concurrent_requests": taken, "num_instances": n}
            with server(stored(n), args.threads, [*options, "--max_concurrent_requests", str(taken)]) as one:
                result |= overload(one, texts, args)
        else:
            with contextlib.ExitStack() as stack:
                searches = []
                for n in [1, *args.num_instances]:
                    one = stack.enter_context(server(stored(n), args.threads, [*options, *_NO_LIMIT]))
                    searches.append(Search(one, n, texts, args))
                # In turns, so that what else the machine does meanwhile is the same for all.
                while waiting := [search for search in searches if not search.done]:
                    for search in waiting:
                        search.step()
                        result["rows"] = [one.row(searches[0].good) for one in searches]
                        write_json(args.output, result | {"load_average_after": os.getloadavg()})
    result["load_average_after"] = os.getloadavg()
    print("\n\n".join((crowd_section if args.crowd else rates_section)(result)))
    write_json(args.output, result)
    return result


if __name__ == "__main__":
    main()
