"""report.html: self-contained, for light and dark pages."""

from __future__ import annotations

import dataclasses
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from results import comparison, diagnostics, full, with_rest

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")
from energynets.compare import plots
from energynets.compare.files import write
from energynets.compare.plots.traces import _scale
from energynets.compare.report import CONTENTS, to_html
from energynets.compare.report.learned import label_ties
from energynets.compare.report.tables import findings


@pytest.fixture(scope="module", params=["as an earlier version wrote them", "with everything", "and the rest"])
def html(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of results that hold little, and of results that hold something for every section."""
    folder = tmp_path_factory.mktemp("cmp") / "demo"
    if request.param == "and the rest":
        return to_html(with_rest(full(folder), {"linear": 0.0, "spen": 0.2, "icnn": 0.0, "twin": 0.0}))
    return to_html(full(folder) if request.param == "with everything" else comparison(folder))


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> str:
    return to_html(full(tmp_path_factory.mktemp("cmp") / "demo"))


class Sections(HTMLParser):
    """Text of each section by its id."""

    def __init__(self) -> None:
        super().__init__()
        self.text: dict[str, str] = {}
        self.now: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "section":
            self.now = dict(attrs)["id"] or ""
            self.text[self.now] = ""
        elif self.now is not None:
            self.text[self.now] += " "

    def handle_endtag(self, tag: str) -> None:
        if tag == "section":
            self.now = None

    def handle_data(self, data: str) -> None:
        if self.now is not None:
            self.text[self.now] += data


def sections(html: str) -> dict[str, str]:
    parser = Sections()
    parser.feed(html)
    return {name: " ".join(text.split()) for name, text in parser.text.items()}


def test_every_section_is_there_and_in_the_contents(html: str) -> None:
    assert list(sections(html)) == [name for name, _ in CONTENTS]
    assert re.findall(r'<a href="#([^"]+)">', html) == [name for name, _ in CONTENTS]


def test_sections_without_contents_say_why(tmp_path: Path) -> None:
    old = sections(to_html(comparison(tmp_path / "demo")))
    for name in ("certificates", "ties", "changes"):
        assert "written by a version that kept no such record" in old[name]
    assert "hold no calibration" in old["calibration"]
    rows = tuple(dataclasses.replace(row, energy=False) for row in comparison(tmp_path).rows if row.kind != "spen")
    none = sections(to_html(dataclasses.replace(comparison(tmp_path / "demo"), rows=rows)))
    for name in ("inference", "certificates", "ties", "changes"):
        assert "No row has an energy" in none[name]
    assert "no second learned row" in none["differences"]


def test_parts_that_were_skipped_say_why(tmp_path: Path) -> None:
    found = full(tmp_path / "demo")
    skipped = {part: {"skipped": f"no {part}: too many"} for part in ("certificates", "ties", "changes")}
    rows = tuple(
        dataclasses.replace(row, diagnostics=(skipped,) * len(row.results)) for row in found.rows if row.energy
    )
    said = sections(to_html(dataclasses.replace(found, rows=rows)))
    assert "no ties: too many" in said["ties"]
    assert "no changes: too many" in said["changes"]
    assert "No energy here is convex" in said["certificates"]


def test_what_the_energy_learned_is_told_by_name(everything: str) -> None:
    said = sections(everything)
    assert "graph · web +0.50 7 1.5 10" in said["ties"], "names without what all share, log-odds, counts, seeds"
    assert "graph · <b> \N{MINUS SIGN}0.25 0 1.5" in said["ties"], "and escaped"
    assert "document 17 F1 0.50 → 1.00 a <i>graph</i> of the web" in said["changes"]
    assert "+web" in said["changes"]
    assert '<del class="chip gone">&lt;b&gt;</del>' in everything
    assert "10 4 2 1 40.00 50.00" in said["changes"]
    assert "the largest bound is 0.5" in said["certificates"]
    assert "linear 2.00, spen 2.00" in said["calibration"]


def test_what_is_found_of_the_rest_is_told_apart(tmp_path: Path, everything: str) -> None:
    lifts = {"linear": 0.0, "spen": -0.2, "icnn": 0.2, "twin": -0.3}
    html = to_html(with_rest(full(tmp_path / "demo"), lifts))
    said, plain = sections(html), sections(everything)
    assert {name for name, text in said.items() if text != plain[name]} == {"results", "completion"}
    rest = said["completion"]
    assert "With 50 % of the labels known model P@1 P@5 F1 linear" in rest
    assert "75.00 % of the documents have a label left to find" in rest
    assert "Each row minus linear, under the same seeds" in rest
    assert (rest.count("▲"), rest.count("▼")) == (1 + 2 * 3, 1 + 2 * 2 * 3), "caption; both tables, three metrics"
    assert said["results"].count("▼") == 1 + 5, "the rest marks nothing in the table of all labels"
    told = " ".join(re.sub(r"<[^>]+>", "", html).split())
    metrics = r"P@1 \(\S+\), P@5 \(\S+\), F1 \(\S+\)"
    assert re.search(rf"▼ spen is significantly worse than linear in {metrics}, with 50 % of the labels known", told)
    assert re.search(r"▲ spen is significantly better than linear in P@1", told)
    assert "names no share of them to be known" in plain["completion"]


def test_pairs_that_more_seeds_list_come_first(tmp_path: Path) -> None:
    found = full(tmp_path / "demo")
    spen = found.rows[1]
    other = diagnostics()
    other["ties"]["attracting"] = [{**other["ties"]["attracting"][0], "second": 2, "log_odds": 9.0}]
    mixed = dataclasses.replace(spen, diagnostics=(*spen.diagnostics[:2], other, *spen.diagnostics[3:]))
    (ties,) = label_ties(dataclasses.replace(found, rows=(found.rows[0], mixed)))
    assert [(pair["first"], pair["second"], pair["seeds"]) for pair in ties["attracting"]] == [
        ("graph", "web", 9),
        ("graph", "<b>", 1),
    ]


def test_measurements_are_of_the_first_seed_that_has_them(tmp_path: Path) -> None:
    found = full(tmp_path / "demo")
    later = dataclasses.replace(found.rows[1], diagnostics=({}, *found.rows[1].diagnostics[1:]))
    (ties,) = label_ties(dataclasses.replace(found, rows=(found.rows[0], later)))
    assert (ties["seed"], ties["seeds"]) == (1, 9)


def test_peak_memory_is_said_to_be_of_what_it_is(tmp_path: Path, everything: str) -> None:
    alone = "each in a process of its own, so that its peak memory is its own."
    assert alone in sections(everything)["cost"]
    found = full(tmp_path / "demo")
    rows = tuple(
        dataclasses.replace(row, results=tuple({**one, "together": 10 if row.energy else 1} for one in row.results))
        for row in found.rows
    )
    said = sections(to_html(dataclasses.replace(found, rows=rows)))["cost"]
    assert "each in a process of its own but for seeds that trained at once, of spen, icnn: their seconds" in said
    assert "their peak memory is that of all." in said
    assert alone not in said


def test_only_significant_differences_are_marked(everything: str) -> None:
    said = sections(everything)
    table = said["results"]
    assert table.count("▲") == 1 + 5, "once in the caption, and the five metrics of the better row"
    assert table.count("▼") == 1 + 5
    for finding in ("▲ spen is significantly better than linear in P@1", "▼ icnn is significantly worse than linear"):
        assert finding in " ".join(re.sub(r"<[^>]+>", "", everything).split())


def test_findings_are_of_all_rows_where_no_energy_was_tested(tmp_path: Path) -> None:
    found = full(tmp_path / "demo")
    classifiers = tuple(dataclasses.replace(row, energy=False) for row in found.rows)
    lone = tuple(dataclasses.replace(row, energy=row.name == "spen") for row in found.rows)
    for changes, said in (
        ({"rows": classifiers}, ["spen is significantly better than linear", "icnn is significantly worse"]),
        ({"rows": lone, "reference": "spen"}, ["linear is significantly worse than spen", "icnn is significantly"]),
    ):
        told = [finding["text"] for finding in findings(dataclasses.replace(found, **changes))]
        assert not any("too few seeds" in text for text in told)
        for each in said:
            assert any(text.startswith(each) for text in told)
    (few,) = findings(comparison(tmp_path / "three"))
    assert few["text"].endswith("not tested: too few seeds.")


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


def test_page_says_that_runs_were_made_on_several_devices(tmp_path: Path) -> None:
    environment = {"device": ["cpu", "cuda:0"], "git_commit": [None, "abc"]}
    page = to_html(dataclasses.replace(comparison(tmp_path / "demo"), environment=environment))
    assert "<td>cpu, cuda:0</td>" in page
    assert "<td>not known, abc</td>" in page


def test_configurations_are_escaped(tmp_path: Path) -> None:
    assert "name: &lt;b&gt;" in to_html(comparison(tmp_path / "demo"))


def test_drawings_are_well_formed_with_ids_of_their_own(html: str) -> None:
    drawings = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    assert len(drawings) >= 4
    seen: set[str] = set()
    for drawing in drawings:
        tree = ElementTree.fromstring(drawing)
        ids = {element.get("id") for element in tree.iter()} - {None}
        used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", drawing))
        assert used <= ids
        assert not ids & seen
        seen |= ids  # type: ignore[arg-type]
        assert not re.search(r"#0[1-5]0[0-9a-f]{3}\b", drawing), "every placeholder has become a variable"


def test_same_comparison_same_page(tmp_path: Path, everything: str) -> None:
    assert to_html(full(tmp_path / "demo")) == everything


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
    more = [dataclasses.replace(rows[1], name=f"row {number}") for number in range(32)]
    assert len({str(style) for style in list(plots.dashes(more).values())[:4]}) == 4
    looks = {name: (color, str(plots.dashes(more)[name])) for name, color in plots.colors(more).items()}
    assert len(set(looks.values())) == 32


@pytest.mark.parametrize("scheme", [0, 1])
def test_colours_differ_for_colour_blind_eyes(scheme: int) -> None:
    """Of the first six rows any two, under each of three deficiencies; all stand out from the page.

    Source: Machado, Oliveira & Fernandes (2009), severity 1; CIE 1976 colour difference, where 2.3 is just noticeable.
    """
    style = (Path(to_html.__code__.co_filename).parent / "page.css").read_text()
    variables = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", part)) for part in style.split("@media", 1)][scheme]
    series = np.array([linear_rgb(variables[f"series-{number}"]) for number in range(plots.NUM_COLORS)])
    luminance = series @ [0.2126, 0.7152, 0.0722]
    paper = linear_rgb(variables["paper"]) @ [0.2126, 0.7152, 0.0722]
    contrast = (np.maximum(luminance, paper) + 0.05) / (np.minimum(luminance, paper) + 0.05)
    assert contrast.min() >= 3
    for deficiency in DEFICIENCIES:
        seen = lab(series @ np.array(deficiency).T)
        apart = np.linalg.norm(seen[:, None] - seen[None], axis=-1) + 1e3 * np.eye(len(seen))
        assert apart[:6, :6].min() > 18
        assert apart.min() > 10


DEFICIENCIES = (
    [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
)


def linear_rgb(color: str) -> np.ndarray:
    values = np.array([int(color[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(linear: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of linear sRGB, (..., 3)."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    f = np.cbrt((linear.clip(0, 1) @ to_xyz.T) / [0.9505, 1, 1.0888])
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


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
    assert _scale(values)["value"] == scale


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
