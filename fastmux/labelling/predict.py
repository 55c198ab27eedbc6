"""`predict`: label the rows of a file or a table."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastmux.labelling.columns import choose_column
from fastmux.labelling.deciding import Deciding, run
from fastmux.labelling.job import Job
from fastmux.labelling.labelling_report import LabellingReport, Reject
from fastmux.labelling.loading import Asked, Model, load, load_behind
from fastmux.labelling.placement import Placement
from fastmux.labelling.settings import LabellingSettings
from fastmux.labelling.threshold import Calibration, stored_calibration
from fastmux.settings import settings_of
from fastmux.tables.kinds import OUTPUT_FORMATS
from fastmux.tables.opening import Source

if TYPE_CHECKING:
    import datasets
    import torch.distributed as dist
    from transformers import PreTrainedTokenizerBase


@dataclass
class Predictions:
    """What `predict` returns.

    Attributes:
        dataset: The rows with their labels; None if they were written to a file.
        rejects: The rows that could not be labelled, with line and reason. A run that writes a file lists them in the
            file ``report.rejects`` instead.
        report: How many rows there were, and where the time went.
    """

    dataset: datasets.Dataset | None
    rejects: list[Reject] = field(default_factory=list)
    report: LabellingReport = field(default_factory=LabellingReport)


def predict(
    model: Model,
    dataset: Any,
    output: str | os.PathLike | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    fallback: Model | None = None,
    settings: LabellingSettings | None = None,
    disable_tqdm: bool = False,
    process_group: dist.ProcessGroup | None = None,
    **options,
) -> Predictions:
    """Label rows of text: the same rows come out, in their order, with a label and its score.

    Rows are tokenised ahead of the model. Rows of like length share a pass and, in a multiplexed model, a group. A row
    that cannot be labelled stays in its place without a label and stops no other row. All other columns come out with
    the values and types that they had; if the output cannot hold them, nothing is labelled. With an ``output``, call
    `predict` again after an interruption: it goes on where it stopped and ends in the same bytes.

    Args:
        model: A classifier of sequences or tokens: a T-MUX, a joined model or a plain encoder; or its name or folder,
            which `fastmux.export` may have written.
        dataset: A file (JSON lines, CSV, TSV, Parquet, text; .gz), the name of a data set of the Hugging Face hub, a
            `datasets.Dataset`, a table of pandas, polars or pyarrow, columns by name, or a list of texts or of rows.
        output: A file that ends in ``.jsonl``, ``.csv``, ``.tsv`` or ``.parquet``. If None, all rows are returned, and
            have to fit into memory.
        tokenizer: The model's tokenizer. It is loaded with a model that is given as a name or a folder.
        fallback: Another model, for the rows of which the first one is less sure than ``min_confidence``, which
            `fastmux.calibrate` finds.
        settings: The settings; or give the fields of `LabellingSettings` as ``options``.
        disable_tqdm: Show no progress bar.
        process_group: Processes that share the work, on one machine or on several with a common file system. Each of
            them calls `predict` with the same arguments. Of four, each labels every fourth shard; the first process
            puts the shards together.

    Returns:
        The rows, unless they were written; the rejected rows; times and counts.

    Raises:
        ValueError: An option is out of range; the model is no classifier or cannot be loaded; the input does not exist
            or lacks the column (the message lists its columns); the output cannot hold a value, exists, or was begun
            with another model, other options or another input. Raised before anything is written.
        OSError: The output cannot be written. What is labelled so far is kept.

    Example:
        >>> import fastmux
        >>> from transformers import BertConfig, BertTokenizerFast
        >>> words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "fine", "film"]
        >>> tokenizer = BertTokenizerFast(vocab={word: index for index, word in enumerate(words)})
        >>> tiny = BertConfig(
        ...     vocab_size=7, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
        ... )
        >>> model = fastmux.TMuxForSequenceClassification.from_backbone(tiny, num_instances=4, num_labels=2)
        >>> texts = ["fine film", "", "film"]
        >>> found = fastmux.predict(model, texts, tokenizer=tokenizer, num_workers=0, disable_tqdm=True)
        >>> found.dataset.column_names, len(found.dataset), found.rejects[0].reason
        (['text', 'label', 'score'], 3, "column 'text' is empty")
    """
    settings = settings_of(LabellingSettings, settings, options, "predict")
    calibration = stored_calibration(model, fallback, settings.min_confidence)
    placed = Asked.of(settings).placement(model)
    report, target = LabellingReport(), None if output is None else Path(output)
    formats = tuple(OUTPUT_FORMATS)
    decide = partial(_decided, model, tokenizer, fallback, calibration, settings, placed)
    found, rejects = run(decide, dataset, target, formats, settings, placed, report, process_group, disable_tqdm)
    return Predictions(found, rejects, report)


def _decided(
    model: Model,
    tokenizer: PreTrainedTokenizerBase | None,
    fallback: Model | None,
    calibration: Calibration | None,
    settings: LabellingSettings,
    placement: Placement,
    source: Source,
    output: Path | None,
) -> Job:
    """Load the models, and settle what is to be done with the rows.

    Args:
        calibration: What the model's folder says of the cascade, if the settings say nothing.
    """
    if calibration is not None:
        calibration.check_copies(settings.copies)
        settings = replace(settings, min_confidence=calibration.min_confidence)
    loaded = load(model, tokenizer, placement)
    classifier = loaded.classifier
    column = choose_column(
        source, settings.column, settings.pair_column, settings.is_split_into_words, classifier.per_token
    )
    length = classifier.max_length(settings.max_length)
    answers = classifier.answers(column.words, settings.all_scores, settings.prefix)
    answers.check()
    pairs = len(column.names) > 1
    row_tokenizer = classifier.row_tokenizer(length, settings.truncation, column.words, pairs)
    deciding = Deciding(settings, source, output, column, answers.columns(), row_tokenizer)
    behind = None
    if fallback is not None:  # to export it takes seconds; all that can be refused has been
        behind = load_behind(fallback, tokenizer, classifier, length, Asked.of(settings))
        if calibration is not None:
            calibration.check(behind.classifier)
    loaded, behind = deciding.settled(loaded, behind, copies=settings.copies)
    fingerprint: dict[str, Any] = {**loaded.classifier.fingerprint()}
    second = None
    if behind is not None:
        second = behind.classifier.engine(behind.placement)
        fingerprint["fallback"] = behind.classifier.fingerprint()["model"]
    engine = loaded.classifier.engine(loaded.placement, settings.copies, second, settings.min_confidence)
    return deciding.job(engine, answers, loaded.placement, fingerprint)
