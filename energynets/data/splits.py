"""Splits that a seed fixes and words record: what a source did not bring is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from energynets.data.dataset import SPLITS, Documents, MultiLabelDataset
from energynets.errors import DataError


@dataclass(frozen=True)
class Source:
    """Documents, the splits that came with them (train at least), and how those came about, in words."""

    name: str
    documents: Documents
    splits: Mapping[str, np.ndarray]
    rule: str


def with_splits(
    source: Source, validation_share: float, test_share: float, split_seed: int, max_documents: int | None
) -> MultiLabelDataset:
    """The data set of a source, with the splits it lacks drawn: test from all documents, then validation from training.

    Args:
        source: documents and the splits that came with them.
        validation_share: share of training documents, in [0, 1); 0 draws none.
        test_share: share of all documents, likewise.
        split_seed: with the number of documents, fixes the draws.
        max_documents: keep the first this many documents of each split; None keeps all.

    Raises:
        DataError: too few documents to draw from.
    """
    splits, rules = dict(source.splits), [source.rule]
    if "test" not in splits and test_share > 0:
        whole = splits["train"]
        splits["train"], splits["test"] = _draw(whole, test_share, [split_seed, SPLITS.index("test")])
        rules.append(f"test {test_share:g} of {len(whole)} documents drawn with seed {split_seed}")
    if "validation" not in splits and validation_share > 0:
        whole = splits["train"]
        splits["train"], splits["validation"] = _draw(whole, validation_share, [split_seed, SPLITS.index("validation")])
        rules.append(f"validation {validation_share:g} of {len(whole)} training documents drawn with seed {split_seed}")
    documents = source.documents
    if max_documents is not None:
        splits = {split: rows[:max_documents] for split, rows in splits.items()}
        kept = np.unique(np.concatenate([*splits.values()]))
        notes = {what: count for what, count in documents.notes.items() if len(kept) == len(documents)}
        documents = replace(documents[kept], notes=notes)
        splits = {split: np.searchsorted(kept, rows) for split, rows in splits.items()}
        rules.append(f"the first {max_documents} of each")
    ordered = {split: splits[split] for split in SPLITS if split in splits}
    return MultiLabelDataset(source.name, documents, ordered, "; ".join(rules))


def _draw(rows: np.ndarray, share: float, seed: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """(what stays, what is drawn), both sorted; at least one row each.

    Raises:
        DataError: fewer than two rows.
    """
    if len(rows) < 2:
        raise DataError(f"{len(rows)} training documents cannot be split: give files for every split, or shares of 0")
    drawn = min(len(rows) - 1, max(1, round(share * len(rows))))
    order = np.random.default_rng(seed).permutation(len(rows))
    return np.sort(rows[order[drawn:]]), np.sort(rows[order[:drawn]])
