"""The README.md of a converted model: what it is, how near it is to the original, how fast, how to load it."""

from __future__ import annotations

from huggingface_hub import ModelCard, ModelCardData
from transformers import PreTrainedModel

from fastmux import distribution

_TEXT = """\
# {title}

`{original}`, made faster with fastmux (package `{distribution}`) from {train_rows:,} rows of text without
labels: {structure}.

| on {rows:,} rows that nothing was trained on | |
| --- | ---: |
{figures}

```python
import fastmux

model = fastmux.{architecture}.from_pretrained("{repository}")
```

Arguments and outputs are the original's.{companions} `conversion.json` has all figures and settings.
"""
_COMPANIONS = (
    " **A row's result depends on the rows that share its group** of {n}, which is filled with repeated rows where it "
    "is short: do not mix rows that must not influence each other."
)


def conversion_card(report, model: PreTrainedModel, repository: str) -> ModelCard:
    """The card of a converted model.

    Args:
        report: a `fastmux.distillation.convert.Conversion`.
        repository: the name or folder that the model is loaded from.
    """
    config, agreement, rates = model.config, report.agreement, report.rows_per_second
    original = getattr(config.backbone_config, "_name_or_path", None) or config.backbone_config.model_type
    figures = {
        "the original's label": None
        if agreement.labels is None
        else f"{agreement.labels:.4f} ± {agreement.labels_std:.4f}",
        "KL divergence from the original, nats": None if agreement.kl is None else f"{agreement.kl:.4f}",
        "cosine of the hidden states with the original's": f"{agreement.cosine:.4f}",
        "rows a second, the original's": f"{rates['original']:,.0f}",
        "rows a second": f"{rates['converted']:,.0f} ({report.speed_up:.2f} x)",
    }
    joined = config.num_instances > 1
    layers = f"{config.backbone_config.num_hidden_layers} layers"
    what = {"rows": "rows of a batch", "positions": "neighbouring positions of a row"}[config.join]
    shared = (
        f"between its first {config.row_layers} and last {config.last_layers} layers, {config.num_instances} {what}"
    )
    structure = f"{layers}; {shared} share a pass" if joined else f"{layers}, nothing joined"
    data = ModelCardData(library_name="fastmux", tags=["data-multiplexing", f"num-instances-{config.num_instances}"])
    text = _TEXT.format(
        distribution=distribution.NAME,
        title=repository.rstrip("/").rpartition("/")[2],
        original=original,
        train_rows=report.train_rows,
        structure=structure,
        rows=agreement.rows,
        figures="\n".join(f"| {name} | {value} |" for name, value in figures.items() if value is not None),
        architecture=type(model).__name__,
        repository=repository,
        companions=_COMPANIONS.format(n=config.num_instances) if joined and config.join == "rows" else "",
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")
