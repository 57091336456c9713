"""Label vectors in few dimensions: compressed, regressed on x, and read back from the nearest training documents."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
from scipy.sparse import csr_array, csr_matrix

from energynets.baselines.base import Baseline, Progress, State, pack_csr, require_known, unpack_csr
from energynets.baselines.frequency import label_frequencies
from energynets.baselines.neighbours import NearLabels, top_scores
from energynets.baselines.rows import UnitRows
from energynets.data.dataset import Documents
from energynets.errors import ConfigError, DataError, MissingExtraError
from energynets.metrics.scores import TopScores, canonical_labels


class TargetEmbedding(Baseline):
    """Target embedding: PCA of the label vectors, ridge regression onto it, nearest neighbours within.

        Y ~ Z V^T,   V (L, R) orthonormal, the first R right singular vectors of Y;   Z = Y V
        min over W, w0 of  |Z - X W - w0|^2 + ridge |W|^2
        z(x) = x W + w0,   c_n = max(0, cos(z(x), z(x_n)))
        score_l(x) = sum_{n in kNN(x)} c_n^p y_nl / sum_{n in kNN(x)} c_n^p

    Neighbours are found among the training documents' *predicted* embeddings, where test documents also lie. Token
    sequences and tables of counts become tf-idf rows, other tables are scaled to unit length. A document similar to
    none gets the label frequencies. Deterministic.

    Args:
        num_dimensions: R >= 1; L where there are fewer labels.
        ridge: > 0.
        num_neighbours: k >= 1; all training documents where there are fewer.
        power: p > 0; 1 weights by similarity, more favours the nearest.

    Raises:
        ConfigError: a setting out of its range.

    Source: the embedding is that of PLST (Tai & Lin, Neural Computation 2012), which CPLST (Chen & Lin, NIPS 2012) lets
        look at x too; LEML (Yu et al., ICML 2014) fits W V^T as one matrix of rank R. Neighbours instead of V decode as
        in SLEEC (Bhatia et al., NIPS 2015), here without its clusters of documents and its locally isometric embedding.
    """

    kind: ClassVar[str] = "target_embedding"

    def __init__(
        self, num_dimensions: int = 100, ridge: float = 3.0, num_neighbours: int = 30, power: float = 8.0
    ) -> None:
        for name, value in (("num_dimensions", num_dimensions), ("num_neighbours", num_neighbours)):
            if value < 1:
                raise ConfigError(f"{name} must be >= 1, got {value}")
        for name, number in (("ridge", ridge), ("power", power)):
            if not number > 0:
                raise ConfigError(f"{name} must be > 0, got {number}")
        self.num_dimensions = num_dimensions
        self.ridge = ridge
        self.num_neighbours = num_neighbours
        self.power = power
        self.reader: UnitRows | None = None
        self.weights: np.ndarray | None = None  # W (D, R)
        self.bias: np.ndarray | None = None  # w0 (R,)
        self.embedded: np.ndarray | None = None  # z(x_n) / |z(x_n)| (N, R)
        self.labels: csr_array | None = None  # (N, L)
        self.frequencies: np.ndarray | None = None  # (L,)

    def fit(self, documents: Documents, *, progress: Progress | None = None) -> Self:
        """Embed the label vectors, then regress; `progress(done, 2)`.

        Raises:
            ConfigError: some labels are unknown.
            DataError: no documents, or raw text.
            MissingExtraError: scikit-learn is not installed.
        """
        require_known(documents, self.kind)
        try:
            from sklearn.decomposition import TruncatedSVD
            from sklearn.linear_model import Ridge
        except ImportError as error:
            raise MissingExtraError("scikit-learn", "baselines", "target embedding") from error
        self.reader = UnitRows.fit(documents)
        rows = self.reader.apply(documents.inputs)
        self.labels = canonical_labels(documents.labels)
        self.frequencies = label_frequencies(documents)
        rank = min(self.num_dimensions, *self.labels.shape)
        targets = _matrix(self.labels)
        if self.labels.shape[1] == 1:  # V = 1, and TruncatedSVD wants two columns
            targets = targets.toarray()
        else:
            targets = TruncatedSVD(rank, random_state=0).fit(targets).transform(targets)
        if progress is not None:
            progress(1, 2)
        regression = Ridge(alpha=self.ridge, solver="sparse_cg").fit(_matrix(rows), targets)
        self.weights = np.reshape(regression.coef_, (rank, -1)).T.astype(np.float32)
        self.bias = np.broadcast_to(regression.intercept_, rank).astype(np.float32)
        self.embedded = _unit(self._embed(rows))
        if progress is not None:
            progress(2, 2)
        return self

    def scores(self, documents: Documents, k: int, *, batch_size: int = 256) -> TopScores:
        """Weighted label shares among the neighbours of each document, where label vectors are embedded."""
        if self.reader is None or self.labels is None or self.embedded is None or self.frequencies is None:
            raise DataError("TargetEmbedding is not fitted: call fit(train) first")
        embedded = _unit(self._embed(self.reader.apply(documents.inputs)))
        # In float64: of equal training documents the earlier is the nearer, whatever the products' blocks.
        transposed = self.embedded.T.astype(np.float64)
        near = NearLabels(self.labels, self.frequencies, self.num_neighbours, self.power)
        parts = near.in_batches(embedded, lambda part: part.astype(np.float64) @ transposed, batch_size)
        return top_scores(parts, k)

    def _embed(self, rows: csr_array) -> np.ndarray:
        return np.asarray(rows @ self.weights + self.bias, dtype=np.float32)

    @property
    def num_parameters(self) -> int:
        """W, w0, the training documents' embeddings and the stored entries of their labels."""
        if self.weights is None or self.bias is None or self.embedded is None or self.labels is None:
            return 0
        return int(self.weights.size + self.bias.size + self.embedded.size + self.labels.nnz)

    def _settings(self) -> dict[str, Any]:
        names = ("num_dimensions", "ridge", "num_neighbours", "power")
        return {name: getattr(self, name) for name in names}

    def _arrays(self) -> State:
        if self.reader is None or self.weights is None or self.bias is None or self.embedded is None:
            return {}
        assert self.labels is not None
        assert self.frequencies is not None
        learned = {"weights": self.weights, "bias": self.bias, "embedded": self.embedded}
        return learned | {"frequencies": self.frequencies} | pack_csr("labels", self.labels) | self.reader.arrays()

    @classmethod
    def _restore(cls, settings: dict[str, Any], arrays: State) -> Self:
        baseline = cls(**settings)
        if "weights" in arrays:
            baseline.reader = UnitRows.restore(arrays)
            baseline.labels = unpack_csr("labels", arrays)
            for name in ("weights", "bias", "embedded", "frequencies"):
                setattr(baseline, name, arrays[name])
        return baseline


def _matrix(rows: csr_array) -> csr_matrix:
    """What every version of scikit-learn reads, in float64."""
    parts = (rows.data.astype(np.float64), rows.indices.astype(np.int32), rows.indptr.astype(np.int32))
    return csr_matrix(parts, shape=rows.shape)


def _unit(rows: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
