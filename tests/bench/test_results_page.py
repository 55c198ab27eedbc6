"""docs/results.md is made from the recorded results, and from nothing else."""

import json

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


def test_a_file_of_an_unknown_kind_is_refused(monkeypatch, tmp_path):
    folder = tmp_path / "bench" / "results"
    folder.mkdir(parents=True)
    (folder / "new.json").write_text(json.dumps({"surprise": 1}), encoding="utf-8")
    monkeypatch.setattr(results_page, "ROOT", tmp_path)
    monkeypatch.setattr(results_page, "RESULTS", folder)
    with pytest.raises(ValueError, match=r"bench/results/new.json has surprise at its top"):
        results_page.page()
