"""Probabilistic label trees, fitted by napkinXC."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from scipy.sparse import csr_array, csr_matrix

from energynets.baselines.base import Baseline, Progress, State, require_known
from energynets.baselines.rows import UnitRows
from energynets.data.dataset import Documents
from energynets.errors import ConfigError, DataError, MissingExtraError, nearest
from energynets.metrics.scores import TopScores, canonical_labels

# napkinXC's names. The primal solvers: the dual ones draw from a stream that no seed fixes.
LOSSES = {"logistic": ("log", "L2R_LR"), "hinge": ("l2", "L2R_L2LOSS_SVC")}
_WEIGHT = 8  # bytes of a stored weight with its index


class LabelTree(Baseline):
    """A linear classifier at each node of a tree whose leaves are the labels.

        P(y_l = 1 | x) = prod over nodes v from the root to l of  P(a label below v | x, a label below v's parent)

    The tree is grown by balanced 2-means of the labels' mean documents, down to `max_leaves` labels; probabilities of
    several trees are averaged, one that a tree has not among its k best as 0. Token sequences and tables of counts
    become tf-idf rows, other tables are scaled to unit length; weights below 0.1 are dropped. Deterministic, whatever
    the number of threads.

    Args:
        loss: "logistic", or "hinge" (squared), whose margins are made probabilities by a sigmoid.
        C: inverse of the L2 penalty of a node's classifier, > 0.
        num_trees: >= 1.
        max_leaves: labels right below the lowest inner nodes, >= 2.
        threads: nodes fitted at a time; all cores where None.

    Raises:
        ConfigError: an unknown loss, or a setting out of its range.

    Source: Jasinska et al., Extreme F-measure maximization using sparse probability estimates, ICML 2016 (PLT); the
        tree is that of Parabel (Prabhu et al., WWW 2018); napkinXC: Jasinska-Kobus et al., arXiv:2009.11218.
    """

    kind: ClassVar[str] = "label_tree"

    def __init__(
        self,
        loss: Literal["logistic", "hinge"] = "logistic",
        C: float = 10.0,
        num_trees: int = 1,
        max_leaves: int = 100,
        *,
        threads: int | None = None,
    ) -> None:
        if loss not in LOSSES:
            raise ConfigError(f"unknown loss {loss!r} of a label tree{nearest(loss, LOSSES)}")
        if not C > 0:
            raise ConfigError(f"C must be > 0, got {C}")
        for name, value, least in (("num_trees", num_trees, 1), ("max_leaves", max_leaves, 2)):
            if value < least:
                raise ConfigError(f"{name} must be >= {least}, got {value}")
        self.loss = loss
        self.C = C
        self.num_trees = num_trees
        self.max_leaves = max_leaves
        self.threads = threads
        self.reader: UnitRows | None = None
        self.num_labels = 0
        self.files: State = {}  # what napkinXC wrote, by tree/name: bytes
        self._trees: list[Any] = []

    def fit(self, documents: Documents, *, progress: Progress | None = None) -> Self:
        """Grow the trees and fit their nodes; `progress(trees done, num_trees)`.

        Raises:
            ConfigError: some labels are unknown.
            DataError: no documents, or raw text.
            MissingExtraError: napkinxc is not installed.
        """
        require_known(documents, self.kind)
        plt = _plt()
        self.reader = UnitRows.fit(documents)
        rows, labels = self.reader.apply(documents.inputs), canonical_labels(documents.labels)
        self.num_labels, self.files, self._trees = documents.num_labels, {}, []
        for number in range(self.num_trees if labels.nnz else 0):  # without labels no tree: every label scores 0
            with tempfile.TemporaryDirectory() as folder:
                self._tree(plt, folder, number).fit(_matrix(rows), _matrix(labels))
                for path in sorted(Path(folder).iterdir()):
                    self.files[f"{number}/{path.name}"] = np.fromfile(path, dtype=np.uint8)
            if progress is not None:
                progress(number + 1, self.num_trees)
        if not labels.nnz and progress is not None:
            progress(1, 1)
        return self

    def scores(self, documents: Documents, k: int, *, batch_size: int = 256) -> TopScores:
        """The k most probable labels of each document, by exact search of the trees."""
        if self.reader is None:
            raise DataError("LabelTree is not fitted: call fit(train) first")
        rows, kept = self.reader.apply(documents.inputs), min(k, self.num_labels)
        return TopScores.concatenate(
            [
                TopScores.from_sparse(self._probabilities(rows[begin : begin + batch_size], kept), kept)
                for begin in range(0, max(rows.shape[0], 1), batch_size)
            ]
        )

    def _probabilities(self, rows: csr_array, k: int) -> csr_array:
        total = csr_array((rows.shape[0], self.num_labels), dtype=np.float64)
        for tree in self._loaded() if rows.shape[0] else ():
            found = tree.predict_proba(_matrix(rows), top_k=k)
            offsets = np.concatenate([[0], np.cumsum([len(row) for row in found])]).astype(np.int64)
            pairs = np.array([pair for row in found for pair in row], dtype=np.float64).reshape(-1, 2)
            parts = (pairs[:, 1].clip(0, 1) / self.num_trees, pairs[:, 0].astype(np.int64), offsets)
            total = total + csr_array(parts, shape=total.shape)
        return csr_array(total)

    def _loaded(self) -> list[Any]:
        """napkinXC's models in memory: it reads files alone."""
        if self.files and not self._trees:
            for number in range(self.num_trees):
                with tempfile.TemporaryDirectory() as folder:
                    for name, content in self.files.items():
                        if name.startswith(f"{number}/"):
                            content.tofile(Path(folder) / Path(name).name)
                    tree = self._tree(_plt(), folder, number)
                    tree.load()
                self._trees.append(tree)
        return self._trees

    def _tree(self, plt: Any, folder: str, number: int) -> Any:
        loss, solver = LOSSES[self.loss]
        return plt(
            folder,
            loss=loss,
            liblinear_solver=solver,
            liblinear_c=self.C,
            liblinear_eps=0.01,  # liblinear's own for these solvers
            max_leaves=self.max_leaves,
            seed=number,
            threads=self.threads or os.cpu_count() or 1,
        )

    @property
    def num_parameters(self) -> int:
        """Weights kept, as the size of their files tells."""
        return sum(len(content) for name, content in self.files.items() if Path(name).name == "weights.bin") // _WEIGHT

    def _settings(self) -> dict[str, Any]:
        names = ("loss", "C", "num_trees", "max_leaves")
        return {name: getattr(self, name) for name in names} | {"num_labels": self.num_labels}

    def _arrays(self) -> State:
        if self.reader is None:
            return {}
        return {f"file/{name}": content for name, content in self.files.items()} | self.reader.arrays()

    @classmethod
    def _restore(cls, settings: dict[str, Any], arrays: State) -> Self:
        num_labels = settings.pop("num_labels")
        baseline = cls(**settings)
        if "width" in arrays:
            baseline.reader, baseline.num_labels = UnitRows.restore(arrays), num_labels
            baseline.files = {name[5:]: array for name, array in arrays.items() if name.startswith("file/")}
        return baseline


def _plt() -> Any:
    try:
        from napkinxc.models import PLT
    except ImportError as error:
        raise MissingExtraError("napkinxc", "trees", "a label tree") from error
    return PLT


def _matrix(rows: csr_array) -> csr_matrix:
    """What napkinXC reads."""
    parts = (rows.data.astype(np.float32), rows.indices.astype(np.int32), rows.indptr.astype(np.int32))
    return csr_matrix(parts, shape=rows.shape)
