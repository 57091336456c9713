"""Results as runs write them, made by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from energynets.compare.comparison import DETERMINISTIC, Comparison, Row, order_rows
from energynets.compare.plan import Plan, PlanRow
from energynets.compare.statistics import choose_reference
from energynets.compare.suite import Suite
from energynets.metrics import observed_name

KINDS = {"floor": "label_frequency", "linear": "linear", "spen": "spen", "ceiling": "bayes_optimal"}
FINGERPRINT = {
    "name": "planted",
    "documents": 50,
    "sizes": {"train": 30, "validation": 10, "test": 10},
    "input_size": 200,
    "labels": 8,
    "sha256": "ab" * 32,
    "split_rule": "drawn",
}


def result(name: str, seed: int = 0, value: float = 0.5, **changes: Any) -> dict[str, Any]:
    """A result.json whose metrics all have one value."""
    names = [f"{metric}@{k}" for k in (1, 3, 5) for metric in ("precision", "ndcg", "psp", "psndcg")]
    sets = ["f1_example", "f1_micro", "f1_macro", "hamming_loss", "subset_accuracy"]
    metrics = dict.fromkeys([*names, *sets, *(f"{name}_at_0.5" for name in sets)], value)
    row = {
        "name": name,
        "kind": KINDS.get(name, "xml_cnn"),
        "seed": seed,
        "config_hash": "0" * 16,
        "data": FINGERPRINT,
        "metrics": {"validation": metrics, "test": metrics},
        "threshold": {"value": 0.3, "rule": "f1_example"},
        "train_seconds": 2.0,
        "examples_per_second": 100.0,
        "peak_memory_bytes": 2**28,
        "inference_ms_per_document": 0.5,
        "parameters": 1000,
        "stages": [],
        "version": "0",
        "finished": "2026-01-01T00:00:00+00:00",
    }
    return {**row, **changes}


def comparison(folder: Path, *, failures: dict[int, str] | None = None) -> Comparison:
    """Three seeds of a SPEN between a floor, a linear line and a ceiling."""
    trace = {"energy": [-1.0, -2.0, -2.5], "gradient_norm": [1.0, 0.1, 0.01]}
    stages = [{"name": "unary", "epochs": 2, "best_epoch": 1, "best_value": 0.5, "seconds": 1.0}]
    spen = [result("spen", seed, 0.5 + seed / 10, trace=trace, stages=stages) for seed in range(3)]
    lines = tuple(
        {"stage": stage, "epoch": epoch, "train_loss": 1.0, "seconds": 1.0, "validation": {"f1_example": 0.1 * epoch}}
        for stage in ("unary", "energy")
        for epoch in range(3)
    )
    rows = [
        Row("ceiling", "bayes_optimal", (result("ceiling", value=0.9),), config="name: ceiling\n"),
        Row("linear", "linear", (result("linear", value=0.4),), config="name: linear\n"),
        Row("spen", "spen", tuple(spen), (lines,) * 3, failures or {}, "name: spen\ndata: {name: <b>}\n", energy=True),
        Row("floor", "label_frequency", (result("floor", value=0.1),), config="name: floor\n"),
    ]
    environment = {"torch": "2.13.0", "device": "cpu"}
    return Comparison(
        folder.name,
        folder,
        order_rows(rows),
        (0, 1, 2),
        FINGERPRINT,
        (1, 3, 5),
        "f1_example",
        environment,
        "2026-01-01",
        reference="linear",
    )


def seeded(
    name: str, lift: float, *, seeds: int = 10, documents: int = 400, spread: float = 0.02, kind: str | None = None
) -> Row:
    """A row whose documents score around 0.4 + lift: part of a document's value is its own, whatever the row."""
    own_N = np.random.default_rng(1).normal(0, 0.1, documents)
    generator = np.random.default_rng(abs(hash_of(name)))
    once = kind in DETERMINISTIC
    results, values = [], []
    for seed in range(1 if once else seeds):
        shift = 0.0 if once else generator.normal(0, spread)
        values_N = (0.4 + lift + shift + own_N + generator.normal(0, 0.1, documents)).astype(np.float32)
        row = result(name, seed, float(values_N.mean(dtype=np.float64)), kind=kind or KINDS.get(name, "xml_cnn"))
        results.append(row)
        values.append(dict.fromkeys(row["metrics"]["test"], values_N))
    config = f"name: {name}\n"
    energy = name in ("spen", "icnn")
    return Row(name, results[0]["kind"], tuple(results), config=config, energy=energy, documents=tuple(values))


BAG = '{"kind":"bag_of_words"}'


def hash_of(name: str) -> int:
    """The same in every process."""
    return int.from_bytes(name.encode()[:7], "big")


def with_verdicts(folder: Path, seeds: int = 10) -> Comparison:
    """A linear line and, under `seeds` seeds, rows better than it, worse, and alike."""
    rows = (
        seeded("linear", 0.0, kind="linear"),
        seeded("spen", 0.08, seeds=seeds),
        seeded("icnn", -0.08, seeds=seeds),
        seeded("twin", 0.002, seeds=seeds),
    )
    found = comparison(folder)
    return dataclasses.replace(found, rows=rows, seeds=tuple(range(seeds)))


def with_rest(found: Comparison, lifts: Mapping[str, float]) -> Comparison:
    """The same where half of the labels are known besides: each row's rest is its metrics, lifted by what is given."""
    rows = []
    for row in found.rows:
        lift = lifts[row.name]
        results, documents = [], []
        for one, values in zip(row.results, row.documents, strict=True):
            splits = {split: {name: v + lift for name, v in own.items()} for split, own in one["metrics"].items()}
            splits["test"] |= {"with_labels": 0.75}
            results.append({**one, "observed": {"0.5": {"threshold": one["threshold"], **splits}}})
            documents.append({**values, **{observed_name(name, "0.5"): v + lift for name, v in values.items()}})
        rows.append(dataclasses.replace(row, results=tuple(results), documents=tuple(documents)))
    found = dataclasses.replace(found, rows=tuple(rows))
    return dataclasses.replace(found, observed={"0.5": choose_reference(found, share="0.5")})


def diagnostics(*, convex: bool = False) -> dict[str, Any]:
    """A diagnostics.json of labels that have names."""
    pair = {"first": 0, "second": 3, "coupling": -0.5, "log_odds": 0.5, "together": 7, "expected": 1.5}
    repelling = {**pair, "second": 2, "coupling": 0.25, "log_odds": -0.25, "together": 0}
    example = {
        "document": 17,
        "excerpt": "a <i>graph</i> of the web",
        "true": [0, 3],
        "unary": [0, 2],
        "energy": [0, 3],
    }
    worse = {**example, "document": 18, "excerpt": None, "energy": [2], "f1_unary": 0.5, "f1_energy": 0.0}
    return {
        "certificates": {"split": "validation", "values": [0.0, 1e-4, 2e-3, 0.5, None]}
        if convex
        else {"skipped": "no certificate: not convex"},
        "ties": {
            "split": "validation",
            "documents": 10,
            "labels": 4,
            "tau": 1.0,
            "attracting": [pair],
            "repelling": [repelling],
            "measurements": [{"row": 5, "slope": 0.1, "curvature": -0.25, "weights": [[0, 1.5], [3, -0.5]]}],
        },
        "changes": {
            "split": "test",
            "documents": 10,
            "changed": 4,
            "better": 2,
            "worse": 1,
            "f1_unary": 0.4,
            "f1_energy": 0.5,
            "better_examples": [{**example, "f1_unary": 0.5, "f1_energy": 1.0}],
            "worse_examples": [worse],
        },
        "label_names": {"0": "TAG_graph", "2": "TAG_<b>", "3": "TAG_web"},
    }


def calibration(confidences: Sequence[float] = (0.05, 0.5, 0.95)) -> dict[str, Any]:
    """Bins as runs write them, one of them empty."""
    bins = [
        {"low": place / 4, "high": (place + 1) / 4, "count": 100, "confidence": value, "frequency": value**2}
        for place, value in enumerate(confidences)
    ]
    bins.append({"low": 0.75, "high": 1.0, "count": 0, "confidence": None, "frequency": None})
    return {"split": "test", "ece": 0.02, "bins": bins}


def full(folder: Path) -> Comparison:
    """A comparison whose report has something in every section."""
    found = with_verdicts(folder)
    spen = comparison(folder).rows[2]
    rows = []
    for row in found.rows:
        results = tuple({**one, "calibration": calibration()} for one in row.results)
        if row.energy:
            results = tuple({**one, "trace": spen.results[0]["trace"]} for one in results)
        said = tuple(diagnostics(convex=row.name == "icnn") for _ in results) if row.energy else ({},) * len(results)
        curves = spen.curves[:1] * len(results) if row.kind != "linear" else ()
        rows.append(dataclasses.replace(row, results=results, diagnostics=said, curves=curves))
    return dataclasses.replace(found, rows=tuple(rows))


def suite_of(folder: Path, *names: str) -> Suite:
    """`with_verdicts` on data sets of these names, its networks on one feature network."""
    found = []
    for name in names:
        one = with_verdicts(folder / name)
        rows = tuple(dataclasses.replace(row, features="" if row.kind == "linear" else BAG) for row in one.rows)
        found.append(dataclasses.replace(one, rows=rows, data={**one.data, "name": name}))
    plan = Plan(name="several", rows=(PlanRow(config="spen.yaml"),))
    return Suite("several", folder, tuple(found), plan)
