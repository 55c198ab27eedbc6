"""The sections of the page of results on files of the programs in training/: one function for each kind of file."""

from __future__ import annotations

from collections.abc import Iterator

from training.figures import markdown, measured, number


def score(found: dict | None) -> str:
    """A score's mean, with its spread if it has one."""
    return "-" if found is None else measured(found["mean"], found["std"])


def labels(result: dict, split: str) -> Iterator[str]:
    """Accuracy and F1 of each label, for a run of a multi-label task."""
    scores = {name: variant["scores"][split] for name, variant in result["variants"].items()}
    if not all("micro_f1" in own for own in scores.values()):
        return
    yield f"Accuracy / F1 of each label on the split `{split}`, at thresholds that were chosen on the first split:"
    wanted = [(label, f"accuracy: {label}", f"f1: {label}") for label in result["data"]["labels"]]
    wanted += [("mean", "accuracy", "macro_f1"), ("micro F1", "micro_f1")]
    rows = [
        [title, *(" / ".join(score(own[name]) for name in names) for own in scores.values())]
        for title, *names in wanted
    ]
    yield markdown(["", *(f"`{name}`" if name != "plain" else name for name in scores)], rows)


def weighted(result: dict, splits: list[str]) -> Iterator[str]:
    """F1 by tokens, for a run on entities: reports that do not say how they score may mean it."""
    scores = {name: variant["scores"] for name, variant in result["variants"].items()}
    if not all("weighted_f1" in own[split] for own in scores.values() for split in splits):
        return
    yield "F1 of the tokens' tags, weighted by how often each tag occurs:"
    rows = [[name, *(score(own[split]["weighted_f1"]) for split in splits)] for name, own in scores.items()]
    yield markdown(["", *splits], rows)


def training_run(result: dict) -> Iterator[str]:
    """``metrics.json`` of a run of ``training/train.py``."""
    recipe, metric = result["settings"]["recipe"], result["metric"]
    splits = list(result["data"]["evaluation_rows"])
    size = f"{recipe['num_layers']} layers × {recipe['hidden_size']}"
    encoder = result["settings"].get("encoder") or f"an encoder of {size}, from scratch"
    seed = f"; seed {result['settings']['trainer']['seed']}" if "seed" in result["settings"]["trainer"] else ""
    yield (
        f"Task `{result['task']}`, N = {recipe['num_instances']}, L = {recipe['max_length']}, {encoder}; "
        f"{result['data']['train_rows']:,} training rows{seed}; {result['seconds']:.0f} s in all."
    )
    smaller = {"shallow": "{shallow_layers} × {hidden_size}", "narrow": "{narrow_layers} × {narrow_size}"}
    if present := [f"`{name}` {size.format(**recipe)}" for name, size in smaller.items() if name in result["variants"]]:
        yield f"Smaller plain encoders: {', '.join(present)}."
    header = ["", "retrieval, warmed up", "at the end", *(f"{split} {metric}" for split in splits)]
    rows = []
    for name, variant in result["variants"].items():
        ratio = variant["ratio_to_plain"]
        rows.append(
            [
                f"`{name}`" if name != "plain" else name,
                *(score(variant[f"retrieval_accuracy{when}"]) for when in ("_after_warm_up", "")),
                *(score(variant["scores"][split][metric]) for split in splits),
                f"{variant['throughput']['instances_per_second']:,.0f}",
                "-" if ratio is None else f"{ratio:.2f}",
                f"{variant['limit']:.2f}",
            ]
        )
    yield markdown([*header, "instances/s", "x plain", "limit"], rows)
    rows = [
        [
            f"`{name}`",
            split,
            f"{difference['mean']:+.4f} ({difference['low']:+.4f} to {difference['high']:+.4f})",
            " / ".join(f"{slot['mean']:.4f}" for slot in variant["slots"].get(split, [])) or "-",
        ]
        for name, variant in result["variants"].items()
        for split, difference in variant.get("difference_to_plain", {}).items()
    ]
    if rows:
        yield markdown(["", "split", f"{metric} less plain's (95 %, rows drawn anew)", "slot by slot"], rows)
    yield from labels(result, splits[-1])
    yield from weighted(result, splits)
    if result.get("sentences"):
        yield "\n".join(f"- {sentence}" for sentence in result["sentences"])


def runs(result: dict) -> Iterator[str]:
    """``report.json`` of ``training/report.py``."""
    for task in result["tasks"]:
        yield f"Runs of the task `{task['task']}`, `python training/report.py RUN...`."
        yield task["table"]


def copies(result: dict) -> Iterator[str]:
    """Output of ``training/copies.py``."""
    yield "Each row in one, two, ... slots of its group: `python training/copies.py RUN`."
    rows = [
        [
            f"`{r['variant']}`",
            str(r["copies"]),
            str(r["rows_per_group"]),
            measured(r["accuracy"], r["accuracy_std"]),
            f"{r['instances_per_second']:,.0f}",
        ]
        for r in result["records"]
    ]
    yield markdown(["", "copies", "rows a pass", "accuracy", "instances/s"], rows)


def front(result: dict) -> Iterator[str]:
    """Output of ``training/front.py``."""
    settings, rows = result["settings"], result["rows"]
    given = " ".join(f"--{name} {value}" for name, value in settings.items() if value is not None)
    yield (
        f"Task `{result['task']}`, {settings['encoder']}; {rows['train']:,} training rows, "
        f"{settings['num_train_epochs']:g} epochs of distillation, {rows['evaluation']:,} rows scored; cascades at "
        f"{settings['target_agreement']:.0%} agreement with the original; {settings['clock']} clock. "
        f"`python training/front.py {given}`, of files and folders the names."
    )
    yield result["table"]
    yield f"**{result['sentence']}**"


def experiment(result: dict) -> Iterator[str]:
    """``results.json`` of ``training/experiment.py``."""
    lines = result["table"]
    names = list(dict.fromkeys(name for line in lines for name in line["scores"]))
    seeds = sorted({seed for line in lines for seed in line["seeds"]})
    yield (
        f"`python training/experiment.py {result['recipe']}`, {len(seeds)} seed{'s' * (len(seeds) > 1)}; the "
        f"difference is of {names[0]}, to the plain network, with the interval of 95 % of the bootstrap samples."
    )
    header = ["", "N", *names, "published", "by slot", "difference", "multiply-adds a row", "CPU-s of training"]
    rows = []
    for line in lines:
        own, *interval = map(number, line["difference"] or [None] * 3, "+++")
        rows.append(
            [
                f"`{line['variant']}`",
                str(line["num_instances"] or "-"),
                *(score(line["scores"].get(name)) for name in names),
                number(line["published"]),
                " to ".join(map(number, line["slots"])) if line["slots"] else "-",
                f"{own} ({' to '.join(interval)})" if line["difference"] else "-",
                "-" if line["multiply_adds"] is None else f"{line['multiply_adds']:,}",
                "-" if line["cpu_seconds"] is None else f"{line['cpu_seconds']:.0f}",
            ]
        )
    yield markdown(header, rows)
