"""The card of a converted model, its README.md: what it is, how closely it agrees, how fast it is, how to load it."""

from __future__ import annotations

from huggingface_hub import ModelCard, ModelCardData
from transformers import PreTrainedModel

from fastmux import distribution
from fastmux.embedding.model import EmbeddingModel
from fastmux.joined_configuration import JoinedConfig
from fastmux.models.model_card import PIPELINES, card_of, encoding, joined_in_words, loading, named, title

_TEXT = """\
# {title}

{original}, made faster with fastmux (package `{distribution}`) from {train_rows:,} rows of text without
labels: {structure}.

{verdict}

| on {rows:,} rows that nothing was trained on | |
| --- | ---: |
{figures}

{loading}

Arguments and outputs are the original's, and rows may be padded on either side. `conversion.json` has all figures and
settings.

## Limits

- It learnt the original's outputs, mistakes and biases included, and agrees less on text of another kind than it was
  converted on. Measure it on your own text.
- Rows were cut at {max_length} tokens while it learnt{cut}; it has not seen longer ones.
- The speed is that of one machine, these rows and these libraries; measure it on yours.
{companions}"""
_COMPANIONS = """\
- **A row's result depends on the rows that share its group** of {n}, which is filled with repeated rows where it is
  short: do not mix rows that must not influence each other.
"""


def conversion_card(
    conversion,
    student: PreTrainedModel | EmbeddingModel,
    model: PreTrainedModel | EmbeddingModel,
    original: PreTrainedModel | EmbeddingModel,
    repository: str,
) -> ModelCard:
    """The card of a converted model.

    Args:
        conversion: A `fastmux.converting.convert.Conversion`.
        student: The converted model.
        model: What was saved: the student, or the same as a plain Hugging Face model.
        original: The model that it was made from. The original's card, if there is one, says licence and languages.
        repository: The name or folder that the model is loaded from.
    """
    config: JoinedConfig = student.config
    agreement, rates = conversion.agreement, conversion.rows_per_second
    figures = {
        **{f"{name}, the original's" if "same" in name else name: value for name, value in agreement.figures().items()},
        "rows a second": f"{rates['converted']:,.0f}",
        "times as fast as the original, both through `fastmux.predict`": f"{conversion.speed_up:.2f}",
        "times as fast as the original, as Hugging Face runs it (batches of 32)": f"{conversion.speed_up_forward:.2f}",
    }
    embeds = isinstance(model, EmbeddingModel)
    ours = (model.encoder if embeds else model) is (student.encoder if embeds else student)
    library = "sentence-transformers" if embeds else "fastmux" if ours else "transformers"
    source = getattr(original.encoder if embeds else original, "name_or_path", "") or ""
    theirs = card_of(source)
    kept = {name: getattr(theirs, name, None) for name in ("license", "license_name", "license_link", "language")}
    data = ModelCardData(
        library_name=library,
        pipeline_tag="sentence-similarity" if embeds else PIPELINES.get(type(student).__name__),
        base_model=named(source) or getattr(theirs, "base_model", None),
        tags=[
            *(["sentence-transformers", "feature-extraction"] if embeds else []),
            *(["data-multiplexing", f"num-instances-{config.num_instances}"] if config.num_instances > 1 else []),
        ],
        **{name: value for name, value in kept.items() if value is not None},
    )
    name = named(source)
    widths = {"neurons": conversion.settings["ffn_width"], "heads": conversion.settings["attention_width"]}
    narrow = "".join(f"; {share:.0%} of each layer's {what}" for what, share in widths.items() if share < 1)
    text = _TEXT.format(
        distribution=distribution.NAME,
        title=title(repository),
        original=f"`{name}`" if name else f"A {original.config.model_type} model",
        train_rows=conversion.train_rows,
        structure=joined_in_words(config) + narrow,
        verdict="\n\n".join([conversion.sentence, *conversion.advice]),
        rows=agreement.rows,
        figures="\n".join(f"| {name} | {value} |" for name, value in figures.items()),
        loading=encoding(repository, ours) if embeds else loading(type(model).__name__, repository, library),
        max_length=conversion.settings["max_length"],
        cut=f", {conversion.cut_rows:,} of them" if conversion.cut_rows else "",
        companions=_COMPANIONS.format(n=config.num_instances) if config.joins_rows else "",
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")
