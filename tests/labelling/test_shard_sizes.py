"""Shards: seconds of work, few rows at first, the same whatever the clock says; and the progress within one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastmux.labelling.job
from fastmux.labelling.labeller import Labeller
from fastmux.labelling.preparing import Preparation
from fastmux.labelling.shard_sizes import full_shard, growing
from fastmux.tables.opening import open_source
from fastmux.tables.writers import Parquet


@given(st.integers(1, 100_000), st.integers(1, 40))
def test_sizes_grow_to_the_full_one(full, together):
    sizes = [growing(full, together)(index) for index in range(40)]
    assert sizes == sorted(sizes) and sizes[-1] == full and sizes[0] >= 1
    assert sizes[0] == full or sizes[0] <= max(full / 8, 512 * together)


@pytest.mark.parametrize(
    ("name", "weights", "words"), [("plain", 10**7, 20), ("plain", 10**7, 200), ("tmux", 10**7, 20)]
)
def test_a_full_shard_is_seconds_of_work(models, tokenizer, monkeypatch, name, weights, words):
    labeller = Labeller(models[name], tokenizer)
    monkeypatch.setattr(labeller.engine.runtime, "weights", weights)
    source = open_source([" ".join(["w1"] * words)] * 200)
    encoder = labeller._tokenizers["text"]
    preparation = Preparation(
        source.kind, source.columns, ("text",), (0,), False, encoder, Parquet("table", None, (), b"")
    )
    full = full_shard(labeller.engine, source, preparation, on_cpu=True)
    positions = full * min(words + 2, labeller.max_length) / labeller.num_instances
    assert 0.9 * 5e11 < positions * weights < 1.1 * 5e11 or full == 32768


class Bar:
    """Stands in for the bar of tqdm."""

    def __init__(self, **options):
        self.total, self.n, self.seen = options["total"], 0, []
        bars.append(self)

    def update(self, rows):
        self.n += rows
        self.seen.append((self.n, self.total))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


bars: list[Bar] = []


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_progress_moves_with_every_pass(models, label, rows_file, tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(fastmux.labelling.job, "tqdm", Bar)
    output = tmp_path / f"out{suffix}"
    label(models["tmux"], rows_file, output, rows_per_shard=60, batch_tokens=16, disable_tqdm=False)
    (bar,) = bars
    bars.clear()
    assert len(bar.seen) > 3 and bar.seen[-1] == (60, 60)
    assert all(total == 60 for _, total in bar.seen), "the total is known before the first pass"
