"""Every option of every command: what is wrong with its value is one line that names it with dashes, before any
work."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest

from fastmux.cli.main import build
from fastmux.distillation.settings import ConversionSettings
from fastmux.embedding.settings import EmbeddingSettings
from fastmux.labelling.settings import LabellingSettings
from fastmux.searching.settings import SearchSettings
from fastmux.serving.settings import ServingSettings
from fastmux.settings import descriptions

TYPED = {
    "calibrate": ["model", "--fallback", "model", "--text", "rows.txt"],
    "convert": ["model", "--text", "rows.txt", "--output_dir", "out", "--row_layers", "0"],
    "embed": ["model", "rows.txt", "--output", "out.jsonl", "--num_workers", "0", "--pooling", "mean"],
    "predict": ["model", "rows.txt", "--output", "out.jsonl", "--num_workers", "0"],
    "search": ["model", "--text", "rows.txt", "--output_dir", "out"],
    "serve": ["model", "--port", "0"],
}
#: For each option that takes a value: values that are refused, and what is said. Options of whose values nothing can be
#: wrong before the model is asked have none.
WRONG = {
    "calibrate": {
        "fallback": [("nowhere", "'nowhere' cannot be loaded"), ("tagger", "labels tokens and the model")],
        "text": [("nowhere.txt", "nowhere.txt"), ("few.txt", "--text has 1 rows, expected at least 50")],
        "column": [("nope", "has no column 'nope'")],
        "pair_column": [("nope", "has no column 'nope'")],
        "input_format": [("xml", "--input_format is 'xml', expected one of")],
        "agreement": [("0", "--agreement is '0', expected a number above 0, up to 1"), ("x", "--agreement is 'x'")],
        "copies": [("0", "--copies is '0'"), ("5", "--copies is 5, expected 1: the model puts no rows together")],
        "max_length": [("999", "--max_length is 999, but the model has room for 32 tokens")],
        "device": [("cuda:99", "--device is 'cuda:99'"), ("gpu", "--device is 'gpu', expected 'cpu'")],
        "runtime": [("jax", "--runtime is 'jax', expected one of")],
        "precision": [
            ("int4", "--precision is 'int4', expected one of"),
            ("int8", "--precision is 'int8', which torch"),
        ],
    },
    "convert": {
        "text": [("nowhere.txt", "nowhere.txt"), ("few.txt", "--text has 1 rows, expected at least 20")],
        "column": [("nope", "has no column 'nope'")],
        "pair_column": [("nope", "has no column 'nope'")],
        "input_format": [("xml", "--input_format is 'xml', expected one of")],
        "output_dir": [
            ("rows.txt", "--output_dir is 'rows.txt', which is a file"),
            ("used", "--output_dir 'used' is not"),
        ],
        "max_steps": [("0", "--max_steps is '0'"), ("few", "--max_steps is 'few', expected an integer of at least 1")],
        "device": [("cuda:99", "--device is 'cuda:99'"), ("gpu", "--device is 'gpu', expected 'cpu'")],
        "num_instances": [("0", "--num_instances is '0'"), ("2.5", "--num_instances is '2.5'")],
        "join": [("both", "--join is 'both', expected one of 'positions', 'rows'")],
        "row_layers": [("-1", "--row_layers is '-1'"), ("9", "--row_layers is 9 and --last_layers is 1, expected")],
        "last_layers": [("-1", "--last_layers is '-1'"), ("9", "--row_layers is 0 and --last_layers is 9, expected")],
        "first_layers": [
            ("x", "--first_layers is 'x'"),
            ("9", "--first_layers is 9, expected at most --last_layers, 1"),
        ],
        "attention_width": [("1.5", "--attention_width is '1.5', expected a number above 0, up to 1"), ("x", "is 'x'")],
        "ffn_width": [
            ("0", "--ffn_width is '0', expected a number above 0, up to 1"),
            ("wide", "--ffn_width is 'wide'"),
        ],
        "joined_layers": [("9", "--joined_layers is (9,)"), ("a", "--joined_layers is 'a'")],
        "max_length": [("0", "--max_length is '0', expected an integer of at least 1")],
        "num_train_epochs": [
            ("0", "--num_train_epochs is '0', expected a number above 0"),
            ("x", "--num_train_epochs is 'x'"),
        ],
        "learning_rate": [
            ("nan", "--learning_rate is 'nan', expected a number above 0"),
            ("-1", "--learning_rate is '-1', expected"),
        ],
        "state_weight": [("-1", "--state_weight is '-1', expected a number of at least 0")],
        "per_device_train_batch_size": [("0", "--per_device_train_batch_size is '0', expected")],
        "seed": [("-1", "--seed is '-1', expected an integer of at least 0")],
    },
    "predict": {
        "output": [("out.xml", "--output is 'out.xml', expected a name that ends in .jsonl")],
        "fallback": [("model", "--fallback is given without --min_confidence, and the model has no cascade.json")],
        "column": [("nope", "has no column 'nope'")],
        "pair_column": [("nope", "has no column 'nope'")],
        "cache_tokens": [("rows.txt", "--cache_tokens is 'rows.txt', which is a file; expected a folder")],
        "prefix": [],
        "rejected": [("gone", "--rejected is 'gone', expected one of 'keep', 'reason', 'drop'")],
        "max_length": [
            ("0", "--max_length is '0'"),
            ("999", "--max_length is 999, but the model has room for 32 tokens"),
        ],
        "copies": [("0", "--copies is '0'"), ("5", "--copies is 5, expected 1: the model puts no rows together")],
        "min_confidence": [
            ("2", "--min_confidence is '2', expected a number from 0 to 1"),
            ("x", "--min_confidence is 'x'"),
        ],
        "batch_tokens": [("0", "--batch_tokens is '0'"), ("1e3", "--batch_tokens is '1e3', expected an integer")],
        "rows_per_shard": [("0", "--rows_per_shard is '0'")],
        "num_workers": [("-1", "--num_workers is '-1', expected an integer of at least 0")],
        "runtime": [("tensorrt", "--runtime is 'tensorrt', expected one of 'torch', 'onnxruntime'")],
        "precision": [("int4", "--precision is 'int4'"), ("int8", "--precision is 'int8', which torch does not run")],
        "dtype": [("int8", "--dtype is 'int8', expected one of 'float32', 'bfloat16', 'float16'")],
        "device": [("cuda:99", "--device is 'cuda:99'"), ("gpu", "--device is 'gpu', expected 'cpu'")],
        "execution": [("fast", "--execution is 'fast'"), ("captured", "--execution is 'captured', as CUDA graphs")],
        "input_format": [("xml", "--input_format is 'xml', expected one of")],
        "dataset_name": [("x", "--dataset_name is 'x', but rows.txt is a file")],
        "split": [("test", "--split is 'test', but rows.txt is a file")],
    },
    "embed": {
        "output": [
            ("out.csv", "--output is 'out.csv', expected a name that ends in .parquet, .arrow, .jsonl, .npy"),
            ("used", "--output is 'used', expected a name that ends in"),
        ],
        "column": [("nope", "has no column 'nope'")],
        "cache_tokens": [("rows.txt", "--cache_tokens is 'rows.txt', which is a file; expected a folder")],
        "prefix": [],
        "rejected": [("no", "--rejected is 'no', expected one of 'keep', 'reason', 'drop'")],
        "max_length": [
            ("0", "--max_length is '0'"),
            ("99", "--max_length is 99, but the model has room for 32 tokens"),
        ],
        "batch_tokens": [("0", "--batch_tokens is '0'")],
        "rows_per_shard": [("0", "--rows_per_shard is '0'")],
        "num_workers": [("-1", "--num_workers is '-1', expected an integer of at least 0")],
        "runtime": [("jax", "--runtime is 'jax', expected one of")],
        "precision": [("int4", "--precision is 'int4'"), ("int8", "--precision is 'int8', which torch does not run")],
        "dtype": [("int8", "--dtype is 'int8', expected one of 'float32', 'bfloat16', 'float16'")],
        "device": [("cuda:99", "--device is 'cuda:99'"), ("gpu", "--device is 'gpu', expected 'cpu'")],
        "execution": [("fast", "--execution is 'fast'"), ("captured", "--execution is 'captured', as CUDA graphs")],
        "input_format": [("xml", "--input_format is 'xml', expected one of")],
        "dataset_name": [("x", "--dataset_name is 'x', but rows.txt is a file")],
        "split": [("test", "--split is 'test', but rows.txt is a file")],
        "prompt_name": [("query", "--prompt_name is 'query', but the model has the prompts: none")],
        "prompt": [],
        "truncate_dim": [
            ("0", "--truncate_dim is '0'"),
            ("99", "--truncate_dim is 99, but the model's vectors have 32"),
        ],
        "stored_as": [("int4", "--stored_as is 'int4', expected one of 'float32', 'float16', 'int8'")],
        "pooling": [("max", "--pooling is 'max', expected one of 'mean', 'cls', 'lasttoken'")],
    },
    "search": {
        "text": [("nowhere.txt", "nowhere.txt"), ("few.txt", "--text has 1 rows which leaves 0 to report on")],
        "column": [("nope", "has no column 'nope'")],
        "pair_column": [("nope", "has no column 'nope'")],
        "input_format": [("xml", "--input_format is 'xml', expected one of")],
        "label_column": [("nope", "has no column 'nope'")],
        "output_dir": [
            ("rows.txt", "--output_dir is 'rows.txt', which is a file"),
            ("used", "--output_dir 'used' is not"),
        ],
        "speedup": [("1", "--speedup is '1', expected a number above 1"), ("x", "--speedup is 'x'")],
        "agreement": [("0.1", "--agreement is '0.1', expected a number from 0.5 to 1"), ("98", "--agreement is '98'")],
        "minutes": [("0", "--minutes is '0', expected a number above 0")],
        "max_length": [("0", "--max_length is '0', expected an integer of at least 1")],
        "max_steps": [("1", "--max_steps is '1', expected an integer of at least 4")],
        "learning_rate": [("-1", "--learning_rate is '-1', expected")],
        "per_device_train_batch_size": [("0", "--per_device_train_batch_size is '0', expected")],
        "runtime": [("jax", "--runtime is 'jax', expected one of 'torch', 'onnxruntime'")],
        "precision": [("int4", "--precision is 'int4', expected one of")],
        "clock": [("sun", "--clock is 'sun', expected one of 'wall', 'cpu'")],
        "seed": [("-1", "--seed is '-1', expected an integer of at least 0")],
    },
    "serve": {
        "fallback": [("model", "--fallback is given without --min_confidence, and the model has no cascade.json")],
        "host": [("no such host", "--host is 'no such host'")],
        "port": [("65536", "--port is '65536', expected an integer from 0 to 65535")],
        "max_length": [("999", "--max_length is 999, but the model has room for 32 tokens")],
        "copies": [("5", "--copies is 5, expected 1: the model puts no rows together")],
        "min_confidence": [("2", "--min_confidence is '2', expected a number from 0 to 1")],
        "max_wait_ms": [("-1", "--max_wait_ms is '-1', expected a number of"), ("nan", "--max_wait_ms is 'nan'")],
        "batch_tokens": [("0", "--batch_tokens is '0'")],
        "max_concurrent_requests": [("0", "--max_concurrent_requests is '0'")],
        "max_rows_per_request": [("9999", "--max_rows_per_request is 9999, more than --max_queued_rows = 8192")],
        "max_queued_rows": [("1", "--max_rows_per_request is 512, more than --max_queued_rows = 1")],
        "max_payload_bytes": [("0", "--max_payload_bytes is '0'")],
        "read_timeout": [
            ("0", "--read_timeout is '0', expected a number above 0"),
            ("soon", "--read_timeout is 'soon', expected a number"),
        ],
        "runtime": [("tensorrt", "--runtime is 'tensorrt', expected one of 'torch', 'onnxruntime'")],
        "precision": [("int4", "--precision is 'int4'"), ("int8", "--precision is 'int8', which torch does not run")],
        "text": [("rows.txt", "--text is given; --runtime is not 'auto', which alone looks at them")],
        "column": [("body", "--column is given; --text, of which it says something, is not")],
        "pair_column": [("body", "--pair_column is given; --text, of which it says something, is not")],
        "input_format": [("xml", "--input_format is 'xml', expected one of")],
        "dtype": [("int8", "--dtype is 'int8', expected one of")],
        "device": [("cuda:99", "--device is 'cuda:99'"), ("gpu", "--device is 'gpu', expected 'cpu'")],
        "execution": [("fast", "--execution is 'fast'"), ("captured", "--execution is 'captured', as CUDA graphs")],
        "shutdown_seconds": [("-1", "--shutdown_seconds is '-1', expected a number of at least 0")],
        "log_level": [("loud", "--log_level is 'loud', expected one of 'debug', 'info', 'warning', 'error'")],
    },
}


def takes_value(command: str, name: str) -> bool | str:
    """Whether an option takes values; "*" if it takes none, too."""
    nargs = next(action for action in build()[1][command]._actions if action.dest == name).nargs
    return nargs if nargs == "*" else nargs != 0


CASES = [
    (command, name, *case) for command, options in WRONG.items() for name, cases in options.items() for case in cases
]


@pytest.mark.parametrize("command", list(WRONG))
def test_no_option_is_left_out(command):
    options = set(build()[1][command].options) - {"help", "texts", "labels"}
    assert {name for name in options if takes_value(command, name)} == WRONG[command].keys()


@pytest.mark.parametrize(("command", "name", "value", "said"), CASES)
def test_a_wrong_value(command, name, value, said, typed, place):
    before = sorted(place.iterdir())
    code, out, err = typed(command, *TYPED[command], f"--{name}", value)
    assert code in (1, 2) and out == ""
    assert err.startswith(f"fastmux {command}: ") and said in err
    assert err.count("\n") == 1, "more than a line"
    # Without their dashes, names of options are in quotes at most: what was typed.
    plain = re.sub(r"'[^']*'", "", err)
    names = [other for other in build()[1][command].options if "_" in other]
    assert not [other for other in names if re.search(rf"(?<![\w-]){other}\b", plain)]
    assert sorted(place.iterdir()) == before, "something was written"


@pytest.mark.parametrize("command", list(WRONG))
def test_values_that_are_missing_or_too_many(command, typed):
    for name in set(build()[1][command].options) - {"help", "texts", "labels"}:
        if takes_value(command, name) == "*":  # no value is the empty list; what is wrong is the rest of the command
            code, _, err = typed(command, f"--{name}")
            assert code == 2 and f"--{name}" not in err
        elif takes_value(command, name):
            code, _, err = typed(command, f"--{name}")
            assert (code, err) == (2, f"fastmux {command}: --{name} needs a value (--help says more)\n")
        else:
            code, _, err = typed(command, f"--{name}=x")
            assert (code, err) == (2, f"fastmux {command}: --{name} takes no value, got 'x' (--help says more)\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("predict model labelled.csv --output o.jsonl", "has a column 'label' already; --prefix gives the new columns"),
        ("predict tagger words.jsonl --output o.jsonl --is_split_into_words", "--is_split_into_words is for text, but"),
        (
            "predict tmux rows.txt --output o.jsonl --copies 5",
            "--copies is 5, expected an integer from 1 to num_instances",
        ),
        (
            "serve tmux --max_length 20 --batch_tokens 10",
            "--max_length is 20, more than a pass holds: --batch_tokens = 10",
        ),
        (
            "predict model rows.txt --output o.jsonl --runtime onnxruntime --device cuda",
            "predict: --runtime is 'onnxruntime' and runs on the CPU: --device is 'cuda', expected 'cpu'",
        ),
        (
            "predict model rows.txt --output o.jsonl --runtime onnxruntime --dtype float16",
            "does not run in torch: --dtype is 'float16'; --precision takes its place",
        ),
        (
            "serve model --runtime onnxruntime --torch_compile",
            "--runtime is 'onnxruntime' and does not run in torch, but --torch_compile is given",
        ),
    ],
)
def test_what_only_the_model_or_the_rows_can_tell(arguments, said, typed, place):
    code, out, err = typed(*arguments.split())
    assert (code, out) == (1, "") and said in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "settings"),
    [
        ("convert", ConversionSettings),
        ("embed", EmbeddingSettings),
        ("predict", LabellingSettings),
        ("search", SearchSettings),
        ("serve", ServingSettings),
    ],
)
def test_a_setting_is_described_once(command, settings, typed):
    """The docstring of the settings has a sentence for every field, and the help says it."""
    described = descriptions(settings)
    assert list(described) == [field.name for field in fields(settings)]
    shown = " ".join(typed(command, "--help")[1].split())
    for name, text in described.items():
        assert re.fullmatch(r"[A-Z].+\.", text), name
        assert re.sub("``(.+?)``", r"--\1", text) in shown


@pytest.mark.parametrize(
    "settings", [ConversionSettings, EmbeddingSettings, LabellingSettings, SearchSettings, ServingSettings]
)
def test_what_the_command_line_refuses_python_refuses(settings):
    for field in fields(settings):
        if (allowed := field.metadata.get("allowed")) is None:
            continue
        wrong = (float("nan"), True, "x", -1, *([] if field.default is None else [None]))
        for value in wrong:
            with pytest.raises(ValueError, match=f"{field.name} is {value!r}, expected {allowed}"):
                settings(**{field.name: value})
