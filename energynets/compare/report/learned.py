"""What the energies of a comparison learned, from the diagnostics of their runs, as a page shows it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from energynets.compare.plots import css_color

if TYPE_CHECKING:
    from energynets.compare.comparison import Comparison, Row

PAIRS = 10  # of each kind
MEASUREMENTS = 6
EXAMPLES = 4  # of each kind
CHIPS = 16  # labels of one set


def rows_with_diagnostics(comparison: Comparison) -> list[Row]:
    """Rows any of whose runs wrote a diagnostics.json."""
    return [row for row in comparison.rows if any(row.diagnostics)]


def label_ties(comparison: Comparison) -> list[dict[str, Any]]:
    """For each energy the pairs of labels it ties together, means over the seeds that list them, and its measurements.

    Pairs that more seeds list come first, then those that are tied more strongly: what one seed alone has found may
    be its own accident.
    """
    return [_ties_of(comparison, row) for row in rows_with_diagnostics(comparison)]


def _ties_of(comparison: Comparison, row: Row) -> dict[str, Any]:
    found = [
        (result["seed"], one) for result, one in zip(row.results, row.diagnostics, strict=False) if one.get("ties")
    ]
    heading = {"name": row.name, "color": css_color(comparison.rows, row.name)}
    seeds = [seed for seed, one in found if "skipped" not in one["ties"]]
    usable = [one for _, one in found if "skipped" not in one["ties"]]
    if not usable:
        return heading | {"skipped": found[0][1]["ties"]["skipped"] if found else "its diagnostics hold none"}
    names = _names(usable)
    sides = {side: _pairs([one["ties"][side] for one in usable], names) for side in ("attracting", "repelling")}
    largest = max((abs(pair["log_odds"]) for pairs in sides.values() for pair in pairs), default=1.0)
    for pair in (*sides["attracting"], *sides["repelling"]):
        pair["width"] = round(100 * abs(pair["log_odds"]) / largest, 1)
    first = usable[0]["ties"]
    measurements = [
        {
            "row": measurement["row"],
            "positive": _weights(measurement, names, 1),
            "negative": _weights(measurement, names, -1),
            "curvature": measurement["curvature"],
        }
        for measurement in first["measurements"][:MEASUREMENTS]
    ]
    facts = {"seeds": len(usable), "labels": first["labels"], "documents": first["documents"], "split": first["split"]}
    return heading | facts | sides | {"measurements": measurements, "seed": seeds[0]}


def _pairs(found: Sequence[Sequence[Mapping[str, Any]]], names: Mapping[str, str]) -> list[dict[str, Any]]:
    by_labels: dict[tuple[int, int], list[Mapping[str, Any]]] = {}
    for pairs in found:
        for pair in pairs:
            by_labels.setdefault((pair["first"], pair["second"]), []).append(pair)
    merged = [
        {
            "first": label_name(first, names),
            "second": label_name(second, names),
            "log_odds": statistics.fmean(pair["log_odds"] for pair in pairs),
            "seeds": len(pairs),
            "together": pairs[0]["together"],
            "expected": pairs[0]["expected"],
        }
        for (first, second), pairs in by_labels.items()
    ]
    return sorted(merged, key=lambda pair: (-pair["seeds"], -abs(pair["log_odds"])))[:PAIRS]


def _weights(measurement: Mapping[str, Any], names: Mapping[str, str], sign: int) -> list[dict[str, Any]]:
    return [
        {"name": label_name(label, names), "weight": weight}
        for label, weight in measurement["weights"]
        if sign * weight > 0
    ]


def changed_examples(comparison: Comparison) -> list[dict[str, Any]]:
    """For each energy how often inference changed a prediction, seed by seed, and examples of its first seed."""
    shown = []
    for row in rows_with_diagnostics(comparison):
        found = [(result["seed"], one) for result, one in zip(row.results, row.diagnostics, strict=False) if one]
        heading: dict[str, Any] = {"name": row.name, "color": css_color(comparison.rows, row.name)}
        usable = [(seed, one) for seed, one in found if "skipped" not in one.get("changes", {"skipped": ""})]
        if not usable:
            shown.append(heading | {"skipped": found[0][1].get("changes", {}).get("skipped", "no diagnostics")})
            continue
        seed, first = usable[0]
        names = _names([first])
        sides = {
            side: [_example(example, names) for example in first["changes"][f"{side}_examples"][:EXAMPLES]]
            for side in ("better", "worse")
        }
        counts = [{"seed": number, **one["changes"]} for number, one in usable]
        shown.append(heading | {"counts": counts, "seed": seed, "split": first["changes"]["split"]} | sides)
    return shown


def _example(example: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    true, unary, energy = (set(example[kind]) for kind in ("true", "unary", "energy"))

    def chips(labels: set[int], gone: set[int] = frozenset()) -> dict[str, Any]:  # type: ignore[assignment]
        """Right ones first; `gone` were there before inference."""
        ordered = sorted(labels, key=lambda label: (label not in true, label)) + sorted(gone)
        listed = [
            {
                "name": label_name(label, names),
                "kind": "gone" if label in gone else "right" if label in true else "wrong",
                "sign": "" if label in unary else "+",
            }
            for label in ordered
        ]
        return {"chips": listed[:CHIPS], "more": max(0, len(listed) - CHIPS)}

    plain = [{"name": label_name(label, names), "kind": "", "sign": ""} for label in sorted(true)]
    return {
        "document": example["document"],
        "excerpt": example["excerpt"],
        "f1_unary": example["f1_unary"],
        "f1_energy": example["f1_energy"],
        "sets": [
            ("true", {"chips": plain[:CHIPS], "more": max(0, len(plain) - CHIPS)}),
            ("unary alone", chips(unary)),
            ("with energy", chips(energy, unary - energy)),
        ],
    }


def _names(found: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Names by id, without what all of them begin with (`TAG_web`, `TAG_graph`: web, graph)."""
    names = {label: name for one in found for label, name in one.get("label_names", {}).items()}
    for mark in "_/:":
        shared = next(iter(names.values()), "").partition(mark)[0] + mark
        if len(names) > 1 and all(name.startswith(shared) and name != shared for name in names.values()):
            return {label: name.removeprefix(shared) for label, name in names.items()}
    return names


def label_name(label: int, names: Mapping[str, str]) -> str:
    """Its name, or its number where labels have none."""
    return names.get(str(label)) or f"label {label}"
