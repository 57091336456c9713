"""A finished run, read back: its model, its preparation, its decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_array

from energynets.baselines import load_baseline
from energynets.data.dataset import Documents, Inputs, MultiLabelDataset, TextDocuments, num_rows
from energynets.data.prepare import Preparation
from energynets.errors import CheckpointError
from energynets.metrics import Decoder, TopScores
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
        model = build_model(experiment, Sizes(**saved.state["sizes"]))
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
) -> TopScores:
    """The `top` most probable labels of new documents.

    Args:
        run: a finished run, or its folder.
        inputs: N raw documents of the kind the run was trained on (a list of texts will do).
        top: labels kept of each document.
        batch_size: documents at once.
        on_inference: called with the `InferenceResult` of each batch of an energy network, e.g. for its certificates.

    Returns:
        TopScores with indices (N, top) and values (N, top); `run.label_name` names them. `run.decoder` makes sets of
        `run.kept` of them.
    """
    if not isinstance(run, TrainedRun):
        run = load_run(run)
    if isinstance(inputs, list | tuple):
        inputs = TextDocuments(tuple(inputs))
    labels = csr_array((num_rows(inputs), run.result.data["labels"]), dtype=np.float32)
    documents = Documents(run.preparation.apply(inputs), labels)
    return score(run.model, documents, k=top, batch_size=batch_size, loss=run.loss, on_inference=on_inference)
