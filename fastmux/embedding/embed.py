"""`embed`: a vector for each row of a file or a table."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from fastmux.embedding.loading import cut_at, embedding_form
from fastmux.embedding.settings import EmbeddingSettings
from fastmux.embedding.vectors import Vectors
from fastmux.labelling.columns import choose_column
from fastmux.labelling.deciding import Deciding, run
from fastmux.labelling.job import Job
from fastmux.labelling.labelling_report import LabellingReport, Reject
from fastmux.labelling.loading import Asked, load
from fastmux.labelling.placement import Placement
from fastmux.settings import settings_of
from fastmux.tables.opening import Source

if TYPE_CHECKING:
    import datasets
    import torch.distributed as dist
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from fastmux.embedding.model import EmbeddingModel

#: The endings of outputs.
FORMATS = (".parquet", ".arrow", ".jsonl", ".npy")
#: A model that embeds, or its name or folder.
Embeds: TypeAlias = "str | os.PathLike | PreTrainedModel | EmbeddingModel"


@dataclass
class Embeddings:
    """What `embed` returns.

    Attributes:
        dataset: The rows with their vectors; None if they were written to a file.
        rejects: The rows that have no vector, with line and reason. A run that writes a file lists them in the file
            ``report.rejects`` instead.
        report: How many rows there were, and where the time went.
    """

    dataset: datasets.Dataset | None
    rejects: list[Reject] = field(default_factory=list)
    report: LabellingReport = field(default_factory=lambda: LabellingReport(done="embedded"))


def embed(
    model: Embeds,
    dataset: Any,
    output: str | os.PathLike | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    settings: EmbeddingSettings | None = None,
    disable_tqdm: bool = False,
    process_group: dist.ProcessGroup | None = None,
    **options,
) -> Embeddings:
    """Embed rows of text: the same rows come out, in their order, with a vector in a column ``embedding``.

    The vectors are those of ``SentenceTransformer.encode``: a text gets the model's prompt, and is cut at the model's
    length; the report counts the cut ones. A row that has no text stays in its place without a vector and stops no
    other row. With an ``output``, call `embed` again after an interruption: it goes on where it stopped and ends in
    the same bytes.

    Args:
        model: A folder of sentence-transformers, or a name on the hub; an `EmbeddingModel`; an encoder, with
            ``pooling``; or what `fastmux.export` made of one of them.
        dataset: As for `fastmux.predict`: a file, a data set, a table, columns by name, or a list of texts or of rows.
        output: A file that ends in ``.parquet``, ``.arrow``, ``.jsonl`` or ``.npy``. The last one has the vectors
            alone, and beside it a table ``OUTPUT.rows.parquet`` with the other columns. If None, all rows are returned,
            and have to fit into memory.
        tokenizer: The model's tokenizer. It is loaded with a model that is given as a name or a folder.
        settings: The settings; or give the fields of `EmbeddingSettings` as ``options``.
        disable_tqdm: Show no progress bar.
        process_group: Processes that share the work, as for `fastmux.predict`.

    Returns:
        The rows, unless they were written; the rejected rows; times and counts.

    Raises:
        ValueError: An option is out of range; the model says no pooling, is not known here or cannot be loaded; the
            input does not exist or lacks the column; the output cannot hold a value, exists, or was begun with another
            model, other options or another input; or the model returns NaN. Raised before anything is written, but for
            the last one, which leaves the shards before it.
        OSError: The output cannot be written. What is done so far is kept.

    Example:
        >>> import fastmux
        >>> from transformers import BertConfig, BertModel, BertTokenizerFast
        >>> words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "fine", "film"]
        >>> tokenizer = BertTokenizerFast(vocab={word: index for index, word in enumerate(words)})
        >>> tiny = BertConfig(
        ...     vocab_size=7, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
        ... )
        >>> texts = ["fine film", "", "film"]
        >>> options = {"tokenizer": tokenizer, "pooling": "mean", "num_workers": 0, "disable_tqdm": True}
        >>> found = fastmux.embed(BertModel(tiny), texts, **options)
        >>> first, rejected = found.dataset[0], found.rejects[0]
        >>> found.dataset.column_names, len(first["embedding"]), rejected.reason
        (['text', 'embedding'], 32, "column 'text' is empty")
    """
    settings = settings_of(EmbeddingSettings, settings, options, "embed")
    placed = Asked.of(settings).placement(model)
    target = None if output is None else Path(output)
    report = LabellingReport(done="embedded")
    decide = partial(_decided, model, tokenizer, settings, placed)
    found, rejects = run(decide, dataset, target, FORMATS, settings, placed, report, process_group, disable_tqdm)
    return Embeddings(found, rejects, report)


def _decided(
    model: Embeds,
    tokenizer: PreTrainedTokenizerBase | None,
    settings: EmbeddingSettings,
    placement: Placement,
    source: Source,
    output: Path | None,
) -> Job:
    """Load the model, and settle what is to be done with the rows."""
    form = embedding_form(settings.pooling, settings.prompt_name, settings.prompt)
    loaded = load(model, tokenizer, placement, form=form)
    vectorizer = loaded.classifier
    column = choose_column(source, settings.column, None, False, False)
    if column.ids and vectorizer.prompt:
        raise ValueError(
            f"column {column.names[0]!r} holds token ids, which no prompt is put before, but the prompt is "
            f"{vectorizer.prompt!r}: give text, or say prompt='' and put the prompt's ids into the rows"
        )
    truncated = settings.truncate_dim or vectorizer.config.truncate_dim
    answers = Vectors(vectorizer.vector_size, truncated, settings.normalize, settings.stored_as, settings.prefix)
    row_tokenizer = vectorizer.rows_tokenizer(cut_at(vectorizer, settings.max_length))
    deciding = Deciding(settings, source, output, column, answers.columns(), row_tokenizer)
    (loaded,) = deciding.settled(loaded)
    engine = loaded.classifier.engine(loaded.placement)
    fingerprint: dict[str, Any] = {"dimension": answers.dimension, **loaded.classifier.fingerprint()}
    return deciding.job(engine, answers, loaded.placement, fingerprint | {"prompt_text": vectorizer.prompt})
