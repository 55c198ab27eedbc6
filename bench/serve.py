"""Requests a second that `fastmux serve` sustains, plain encoder and T-MUX, each within the same bound of latency.

    python bench/serve.py --data_dir DATA                           # base size, N = 10, minutes a model
    python bench/serve.py --data_dir DATA --preset tiny --crowd 5000
    python bench/serve.py --data_dir DATA --preset minilm --overload 3 --model FOLDER

Other processes (bench/clients.py) send requests of one row each over the loopback, at the moments of a Poisson process.
Rows are SST-2's, so their lengths are real. Models have random weights, which cost what trained ones do. A server
sustains a rate if it answers every request with 200 and the 99th percentile of the latency is within ``--p99_ms``. The
program searches for the highest such rate. The first fifth of every run does not count, because the queue has yet to
find its length.

``--crowd`` measures overload: so many clients come within ``--arrive_seconds`` and ask again when they were told to. In
a second round they ask again after a second or two, whatever they were told. A probe in a process of its own sees how
fast it is refused, and how late it woke from its sleeps, which is the machine's share of that. The program also looks
at what the crowd leaves behind in the server.

``--overload`` measures an open load at a multiple of what the server can answer, of the classifiers and of the models
in ``--model``, which may be ones that embed: see bench/open_load.py.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
import transformers

from bench import open_load, workload
from bench.clients import Clients
from bench.machine import machine_info, results_folder
from bench.served import LEFT, Server, latencies, percentiles, server
from bench.workload import stored_tokenizer, texts_of
from fastmux.embedding.loading import embeds
from fastmux.files import write_json
from fastmux.training.formatting import table
from fastmux.training.programs import finish, positive

#: The sum of the shares to which groups were filled so far, and the number of groups.
_FILLED = {"shares": "fastmux_group_fill_sum", "groups": "fastmux_group_fill_count"}
#: A rate that is too high shows in the latency, and not in refusals.
_NO_LIMIT = ["--max_concurrent_requests", "100000", "--max_queued_rows", "100000"]


def summary(found: list[tuple], seconds: float) -> dict:
    """Number and latencies in milliseconds of the requests that came after the first fifth of a run."""
    counted = [one for one in found if one[0] >= seconds / 5]
    answered = latencies(counted, 200)
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
        before = self.server.metrics(_FILLED)
        share, seed = rate / args.processes, len(self.runs)
        clients = Clients(self.server.url, self.texts, seconds, args.processes, seed, rate=share)
        run = {"rate": rate, **summary(clients.found(), seconds)}
        filled = {name: value - before[name] for name, value in self.server.metrics(_FILLED).items()}
        run |= {"group_fill": filled["shares"] / max(1.0, filled["groups"]), "load_average": os.getloadavg()[0]}
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


def crowded(one: Server, texts: Path, args: argparse.Namespace) -> dict:
    """A crowd comes twice: who is answered, how fast a probe beside it is refused, and what is left."""
    Clients(one.url, texts, 5.0, seed=1, rate=50.0).found()
    left, rounds = [one.metrics(LEFT)], []
    for impatient in (False, True):
        probe = Clients(one.url, texts, args.max_seconds, probe=True)
        how = {"crowd": args.crowd, "arrive_seconds": args.arrive_seconds} | ({"impatient": True} if impatient else {})
        found = Clients(one.url, texts, args.max_seconds, seed=len(rounds), **how).found()
        seen = probe.found()
        time.sleep(2.0)
        left.append(one.metrics(LEFT))
        statuses = [status for _, status, *_ in found]
        last, here = max(due for due, *_ in found), args.arrive_seconds + 1.0
        rounds.append(
            {
                "impatient": impatient,
                "requests": len(found),
                "answered": statuses.count(200),
                "refused": statuses.count(429),
                "lost": len(found) - statuses.count(200) - statuses.count(429),
                "seconds": last,
                "refused_ms": latencies(found, 429),
                "server_cpu_seconds": left[-1]["cpu_seconds"] - left[-2]["cpu_seconds"],
                "probe_while_they_come": _probed([row for row in seen if row[0] < here]),
                "probe_while_they_stand": _probed([row for row in seen if here <= row[0] < last]),
            }
        )
    return {"clients": args.crowd, "arrive_seconds": args.arrive_seconds, "rounds": rounds, "left": left}


def _probed(seen: list[tuple]) -> dict[str, dict[str, float]]:
    """What a probe saw, in milliseconds."""
    return {
        "refused_ms": latencies(seen, 429),
        "answered_ms": latencies(seen, 200),
        "connected_ms": percentiles(row[3] for row in seen),
        "woke_late_ms": percentiles(row[4] for row in seen),
    }


def rates_section(result: dict) -> Iterator[str]:
    """The page's section on a search for rates."""
    encoder = result["encoder"]
    load = [result[f"load_average_{when}"][0] for when in ("before", "after")]
    yield (
        f"Highest rate of single-row requests, at Poisson moments, with {result['p99_ms'] / 1000:g} s at the 99th "
        f"percentile: {encoder['num_hidden_layers']} layers, d = {encoder['hidden_size']}, random weights; "
        f"load average {load[0]:.1f} before and {load[1]:.1f} after. `python bench/serve.py`."
    )
    columns = {"N": "{num_instances}", "requests/s": "{rate:.1f}", "x plain": "{x_plain:.2f}"}
    columns |= {"p50, s": "{p50:.2f}", "p99, s": "{p99:.2f}", "groups filled": "{group_fill:.2f}"}
    rows = []
    for row in result["rows"]:
        best = max((run for run in row["runs"] if run["sustained"]), key=lambda run: run["rate"], default={})
        rows.append(row | best | {name: best[f"{name}_ms"] / 1000 for name in ("p50", "p99") if best})
    yield table(rows, columns)


def crowd_section(result: dict) -> Iterator[str]:
    """The page's section on ``--crowd``."""
    yield (
        f"{result['clients']:,} clients who come within {result['arrive_seconds']:g} s, N = {result['num_instances']}, "
        f"a model of {result['encoder']['num_hidden_layers']} layers, d = {result['encoder']['hidden_size']}. Refusals "
        "as a probe beside the crowd sees them, and how late it wakes from its sleeps, ms, p50 / p99. "
        f"`python bench/serve.py --crowd {result['clients']}`."
    )

    both = "{{{0}[p50]:.1f}} / {{{0}[p99]:.1f}}".format
    columns = {"clients": "{who}"} | {name: f"{{{name}:,}}" for name in ("requests", "answered", "refused", "lost")}
    columns |= {"refused while they come": both("come"), "while they stand": both("stand"), "woke late": both("woke")}
    columns |= {"left over": "{over:.0f}", "open files": "{open_files:.0f}", "MiB": "{mib:.0f}"}
    rows = []
    for one, left in zip(result["rounds"], result["left"][1:], strict=True):
        come, stand = one["probe_while_they_come"], one["probe_while_they_stand"]
        row = {"come": come["refused_ms"], "stand": stand["refused_ms"], "woke": stand["woke_late_ms"]}
        row |= {"over": left["queued_rows"] + left["in_flight"], "mib": left["resident_bytes"] / 2**20}
        rows.append(one | left | row | {"who": "ask again at once" if one["impatient"] else "wait as told"})
    yield table(rows, columns)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = workload.parser(__doc__, "base", num_instances=[10])
    add = parser.add_argument
    add("--data_dir", type=Path, required=True, help="The folder with the folders sst2 and tokenizer.")
    add("--demultiplexer", choices=workload.DEMULTIPLEXERS, default="unbind", help="T-MUX's demultiplexer.")
    add("--p99_ms", type=float, default=1000.0, help="The highest 99th percentile of the latency that is allowed.")
    add("--max_wait_ms", type=float, default=50.0, help="The server's option.")
    add("--batch_tokens", type=positive, default=256, help="The server's option.")
    add("--threads", type=positive, default=1, help="The threads that run the model.")
    add("--processes", type=positive, default=1, help="The processes that send requests.")
    add("--seconds", type=float, default=15.0, help="The shortest run.")
    add("--requests", type=positive, default=800, help="The fewest requests of a run.")
    add("--max_seconds", type=float, default=60.0, help="The longest run.")
    add("--runs", type=positive, default=10, help="The most runs a model.")
    add("--resolution", type=float, default=0.07, help="How well the rate has to be known.")
    add("--first_rate", type=float, default=8.0, help="The rate that is tried first; N times this for a T-MUX.")
    add("--crowd", type=int, default=0, help="Measure overload by so many clients, not rates.")
    add("--arrive_seconds", type=float, default=2.0, help="The seconds within which a crowd comes.")
    add("--overload", type=float, default=0.0, help="Measure an open load of so many times the capacity, not rates.")
    add("--model", nargs="+", type=Path, default=[], help="Folders of models that are measured by --overload as well.")
    add("--timeout", type=float, default=300.0, help="The seconds that clients of --overload have after the others.")
    add("--max_concurrent_requests", type=positive, default=512, help="The server's option, for a crowd or overload.")
    args = parser.parse_args(argv)
    if args.model and not args.overload:
        parser.error("--model is given, but --overload is not")
    if args.overload and args.crowd:
        parser.error("--overload and --crowd are given; give one of them")
    if args.overload and not args.overload > 1:
        parser.error(f"--overload is {args.overload:g}, expected more than 1")
    args.config = workload.config(parser, args, 512)
    name = "overload.json" if args.overload else "crowd.json" if args.crowd else "serve.json"
    args.output = args.output or results_folder(args.device) / name
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
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        work = Path(name)
        texts = work / "rows.txt"
        texts.write_text("\n".join(texts_of("sequence", args.data_dir)), encoding="utf-8")

        def stored(n: int) -> Path:
            model = workload.model("sequence", args.config, args.demultiplexer if n > 1 else None, n)
            for part in (model, tokenizer):
                part.save_pretrained(work / f"{n}")
            return work / f"{n}"

        def served(n: int, limits: list[str]) -> Server:
            return stack.enter_context(server(stored(n), args.threads, [*options, *limits]))

        taken = args.max_concurrent_requests
        limit = ["--max_concurrent_requests", str(taken)]
        if args.overload:
            result |= {"overload": args.overload, "max_concurrent_requests": taken, "open_load": []}
            models = {"plain" if n == 1 else f"N = {n}": stored(n) for n in (1, *args.num_instances)}
            for title, folder in (models | {folder.resolve().name: folder for folder in args.model}).items():
                path = "/v1/embeddings" if embeds(folder) else "/predict"
                with server(folder, args.threads, [*options, *limit]) as one:
                    result["open_load"].append({"model": title, **open_load.measure(one, texts, path, args)})
                write_json(args.output, result | {"load_average_after": os.getloadavg()})
        elif args.crowd:
            n = args.num_instances[0]
            result |= {"max_concurrent_requests": taken, "num_instances": n}
            result |= crowded(served(n, limit), texts, args)
        else:
            searches = [Search(served(n, _NO_LIMIT), n, texts, args) for n in (1, *args.num_instances)]
            # In turns, so that what else the machine does meanwhile is the same for all.
            while waiting := [search for search in searches if not search.done]:
                for search in waiting:
                    search.step()
                    result["rows"] = [one.row(searches[0].good) for one in searches]
                    write_json(args.output, result | {"load_average_after": os.getloadavg()})
    result["load_average_after"] = os.getloadavg()
    section = open_load.section if args.overload else crowd_section if args.crowd else rates_section
    finish(result, section, args.output)
    return result


if __name__ == "__main__":
    main()
