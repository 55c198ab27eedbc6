"""Shards that are prepared ahead: in order, by as many processes as the model's speed asks for."""

from __future__ import annotations

import os
import time

import pyarrow
import pytest

from fastmux.labelling.ahead import Ahead, spare_cores
from fastmux.labelling.preparing import Preparation
from fastmux.labelling.row_tokenizer import RowTokenizer
from fastmux.tables.shard import RawShard
from fastmux.tables.writers import JsonLines

SHARDS, ROWS = 12, 2000


@pytest.fixture(scope="module")
def preparation(tokenizer):
    rows = RowTokenizer(tokenizer.backend_tokenizer.to_str(), 32, False, None, False)
    writer = JsonLines("text", pyarrow.schema([("text", pyarrow.string())]), ("label",))
    return Preparation("text", ["text"], ("text",), (0,), False, rows, writer)


def shards(rows, count):
    for index in range(count):
        yield RawShard(index, [b"w%d w2" % index] * rows, list(range(rows)), None)


def of_all(ahead: Ahead, rest: float, rows: int = ROWS, count: int = SHARDS) -> list[int]:
    """The first word of each shard, for a model that takes so many seconds a shard."""
    found = []
    for raw, shard in ahead.prepared(shards(rows, count)):
        assert len(shard.tokens.lengths) == len(raw.rows)
        found.append(int(shard.tokens.ids[1]))
        time.sleep(rest)
    return found


def test_a_model_that_waits_gets_more_processes_and_the_same_shards(preparation):
    by_thread = Ahead(preparation, 0)
    expected = of_all(by_thread, 0.0)
    assert by_thread.num_workers == 1 and len(set(expected)) == SHARDS
    ahead = Ahead(preparation, None, most=3)
    assert ahead.num_workers == 1
    assert of_all(ahead, 0.0) == expected
    assert 2 <= ahead.num_workers <= 3


def test_a_model_that_does_not_wait_gets_no_more(preparation):
    ahead = Ahead(preparation, None, most=3)
    of_all(ahead, 0.4, rows=1, count=5)
    assert ahead.num_workers == 1


def test_a_number_that_is_given_stays(preparation):
    ahead = Ahead(preparation, 2)
    of_all(ahead, 0.0, rows=1, count=5)
    assert ahead.num_workers == 2


def test_cores_are_shared_among_the_processes_of_a_launcher(monkeypatch):
    cores = len(os.sched_getaffinity(0))
    for beside, expected in (("1", cores - 1), ("2", cores // 2 - 1), ("1000", 0), ("none", cores - 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", beside)
        assert spare_cores() == max(1, expected)
