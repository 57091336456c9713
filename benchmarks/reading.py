"""Reading large XMC files: `python -m benchmarks.reading [--quick] [--save FILE]`.

Generated files of Amazon-670K's shape (135,909 features, about 75 of them and 5.5 labels a document, values of six
digits) are read by scikit-learn's `load_svmlight_file(multilabel=True)`, which the header is taken off for, and by
`energynets`: into memory, for the first time into what is kept, and from what is kept. Every number is from a fresh
process with the file in the system's cache; processes take turns. Before clocks, contents: whose documents differ
from scikit-learn's is not timed.

Peak memory is the process's largest over what it held before; beside it stands the part that is not the result's own
arrays, which should not grow with the file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from benchmarks.harness import describe_machine
from benchmarks.memory import _RESET, _resident
from energynets.data.load import read_file
from energynets.data.readers import xmc

DOCUMENTS = (250_000, 500_000)
QUICK = (10_000, 20_000)
FEATURES, LABELS = 135_909, 670_091
MEAN_FEATURES, MEAN_LABELS = 75, 5.5

Contents = tuple[csr_array, csr_array]


def _scikit_learn(path: Path) -> Contents:
    from sklearn.datasets import load_svmlight_file

    with open(path, "rb") as file:
        _, features, labels = map(int, file.readline().split())
        table, rows = load_svmlight_file(file, n_features=features, dtype=np.float32, multilabel=True, zero_based=True)
    counts = np.fromiter(map(len, rows), np.int64, len(rows))
    columns = np.fromiter((label for row in rows for label in row), np.int32, counts.sum())
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    marks = csr_array((np.ones(len(columns), np.float32), columns, offsets), shape=(len(rows), labels))
    return csr_array(table), marks


def _in_memory(path: Path) -> Contents:
    documents = xmc.read(path)
    return documents.inputs, documents.labels


def _kept(path: Path) -> Contents:
    documents = read_file("xmc", path)
    return documents.inputs, documents.labels


CONTESTANTS: dict[str, Callable[[Path], Contents]] = {
    "scikit-learn": _scikit_learn,
    "energynets, into memory": _in_memory,
    "energynets, first time": _kept,
    "energynets, kept": _kept,
}


def generate(path: Path, documents: int) -> None:
    """The same file for equal numbers of documents."""
    random = np.random.default_rng(0)
    with open(path, "w", encoding="ascii") as file:
        file.write(f"{documents} {FEATURES} {LABELS}\n")
        for _ in range(documents):
            columns = np.unique((FEATURES * random.random(1 + random.poisson(MEAN_FEATURES)) ** 3).astype(int))
            labels = np.unique((LABELS * random.random(1 + random.poisson(MEAN_LABELS - 1)) ** 3).astype(int))
            values = random.random(len(columns)) + 1e-6
            pairs = [f"{c}:{v:.6f}" for c, v in zip(columns.tolist(), values.tolist(), strict=True)]
            file.write(f"{','.join(map(str, labels.tolist()))} {' '.join(pairs)}\n")


def measure_one(name: str, path: Path) -> dict[str, Any]:
    """In this process: seconds, peak in bytes, bytes of the result, and a hash of it."""
    read = CONTESTANTS[name]
    with tempfile.TemporaryDirectory() as folder:  # what libraries allocate once is not the reader's
        small = Path(folder, "small.txt")
        generate(small, 10)
        read(small)
    if _RESET.exists():
        _RESET.write_text("5")
    before = _resident("VmRSS")
    began = time.perf_counter()
    contents = read(path)
    seconds = time.perf_counter() - began
    peak = _resident("VmHWM") - before
    digest, size = hashlib.sha256(), 0
    for matrix in contents:
        for array, kind in ((matrix.data, "<f4"), (matrix.indices, "<i8"), (matrix.indptr, "<i8")):
            digest.update(np.ascontiguousarray(array, kind).data)
        for array in (matrix.data, matrix.indices, matrix.indptr):
            size += 0 if _mapped(array) else array.nbytes
    return {"seconds": seconds, "peak_bytes": peak, "result_bytes": size, "sha256": digest.hexdigest()}


def _mapped(array: Any) -> bool:
    while array is not None and not isinstance(array, np.memmap):
        array = getattr(array, "base", None)
    return array is not None


def in_fresh_process(name: str, path: Path, cache: Path) -> dict[str, Any]:
    """`measure_one` in a process of its own, with its own place for what is kept."""
    command = [sys.executable, "-m", "benchmarks.reading", "--one", name, "--file", str(path)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "ENERGYNETS_CACHE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(path: Path, rounds: int) -> list[dict[str, Any]]:
    """A row for each contestant, the first the one whose contents count."""
    rows: dict[str, dict[str, Any]] = {name: {"contestant": name, "seconds": [], "peaks": []} for name in CONTESTANTS}
    expected = None
    for number in range(rounds):
        with tempfile.TemporaryDirectory(dir=path.parent) as cache:
            for name, row in rows.items():
                print(f"  {path.name}: round {number + 1} of {rounds}: {name}", file=sys.stderr)
                found = in_fresh_process(name, path, Path(cache))
                expected = expected or found["sha256"]
                if found["sha256"] != expected:
                    row["reason"] = "disagrees"
                    continue
                row["seconds"].append(found["seconds"])
                row["peaks"].append(found["peak_bytes"])
                row["result_bytes"] = found["result_bytes"]
    for row in rows.values():
        if not row.get("reason"):
            row["median_seconds"] = statistics.median(row["seconds"])
            row["peak_bytes"] = max(row.pop("peaks"))
            row["beyond_result_bytes"] = row["peak_bytes"] - row["result_bytes"]
    return list(rows.values())


def report(documents: int, size: int, rows: list[dict[str, Any]]) -> str:
    """A table; the ratio is scikit-learn's time over the row's."""
    lines = [
        f"{documents:,} documents, {size / 1e6:,.0f} MB",
        f"{'':>26s}{'s':>8s}{'MB/s':>7s}{'ratio':>7s}{'peak MB':>9s}{'beyond result':>15s}",
    ]
    first = rows[0]["median_seconds"]
    for row in rows:
        if row.get("reason"):
            lines.append(f"{row['contestant']:>26s}  {row['reason']}")
            continue
        seconds = row["median_seconds"]
        lines.append(
            f"{row['contestant']:>26s}{seconds:8.2f}{size / seconds / 1e6:7.0f}{first / seconds:7.1f}"
            f"{row['peak_bytes'] / 1e6:9.0f}{row['beyond_result_bytes'] / 1e6:15.0f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} documents, one round")
    parser.add_argument("--documents", type=int, nargs="+", help="other numbers of documents")
    parser.add_argument("--rounds", type=int, help="processes of each contestant; default 3, quick 1")
    parser.add_argument("--folder", type=Path, help="where files are generated; default a temporary one")
    parser.add_argument("--save", type=Path, help="a JSON file")
    parser.add_argument("--one", choices=list(CONTESTANTS), help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure_one(options.one, options.file)))
        return
    rounds = options.rounds or (1 if options.quick else 3)
    found: dict[str, Any] = {"environment": describe_machine("cpu"), "cases": []}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for documents in options.documents or (QUICK if options.quick else DOCUMENTS):
            path = Path(folder, f"{documents}.txt")
            generate(path, documents)
            rows = measure(path, rounds)
            size = path.stat().st_size
            path.unlink()
            found["cases"].append({"documents": documents, "bytes": size, "rows": rows})
            print(report(documents, size, rows))
            if options.save:
                options.save.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
