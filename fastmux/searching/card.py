"""The card of the model that a search chose, its README.md: what was asked for, what was found, how to run it."""

from __future__ import annotations

from huggingface_hub import ModelCard, ModelCardData
from transformers import PreTrainedModel

from fastmux import distribution
from fastmux.models.model_card import card_of, named, title
from fastmux.searching.forms import Form
from fastmux.searching.found import Found
from fastmux.searching.need import Need, percent

_TEXT = """\
# {title}

{sentence}

Found by `fastmux search` (package `{distribution}`): {asked} was asked for, of {original}.

{table}

![agreement over speed](search.png)

*x faster* is over the original through the same engine, *x Hugging Face's* over its plain forward in batches of 32;
*same labels* is the share of {unit} with the original's label, *between* its 95 % interval. The arrow marks this model,
a star what no other is both as good and as fast as. The figures are of {reporting:,} rows on which nothing was trained
or chosen; {learning:,} rows were learnt from, {choosing:,} chose. Saying the most frequent label alone would reach
{majority}.

## How to run it

```bash
fastmux predict {folder} ROWS.csv --output LABELS.csv
fastmux serve {folder}
```

```python
import fastmux  # registers its models with transformers
from transformers import {auto}

model = {auto}.from_pretrained("{folder}")
```
{exported}
## Limits

- It learnt the original's answers, mistakes and biases included, and agrees less on text of another kind.
- Rows were cut at {max_length} tokens, {cut:,} of them.
- Speed is that of one machine, these rows and these libraries.
{companions}"""
_EXPORTED = """
`fastmux predict` and `serve` run `model.onnx`, in {precision}, on the CPU: that is what was measured. `AutoModel`
classes and `pipeline` load the same weights in float32, which is slower.
"""
_COMPANIONS = """\
- **A row's answer depends on the rows that share its group** of {n}: do not mix rows that must not influence each
  other.
"""


def search_card(found: Found, original: PreTrainedModel, repository: str, form: Form) -> ModelCard:
    """The card of the chosen model.

    Args:
        found: What was found.
        original: The original, whose card says licence and languages.
        repository: The folder that the model is loaded from.
        form: The form in which it was chosen.
    """
    tokens = form.engine.runtime.per_token
    source = getattr(original, "name_or_path", "") or ""
    theirs = card_of(source)
    kept = {name: getattr(theirs, name, None) for name in ("license", "license_name", "license_link", "language")}
    data = ModelCardData(
        library_name="fastmux",
        pipeline_tag="token-classification" if tokens else "text-classification",
        base_model=named(source) or getattr(theirs, "base_model", None),
        **{name: value for name, value in kept.items() if value is not None},
    )
    header, *lines = found.table
    rule = ["---", "---", *["---:"] * (len(header) - 3), "---"]
    need = Need(found.settings["speedup"], found.settings["agreement"])
    asked = "the usual agreement" if need.speedup is None and need.agreement is None else str(need)
    name = named(source)
    text = _TEXT.format(
        title=title(repository),
        sentence=found.sentence,
        distribution=distribution.NAME,
        asked=asked,
        original=f"`{name}`" if name else f"a {original.config.model_type} model",
        table="\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *lines)),
        unit="words" if tokens else "rows",
        majority=percent(found.majority),
        folder=repository,
        auto=f"AutoModelFor{'Token' if tokens else 'Sequence'}Classification",
        exported=_EXPORTED.format(precision=form.precision) if form.folder is not None else "",
        max_length=found.settings["max_length"],
        companions=_COMPANIONS.format(n=form.engine.runtime.num_instances) if form.companions else "",
        **found.rows,
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")
