"""Options that several verbs share, and how numbers are printed."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change a setting, e.g. training.batch_size=32; repeatable."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.", show_default=False)]


def print_json(value: Any) -> None:
    """JSON on stdout, indented."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def metric_lines(metrics: Mapping[str, float | None]) -> list[str]:
    """Metrics as aligned text, 100x, F1 and its like with their value at threshold 0.5 beside them."""
    ks = [name.removeprefix("precision@") for name in metrics if name.startswith("precision@")]
    lines = ["".ljust(18) + "".join(f"@{k}".rjust(8) for k in ks)] if ks else []
    for name in ("precision", "ndcg", "psp", "psndcg"):
        values = [metrics.get(f"{name}@{k}") for k in ks]
        if any(value is not None for value in values):
            lines.append(name.ljust(18) + "".join(_percent(value) for value in values))
    sets = [n for n in metrics if "@" not in n and not n.endswith("_at_0.5")]
    if sets:
        lines.append("".ljust(18) + "chosen".rjust(8) + "at 0.5".rjust(8))
    return lines + [n.ljust(18) + _percent(metrics[n]) + _percent(metrics.get(f"{n}_at_0.5")) for n in sets]


def decoder_words(threshold: Mapping[str, Any]) -> str:
    """What made sets of scores, from `threshold` of a result's row."""
    kind = threshold.get("decoding", "global")
    return f"threshold {threshold['value']:.4f}" if kind == "global" else f"{kind}: {threshold['rule']}"


def _percent(value: float | None) -> str:
    return "-".rjust(8) if value is None else f"{100 * value:8.2f}"


def describe(line: Mapping[str, Any], monitor: str) -> str:
    """One evaluation of a run in words, from its line in metrics.jsonl."""
    words = [f"{line['stage']} epoch {line['epoch']}"]
    if line.get("train_loss") is not None:
        words.append(f"loss {line['train_loss']:.4f}")
    validation = line.get("validation") or {}
    if monitor in validation and validation[monitor] is not None:
        value = validation[monitor]
        words.append(f"{monitor} {value:.4f}" if monitor == "loss" else f"{monitor} {100 * value:.2f}")
    if line.get("seconds") is not None:
        words.append(f"{line['seconds']:.0f} s")
    return "  ".join(words)
