"""The README.md of a saved model: what the model is, how to load it, what to be careful with."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData
from transformers import PreTrainedConfig
from transformers.utils import cached_file
from yaml import YAMLError  # type: ignore[import-untyped]

from fastmux import distribution
from fastmux.configuration import TMuxConfig
from fastmux.joined_configuration import JoinedConfig

#: Class -> the name of its task on the hub and in pipelines.
PIPELINES = {
    "JoinedModel": "feature-extraction",
    "JoinedForSequenceClassification": "text-classification",
    "JoinedForTokenClassification": "token-classification",
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

{loading}

Rows may come in any number and order; the last group of {num_instances} is filled with repeated rows. **A row's result
depends on the rows that share its group**: evaluate on several random groupings, and give rows that matter more slots
(`model.predict(..., copies=2)`).
"""

_PADDING = """
The model attends to padding, so that **its answers depend on the length to which rows are padded**: {length} positions
in the scripts of its authors. `fastmux.predict`, `fastmux.Labeller` and `model.predict` pad to it; for anything else,
tokenize with `padding="max_length", max_length={length}`.
"""

_ENCODING = """\
```python
{needed}from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{repository}")
```"""

_JOINED_TEXT = """\
# {title}

A {encoder} encoder{head}: {structure}. Made with fastmux (package `{distribution}`).

{loading}

Arguments and outputs are those of the model that it was made from, and rows may be padded on either side.{companions}
"""


def title(repository: str) -> str:
    """The title of a card: the last part of a name, or the part before it if the last one is "model"."""
    parts = [part for part in repository.split("/") if part]
    return parts[-2] if len(parts) > 1 and parts[-1] == "model" else parts[-1]


def loading(architecture: str, repository: str, library: str = "fastmux") -> str:
    """The code that loads a model, as Markdown."""
    return f"""\
```python
import {library}

model = {library}.{architecture}.from_pretrained("{repository}")
```"""


def encoding(repository: str, ours: bool) -> str:
    """The code that loads a model of sentence-transformers, as Markdown."""
    needed = "import fastmux  # which knows its layers\n" if ours else ""
    return _ENCODING.format(needed=needed, repository=repository)


def for_repository(card: ModelCard, former: str, repository: str) -> ModelCard:
    """Changes a card of the folder ``former`` for a new place: its title and the line that loads the model."""
    told = re.sub(r'(= fastmux\.\w+\.from_pretrained\()"[^"\n]*"', rf'\g<1>"{repository}"', card.content)
    heading = rf"^# {re.escape(title(former))}$"
    return ModelCard(re.sub(heading, f"# {title(repository)}", told, count=1, flags=re.MULTILINE))


def read_card(folder: Path) -> ModelCard | None:
    """Reads the card in a folder. None if there is none, or it cannot be read."""
    try:
        return ModelCard((folder / "README.md").read_text(encoding="utf-8"), ignore_metadata_errors=True)
    except (OSError, ValueError, YAMLError):
        return None


def is_template(card: ModelCard) -> bool:
    """Whether a card is Hugging Face's template, which nobody has filled in."""
    return "[More Information Needed]" in card.content


def named(source: str | None) -> str | None:
    """The name on the hub that a model was loaded from. None if it was loaded from a folder."""
    known = re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", source or "")
    return source if known and not Path(source).exists() else None


def card_of(source: str) -> ModelCardData | None:
    """The metadata at the top of a model's card, for its folder or its name on the hub. None without a card."""
    if not source:
        return None
    if Path(source).is_dir():
        folder = Path(source)
    elif named(source) is not None:
        without_errors = ("gated_repo", "missing_entries", "connection_errors")
        try:
            file = cached_file(
                source, "README.md", **{f"_raise_exceptions_for_{kind}": False for kind in without_errors}
            )
        except OSError:  # no such repository
            return None
        if file is None:
            return None
        folder = Path(file).parent
    else:
        return None
    card = read_card(folder)
    return None if card is None else card.data


def joined_in_words(config: JoinedConfig) -> str:
    """Describes which layers of a joined model run on joined states."""
    layers = f"{config.backbone_config.num_hidden_layers} layers"
    if config.num_instances == 1:
        return f"{layers}, nothing joined"
    number = config.num_instances
    if config.join == "pooled":
        return f"{layers}; after the first {config.row_layers}, {number} neighbouring positions of a row share a pass"
    what = {
        "rows": "rows of a batch share a pass",
        "positions": "neighbouring positions of a row share a pass",
        "feed_forward": "neighbouring positions of a row share a pass of the feed-forward layers",
    }[config.join]
    return f"{layers}; between its first {config.row_layers} and last {config.last_layers} layers, {number} {what}"


def joined_card(config: JoinedConfig, architecture: str, repository: str) -> ModelCard:
    """Writes the card of a joined model that has not been measured. The arguments are those of `model_card`."""
    data = _card_data(config, architecture, [])
    head = "" if architecture == "JoinedModel" else " with a head for " + PIPELINES[architecture].replace("-", " ")
    companions = (
        f" **A row's result depends on the rows that share its group** of {config.num_instances}: do not mix rows that "
        "must not influence each other."
    )
    text = _JOINED_TEXT.format(
        title=title(repository),
        distribution=distribution.NAME,
        encoder=config.backbone_config.model_type,
        head=head,
        structure=joined_in_words(config),
        loading=loading(architecture, repository),
        companions=companions if config.joins_rows else "",
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def _card_data(config: PreTrainedConfig, architecture: str, tags: list[str]) -> ModelCardData:
    return ModelCardData(
        library_name="fastmux",
        pipeline_tag=PIPELINES.get(architecture),
        base_model=named(getattr(config.backbone_config, "_name_or_path", None)),
        tags=["data-multiplexing", *tags, f"num-instances-{config.num_instances}"],
    )


def model_card(config: TMuxConfig, architecture: str, repository: str) -> ModelCard:
    """Writes the card of a model. ``repository`` is the hub name or the folder from which it will be loaded.

    Example:
        >>> import fastmux
        >>> from fastmux.models.model_card import model_card
        >>> card = model_card(fastmux.TMuxConfig(num_instances=4), "TMux", "me/tmux-4")
        >>> card.data.library_name, card.data.pipeline_tag
        ('fastmux', 'feature-extraction')
    """
    backbone = config.backbone_config
    data = _card_data(config, architecture, ["tmux"])
    layers = getattr(backbone, "num_hidden_layers", None)
    text = _TEXT.format(
        distribution=distribution.NAME,
        title=title(repository),
        loading=loading(architecture, repository),
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
