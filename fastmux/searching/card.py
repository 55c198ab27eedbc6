"""The card of the model that a search chose, its README.md: what was asked for, what was found, how to run it."""

from __future__ import annotations

from huggingface_hub import ModelCard, ModelCardData
from transformers import PreTrainedModel

from fastmux import distribution
from fastmux.embedding.model import EmbeddingModel
from fastmux.models.model_card import card_of, encoding, named, title
from fastmux.searching.forms import Form
from fastmux.searching.found import Found
from fastmux.searching.kinds import KINDS, ROWS, VECTORS, WORDS
from fastmux.searching.need import Need, percent

_TEXT = """\
# {title}

{sentence}

Found by `fastmux search` (package `{distribution}`): {asked} was asked for, of {original}.

{table}

![agreement over speed](search.png)

*x faster* is over the original through the same engine, *x Hugging Face's* over its plain forward in batches of 32;
{same}, *between* its 95 % interval. The arrow marks this model, a star what no other is both as good and as fast as.
The figures are of {reporting:,} rows on which nothing was trained or chosen; {learning:,} rows were learnt from,
{choosing:,} chose. {nothing} would reach {majority}.

## How to run it

{run}
{exported}
## Limits

- It learnt the original's answers, mistakes and biases included, and agrees less on text of another kind.
- Rows were cut at {max_length} tokens, {cut:,} of them.
- Speed is that of one machine, these rows and these libraries.
{companions}"""
_LABELS = """\
```bash
fastmux predict {folder} ROWS.csv --output LABELS.csv
fastmux serve {folder}
```

```python
import fastmux  # registers its models with transformers
from transformers import {auto}

model = {auto}.from_pretrained("{folder}")
```"""
_VECTORS = """\
```bash
fastmux embed {folder} ROWS.csv --output vectors.parquet
fastmux serve {folder}
```

{encoding}

Do not mix its vectors with the original's: embed queries and documents with the same model."""
_EXPORTED = """
`fastmux {command}` and `serve` run `model.onnx`, in {precision}, on the CPU: that is what was measured. {others} the
same weights in float32, which is slower.
"""
_PIPELINES = {ROWS.name: "text-classification", WORDS.name: "token-classification", VECTORS.name: "sentence-similarity"}
_COMPANIONS = """\
- **A row's answer depends on the rows that share its group** of {n}: do not mix rows that must not influence each
  other.
"""


def search_card(
    found: Found, original: PreTrainedModel | EmbeddingModel, repository: str, form: Form, ours: bool
) -> ModelCard:
    """The card of the chosen model.

    Args:
        found: What was found.
        original: The original, whose card says licence and languages.
        repository: The folder that the model is loaded from.
        form: The form in which it was chosen.
        ours: Whether its class is one of fastmux.
    """
    kind = KINDS[found.kind]
    source = getattr(original.encoder if isinstance(original, EmbeddingModel) else original, "name_or_path", "") or ""
    theirs = card_of(source)
    kept = {name: getattr(theirs, name, None) for name in ("license", "license_name", "license_link", "language")}
    data = ModelCardData(
        library_name="sentence-transformers" if kind.embeds else "fastmux",
        pipeline_tag=_PIPELINES[kind.name],
        tags=["sentence-transformers", "feature-extraction"] if kind.embeds else None,
        base_model=named(source) or getattr(theirs, "base_model", None),
        **{name: value for name, value in kept.items() if value is not None},
    )
    header, *lines = found.table
    rule = ["---", "---", *["---:"] * (len(header) - 3), "---"]
    need = Need(found.settings["speedup"], found.settings["agreement"], kind)
    asked = "the usual agreement" if need.speedup is None and need.agreement is None else str(need)
    name = named(source)
    if kind.embeds:
        run = _VECTORS.format(folder=repository, encoding=encoding(repository, ours))
        exported = _EXPORTED.format(precision=form.precision, command="embed", others="`SentenceTransformer` loads")
    else:
        auto = f"AutoModelFor{'Token' if kind is WORDS else 'Sequence'}Classification"
        run = _LABELS.format(folder=repository, auto=auto)
        exported = _EXPORTED.format(
            precision=form.precision, command="predict", others="`AutoModel` classes and `pipeline` load"
        )
    text = _TEXT.format(
        title=title(repository),
        sentence=found.sentence,
        distribution=distribution.NAME,
        asked=asked,
        original=f"`{name}`" if name else f"a {original.config.model_type} model",
        table="\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *lines)),
        same=kind.card,
        nothing="Neighbours drawn at random" if kind.embeds else "Saying the most frequent label alone",
        majority=percent(found.majority),
        run=run,
        exported=exported if form.folder is not None else "",
        max_length=found.settings["max_length"],
        companions=_COMPANIONS.format(n=form.engine.runtime.num_instances) if form.companions else "",
        **found.rows,
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")
