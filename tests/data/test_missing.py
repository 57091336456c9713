"""Labels that are missing in training: taken out, or unknown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from energynets.data import load_dataset
from energynets.data.dataset import Documents, MultiLabelDataset
from energynets.data.missing import take_out
from energynets.data.readers import npz
from energynets.errors import ConfigError, DataError

RNG = np.random.default_rng(0)
LABELS = csr_array((RNG.random((3000, 8)) < 0.3).astype(np.float32))
DATASET = MultiLabelDataset(
    "toy",
    Documents(csr_array((3000, 2), dtype=np.float32), LABELS),
    {"train": np.arange(0, 2000), "validation": np.arange(2000, 2400), "test": np.arange(2400, 3000)},
    "by position",
)


def test_training_loses_a_share_of_its_labels_and_nothing_else_does() -> None:
    found = take_out(DATASET, 0.4, seed=1)
    left, labels = found.documents.labels.toarray(), LABELS.toarray()
    assert (left <= labels).all()
    np.testing.assert_array_equal(left[2000:], labels[2000:])
    kept = left[:2000].sum() / labels[:2000].sum()
    assert kept == pytest.approx(0.6, abs=float(4 * np.sqrt(0.24 / labels[:2000].sum())))
    assert found.fingerprint.sha256 != DATASET.fingerprint.sha256
    assert "training labels taken out, 0.4 of them with seed 1" in found.split_rule
    assert take_out(DATASET, 0.4, seed=1).fingerprint == found.fingerprint
    assert take_out(DATASET, 0.4, seed=2).fingerprint != found.fingerprint


def test_load_dataset_takes_labels_out() -> None:
    planted = {"num_labels": 6, "num_documents": 80, "num_test_documents": 20, "vocabulary_size": 60}
    whole, some = load_dataset(planted=planted), load_dataset(planted=planted, missing=0.5)
    assert some.documents.labels.nnz < whole.documents.labels.nnz
    np.testing.assert_array_equal(some.split("test").labels.toarray(), whole.split("test").labels.toarray())
    with pytest.raises(ConfigError, match=r"data.missing.fraction: expected a share in \[0, 1\), got 1.5"):
        load_dataset(planted=planted, missing=1.5)


# ----------------------------------------------------------------------------------------------------- unknown labels


def partly_known(rows: int = 12) -> Documents:
    rng = np.random.default_rng(1)
    true, unknown = rng.random((rows, 5)) < 0.3, rng.random((rows, 5)) < 0.3
    labels = csr_array((true & ~unknown).astype(np.float32))
    inputs = csr_array((rng.random((rows, 4)) < 0.5).astype(np.float32))
    return Documents(inputs, labels, unknown=csr_array(unknown.astype(np.float32)))


def test_unknown_labels_go_with_their_documents() -> None:
    documents = partly_known()
    assert documents.unknown is not None
    rows = np.array([5, 0, 7])
    part, whole = documents[rows], Documents(documents.inputs, documents.labels)
    assert part.unknown is not None
    np.testing.assert_array_equal(part.unknown.toarray(), documents.unknown.toarray()[rows])
    both = Documents.concatenate([whole, documents])
    assert both.unknown is not None
    np.testing.assert_array_equal(
        both.unknown.toarray(), np.vstack([np.zeros(whole.labels.shape), documents.unknown.toarray()])
    )
    splits = {"train": np.arange(12)}
    hashes = {MultiLabelDataset("a", d, splits, "all").fingerprint.sha256 for d in (documents, whole)}
    assert len(hashes) == 2


def test_a_label_is_not_true_and_unknown_at_once() -> None:
    documents = partly_known()
    with pytest.raises(DataError, match=r"unknown: \d+ pairs of a document and a label are true and unknown at once"):
        Documents(documents.inputs, documents.labels, unknown=documents.labels)
    with pytest.raises(DataError, match=r"unknown: expected the shape of labels, \(12, 5\), got \(12, 4\)"):
        Documents(documents.inputs, documents.labels, unknown=documents.inputs)


def test_npz_keeps_unknown_labels(tmp_path: Path) -> None:
    documents = partly_known()
    assert documents.unknown is not None
    npz.write(tmp_path / "a.npz", documents)
    found = npz.read(tmp_path / "a.npz")
    assert found.unknown is not None
    np.testing.assert_array_equal(found.unknown.toarray(), documents.unknown.toarray())
    arrays = dict(np.load(tmp_path / "a.npz"))
    for change, message in (
        ({"U_indices": arrays["U_indices"] + 9}, "a.npz: U_indices: row 0: index"),
        ({"U_indices": arrays["Y_indices"], "U_indptr": arrays["Y_indptr"]}, "a.npz: unknown: .* at once"),
        ({"U_indptr": None}, "a.npz: expected U_indices and U_indptr together; got no U_indptr"),
    ):
        changed = {key: value for key, value in (arrays | change).items() if value is not None}
        np.savez(tmp_path / "a.npz", **changed)
        with pytest.raises(DataError, match=message):
            npz.read(tmp_path / "a.npz")
