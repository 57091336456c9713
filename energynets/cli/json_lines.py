"""Documents and what is known of their labels, a JSON object a line.

    {"text": "wheat exports rise", "known": {"wheat": true, "corn": false}}
    {"features": {"12": 1.0, "40": 1.0}, "known": {"wheat": true}}

`text` where the run was trained on text; `features`, column (from 0) to value, where on a table. `known` may be absent:
label to true or false, whatever is not named being what is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from energynets.errors import DataError, nearest

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from energynets.training import TrainedRun

_KEYS = ("text", "features", "known")


def read_json_lines(trained: TrainedRun, lines: Sequence[str], where: str) -> tuple[Any, csr_array]:
    """Inputs of N documents of the kind the run takes, and (N, L) of 1 where a label is known to be true, -1 false.

    Args:
        trained: the run.
        lines: of the file.
        where: its name, for errors.

    Raises:
        DataError: naming the line, what was expected and what came.
    """
    from energynets.data.dataset import TextDocuments

    text = trained.preparation.raw != "table"  # planted tokens are words here
    key, kind = ("text", str) if text else ("features", dict)
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where}: line {number}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise DataError(f"{where}: line {number}: expected an object with {key!r}, got {_short(row)}")
        for name in row:
            if name not in _KEYS:
                raise DataError(f"{where}: line {number}: unknown key {name!r}{nearest(name, (key, 'known'))}")
        if not isinstance(row.get(key), kind):
            what = "text" if text else "an object of columns and values"
            raise DataError(f"{where}: line {number}: {key}: expected {what}, got {_short(row.get(key))}")
        rows.append(row)
    told = [_known(trained, row, f"{where}: line {n}: known") for n, row in enumerate(rows, 1)]
    known = sparse_rows(told, int(trained.result.data["labels"]))
    if text:
        return TextDocuments(tuple(row["text"] for row in rows)), known
    columns = trained.preparation.num_inputs
    table = [_features(row["features"], columns, f"{where}: line {n}: features") for n, row in enumerate(rows, 1)]
    return sparse_rows(table, columns), known


def _known(trained: TrainedRun, row: dict[str, Any], where: str) -> dict[int, float]:
    found = row.get("known", {})
    if not isinstance(found, dict):
        raise DataError(f"{where}: expected an object of labels and true or false, got {_short(found)}")
    ids = {}
    for name, value in found.items():
        if not isinstance(value, bool):
            raise DataError(f"{where}: {name}: expected true or false, got {_short(value)}")
        ids[trained.label_id(name, where)] = 1.0 if value else -1.0
    return ids


def _features(found: dict[str, Any], columns: int, where: str) -> dict[int, float]:
    values = {}
    for name, value in found.items():
        if not (name.isascii() and name.isdigit() and int(name) < columns):
            raise DataError(f"{where}: expected columns from 0 to {columns - 1}, got {name!r}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise DataError(f"{where}: column {name}: expected a number, got {_short(value)}")
        values[int(name)] = float(value)
    return values


def sparse_rows(rows: Sequence[dict[int, float]], columns: int) -> csr_array:
    """(N, columns) of each row's column -> value."""
    import numpy as np

    from energynets.data.dataset import csr

    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    order = [sorted(row) for row in rows]
    where = np.array([column for row in order for column in row], np.int64)
    values = [row[column] for row, ordered in zip(rows, order, strict=True) for column in ordered]
    return csr(np.array(values, np.float32), where, offsets, (len(rows), columns))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
