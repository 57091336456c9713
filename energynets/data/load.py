"""A source of documents -> a data set with fixed, seeded, recorded splits."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from energynets.data.cache import read_cached
from energynets.data.dataset import Documents, MultiLabelDataset, csr
from energynets.data.missing import take_out
from energynets.data.readers import READERS, STORED, reuters
from energynets.data.readers.source import Progress
from energynets.data.readers.xmc_pair import label_file
from energynets.data.splits import Source, with_splits
from energynets.errors import ConfigError, DataError, nearest

# Formats without a header: what occurs in a file says how large D and L are at least.
_OPEN_ENDED = ("svmlight", "xmc_raw", "tsv")


def data_root(root: str | Path | None = None) -> Path:
    """The data folder: `root`, else $ENERGYNETS_DATA, else ~/.cache/energynets."""
    chosen = root or os.environ.get("ENERGYNETS_DATA") or "~/.cache/energynets"
    return Path(chosen).expanduser()


def find_file(path: str | Path, root: str | Path | None = None) -> Path:
    """An absolute path as it is; a relative one in the data folder, else in the current folder.

    Raises:
        DataError: it is in neither; says where was looked.
    """
    path = Path(path).expanduser()
    places = [path] if path.is_absolute() else [data_root(root) / path, Path.cwd() / path]
    for place in places:
        if place.exists():
            return place
    raise DataError(f"no file {str(path)!r}; looked for {' and '.join(map(str, dict.fromkeys(places)))}")


def load_dataset(
    name: str | None = None,
    *,
    format: str | None = None,
    train: str | Path | None = None,
    validation: str | Path | None = None,
    test: str | Path | None = None,
    labels: str | Path | None = None,
    columns: Sequence[str] | None = None,
    planted: Mapping[str, Any] | None = None,
    root: str | Path | None = None,
    validation_share: float = 0.1,
    test_share: float = 0.2,
    split_seed: int = 0,
    max_documents: int | None = None,
    missing: float = 0.0,
    missing_seed: int = 0,
    progress: Progress | None = None,
) -> MultiLabelDataset:
    """Documents as read, with their splits: a set of the catalogue, files of a known format, or planted data.

        load_dataset("bibtex")
        load_dataset(format="mulan_arff", train="bibtex-train.arff.gz", test="bibtex-test.arff.gz", labels="bibtex.xml")

    Splits that files give are kept. A missing test split is drawn from all documents, then a missing validation split
    from training, each a random share fixed by `split_seed` and the number of documents; rows keep their order.

    Args:
        name: catalogue name, or what to call the files given.
        format: a name of `energynets.data.readers.READERS`, with `train`.
        train: training file, or one file with everything.
        validation: validation file, in the format of `train`.
        test: test file, likewise. Reuters-21578 holds its test split in the same archive.
        labels: the label set, as the format wants it. Text without one has the labels that occur: those of training,
            then those of the other files.
        columns: what the columns of a TSV file hold, of `id`, `labels` and `text`; default: a header line or the
            cells tell.
        planted: arguments of `energynets.data.planted.generate`.
        root: the data folder; see `data_root`.
        validation_share: share of training documents, in [0, 1); 0 for no validation split.
        test_share: share of all documents, in [0, 1); 0 for no test split.
        split_seed: of the draws.
        max_documents: keep the first this many documents of each split.
        missing: chance that a label of a training document is taken out, in [0, 1).
        missing_seed: of that draw.
        progress: called with (bytes done, bytes in all), for one file after the other.

    Returns:
        A data set with splits train, and where there are any, validation and test.

    Raises:
        ConfigError: no single source, or an unknown name or format.
        DataError: files that are missing or not what their format says.

    Example:
        >>> from energynets import load_dataset
        >>> dataset = load_dataset(planted={"num_documents": 50, "num_test_documents": 10, "num_labels": 6})
        >>> dataset.split("train").labels.shape, dataset.split("validation").labels.shape
        ((45, 6), (5, 6))
    """
    if format is None and any(path is not None for path in (train, validation, test, labels)):
        raise ConfigError("data: files need `format`, one of " + ", ".join(READERS))
    if (format is not None) + (planted is not None) > 1 or (format, planted, name) == (None, None, None):
        raise ConfigError("data: give one source: a catalogue `name`, or `format` with `train`, or `planted`")
    for key, share in (("validation_share", validation_share), ("test_share", test_share)):
        if not 0 <= share < 1:
            raise ConfigError(f"data.{key}: expected a share in [0, 1), got {share}")
    if columns is not None and format != "tsv":
        raise ConfigError(f"data.columns: only format tsv has columns to name, not {format or name or 'planted data'}")
    if max_documents is not None and max_documents < 1:
        raise ConfigError(f"data.max_documents: expected 1 or more, got {max_documents}")

    source: Source
    if planted is not None:
        source = _of_dataset(_planted(planted), name)
    elif format is not None:
        files = {"train": train, "validation": validation, "test": test}
        given = {split: path for split, path in files.items() if path is not None}
        source = _of_files(name, format, given, labels, columns, root, progress)
    else:
        assert name is not None, "checked above"
        source = _of_dataset(_catalogue_entry(name).load(data_root(root), progress=progress), None)
    dataset = with_splits(source, validation_share, test_share, split_seed, max_documents)
    return take_out(dataset, missing, missing_seed) if missing else dataset


def _catalogue_entry(name: str) -> Any:
    from energynets.data.catalogue import CATALOGUE  # which knows readers, so it is not for the top of this module

    if name not in CATALOGUE:
        raise ConfigError(f"data.name: no data set {name!r} in the catalogue{nearest(name, CATALOGUE)}")
    return CATALOGUE[name]


def _planted(fields: Mapping[str, Any]) -> MultiLabelDataset:
    from energynets.data.planted import generate

    return generate(**fields)


def _of_dataset(dataset: MultiLabelDataset, name: str | None) -> Source:
    return Source(name or dataset.name, dataset.documents, dict(dataset.splits), dataset.split_rule)


def _of_files(
    name: str | None,
    format: str,
    files: Mapping[str, str | Path],
    labels: str | Path | None,
    columns: Sequence[str] | None,
    root: str | Path | None,
    progress: Progress | None,
) -> Source:
    if format not in READERS:
        raise ConfigError(f"data.format: unknown format {format!r}{nearest(format, READERS)}")
    if "train" not in files:
        raise ConfigError("data.train: missing; `format` needs the path of the training file")
    paths = {split: find_file(path, root) for split, path in files.items()}
    options: dict[str, Any] = {} if labels is None else {"labels": find_file(labels, root)}
    if columns is not None:
        options["columns"] = columns
    parts: dict[str, Documents] = {}
    if format == "reuters":
        if len(set(paths.values())) > 1:
            raise ConfigError("data: format reuters takes one archive as `train`; its test split is in there")
        parts = reuters.read_splits(paths["train"], **options, progress=progress)
        rule = "ModApte split of the archive"
    else:
        for split, path in paths.items():
            if format == "tsv" and labels is None and parts:
                options |= {"label_names": list(parts.values())[-1].label_names, "extend": True}
            parts[split] = read_file(format, path, **options, progress=progress)
        if format in _OPEN_ENDED:
            parts = _widened(parts)
        rule = "; ".join(f"{split} from {path.name}" for split, path in paths.items())
    try:
        documents = Documents.concatenate(list(parts.values()))
    except DataError as error:
        raise DataError(f"{', '.join(str(path) for path in paths.values())}: {error}") from None
    begins = np.cumsum([0, *(len(part) for part in parts.values())])
    splits = {split: np.arange(begins[i], begins[i + 1]) for i, split in enumerate(parts)}
    return Source(name or _stem(paths["train"]), documents, splits, rule)


def read_file(format: str, path: Path, **options: Any) -> Documents:
    """A file by the reader of its format; a large one from what was kept of it before, where the format allows."""
    if format not in STORED:
        return READERS[format](path, **options)
    others = [Path(options[key]) for key in ("labels", "label_matrix") if options.get(key) is not None]
    if format == "xmc_pair" and "label_matrix" not in options:
        others.append(label_file(path))
    return read_cached(READERS[format], [path, *others], name=format, **options)


def _widened(parts: Mapping[str, Documents]) -> dict[str, Documents]:
    """Tables and labels of all splits with as many columns as the widest has."""

    def wide(matrix: csr_array, columns: int) -> csr_array:
        return csr(matrix.data, matrix.indices, matrix.indptr, (matrix.shape[0], columns))

    widest = max(parts.values(), key=lambda part: part.num_labels)
    tables = [part.inputs.shape[1] for part in parts.values() if isinstance(part.inputs, csr_array)]
    return {
        split: replace(
            part,
            inputs=wide(part.inputs, max(tables)) if isinstance(part.inputs, csr_array) else part.inputs,
            labels=wide(part.labels, widest.num_labels),
            label_names=widest.label_names,
        )
        for split, part in parts.items()
    }


def _stem(path: Path) -> str:
    return path.name.partition(".")[0]
