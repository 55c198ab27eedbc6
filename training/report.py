"""What a run ends with: a table for the reader and the same figures, and more, for programs."""

from __future__ import annotations

import platform

import datasets
import torch
import transformers

import fastmux


def environment() -> dict[str, object]:
    """What the figures depend on besides the settings."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "device": gpu or f"CPU, {platform.machine()}",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "datasets": datasets.__version__,
        "fastmux": fastmux.__version__,
    }


def table(metric: str, splits: list[str], variants: dict[str, dict]) -> str:
    """A row for each variant: retrieval accuracy, warmed up and at the end, scores, instances per second, limit."""
    header = [
        "",
        "retrieval, warmed up",
        "retrieval, at the end",
        *(f"{split} {metric}" for split in splits),
        "instances/s",
        "x plain",
        "limit",
    ]
    rows = [header]
    for name, result in variants.items():
        retrieval = [result[f"retrieval_accuracy{when}"] for when in ("_after_warm_up", "")]
        scores = [result["scores"][split][metric] for split in splits]
        rows.append(
            [
                name,
                *("-" if accuracy is None else f"{accuracy['mean']:.4f}" for accuracy in retrieval),
                *(f"{score['mean']:.4f}" + (f" ± {score['std']:.4f}" if score["std"] else "") for score in scores),
                f"{result['throughput']['instances_per_second']:.0f}",
                "-" if result["ratio_to_plain"] is None else f"{result['ratio_to_plain']:.2f}",
                f"{result['limit']:.2f}",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    lines = []
    for first, *others in rows:
        cells = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        lines.append("  ".join([first.ljust(widths[0]), *cells]))
    return "\n".join(lines)
