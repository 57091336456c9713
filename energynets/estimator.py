"""A scikit-learn estimator over the project's own training."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from scipy.sparse import csr_array, issparse, vstack
from scipy.special import log_softmax, logit

from energynets.errors import ConfigError, DataError, MissingExtraError, nearest

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils import check_random_state, column_or_1d
    from sklearn.utils.multiclass import check_classification_targets, type_of_target
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise MissingExtraError("scikit-learn>=1.6", "baselines", "EnergyNetClassifier") from error

from energynets.config import Experiment
from energynets.data.batches import batches
from energynets.data.dataset import Documents
from energynets.data.prepare import Preparation
from energynets.data.splits import Source, with_splits
from energynets.metrics import Decoder, GlobalThreshold, PerLabel, TopScores
from energynets.objectives import probabilities
from energynets.training import train
from energynets.training.build import BuiltData, Sizes, build_model, build_neighbours
from energynets.training.evaluate import scores_kept
from energynets.training.initial_bias import set_initial_bias
from energynets.training.machine import resolve_device
from energynets.training.run import RunFolder, plain
from energynets.training.score import top_probabilities

ENERGIES = ("spen", "icnn", "none")
STAGES: dict[str, list[str]] = {"unary": ["features", "unary"], "energy": ["energy"], "joint": []}
EPOCHS, UPDATES = 15, 1000  # the least of both
BATCH = 256  # documents scored together
# Sections that `settings` cannot reach -> what says the same.
GIVEN = {
    "data": "X and y, and the arguments scaling and validation_fraction",
    "seed": "the argument random_state",
    "device": "the argument device",
}


class EnergyNetClassifier(ClassifierMixin, BaseEstimator):
    """An energy network over hidden layers of x, or with `energy="none"` the classifier it starts from.

    Of label sets, a 0/1 matrix Y (dense or sparse), every label is its own decision: predicted where its probability is
    above one threshold, or where `settings` name another `evaluation.decoding`, by that. Of one class a sample, the
    classes are rivals in a softmax and the largest wins. `fit` is `energynets.train` of the experiment that
    `experiment_` shows; whatever the arguments leave out of model, objective, training
    and evaluation, `settings` reaches.

    Args:
        energy: "spen", "icnn" or "none".
        num_measurements: K of SPEN; ICNN has two convex layers, of so many units and half as many.
        hidden: units of each hidden layer between x and the energy; () leaves x itself.
        steps: T of inference, mirror descent with learned step sizes.
        epochs: of one stage that trains all; or of each stage by its name, in order, such as
            {"unary": 30, "energy": 10, "joint": 10}. None is one stage of 15 epochs, or where samples are few of as
            many as make 1,000 updates.
        patience: epochs without gain on held-out samples before a stage ends with its best weights; None runs all, the
            learning rate going down to 0, and keeps the last.
        learning_rate: of Adam.
        weight_decay: L2 penalty.
        batch_size: samples an update.
        input_dropout: share of the entries of x dropped in training.
        dropout: share of hidden units dropped in training.
        loss: "bce", "softmax", "mse" or "soft_f1"; None is bce for label sets and softmax for classes.
        scaling: "auto" (standardises dense real-valued X), "none", "standardize" or "unit_norm".
        threshold: of label sets: "f1_example", the one that is best on held-out samples, or a probability.
        validation_fraction: share of samples held out where a threshold or `patience` needs them, in [0, 1); with 0
            the threshold is 0.5.
        random_state: fixes weights, batches, dropout and the samples held out.
        device: "auto", "cpu", "cuda" or "cuda:N".
        settings: further settings as the command line's `--set` takes them, such as ("objective.steps=all",).
        folder: keep the run here, a new folder; None keeps none.

    Attributes:
        classes_: (C,) classes, or 0 .. L - 1 of label sets.
        n_features_in_, feature_names_in_: of X, the latter where it has names.
        experiment_: the `Experiment` that was trained.
        result_: its `RunResult`.
        model_: the trained module x -> logits.
        preparation_: X -> the model's inputs.
        decoder_: what makes label sets of probabilities, as it was chosen on held-out samples; of classes None.
        threshold_: of label sets, the global one; not a number where `decoder_` has none, and of classes.

    Raises:
        ConfigError: an argument that cannot be honoured, naming the setting it became.
        MissingExtraError: scikit-learn is not installed (on import).

    Example:
        >>> from sklearn.datasets import make_multilabel_classification
        >>> from energynets.estimator import EnergyNetClassifier
        >>> X, Y = make_multilabel_classification(n_samples=80, random_state=0)
        >>> model = EnergyNetClassifier(hidden=(32,), epochs=3, random_state=0).fit(X, Y)
        >>> model.predict(X[:2]).shape, model.predict_proba(X[:2]).shape
        ((2, 5), (2, 5))
    """

    def __init__(
        self,
        energy: Literal["spen", "icnn", "none"] = "spen",
        *,
        num_measurements: int = 64,
        hidden: Sequence[int] = (512,),
        steps: int = 5,
        epochs: int | Mapping[str, int] | None = None,
        patience: int | None = None,
        learning_rate: float = 2e-3,
        weight_decay: float = 1e-5,
        batch_size: int = 64,
        input_dropout: float = 0.1,
        dropout: float = 0.5,
        loss: str | None = None,
        scaling: str = "auto",
        threshold: str | float = "f1_example",
        validation_fraction: float = 0.1,
        random_state: int | np.random.RandomState | None = None,
        device: str = "auto",
        settings: Sequence[str] = (),
        folder: str | Path | None = None,
    ) -> None:
        self.energy = energy
        self.num_measurements = num_measurements
        self.hidden = hidden
        self.steps = steps
        self.epochs = epochs
        self.patience = patience
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.input_dropout = input_dropout
        self.dropout = dropout
        self.loss = loss
        self.scaling = scaling
        self.threshold = threshold
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.device = device
        self.settings = settings
        self.folder = folder

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.classifier_tags.multi_label = True
        return tags

    # ------------------------------------------------------------------------------------------------ fitting

    def fit(self, X: Any, y: Any) -> Self:
        """Train on samples.

        Args:
            X: (N, D), dense or sparse.
            y: (N,) classes, or (N, L) 0/1, dense or sparse.

        Raises:
            ConfigError: an argument that cannot be honoured.
            TrainingError: a loss or gradient that is not finite.
        """
        X, labels = self._validated(X, y)
        seed = int(check_random_state(self.random_state).randint(2**31))
        self.experiment_ = self._experiment(seed, len(labels.indptr) - 1)
        data = self._data(X, labels, seed)
        self.preparation_ = data.preparation
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=[]))  # the caller's random numbers stay as they were
            folder = self.folder or Path(stack.enter_context(tempfile.TemporaryDirectory())) / "run"
            neighbours = build_neighbours(self.experiment_, data.prepared)
            self.model_ = build_model(self.experiment_, Sizes.of(data.prepared), neighbours=neighbours)
            set_initial_bias(self.experiment_, self.model_, data.prepared)
            self.result_ = train(self.experiment_, folder=folder, data=data, model=self.model_)
            chosen = RunFolder(Path(folder)).read_decoder(self.result_)
        self.model_.eval()
        if not isinstance(self.threshold, str):
            chosen = GlobalThreshold(float(self.threshold), "given")
        self.decoder_: Decoder | None = chosen if self._sets else None
        value = chosen.row()["value"] if self._sets else None
        self.threshold_ = math.nan if value is None else float(value)
        return self

    def _validated(self, X: Any, y: Any) -> tuple[Any, csr_array]:
        """X, and y as label sets (N, L); sets `classes_`."""
        sets = issparse(y) or type_of_target(y, input_name="y", raise_unknown=True) == "multilabel-indicator"
        X, y = validate_data(
            self, X, y, accept_sparse="csr", dtype=[np.float64, np.float32], multi_output=True, ensure_min_samples=1
        )
        self._sets, self._sparse_sets = sets, issparse(y)
        if sets:
            labels = _rows(y)
            if (labels.data != 1).any():
                raise DataError(f"y: expected label sets of 0 and 1, got {labels.data[labels.data != 1][0]:g}")
            self.classes_ = np.arange(labels.shape[1])
        else:
            y = column_or_1d(y, warn=True)
            check_classification_targets(y)
            self.classes_, codes = np.unique(y, return_inverse=True)
            parts = (np.ones(len(codes), np.float32), codes, np.arange(len(codes) + 1))
            labels = csr_array(parts, shape=(len(codes), len(self.classes_)))
        return X, labels

    def _experiment(self, seed: int, num_samples: int) -> Experiment:
        """The arguments as an experiment."""
        for setting in self.settings:
            if (section := setting.partition("=")[0].partition(".")[0].strip()) in GIVEN:
                raise ConfigError(f"settings: {setting}: {section} is not chosen here: use {GIVEN[section]}")
        if self.energy not in ENERGIES:
            raise ConfigError(f"unknown energy {self.energy!r}{nearest(str(self.energy), ENERGIES)}")
        features = {
            "kind": "bag_of_words",
            "hidden": list(self.hidden),
            "input_dropout": self.input_dropout,
            "dropout": self.dropout,
        }
        model: dict[str, Any] = {"kind": "classifier", "features": features}
        if self.energy != "none":
            width = self.num_measurements
            spen, icnn = {"num_measurements": width}, {"hidden": [width, max(1, width // 2)]}
            energy = {"kind": self.energy, **(spen if self.energy == "spen" else icnn)}
            solver = {"kind": "mirror_descent", "steps": self.steps, "learn_step_sizes": self.steps > 0}
            model |= {"kind": "energy_network", "energy": energy, "solver": solver}
        epochs = self.epochs
        if epochs is None:
            epochs = max(EPOCHS, math.ceil(UPDATES / math.ceil(num_samples / max(1, self.batch_size))))
        epochs = epochs if isinstance(epochs, Mapping) else {"joint": epochs}
        tree = {
            "name": type(self).__name__,
            "seed": seed,
            "device": self.device,
            "data": {"name": "fit", "scaling": self.scaling},
            "model": model,
            "evaluation": {"threshold_rule": self.threshold} if isinstance(self.threshold, str) else {},
            "objective": {"loss": self.loss or ("bce" if self._sets else "softmax")},
            "training": {
                "batch_size": self.batch_size,
                "evaluate_every": 1 if self.patience else max([1, *epochs.values()]),
                "stages": [self._stage(name, number) for name, number in epochs.items()],
            },
        }
        # A grid's numbers are numpy's.
        experiment = Experiment.from_tree(plain(tree), tuple(self.settings), source=type(self).__name__)
        decoding = experiment.evaluation.decoding
        if self._sets and not isinstance(self.threshold, str) and decoding != GlobalThreshold.kind:
            raise ConfigError(
                f"threshold: expected 'f1_example' with evaluation.decoding={decoding}, which chooses what is "
                f"predicted; got {self.threshold}"
            )
        return experiment

    def _stage(self, name: str, epochs: int) -> dict[str, Any]:
        if name not in STAGES:
            raise ConfigError(f"epochs: unknown stage {name!r}{nearest(name, STAGES)}")
        ending = {"keep": "best", "patience": self.patience} if self.patience else {"keep": "last"}
        optimizer = {
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "schedule": "constant" if self.patience else "linear",
        }
        return {"name": name, "trains": STAGES[name], "epochs": epochs, "optimizer": optimizer, **ending}

    def _data(self, X: Any, labels: csr_array, seed: int) -> BuiltData:
        chosen = self.patience is not None or (self._sets and isinstance(self.threshold, str))
        source = Source("fit", Documents(_rows(X), labels), {"train": np.arange(labels.shape[0])}, "the samples given")
        raw = with_splits(source, self.validation_fraction if chosen else 0.0, 0.0, seed, None)
        preparation = Preparation.fit(raw, scaling=self.scaling)
        return BuiltData(raw, preparation, preparation.prepare(raw))

    # ------------------------------------------------------------------------------------------------ predicting

    def decision_function(self, X: Any) -> np.ndarray:
        """How far each decision is from turning.

        Returns:
            Of label sets (N, L): the log-odds of each label less those of its threshold (of a softmax loss, logarithms
            of probabilities instead), above 0 where it is predicted. Where documents are decided as a whole
            (`expected_f1`) there is no threshold, and 0.5 stands for it. Of classes (N, C) logits; of two, (N,), the
            second's less the first's.
        """
        logits = np.concatenate(list(self._logits(X)))
        if not self._sets:
            return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits
        own = self.decoder_.thresholds_L if isinstance(self.decoder_, PerLabel) else self.threshold_
        threshold = np.clip(
            np.nan_to_num(np.asarray(own, np.float64), nan=0.5), 0, 1
        )  # at either end all are predicted, or none
        if self.experiment_.objective.loss != "softmax":
            return logits - logit(threshold).astype(np.float32)
        with np.errstate(divide="ignore"):
            return log_softmax(logits, axis=1) - np.log(threshold).astype(np.float32)

    def predict_proba(self, X: Any) -> np.ndarray:
        """(N, L) the probability of each label, or (N, C) of each class, rows of which add up to 1."""
        return np.concatenate(list(self._probabilities(X)))

    def predict(self, X: Any) -> np.ndarray | csr_array:
        """(N, L) 0/1, sparse where the Y of `fit` was; or (N,) classes."""
        check_is_fitted(self)
        if not self._sets:
            return self.classes_[np.concatenate([logits.argmax(axis=1) for logits in self._logits(X)])]
        if not isinstance(self.decoder_, GlobalThreshold):
            sets = csr_array(vstack(list(self._decoded(X)), format="csr")).astype(np.int64)
            return sets if self._sparse_sets else sets.toarray()
        parts = [p > np.float64(self.threshold_) for p in self._probabilities(X)]
        if not self._sparse_sets:
            return np.concatenate(parts).astype(np.int64)
        return csr_array(vstack([csr_array(part) for part in parts], format="csr")).astype(np.int64)

    def _decoded(self, X: Any) -> Iterator[csr_array]:
        """(B, L) sets of batch after batch, of as many scores as the decoder was chosen on."""
        assert self.decoder_ is not None
        labels, settings = len(self.classes_), self.experiment_.evaluation
        for logits in self._logits(X):
            kept = scores_kept(labels, settings.top, settings.ks)
            places, values = top_probabilities(torch.from_numpy(logits), kept, self.experiment_.objective.loss)
            # Vectorised sigmoids differ in the last bit, which can undo the order of two logits.
            scores = TopScores(places.numpy(), np.minimum.accumulate(values.numpy(), axis=1), labels)
            yield self.decoder_.predict(scores)

    def _probabilities(self, X: Any) -> Iterator[np.ndarray]:
        """(B, L) of batch after batch."""
        for logits in self._logits(X):
            found = probabilities(torch.from_numpy(logits), self.experiment_.objective.loss).numpy()
            if not self._sets and self.experiment_.objective.loss != "softmax":
                found = found / found.sum(axis=1, keepdims=True)
            yield found

    def _logits(self, X: Any) -> Iterator[np.ndarray]:
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=[np.float64, np.float32], reset=False)
        device = resolve_device(self.device)
        model = self.model_.to(device)
        rows = self.preparation_.apply(_rows(X))
        documents = Documents(rows, csr_array((X.shape[0], model.num_labels), dtype=np.float32))
        with torch.no_grad():
            for batch in batches(documents, BATCH):
                yield model(batch.inputs.to(device)).float().cpu().numpy()


def _rows(matrix: Any) -> csr_array:
    """A matrix as the project's tables are, of its own memory."""
    rows = csr_array(matrix, dtype=np.float32, copy=True)
    rows.sum_duplicates()
    rows.eliminate_zeros()
    return rows
