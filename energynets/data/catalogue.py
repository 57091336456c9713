"""Data sets by name: their files, where to get them, and what must be in them once read.

    CATALOGUE["bibtex"].load(root) -> MultiLabelDataset

Files lie under the data folder as `<set>/<file>`, plain or with `.gz` added. What was read must have the published
number of documents, features and labels, or it is refused. Nothing here is shipped: every set has terms of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from energynets.data.catalogue_entries import ENTRIES, DataFile, Facts
from energynets.data.dataset import Documents, MultiLabelDataset
from energynets.data.fetch import RemoteFile, fetch
from energynets.data.load import read_file
from energynets.data.readers import reuters
from energynets.errors import DataError, nearest

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Entry:
    """A named data set.

    Args:
        facts: what is known of it.
    """

    facts: Facts

    @property
    def name(self) -> str:
        return self.facts.name

    @property
    def fetchable(self) -> bool:
        """Every file has an address."""
        return all(file.urls for file in self.facts.files)

    def present(self, root: str | Path) -> bool:
        """Every file is under the data folder."""
        return all(file.find(Path(root)) is not None for file in self.facts.files)

    def locate(self, file: DataFile, root: Path) -> Path:
        """Where a file lies under the data folder.

        Raises:
            DataError: it does not; says how to get it and where to put it.
        """
        path = file.find(root)
        if path is None:
            raise DataError(f"{self.name}: no file {root / file.path} (or {Path(file.path).name}.gz): {self.how(root)}")
        return path

    def how(self, root: str | Path) -> str:
        """What to do to have it under the data folder, in words."""
        if self.fetchable:
            return f"`energynets data fetch {self.name}` downloads it"
        places = ", ".join(str(Path(root) / file.path) for file in self.facts.files)
        return f"{self.facts.get} (source: {self.facts.source}); put the files at {places}"

    def fetch(self, root: str | Path, *, progress: Progress | None = None) -> list[Path]:
        """Download the files that are not there yet, and check the sums of those that are.

        Raises:
            DataError: there is no plain address to download it from, with what to do instead; or as `fetch.fetch`.
        """
        root = Path(root)
        if not self.fetchable and not self.present(root):
            raise DataError(f"{self.name} cannot be fetched: {self.how(root)}")
        # Under another name or packed, a file need not have the bytes that its checksum is of.
        plain = [file for file in self.facts.files if file.find(root) in (None, root / file.path)]
        fetch([RemoteFile(file.path, file.urls, file.sha256) for file in plain], root, progress=progress)
        return [self.locate(file, root) for file in self.facts.files]

    def load(self, root: str | Path, *, progress: Progress | None = None) -> MultiLabelDataset:
        """Read it, with its published splits.

        Args:
            root: the data folder.
            progress: called with (bytes done, bytes in all), for one file after the other.

        Raises:
            DataError: files that are missing, not what their format says, or not of the published size.
        """
        facts, root = self.facts, Path(root)
        paths = {split: self.locate(file, root) for split, file in facts.splits.items()}
        options: dict[str, Any] = dict(facts.options)
        if facts.labels is not None:
            options["labels"] = self.locate(facts.labels, root)
        if facts.format == "reuters":
            parts = reuters.read_splits(paths["train"], progress=progress, **options)
        else:
            parts = {
                split: read_file(facts.format, path, progress=progress, **options) for split, path in paths.items()
            }
        for split, part in parts.items():
            self._check(split, part, paths.get(split, paths["train"]))
        begins = np.cumsum([0, *(len(part) for part in parts.values())])
        splits = {split: np.arange(begins[i], begins[i + 1]) for i, split in enumerate(parts)}
        documents = Documents.concatenate(list(parts.values()))
        return MultiLabelDataset(facts.name, documents, splits, f"published splits of {facts.name}")

    def _check(self, split: str, part: Documents, path: Path) -> None:
        expected = (self.facts.documents[split], self.facts.features, self.facts.num_labels)
        came = (len(part), part.input_size, part.num_labels)
        for what, wanted, found in zip(("documents", "features", "labels"), expected, came, strict=True):
            if wanted != found:
                raise DataError(f"{path}: expected {wanted:,} {what} as published for {self.name}, got {found:,}")

    def info(self, root: str | Path | None = None) -> dict[str, Any]:
        """Everything known, as plain values; with `root`, which files are there and what to do for the others."""
        facts = self.facts
        out: dict[str, Any] = {
            "name": facts.name,
            "task": facts.task,
            "format": facts.format,
            "documents": dict(facts.documents),
            "features": facts.features,
            "labels": facts.num_labels,
            "source": facts.source,
            "citation": facts.citation,
            "terms": facts.terms,
            "fetchable": self.fetchable,
            "files": [
                {"path": file.path, "urls": list(file.urls), "sha256": list(file.sha256)} for file in facts.files
            ],
        }
        if root is not None:
            for file, row in zip(facts.files, out["files"], strict=True):
                found = file.find(Path(root))
                row["found"] = None if found is None else str(found)
            out["present"] = self.present(root)
            out["how"] = self.how(root)
        return out


class Catalogue(Mapping[str, Entry]):
    """Entries by name, whatever its case."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self._entries = dict(entries)
        self._folded = {name.casefold(): name for name in self._entries}

    def __getitem__(self, name: str) -> Entry:
        return self._entries[self._folded[name.casefold()]]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.casefold() in self._folded

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


CATALOGUE = Catalogue({facts.name: Entry(facts) for facts in ENTRIES})


def find(name: str) -> Entry:
    """The entry of this name, whatever its case.

    Raises:
        DataError: there is none, with the nearest name.
    """
    if name not in CATALOGUE:
        raise DataError(f"no data set {name!r} in the catalogue{nearest(name, CATALOGUE)}")
    return CATALOGUE[name]


def info(name: str, root: str | Path | None = None) -> dict[str, Any]:
    """What is known of a set, as plain values; see `Entry.info`.

    Raises:
        DataError: no such set.
    """
    return find(name).info(root)


def available(root: str | Path) -> list[str]:
    """Names of the sets whose files are all under the data folder."""
    return [name for name, entry in CATALOGUE.items() if entry.present(root)]
