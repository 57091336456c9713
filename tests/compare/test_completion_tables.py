"""Comparisons where labels are known: the tables of the rest, their references, and what is tested in them."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

sys.path.insert(0, str(Path(__file__).parent))
from results import with_rest, with_verdicts

from energynets.compare import Cell, Comparison, compare
from energynets.compare.paired import holm
from energynets.compare.plan import Plan
from energynets.compare.statistics import choose_reference, differences, headline
from energynets.compare.suite import Suite
from energynets.compare.suite_table import to_markdown as suite_markdown
from energynets.compare.table import print_table, rest_tables, to_csv, to_markdown
from energynets.config import Experiment
from energynets.metrics import observed_name, split_name
from energynets.training import train

SEEDS = 5
PLANTED = {
    "num_labels": 12,
    "num_documents": 300,
    "num_test_documents": 100,
    "vocabulary_size": 120,
    "mean_length": 12,
    "mean_labels": 4,
    # Labels say more of one another than the text does.
    "dependence": 0.95,
    "evidence": 0.4,
}
FEATURES = {"kind": "kim_cnn", "embedding_dim": 8, "windows": [1], "num_filters": 16}


def experiment(name: str, trains: list[str], reveal: dict[str, float] | None, **model: Any) -> Experiment:
    optimizer = {"learning_rate": 0.02}
    stage = {"name": "all", "trains": trains, "epochs": 6, "keep": "last", "optimizer": optimizer}
    return Experiment.from_tree(
        {
            "name": name,
            "device": "cpu",
            "data": {"planted": PLANTED},
            "model": {"features": FEATURES, **model},
            "training": {"stages": [stage], "reveal": reveal, "batch_size": 32},
            "evaluation": {"observed": [0.0, 0.5]},
        }
    )


def experiments() -> list[Experiment]:
    reveal = {"low": 0.0, "high": 0.9}
    energy = {"kind": "spen", "num_measurements": 8}
    solver = {"kind": "mirror_descent", "steps": 4}
    parts = ["features", "unary"]
    return [
        experiment("blind", parts, None, kind="classifier"),
        experiment("seeing", parts, reveal, kind="classifier", observes=True),
        experiment("spen", [*parts, "energy"], reveal, kind="energy_network", energy=energy, solver=solver),
    ]


def run(cell: Cell, config: Path, *_: Any) -> tuple[dict[str, Any] | None, str | None]:
    """A cell in this process: fifteen of its own would take a minute to start."""
    train(Experiment.load(config, [f"seed={cell.seed}"]), folder=cell.folder)
    return cell.finished_result(), None


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cell, "run", run)
        return compare(experiments(), seeds=SEEDS, folder=tmp_path_factory.mktemp("completion") / "c", linear=False)


def kept(found: Comparison, row: str, metric: str) -> np.ndarray:
    """(S, N) of the files."""
    folders = [found.folder / "runs" / f"{row}-seed{seed}" for seed in range(SEEDS)]
    return np.stack([np.load(folder / "documents.npz")[metric] for folder in folders]).astype(np.float64)


def test_rows_that_see_what_is_known_find_more_of_the_rest(found: Comparison) -> None:
    assert found.failures == []
    assert list(found.observed) == ["0.5"], "nothing known is the table itself"
    assert found.observed["0.5"] == "seeing"
    assert [row.name for row in found.rows if row.blind] == ["blind"]
    verdicts = {(d.row, d.metric): d.verdict for d in found.differences}
    assert verdicts["blind", "observed/0.5/f1_example"] == verdicts["blind", "observed/0.5/precision@1"] == "worse"
    assert (found.folder / "table.md").read_text() == to_markdown(found)


def test_differences_are_those_of_the_documents(found: Comparison) -> None:
    assert {split_name(d.metric)[1] for d in found.differences} == {"", "0.5"}
    ps = []
    for difference in found.differences:
        share = split_name(difference.metric)[1]
        assert difference.reference == (found.observed[share] if share else found.reference)
        d_SN = kept(found, difference.row, difference.metric) - kept(found, difference.reference, difference.metric)
        seeds, documents = d_SN.mean(1), d_SN.mean(0)
        parts = np.array([stats.sem(seeds) ** 2, stats.sem(documents) ** 2])
        freedom = parts.sum() ** 2 / (parts**2 / [SEEDS - 1, len(documents) - 1]).sum()
        error = parts.sum() ** 0.5
        assert difference.mean == pytest.approx(d_SN.mean(), abs=1e-6)
        assert difference.low == pytest.approx(d_SN.mean() - stats.t.ppf(0.975, freedom) * error, abs=1e-5)
        ps.append(2 * stats.t.sf(abs(d_SN.mean()) / error, freedom))
        assert (difference.pairs, difference.documents, difference.unit) == (SEEDS, 100, "seeds and documents")
    assert [d.p for d in found.differences] == pytest.approx(ps, rel=1e-3)
    assert [d.p_holm for d in found.differences] == pytest.approx(holm(ps), rel=1e-3), "one family"


def test_the_rest_is_in_every_file(found: Comparison) -> None:
    runs = [json.loads((found.folder / "runs" / f"spen-seed{s}" / "result.json").read_text()) for s in range(SEEDS)]
    values = [run["observed"]["0.5"]["test"]["precision@1"] for run in runs]
    text = (found.folder / "table.md").read_text()
    section = text.partition("\n## With 50 % of the labels known\n")[2]
    assert section.startswith("\n| model | P@1 | P@5 | F1 |\n")
    assert f"| spen | {100 * np.mean(values):.2f} ± {100 * np.std(values, ddof=1):.2f}" in section
    assert "Blind to what is known: blind." in section
    left = runs[0]["observed"]["0.5"]["test"]["with_labels"]
    assert f"{100 * left:.2f} % of the documents have a label left to find" in section
    assert "▲ and ▼ are against seeing, corrected together with the table above." in section
    assert "## Differences from seeing, with 50 % of the labels known" in section
    assert "Tested: P@1, P@5, nDCG@5, PSP@5, F1; with 50 % of the labels known P@1, P@5, F1." in text
    table = {row["model"]: row for row in csv.DictReader(io.StringIO((found.folder / "table.csv").read_text()))}
    assert float(table["spen"]["observed/0.5/precision@1"]) == pytest.approx(np.mean(values), abs=1e-15)
    assert float(table["spen"]["observed/0.5/precision@1_std"]) == pytest.approx(np.std(values, ddof=1))
    tree = json.loads((found.folder / "results.json").read_text())
    assert tree["observed"] == {"0.5": "seeing"}
    assert tree["rows"][2]["observed"]["0.5"]["test"]["precision@1"]["values"] == values
    out = io.StringIO()
    print_table(found, Console(file=out, width=100))
    assert "With 50 % of the labels known" in out.getvalue()
    report = found.folder / "report.html"
    if report.exists():
        assert "<h3>With 50 % of the labels known</h3>" in report.read_text()


def test_draws_of_what_is_known_are_in_the_caption(found: Comparison) -> None:
    several = dataclasses.replace(found, draws=8)
    assert json.loads(json.dumps(several.to_dict()))["draws"] == 8
    assert "drawn" not in to_markdown(found)
    ((_, _, caption),) = rest_tables(several)
    assert "50 % of the labels, true and false ones, are known, drawn 8 times, the same for every row." in caption[0]
    assert "Metrics are of the others and means over the draws, times 100" in caption[0]


def test_a_named_reference_is_that_of_every_table(
    found: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cell, "run", None)  # all are kept
    folder = shutil.copytree(found.folder, tmp_path / "c")
    again = compare(experiments(), seeds=SEEDS, folder=folder, linear=False, reference="spen")
    assert (again.reference, again.observed) == ("spen", {"0.5": "spen"})
    assert {d.reference for d in again.differences} == {"spen"}


# ------------------------------------------------------------------------------------------------- by hand


def test_the_reference_is_the_best_on_the_rest_of_validation(tmp_path: Path) -> None:
    comparison = with_rest(with_verdicts(tmp_path), {"linear": 0.0, "spen": 0.3, "icnn": 0.0, "twin": 0.1})
    assert choose_reference(comparison) == "linear", "of all labels"
    assert choose_reference(comparison, share="0.5") == "twin"
    other = with_rest(with_verdicts(tmp_path), {"linear": 0.1, "spen": 0.3, "icnn": 0.0, "twin": 0.0})
    assert choose_reference(other, share="0.5") == "linear", "spen has an energy"
    assert choose_reference(other, "icnn", "0.5") == "icnn"


def test_only_some_metrics_of_the_rest_are_tested(tmp_path: Path) -> None:
    comparison = with_rest(with_verdicts(tmp_path), dict.fromkeys(("linear", "spen", "icnn", "twin"), 0.0))
    rest = [observed_name(metric, "0.5") for metric in ("precision@1", "precision@5", "f1_example")]
    assert headline(comparison, "0.5") == rest
    assert len(comparison.differences) == 3 * (len(headline(comparison)) + len(rest))
    without = dataclasses.replace(comparison, observed={})
    assert list(rest_tables(without)) == []
    assert "observed" not in to_csv(without) + to_markdown(without)


def test_the_rest_is_ranked_over_data_sets_in_one_family(tmp_path: Path) -> None:
    found = [
        dataclasses.replace(
            with_rest(with_verdicts(tmp_path / name), {"linear": 0.0, "spen": 0.0, "icnn": 0.0, "twin": 0.2}),
            data={"name": name},
        )
        for name in ("one", "two")
    ]
    plan = Plan.model_validate({"name": "both", "rows": [{"config": "a.yaml"}]})
    suite = Suite("both", tmp_path, tuple(found), plan)
    assert suite.metrics == [*headline(found[0]), *headline(found[0], "0.5")]
    ranks = suite.ranks("observed/0.5/f1_example")
    assert ranks is not None
    assert dict(zip(ranks.names, ranks.means, strict=True)) == {"twin": 1, "spen": 2, "linear": 3, "icnn": 4}
    ps = [difference.p for comparison in found for difference in comparison.differences]
    assert [difference.p_holm for difference in suite.differences] == pytest.approx(holm(ps)), "over both sets"
    text = suite_markdown(suite)
    rest = text.partition("## F1 with 50 % of the labels known")[2]
    assert rest.split("\n## ")[0].count("▼") == 2 * 3 + 1, "spen, icnn and linear against twin; caption"
    assert "(one linear; twin with 50 % of the labels known, two linear; twin with 50 %" in text
    assert "## two: differences from twin, with 50 % of the labels known" in text


def test_runs_of_an_earlier_version_are_tested_over_seeds(tmp_path: Path) -> None:
    """Their result.json has the rest; their documents.npz does not."""
    comparison = with_rest(with_verdicts(tmp_path), {"linear": 0.0, "spen": 0.1, "icnn": 0.0, "twin": 0.0})
    rows = [
        dataclasses.replace(
            row, documents=tuple({k: v for k, v in own.items() if "/" not in k} for own in row.documents)
        )
        for row in comparison.rows
    ]
    old = differences([dataclasses.replace(comparison, rows=tuple(rows))])
    assert {(d.unit, d.documents) for d in old if split_name(d.metric)[1]} == {("seeds", 0)}
    assert {(d.unit, d.documents) for d in old if not split_name(d.metric)[1]} == {("seeds and documents", 400)}
    same = {(d.row, d.metric): d.p for d in comparison.differences if not split_name(d.metric)[1]}
    assert {(d.row, d.metric): d.p for d in old if not split_name(d.metric)[1]} == same
