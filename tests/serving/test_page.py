"""The page at ``/`` in a real browser: rows are typed, labels and how full groups are come back."""

from __future__ import annotations

import os
import shutil

import pytest
from serving.processes import process

if not (os.environ.get("FASTMUX_BROWSER") and shutil.which("chromedriver")):
    pytest.skip("needs FASTMUX_BROWSER=1, chromium, chromedriver and selenium", allow_module_level=True)
webdriver = pytest.importorskip("selenium.webdriver", reason="needs the package selenium")
By = pytest.importorskip("selenium.webdriver.common.by").By
WebDriverWait = pytest.importorskip("selenium.webdriver.support.wait").WebDriverWait


@pytest.fixture
def browser(tmp_path):
    options = webdriver.ChromeOptions()
    nothing_else = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    for option in (
        nothing_else,
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path}",
    ):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def test_the_interface_is_shown(browser, folders):
    """At /docs, by a browser that finds nothing but this machine."""
    with process(folders["tmux"]) as server:
        browser.get(server.url() + "/docs")
        WebDriverWait(browser, 20).until(lambda _: browser.find_elements(By.CLASS_NAME, "opblock-summary-path"))
        shown = [path.text for path in browser.find_elements(By.CLASS_NAME, "opblock-summary-path")]
        assert [path.replace("\u200b", "") for path in shown] == ["/predict", "/health", "/metrics", "/info"]
        assert not browser.get_log("browser")


def test_the_page(browser, folders):
    with process(folders["tmux"]) as server:
        browser.get(server.url())

        def at(name):
            return browser.find_element(By.ID, name)

        def ask(rows: str) -> list[list[str]]:
            at("rows").clear()
            at("rows").send_keys(rows)
            at("form").find_element(By.TAG_NAME, "button").click()
            WebDriverWait(browser, 20).until(lambda _: at("status").text not in ("", "…"))
            lines = at("answers").find_elements(By.CSS_SELECTOR, "tbody tr")
            return [[cell.text for cell in line.find_elements(By.TAG_NAME, "td")] for line in lines]

        WebDriverWait(browser, 20).until(lambda _: "4 rows a group" in at("model").text)
        assert "LABEL_0, LABEL_1, LABEL_2" in at("model").text
        lines = ask("w1 w2\nw3\n\n<b>w4</b> w5 w6\nw7\nw8")
        assert [line[0] for line in lines] == ["w1 w2", "w3", "<b>w4</b> w5 w6", "w7", "w8"]
        assert all(line[1].startswith("LABEL_") and 0 < float(line[2]) <= 1 for line in lines)
        assert sorted(line[3] for line in lines) == ["1 of 4"] + ["4 of 4"] * 4
        bars = browser.find_elements(By.CLASS_NAME, "bar")
        assert {bar.get_attribute("style") for bar in bars} == {"width: 100%;", "width: 25%;"}

        at("copies").send_keys("4")
        assert [line[3] for line in ask("w1\nw2")] == ["1 of 1", "1 of 1"]
        (line,) = ask(" ".join(["w1"] * 40))
        assert "has 42 tokens, the limit is 32" in line[1]
        at("copies").clear()
        at("tenant").send_keys("acme")
        assert [line[3] for line in ask("w1\nw2")] == ["2 of 4", "2 of 4"]
        problems = [entry for entry in browser.get_log("browser") if "favicon" not in entry["message"]]
        assert not [entry for entry in problems if "422" not in entry["message"]], problems
