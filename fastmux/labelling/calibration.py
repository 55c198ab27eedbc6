"""`calibrate`: choose the threshold of a cascade, and keep it beside the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from os import PathLike
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from fastmux.files import write_json
from fastmux.labelling.known_text import check_known
from fastmux.labelling.labeller import Labeller
from fastmux.labelling.majority import majority_share
from fastmux.labelling.threshold import CASCADE, Calibration, fallback_digest
from fastmux.passes.cascade import beside_unseen
from fastmux.passes.shares import Share, known_to
from fastmux.passes.timer import rates
from fastmux.settings import Number

#: Fewer rows say nothing about a share near 1. Speed is measured on some of the rows, in so many turns.
LEAST_ROWS, _SPEED_ROWS, _REPEATS = 50, 1000, 3
_AGREEMENT = Number(False, 0, 1, above=True)


def calibrate(
    model: str | PathLike,
    texts: Sequence,
    *,
    fallback: str | PathLike,
    agreement: float = 0.99,
    copies: int = 1,
    seed: int = 0,
    disable_tqdm: bool = False,
    **options,
) -> Calibration:
    """Find the ``min_confidence`` of a cascade, and write it into the model's folder.

    Rows of which ``model`` is less sure go through ``fallback``. The threshold is the lowest one at which a share of
    the texts gets the label that the fallback gives them. `fastmux.predict`, `Labeller` and the server read it from
    there if they are given this fallback and no ``min_confidence``.

    Args:
        model: The folder of the fast model, a classifier, perhaps exported.
        texts: Rows as `Labeller` takes them, of the kind that it will label. Neither model should have been trained on
            them. No labels are needed.
        fallback: The original, a name or a folder, perhaps exported.
        agreement: The share of the texts that is to get the fallback's label, in (0, 1].
        copies: The slots of a multiplexed model that each row takes.
        seed: Draws which rows share a group.
        disable_tqdm: Show no progress bar.
        options: Further options of `Labeller`, for example ``max_length``, ``truncation`` or ``device``.

    Returns:
        The threshold, what it gives on rows that did not choose it, and the speed of both models and of the cascade.

    Raises:
        ValueError: The model is no folder; there are fewer than 50 rows, they are in another script, or one cannot be
            labelled; the fallback gives all of them one label; the models differ in labels or tokenizer; the model is a
            regression; or no threshold reaches the agreement. Nothing is written then.

    Example:
        >>> import fastmux, tempfile
        >>> from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast
        >>> words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "fine", "film"]
        >>> tokenizer = BertTokenizerFast(vocab={word: index for index, word in enumerate(words)})
        >>> tiny = BertConfig(
        ...     vocab_size=7, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
        ... )
        >>> original, folder = BertForSequenceClassification(tiny), tempfile.mkdtemp()
        >>> fast = fastmux.JoinedForSequenceClassification.from_backbone(original, 1, row_layers=0)
        >>> for model, name in ((original, "original"), (fast, "fast")):
        ...     model.save_pretrained(f"{folder}/{name}")
        ...     _ = tokenizer.save_pretrained(f"{folder}/{name}")
        >>> rows = ["fine film", "film", "fine", "fine fine film"] * 20
        >>> found = fastmux.calibrate(
        ...     f"{folder}/fast", rows, fallback=f"{folder}/original", agreement=0.9, disable_tqdm=True
        ... )
        >>> found.fallback_share
        0.0
        >>> len(fastmux.Labeller(f"{folder}/fast", fallback=f"{folder}/original")(rows))
        80
    """
    folder = Path(model)
    if not folder.is_dir():
        raise ValueError(f"model is {str(model)!r}, expected a folder, into which {CASCADE} is written")
    if agreement not in _AGREEMENT:
        raise ValueError(f"agreement is {agreement!r}, expected {_AGREEMENT}")
    rows = list(texts)
    if len(rows) < LEAST_ROWS:
        raise ValueError(
            f"texts has {len(rows)} rows, expected at least {LEAST_ROWS}, better a thousand: by so few "
            f"{known_to(len(rows))}"
        )
    labeller = Labeller(model, fallback=fallback, min_confidence=0.0, **options)
    tokens = labeller.tokens(rows).select(np.random.default_rng(seed).permutation(len(rows)))
    if hasattr(tokenizer := getattr(labeller.fallback, "tokenizer", None), "all_special_ids"):  # exported, it has none
        check_known(tokens.ids, tokenizer)
    engine = replace(labeller.engine, copies=copies)
    some = tokens.select(np.arange(min(_SPEED_ROWS, len(rows))))
    if not labeller.per_token and engine.fallback.runtime.problem_type != "regression":
        majority_share(engine.fallback.run(some).logits, engine.fallback.runtime.problem_type, labeller.labels)
    turns = 3 * (_REPEATS + 1) * len(some.lengths)
    with tqdm(total=2 * len(rows) + turns, unit="row", desc="calibrating", disable=disable_tqdm) as bar:
        sure, same = engine.beside_fallback(tokens, on_rows=bar.update)
        found = beside_unseen(sure, same, agreement)
        calls = {
            "model": replace(engine, fallback=None, min_confidence=None),
            "fallback": engine.fallback,
            "cascade": replace(engine, min_confidence=found.min_confidence),
        }
        speeds = rates(
            {name: partial(runs.run, some, on_rows=bar.update) for name, runs in calls.items()},
            len(some.lengths),
            repeats=_REPEATS,
        )
    calibration = Calibration(
        min_confidence=found.min_confidence,
        target_agreement=agreement,
        agreement=found.agreement,
        agreement_interval=Share(found.agreement, found.rows, found.rows).interval(),
        agreement_alone=float(same.mean()),
        fallback_share=found.fallback,
        rows=found.rows,
        copies=copies,
        fallback=fallback_digest(labeller.fallback),
        rows_per_second={name: rate.rows_per_second for name, rate in speeds.items()},
    )
    write_json(folder / CASCADE, asdict(calibration))
    return calibration
