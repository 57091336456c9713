"""report.html: self-contained, for light and dark pages."""

from __future__ import annotations

import dataclasses
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from results import comparison

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")
from energynets.compare import plots
from energynets.compare.files import write
from energynets.compare.report import to_html


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    return to_html(comparison(tmp_path_factory.mktemp("cmp") / "demo"))


def test_page_loads_nothing(html: str) -> None:
    class Loads(HTMLParser):
        found: list[str]

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            for name, value in attrs:
                if name in ("src", "href", "xlink:href", "srcset", "data") and not (value or "").startswith("#"):
                    self.found.append(f"{tag} {name}={value}")
            if tag in ("script", "link", "iframe", "object"):
                self.found.append(tag)

    parser = Loads()
    parser.found = []
    parser.feed(html)
    assert parser.found == []
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)


def test_page_has_both_schemes_and_no_bold(html: str) -> None:
    assert "prefers-color-scheme: dark" in html
    assert not re.search(r"<(b|strong)\b|font-weight: *(bold|[5-9]00)", html)


def test_page_says_what_a_reader_needs(html: str) -> None:
    for said in ("Metrics on test", "Learning", "Inference", "ab" * 32, "2.13.0", "chosen on validation", "Reproduce"):
        assert said in html
    assert "name: &lt;b&gt;" in html, "configurations are escaped"


def test_drawings_are_well_formed_with_ids_of_their_own(html: str) -> None:
    drawings = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    assert len(drawings) == 3
    seen: set[str] = set()
    for drawing in drawings:
        tree = ElementTree.fromstring(drawing)
        ids = {element.get("id") for element in tree.iter()} - {None}
        used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", drawing))
        assert used <= ids
        assert not ids & seen
        seen |= ids  # type: ignore[arg-type]
        assert not re.search(r"#0[1-4]0[0-9a-f]{3}\b", drawing), "every placeholder has become a variable"


def test_same_comparison_same_page(tmp_path: Path, html: str) -> None:
    found = comparison(tmp_path / "demo")
    assert to_html(found) == html


def test_page_without_results_tells_the_failures(tmp_path: Path) -> None:
    found = comparison(tmp_path)
    rows = tuple(dataclasses.replace(row, results=(), curves=(), failures={0: "out of luck"}) for row in found.rows)
    html = to_html(dataclasses.replace(found, rows=rows, data={}))
    assert html.count("out of luck") == 4
    assert "<svg" not in html


def test_colours_follow_the_learned_rows(tmp_path: Path) -> None:
    rows = comparison(tmp_path).rows
    assert plots.css_color(rows, "linear") == "var(--series-0)"
    assert plots.css_color(rows, "floor") == plots.css_color(rows, "ceiling") == "var(--muted)"


def test_lines_of_rows_differ_in_grey_too(tmp_path: Path) -> None:
    rows = comparison(tmp_path).rows
    more = [dataclasses.replace(rows[1], name=f"row {number}") for number in range(4)]
    assert len({str(style) for style in plots.dashes(more).values()}) == 4


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([4.0, 1.0, -0.2, 0.5], "linear"),
        ([8.0, 6.0, 4.0, 3.0], "linear"),
        ([1.0, 1e-2, 1e-4, 0.0], "log"),
        ([1.0, 1e-3, -1e-5, 0.0], "symlog"),
        ([0.0, 0.0], "linear"),
        ([], "linear"),
    ],
)
def test_scale_of_traces(values: list[float], scale: str) -> None:
    assert plots._scale(values)["value"] == scale


@pytest.mark.parametrize("energies", [[-1.0, -2.0, -2.5], [-1.0, -2.6, -2.5], [-2.0, -2.0, -2.0], [-2.5, -2.5, -2.0]])
def test_energy_may_rise_fall_or_stand_still(tmp_path: Path, energies: list[float]) -> None:
    found = comparison(tmp_path / "demo")
    trace = {"energy": energies, "gradient_norm": [1.0, 0.1, 0.0]}
    rows = [
        dataclasses.replace(row, results=tuple({**r, "trace": trace} for r in row.results))
        if row.kind == "spen"
        else row
        for row in found.rows
    ]
    drawing = plots.inference_traces(dataclasses.replace(found, rows=tuple(rows)))
    assert drawing is not None
    ElementTree.fromstring(drawing)


def test_files_are_written_whole(tmp_path: Path) -> None:
    found = comparison(tmp_path / "demo")
    write(found)
    assert sorted(p.name for p in found.folder.iterdir()) == ["report.html", "results.json", "table.csv", "table.md"]


def test_without_matplotlib_the_tables_are_still_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    found = comparison(tmp_path / "demo")
    write(found)
    assert sorted(p.name for p in found.folder.iterdir()) == ["results.json", "table.csv", "table.md"]


def test_quality_against_cost(tmp_path: Path) -> None:
    found = comparison(tmp_path / "demo")
    drawing = plots.quality_cost(found)
    assert drawing is not None
    text = "".join(ElementTree.fromstring(drawing).itertext())
    for said in ("linear", "spen", "training seconds", "inference, ms a document", "F1 on test"):
        assert said in text
    assert "floor" not in text
    free = [dataclasses.replace(r, results=tuple({**x, "train_seconds": 0.0} for x in r.results)) for r in found.rows]
    drawing = plots.quality_cost(dataclasses.replace(found, rows=tuple(free)))
    assert drawing is not None
    assert "training seconds" not in drawing, "a log axis has no 0"
    assert plots.quality_cost(dataclasses.replace(found, rows=())) is None
