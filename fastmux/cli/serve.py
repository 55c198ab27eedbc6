"""``fastmux serve``: answer requests."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType

from fastmux.cli.parser import OneOf, Parser, Typed, integer
from fastmux.cli.settings import MODEL_HELP, add_settings, add_text, given, text_rows
from fastmux.distribution import install_line
from fastmux.serving.settings import ServingSettings
from fastmux.settings import Number

DESCRIPTION = """\
Serve a model over HTTP: a classifier of sequences or tokens (a T-MUX, a joined model or a plain encoder), or a model
that embeds, in a folder of sentence-transformers. Rows of concurrent
requests share passes of the model, and groups of a multiplexed model; a group waits at most --max_wait_ms to be full.

POST /predict answers one row with one object, and a list of rows with a list; a bad row fails alone. Of a model with
one score on pairs (a cross-encoder), POST /rerank and /v1/rerank order texts as servers of rerankers do. A model that
embeds has no /predict: POST /v1/embeddings answers as OpenAI's does. GET /health is 200 once the model is warm.
/metrics has counters for Prometheus, /info the model and the limits, /docs the interface, and / a page to try it. Logs
are JSON, one line each, on standard error.

Rows of a group influence one another a little. Requests with different values of the header X-Tenant never share a
group; with "copies": N in a request, each of its rows has a group for itself."""

EPILOG = """\
examples:
  fastmux serve my-model
  fastmux serve my-model --host 0.0.0.0 --port 80 --truncation --max_wait_ms 5
  fastmux serve my-model --runtime onnxruntime --precision int8
  fastmux serve my-model --runtime auto --text reviews.txt    # the fastest on this machine, for rows like these
  fastmux serve my-fast-model --fallback my-model
  curl localhost:8000/predict -d '{"inputs": "a fine film"}'
  curl localhost:8000/rerank -d '{"query": "a fine film", "texts": ["dull", "great"]}'    # of a cross-encoder
  curl localhost:8000/v1/embeddings -d '{"input": ["a fine film", "dull"]}'               # of a model that embeds
  curl localhost:8000/predict -H 'X-Tenant: acme' -d '{"inputs": ["a fine film", "dull"], "all_scores": true}'
  curl localhost:8000/predict -d '{"inputs": {"text": "a premise", "text_pair": "a hypothesis"}, "copies": 10}'

needs the extra `serve`: """ + install_line("serve")


#: Options that say how the files of --text are read.
_OF_TEXTS = ("column", "pair_column", "input_format")


def add_parser(commands: argparse._SubParsersAction) -> Parser:
    """Add the arguments of the command: the fields of `fastmux.serving.settings.ServingSettings`, and the server's."""
    parser = commands.add_parser(
        "serve",
        help="answer requests over HTTP",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument(
        "--fallback",
        metavar="MODEL",
        help="The model for rows below --min_confidence, usually the original; see fastmux calibrate.",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="Where to listen. (default: 127.0.0.1, which only this machine reaches)"
    )
    parser.add_argument(
        "--port",
        type=integer(0, 65535),
        default=8000,
        help="The port to listen at; 0 for any free one. (default: 8000)",
    )
    add_settings(parser, ServingSettings)
    add_text(parser, "Files with rows on which --runtime auto chooses. By default it makes rows up")
    parser.add_argument(
        "--shutdown_seconds",
        type=Typed(Number(False, 0)),
        default=30.0,
        help="How many seconds the server goes on, once told to end, for rows that it has taken. (default: 30)",
    )
    levels = ("debug", "info", "warning", "error")
    parser.add_argument(
        "--log_level",
        type=OneOf(*levels),
        default="info",
        help="The least important messages that are logged; warning leaves out those of requests. (default: info)",
    )
    return parser


def run(options: argparse.Namespace) -> None:
    """Load the model, and serve until told to end."""
    settings = given(options, ServingSettings)
    _check_text(options)
    # Until the server handles SIGTERM itself: the first process of a container ignores it by default.
    before = signal.signal(signal.SIGTERM, _ended)
    try:
        from fastmux.serving import server  # first, as it needs the whole extra but not torch

        bound = server.bind(options.host, options.port)
        server.log_as_json(options.log_level)
        from fastmux.serving import app

        texts = None if options.text is None else text_rows(options)
        served = app.create_app(options.model, settings=settings, fallback=options.fallback, texts=texts)
        server.run(served, options.host, options.port, options.shutdown_seconds, bound)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("fastmux"):
            raise
        raise ValueError(f"{error.name} is not installed; {install_line('serve')} adds what serve needs") from error
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_text(options: argparse.Namespace) -> None:
    """Raise ValueError for texts that are not there or mean nothing."""
    if options.text is not None and options.runtime != "auto":
        raise ValueError("texts is given; runtime is not 'auto', which alone looks at them")
    if options.text is None and (name := next((n for n in _OF_TEXTS if getattr(options, n) is not None), None)):
        raise ValueError(f"{name} is given; texts, of which it says something, is not")
    for path in options.text or ():
        if not Path(path).is_file():
            raise ValueError(f"{path} is not there")


def _ended(number: int, frame: FrameType | None) -> None:
    print("fastmux serve: told to end before the model was loaded", file=sys.stderr)
    sys.exit(128 + number)
