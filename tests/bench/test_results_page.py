"""docs/results.md is made from the recorded results, and from nothing else."""

import json
import pkgutil

import pytest

from bench import results_page


def test_the_page_is_what_the_recorded_results_say():
    results_page.main(["--check"])


def test_a_page_that_differs_is_found_out(monkeypatch, tmp_path):
    page = tmp_path / "results.md"
    page.write_text(results_page.page().replace("0.8", "0.9", 1), encoding="utf-8")
    monkeypatch.setattr(results_page, "PAGE", page)
    with pytest.raises(SystemExit, match="out of date"):
        results_page.main(["--check"])
    results_page.main([])
    results_page.main(["--check"])


def test_every_recorded_figure_is_on_the_page():
    page = results_page.page()
    for path in results_page.RESULTS.rglob("*.json"):
        assert f"`{path.relative_to(results_page.ROOT).as_posix()}`" in page


def test_pictures_are_shown_below_the_file_that_they_belong_to():
    page = results_page.page()
    for picture in results_page.RESULTS.rglob("*.png"):
        before, shown, behind = page.partition(f"(../{picture.relative_to(results_page.ROOT).as_posix()})")
        owner = before.rpartition("\n### ")[2].partition("\n")[0].split("`")[1]
        assert shown and picture.stem.startswith(owner) and f"/{owner}.json`" in behind.partition("\n### ")[0]


def test_sections_are_ordered_by_subject():
    page = results_page.page()
    places = [page.index(f"\n## {subject}\n") for subject in results_page.SUBJECTS if f"\n## {subject}\n" in page]
    assert len(places) >= 6 and places == sorted(places)


def test_every_kind_has_a_function_that_writes_its_section():
    assert all(callable(pkgutil.resolve_name(written)) for *_, written in results_page.KINDS)


def test_a_file_of_an_unknown_kind_is_refused(monkeypatch, tmp_path):
    folder = tmp_path / "bench" / "results"
    folder.mkdir(parents=True)
    (folder / "new.json").write_text(json.dumps({"surprise": 1}), encoding="utf-8")
    monkeypatch.setattr(results_page, "ROOT", tmp_path)
    monkeypatch.setattr(results_page, "RESULTS", folder)
    with pytest.raises(ValueError, match=r"bench/results/new.json has surprise at its top"):
        results_page.page()
