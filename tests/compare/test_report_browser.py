"""report.html in a browser: opens without an error, asks the network for nothing, shows every section."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from results import comparison, full, suite_of

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")
from energynets.compare.report import CONTENTS, suite, to_html

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


@dataclass(frozen=True)
class Opened:
    """What a browser made of a page: its document, what the console said, what it asked the network for."""

    dom: str
    console: list[str]
    requests: list[str]


def browse(page: Path, *arguments: str) -> Opened:
    folder = page.parent
    log = folder / "net-log.json"
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            # What a browser asks for on its own account would be in the log too.
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-extensions",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--enable-logging=stderr",
            f"--user-data-dir={folder / 'profile'}",
            f"--log-net-log={log}",
            *arguments,
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Opened(done.stdout, console, requests(json.loads(log.read_text())))


def requests(log: dict[str, Any]) -> list[str]:
    """Addresses that the page asked for; those of the browser itself have no origin."""
    found = [event["params"] for event in log["events"] if "initiator" in event.get("params", {})]
    urls = [str(each.get("url", "")) for each in found if each["initiator"] != "not an origin"]
    return [url for url in urls if re.match(r"(https?|wss?|ftp):", url)]


@pytest.mark.parametrize("make", [comparison, full], ids=["as an earlier version wrote it", "with everything"])
def test_opens_without_an_error_or_a_request(make: Any, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(to_html(make(tmp_path / "demo")), encoding="utf-8")
    opened = browse(page)
    assert opened.console == []
    assert opened.requests == []
    for name, _ in CONTENTS:
        assert f'<section id="{name}">' in opened.dom
    assert opened.dom.count("<svg") == page.read_text().count("<svg") >= 4


def test_the_page_over_several_data_sets_does_too(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(suite.to_html(suite_of(tmp_path, "one", "two")), encoding="utf-8")
    opened = browse(page)
    assert (opened.console, opened.requests) == ([], [])
    for name, _ in suite.CONTENTS:
        assert f'<section id="{name}">' in opened.dom
    assert "<svg" in opened.dom


def test_an_error_and_a_request_would_be_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text('<img src="http://example.invalid/x.png"><script>console.error("broken")</script>')
    opened = browse(page)
    assert any("broken" in line for line in opened.console)
    assert "http://example.invalid/x.png" in opened.requests


def test_follows_the_colour_scheme_and_the_window(tmp_path: Path) -> None:
    """Dark where the reader prefers dark; nothing wider than a narrow window."""
    page = tmp_path / "report.html"
    script = """<script>addEventListener("load", () => document.body.setAttribute("data-seen",
        getComputedStyle(document.documentElement).backgroundColor + " " +
        (document.documentElement.scrollWidth <= innerWidth)))</script></body>"""
    html = to_html(full(tmp_path / "demo"))
    # The page itself allows no script: only this copy measures itself.
    html = re.sub(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>", "", html)
    page.write_text(html.replace("</body>", script), encoding="utf-8")
    seen = {}
    for scheme, number in (("dark", 0), ("light", 1)):
        dom = browse(page, f"--blink-settings=preferredColorScheme={number}", "--window-size=600,900").dom
        found = re.search(r'data-seen="(rgb\([^)]*\)) (\w+)"', dom)
        assert found is not None
        assert found[2] == "true"
        seen[scheme] = sum(map(int, re.findall(r"\d+", found[1])))
    assert seen["dark"] < 150 < 700 < seen["light"]
