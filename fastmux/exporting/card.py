"""The README.md of an exported model: what it is, what runs it, how near it is to the original."""

from __future__ import annotations

from huggingface_hub import ModelCard, ModelCardData

from fastmux import distribution
from fastmux.exporting.exported import Export

_TEXT = """\
# {title}

A {made_from} for {runtime}, in {precision}, written by fastmux (package `{distribution}`).

| on {rows} rows, beside the original in torch | |
| --- | ---: |
{figures}
| `{file}` | {megabytes:.0f} MB |

```python
import fastmux

{call}
```

{commands}{alone}{groups}
"""
#: What calls it, and the commands that take it, for models that label and for those that embed.
_USES = {
    False: (
        'labeller = fastmux.Labeller("{title}")',
        "`fastmux predict {title} ROWS --output LABELS` and `fastmux serve {title}` take it as well.",
    ),
    True: (
        'found = fastmux.embed("{title}", ["a text"])',
        "`fastmux embed {title} ROWS --output vectors.parquet` takes it as well.",
    ),
}
_RUNTIMES = {"onnxruntime": "ONNX Runtime", "ctranslate2": "CTranslate2"}
_ONNX = " Plain ONNX Runtime loads `model.onnx`: `input_ids` and `attention_mask`{types} (B, L), int64, to `logits`."
_GROUPS = (
    " B is a multiple of {n}: {n} rows in succession make a group that shares a pass, and **a row's answer depends on "
    "the rows of its group**, and on nothing else of the batch."
)
_ALONE = " A row's answer depends on nothing else of the batch."


def export_card(found: Export, title: str) -> ModelCard:
    """The card of an exported model in a folder of that name."""
    record, instances = found.record, found.record.layout.rows
    figures = [f"| largest difference of answers, in their standard deviation | {found.largest_difference:.1e} |"]
    if found.same is not None:
        figures.insert(0, f"| the original's labels | {found.same:.4f} |")
    embeds = record.embedding is not None
    kind = "token-classification" if record.per_token else "sentence-similarity" if embeds else "text-classification"
    call, commands = (said.format(title=title) for said in _USES[embeds])
    tags = ["onnx"] if record.runtime == "onnxruntime" else []
    data = ModelCardData(
        library_name=record.runtime,
        pipeline_tag=kind,
        tags=[*tags, "fastmux"],
    )
    text = _TEXT.format(
        title=title,
        call=call,
        commands=commands,
        made_from=f"`{record.made_from['class']}`",
        precision=record.precision if record.precision == "float32" else "float32 with matrices of 8 bits",
        distribution=distribution.NAME,
        rows=found.rows,
        figures="\n".join(figures),
        megabytes=found.megabytes,
        runtime=_RUNTIMES[record.runtime],
        file=record.file,
        alone=_ONNX.format(types=" and `token_type_ids`" * record.takes_types) * (record.runtime == "onnxruntime"),
        groups=_GROUPS.format(n=instances) if instances > 1 else _ALONE,
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")
