"""The README.md that goes with a saved model: what it is, how to load it, what to mind."""

from __future__ import annotations

from huggingface_hub import ModelCard, ModelCardData

from fastmux import distribution
from fastmux.configuration import TMuxConfig

_PIPELINES = {
    "TMux": "feature-extraction",
    "TMuxForMaskedLM": "fill-mask",
    "TMuxForSequenceClassification": "text-classification",
    "TMuxForTokenClassification": "token-classification",
}

_TEXT = """\
# {title}

A multiplexed {encoder} encoder: one forward pass serves {num_instances} rows. Made with
fastmux (package `{distribution}`).

| | |
| --- | --- |
| class | `fastmux.{architecture}` |
| instances per pass (N) | {num_instances} |
| multiplexer | `{multiplexer}` |
| demultiplexer | `{demultiplexer}`{prefix} |
| encoder | `{encoder}`, {layers}width {hidden_size} |

```python
import fastmux

model = fastmux.{architecture}.from_pretrained("{repository}")
```

Rows may come in any number and order; the last group of {num_instances} is filled with repeated rows. **A row's result
depends on the rows that share its group**: evaluate on several random groupings, and give rows that matter more slots
(`model.predict(..., copies=2)`).
"""

_PADDING = """
The model attends to padding, so that **its answers depend on the length to which rows are padded**: {length} positions
in the scripts of its authors. `fastmux.predict`, `fastmux.Labeller` and `model.predict` pad to it; for anything else,
tokenize with `padding="max_length", max_length={length}`.
"""


def model_card(config: TMuxConfig, architecture: str, repository: str) -> ModelCard:
    """The card of a model: ``repository`` is the hub name or the folder that it is loaded from.

    Example:
        >>> import fastmux
        >>> from fastmux.models.model_card import model_card
        >>> card = model_card(fastmux.TMuxConfig(num_instances=4), "TMux", "me/tmux-4")
        >>> card.data.library_name, card.data.pipeline_tag
        ('fastmux', 'feature-extraction')
    """
    backbone = config.backbone_config
    data = ModelCardData(
        library_name="fastmux",
        pipeline_tag=_PIPELINES.get(architecture),
        base_model=getattr(backbone, "_name_or_path", None) or None,
        tags=["data-multiplexing", "tmux", f"num-instances-{config.num_instances}"],
    )
    layers = getattr(backbone, "num_hidden_layers", None)
    text = _TEXT.format(
        distribution=distribution.NAME,
        title=repository.rstrip("/").rpartition("/")[2],
        repository=repository,
        architecture=architecture,
        num_instances=config.num_instances,
        multiplexer=config.multiplexer,
        demultiplexer=config.demultiplexer,
        prefix=f" (a prefix of {config.prefix_length} positions)" if config.prefix_length else "",
        encoder=backbone.model_type,
        layers=f"{layers} layers, " if layers else "",
        hidden_size=config.hidden_size,
    )
    if config.conventions.padded_length:
        text += _PADDING.format(length=config.conventions.padded_length)
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")
