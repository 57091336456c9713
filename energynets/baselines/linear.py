"""One linear classifier a label, fitted by scikit-learn's liblinear: the line every table carries."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Literal, Self

import numpy as np
from scipy.sparse import csc_array, csr_array, csr_matrix

from energynets.baselines.base import (
    Baseline,
    Progress,
    State,
    pack_csr,
    require_training,
    require_width,
    sparse_rows,
    unpack_csr,
)
from energynets.data.dataset import Documents, Inputs, TokenSequences
from energynets.data.tfidf import TfIdf
from energynets.errors import ConfigError, DataError, MissingExtraError, nearest
from energynets.metrics.scores import TopScores, canonical_labels

LOSSES = ("logistic", "hinge")
DENSE_WEIGHTS = 2**26  # more than this many weights (256 MiB) are kept sparse
PRUNED = 0.01  # where weights are kept sparse, those this close to 0 are dropped (Babbar & Schoelkopf, WSDM 2017)


class LinearOneVsRest(Baseline):
    """L independent linear classifiers with L2 penalty.

        min over w_l, b_l of  |w_l|^2 / 2 + b_l^2 / 2 + C sum_n loss(s_nl (w_l . x_n + b_l)),   s = +1 or -1
        logistic: log(1 + exp(-m));  hinge: max(0, 1 - m)^2, the smooth (squared) hinge

    Scores are sigmoid(w_l . x + b_l): for `logistic` the fitted probability, for `hinge` a monotone map of the margin
    into (0, 1) and no probability. Token sequences become tf-idf rows, with statistics of the training documents;
    tables are taken as they are. A label that no training document has, or that all have, scores its smoothed rate
    (n_l + 1/2) / (N + 1) everywhere. Where it is unknown whether a document has a label, the label's classifier is
    fitted on the other documents, which are then its N. Both solvers are deterministic, whatever the number of threads.

    Args:
        loss: "logistic" or "hinge".
        C: inverse of the L2 penalty, > 0.
        threads: labels fitted at a time; all cores where None.

    Raises:
        ConfigError: unknown loss, or C <= 0.

    Source: Fan et al., LIBLINEAR, JMLR 2008, equations 1 and 2 (solvers 0 and 2).
    """

    kind: ClassVar[str] = "linear"

    def __init__(
        self, loss: Literal["logistic", "hinge"] = "logistic", C: float = 1.0, *, threads: int | None = None
    ) -> None:
        if loss not in LOSSES:
            raise ConfigError(f"unknown loss {loss!r} of a linear baseline{nearest(loss, LOSSES)}")
        if not C > 0:
            raise ConfigError(f"C must be > 0, got {C}")
        self.loss = loss
        self.C = C
        self.threads = threads
        self.weights: np.ndarray | csr_array | None = None  # (D, L)
        self.bias: np.ndarray | None = None  # (L,)
        self.tfidf: TfIdf | None = None
        self.unconverged = 0  # labels whose solver stopped at its step limit

    def fit(self, documents: Documents, *, progress: Progress | None = None) -> Self:
        """Fit every label; `progress(labels done, L)`.

        Raises:
            DataError: no documents, or raw text.
            MissingExtraError: scikit-learn is not installed.
        """
        counts = sparse_rows(require_training(documents).inputs)
        self.tfidf = TfIdf.fit(counts) if isinstance(documents.inputs, TokenSequences) else None
        rows = counts if self.tfidf is None else self.tfidf.apply(counts)
        labels = csc_array(canonical_labels(documents.labels))
        unknown = None if documents.unknown is None else csc_array(canonical_labels(documents.unknown))
        solve = _solver(self.loss, self.C, rows)
        columns = _Columns(rows.shape[1], documents.num_labels)
        self.unconverged = 0
        for label, (weights, bias, converged) in enumerate(_each_label(solve, labels, unknown, self.threads)):
            columns.append(weights, bias)
            self.unconverged += not converged
            if progress is not None:
                progress(label + 1, documents.num_labels)
        self.weights, self.bias = columns.finish()
        return self

    def scores(self, documents: Documents, k: int, *, batch_size: int = 256) -> TopScores:
        """Sigmoids of the k largest decision values of each document."""
        rows = self._rows(documents.inputs)
        parts = [
            TopScores.from_dense(self._decisions(rows[begin : begin + batch_size]), k)
            for begin in range(0, max(rows.shape[0], 1), batch_size)
        ]
        return TopScores.concatenate(parts).sigmoid()

    def decisions(self, inputs: Inputs) -> np.ndarray:
        """(N, L) float32 values w_l . x + b_l of a batch."""
        return self._decisions(self._rows(inputs))

    def _rows(self, inputs: Inputs) -> csr_array:
        if self.weights is None:
            raise DataError("LinearOneVsRest is not fitted: call fit(train) first")
        rows = require_width(sparse_rows(inputs), self.weights.shape[0])
        return rows if self.tfidf is None else self.tfidf.apply(rows)

    def _decisions(self, rows: csr_array) -> np.ndarray:
        products = rows.astype(np.float32) @ self.weights
        dense = products.toarray() if isinstance(products, csr_array) else products
        return np.asarray(dense + self.bias, dtype=np.float32)

    @property
    def num_parameters(self) -> int:
        """Weights kept, and biases."""
        if self.weights is None or self.bias is None:
            return 0
        kept = self.weights.nnz if isinstance(self.weights, csr_array) else self.weights.size
        return int(kept + self.bias.size)

    def _settings(self) -> dict[str, Any]:
        return {"loss": self.loss, "C": self.C, "unconverged": self.unconverged}

    def _arrays(self) -> State:
        if self.weights is None or self.bias is None:
            return {}
        packed = pack_csr("weights", self.weights) if isinstance(self.weights, csr_array) else {"weights": self.weights}
        return packed | {"bias": self.bias} | ({} if self.tfidf is None else {"idf": self.tfidf.idf})

    @classmethod
    def _restore(cls, settings: dict[str, Any], arrays: State) -> Self:
        baseline = cls(settings["loss"], settings["C"])
        baseline.unconverged = settings["unconverged"]
        if "bias" in arrays:
            baseline.bias = arrays["bias"]
            baseline.weights = arrays["weights"] if "weights" in arrays else unpack_csr("weights", arrays)
            baseline.tfidf = TfIdf(arrays["idf"]) if "idf" in arrays else None
        return baseline


Solution = tuple[np.ndarray | None, float, bool]  # weights (None: all 0), bias, converged


def _solver(loss: str, C: float, rows: csr_array) -> Callable[[np.ndarray, np.ndarray], Solution]:
    """A function from the training documents of a label, and those that may have it or not, to its classifier."""
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.svm import LinearSVC
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "baselines", "the linear baseline") from error
    # what liblinear reads, so that no label pays for a conversion
    matrix = csr_matrix(
        (rows.data.astype(np.float64), rows.indices.astype(np.int32), rows.indptr.astype(np.int32)), shape=rows.shape
    )

    def solve(positives: np.ndarray, unknown: np.ndarray) -> Solution:
        num_known = rows.shape[0] - len(unknown)
        if len(positives) in (0, num_known):
            rate = (len(positives) + 0.5) / (num_known + 1)
            return None, float(np.log(rate / (1 - rate))), True
        targets, known = np.zeros(rows.shape[0], dtype=np.int8), matrix
        targets[positives] = 1
        if len(unknown):
            kept = np.delete(np.arange(len(targets)), unknown)
            targets, known = targets[kept], matrix[kept]
        # the primal solvers: the dual ones draw from a random stream that threads would share
        model = LogisticRegression(C=C, solver="liblinear") if loss == "logistic" else LinearSVC(C=C, dual=False)
        model.fit(known, targets)
        converged = int(np.max(model.n_iter_)) < model.max_iter
        return model.coef_[0].astype(np.float32), float(model.intercept_[0]), converged

    return solve


def _each_label(
    solve: Callable[[np.ndarray, np.ndarray], Solution],
    labels: csc_array,
    unknown: csc_array | None,
    threads: int | None,
) -> Iterator[Solution]:
    """The solutions of labels 0, 1, ... in order, several at a time: liblinear releases the interpreter lock."""
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    def documents_of(pairs: csc_array | None) -> Iterator[np.ndarray]:
        for i in range(labels.shape[1]):
            yield np.zeros(0, np.int32) if pairs is None else pairs.indices[pairs.indptr[i] : pairs.indptr[i + 1]]

    # BLAS threads inside ours would fight for the same cores: with many columns, ten times slower
    with (
        warnings.catch_warnings(),
        threadpool_limits(1, user_api="blas"),
        ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool,
    ):
        warnings.simplefilter("ignore", ConvergenceWarning)  # counted instead
        yield from pool.map(solve, documents_of(labels), documents_of(unknown))


class _Columns:
    """Weights (D, L) label by label: one dense array, or pruned and sparse where that would be too large."""

    def __init__(self, num_inputs: int, num_labels: int) -> None:
        self.shape = (num_inputs, num_labels)
        self.bias: list[float] = []
        self.sparse = num_inputs * num_labels > DENSE_WEIGHTS
        self.dense = None if self.sparse else np.zeros(self.shape, dtype=np.float32)
        self.rows: list[np.ndarray] = []
        self.values: list[np.ndarray] = []

    def append(self, weights: np.ndarray | None, bias: float) -> None:
        label = len(self.bias)
        self.bias.append(bias)
        if self.dense is not None:
            if weights is not None:
                self.dense[:, label] = weights
            return
        kept = np.zeros(0, np.int64) if weights is None else np.flatnonzero(np.abs(weights) > PRUNED)
        self.rows.append(kept)
        self.values.append(np.zeros(0, np.float32) if weights is None else weights[kept])

    def finish(self) -> tuple[np.ndarray | csr_array, np.ndarray]:
        bias = np.array(self.bias, dtype=np.float32)
        if self.dense is not None:
            return self.dense, bias
        offsets = np.concatenate([[0], np.cumsum([len(rows) for rows in self.rows])])
        columns = csc_array((np.concatenate(self.values), np.concatenate(self.rows), offsets), shape=self.shape)
        return csr_array(columns), bias
