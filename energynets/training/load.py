"""A finished run, read back: its model, its preparation, its decoder."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_array

from energynets.baselines import NearestNeighbours, load_baseline
from energynets.data.dataset import Documents, Inputs, MultiLabelDataset, TextDocuments, num_rows
from energynets.data.prepare import Preparation
from energynets.data.reveal import GivenReveal
from energynets.errors import CheckpointError, DataError, ShapeError
from energynets.metrics import DECODERS, Decoder, PerLabel, TopScores
from energynets.training.build import BuiltData, Sizes, build_dataset, build_model, prepared_documents
from energynets.training.checkpoint import load_weights, read_file
from energynets.training.evaluate import scores_kept
from energynets.training.machine import resolve_device
from energynets.training.run import RunFolder, RunResult
from energynets.training.score import OnInference, score

if TYPE_CHECKING:
    from energynets.config import Experiment


@dataclass(frozen=True)
class TrainedRun:
    """What a finished run learned.

    Args:
        folder: the run's.
        experiment: its settings.
        model: the trained model on its device, or the fitted baseline.
        preparation: raw inputs -> the model's inputs.
        label_names: L names, or None.
        result: its row.
        decoder: what makes sets of scores, chosen on validation.
    """

    folder: Path
    experiment: Experiment
    model: Any
    preparation: Preparation
    label_names: tuple[str, ...] | None
    result: RunResult
    decoder: Decoder

    @property
    def threshold(self) -> float | None:
        """The global threshold chosen on validation; None where the decoder has none."""
        value = self.result.threshold["value"]
        return None if value is None else float(value)

    @property
    def kept(self) -> int:
        """Scores of each document that the decoder has before it."""
        labels, settings = int(self.result.data["labels"]), self.experiment.evaluation
        return scores_kept(labels, settings.top, settings.ks)

    def decoder_at(self, fraction: float | None) -> Decoder | None:
        """The decoder chosen with this fraction of the labels shown; None where the run did not measure that, or has
        thresholds of each label, which it keeps where nothing is shown alone."""
        if fraction is None:
            return self.decoder
        row = (self.result.observed or {}).get(f"{fraction:g}", {}).get("threshold")
        if row is None or row["decoding"] == PerLabel.kind:
            return None
        return DECODERS[row["decoding"]].restore(row, {})

    @property
    def loss(self) -> str:
        """The loss on logits, which says what probabilities are."""
        return self.experiment.objective.loss

    def dataset(self) -> MultiLabelDataset:
        """The run's own data, read again and prepared as it was."""
        data = build_dataset(self.experiment, preparation=self.preparation)
        return prepared_documents(self.experiment, data)

    def prepare(self, dataset: MultiLabelDataset) -> MultiLabelDataset:
        """Raw data with inputs as this run's model takes them."""
        return prepared_documents(
            self.experiment, BuiltData(dataset, self.preparation, self.preparation.prepare(dataset))
        )

    def label_name(self, label: int) -> str:
        """The label's name, or its number where the data has no names."""
        return self.label_names[label] if self.label_names is not None else str(label)

    def label_id(self, name: str, where: str = "label") -> int:
        """The inverse of `label_name`; the first of several labels of one name.

        Raises:
            DataError: there is none, beginning with `where`.
        """
        count = int(self.result.data["labels"])
        if self.label_names is None:
            if not (name.isascii() and name.isdigit() and int(name) < count):
                raise DataError(f"{where}: expected label numbers from 0 to {count - 1}, got {name!r}")
            return int(name)
        if name not in self.label_names:
            close = difflib.get_close_matches(name, self.label_names, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"the run has {count}, such as {self.label_names[0]!r}"
            raise DataError(f"{where}: unknown label {name!r}: {hint}")
        return self.label_names.index(name)


def load_run(folder: str | Path, *, device: str = "auto") -> TrainedRun:
    """Read a finished run.

    Raises:
        CheckpointError: not a run, not finished, or its weights are damaged.
    """
    paths = RunFolder(Path(folder))
    experiment = paths.experiment()
    result = paths.read_result()
    preparation = Preparation.load(paths.preparation)
    model: Any
    if paths.baseline.is_dir():
        model = load_baseline(paths.baseline)
    else:
        saved = read_file(paths.model)
        if saved.state.get("config_hash") != experiment.hash():
            raise CheckpointError(f"{paths.model}: belongs to other settings than {paths.config} says")
        looks_up = getattr(experiment.model, "neighbours", None) is not None
        neighbours = NearestNeighbours.load(paths.neighbours) if looks_up else None
        model = build_model(experiment, Sizes(**saved.state["sizes"]), neighbours=neighbours)
        load_weights(model, saved.tensors, str(paths.model))
        model = model.to(resolve_device(device)).eval()
    decoder = paths.read_decoder(result)
    return TrainedRun(paths.folder, experiment, model, preparation, paths.read_label_names(), result, decoder)


def predict(
    run: TrainedRun | str | Path,
    inputs: Inputs | Sequence[str],
    *,
    top: int = 5,
    batch_size: int = 256,
    on_inference: OnInference | None = None,
    observed: csr_array | None = None,
) -> TopScores:
    """The `top` most probable labels of new documents, those that are known left out.

    Args:
        run: a finished run, or its folder.
        inputs: N raw documents of the kind the run was trained on (a list of texts will do).
        top: labels kept of each document.
        batch_size: documents at once.
        on_inference: called with the `InferenceResult` of each batch of an energy network, e.g. for its certificates.
        observed: (N, L) CSR, 1 where a label is known to be true, -1 where it is known to be false, and nothing else.

    Returns:
        TopScores with indices (N, top) and values (N, top); `run.label_name` names them. `run.decoder` makes sets of
        `run.kept` of them. Where fewer labels are unknown than `top`, the others follow at `NOT_RANKED`.

    Raises:
        ShapeError: `observed` is not (N, L).
        DataError: it has other numbers.
    """
    if not isinstance(run, TrainedRun):
        run = load_run(run)
    if isinstance(inputs, list | tuple):
        inputs = TextDocuments(tuple(inputs))
    shape = (num_rows(inputs), int(run.result.data["labels"]))
    labels, reveal = csr_array(shape, dtype=np.float32), None
    if observed is not None:
        if observed.shape != shape:
            raise ShapeError(f"observed: expected {shape}, got {observed.shape}")
        if not (np.abs(observed.data) == 1).all():
            raise DataError("observed: expected 1 for a label known to be true, -1 for one known to be false")
        labels, reveal = csr_array(observed.maximum(0), dtype=np.float32), GivenReveal(observed)
        labels.eliminate_zeros()
    documents = Documents(run.preparation.apply(inputs), labels)
    scoring: dict[str, Any] = {"k": top, "batch_size": batch_size, "loss": run.loss, "reveal": reveal}
    return score(run.model, documents, **scoring, on_inference=on_inference)
