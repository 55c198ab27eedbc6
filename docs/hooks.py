"""What mkdocs runs: the pictures that docs/results.md shows from bench/results/ become part of the site."""

from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent


def on_files(files, config):
    for picture in (ROOT / "bench" / "results").rglob("*.png"):
        files.append(File.generated(config, picture.relative_to(ROOT).as_posix(), abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown, **_):
    return markdown.replace("](../bench/results/", "](bench/results/")
