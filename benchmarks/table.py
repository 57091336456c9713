"""One table of all cases: ours in milliseconds, everybody else as a ratio to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.rivals import Ours, PlainLoop

_ABSENT = Text("-", style="dim")


def print_table(result: Mapping[str, Any], console: Console) -> None:
    """The table and what has to be said with it."""
    rivals = [name for name, entry in result["contestants"].items() if not entry["skipped"] and name != Ours.name]
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("energy", "L x K", "B", "T", "task"):
        table.add_column(name, justify="right" if name in ("B", "T") else "left", no_wrap=True)
    for name in (f"{Ours.name}, ms", *rivals, "limit", "memory, MB", "of plain", "error"):
        table.add_column(name, justify="right")
    for index, case in enumerate(result["cases"]):
        rows = {row["contestant"]: row for row in case["rows"]}
        own = rows[Ours.name]
        cells: list[Any] = [case["energy"], f"{case['labels']:,} x {case['measurements']}", str(case["batch"])]
        cells += [str(case["steps"]), case["task"], _number(own.get("median_ms"), own["status"])]
        cells += [_ratio(case["ratios"].get(name), rows.get(name, {}).get("status", "")) for name in rivals]
        limit = case["ratios"].get("limit")
        cells.append(_ratio(1 / limit if limit else None))
        cells += [_memory(own), _share(own, rows.get(PlainLoop.name))]
        cells.append(Text(f"{own['error']:.0e}") if "error" in own else _ABSENT)
        following = result["cases"][index + 1] if index + 1 < len(result["cases"]) else case
        apart = (following["energy"], following["labels"]) != (case["energy"], case["labels"])
        table.add_row(*cells, end_section=apart)
    console.print(table)
    for line in notes(result):
        console.print(line, markup=False, highlight=False)


def notes(result: Mapping[str, Any]) -> list[str]:
    """What the numbers mean and where they are from."""
    machine = result["environment"]
    skipped = [f"{name} ({entry['skipped']})" for name, entry in result["contestants"].items() if entry["skipped"]]
    lines = [
        "",
        "Rivals: their time over ours. limit: ours over the products alone. memory: peak of a step beyond its inputs.",
        "error: largest relative error of a gradient (logits, in inference) against the autograd loop in float64; "
        "whose gradients differ from ours is not timed.",
        f"{machine['device_name']}, threads: {machine['threads']}, torch {machine['torch']}, {machine['date']}"
        + (f", commit {short(machine['git_commit'])}" if machine["git_commit"] else ""),
    ]
    if skipped:
        lines.append(f"Skipped: {'; '.join(skipped)}")
    return lines


def short(commit: str) -> str:
    """Ten digits, and whether the package was another than was committed."""
    digits, _, state = commit.partition("-")
    return "-".join((digits[:10], state)) if state else digits[:10]


def _number(value: float | None, status: str) -> Text:
    return Text(f"{value:.2f}" if value < 100 else f"{value:.0f}") if value is not None else Text(status, style="red")


def _ratio(value: float | None, status: str = "") -> Text:
    if value is None:
        return Text(status, style="red") if status not in ("", "timed") else _ABSENT
    return Text(f"{value:.2f}x", style="" if value >= 1 else "yellow")


def _memory(row: Mapping[str, Any]) -> Text:
    peak = row["peak_bytes"]
    return _ABSENT if peak is None else Text(f"{peak / 1e6:.1f}")


def _share(row: Mapping[str, Any], plain: Mapping[str, Any] | None) -> Text:
    if plain is None or row["peak_bytes"] is None or not plain["peak_bytes"]:
        return _ABSENT
    return Text(f"{row['peak_bytes'] / plain['peak_bytes']:.2f}")
