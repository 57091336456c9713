"""An experiment, trained, evaluated and written down: the entry point of training."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from energynets.data.batches import batches, padded_share, training_order
from energynets.data.dataset import Documents, MultiLabelDataset, TokenSequences
from energynets.data.prepare import Preparation
from energynets.data.reveal import RandomReveal
from energynets.errors import ConfigError, DataError
from energynets.metrics import Decoder, TopScores, calibration, observed_name
from energynets.parallel.launch import launched
from energynets.parallel.mesh import Mesh
from energynets.training.build import (
    BuiltData,
    Sizes,
    build_dataset,
    build_model,
    build_neighbours,
    build_objective,
    build_propensity,
    build_vectors,
    kind_label,
    prepared_documents,
)
from energynets.training.checkpoint import Checkpoint
from energynets.training.completion import mean_documents, mean_metrics, pooled, rest_metrics, reveals, sought
from energynets.training.diagnostics import TRACED, Diagnostics, diagnose
from energynets.training.evaluate import Measures, check_monitor
from energynets.training.initial_bias import set_initial_bias
from energynets.training.interrupt import Interrupted, Request, interruptible, stop_message
from energynets.training.loop import Loop
from energynets.training.machine import (
    deterministic,
    environment,
    package_version,
    peak_host_memory,
    reset_peak_memory,
)
from energynets.training.progress import Progress
from energynets.training.run import RunFolder, RunResult, save_folder
from energynets.training.score import median_milliseconds, score
from energynets.training.stages import Position

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from energynets.config import Experiment

TRACED_NUMBERS = 1 << 22  # of one (B, L) tensor


def train(
    experiment: Experiment,
    *,
    folder: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    data: BuiltData | None = None,
    model: Any = None,
    trained: str | Path | None = None,
) -> RunResult:
    """Train an experiment, choose its threshold on validation, evaluate it, and write it all to a run folder.

    Started by torchrun, or in a process group of torch's, all its processes train one model together: the result is
    that of one process, and one of them writes and shows it.

    Args:
        experiment: what to do.
        folder: the run's own folder; None is `runs/<name>`.
        resume: continue the run in that folder if there is one: an unfinished one gives the same weights, bit by bit,
            as if it had never stopped; a finished one gives its result.
        progress: listener; None is silent.
        data: the experiment's data, where `build_dataset` has already read it.
        model: a model of your own (a module with the interface of `Classifier`) instead of the experiment's; build it
            under a seed of your own, and give it again to resume.
        trained: folder of a finished run of the same settings and seed but for `evaluation.observed`, `draws` or
            `decoding`: its weights are measured, nothing is trained, its training's seconds and memory are kept.

    Returns:
        The row that result.json holds.

    Raises:
        ConfigError: settings that cannot be honoured, or a folder that has another run in it.
        DataError: data that are not what their format says.
        TrainingError: a loss or gradient that is not finite.
        CheckpointError: a damaged checkpoint, or one that cannot be written.
        Interrupted: asked to stop (Ctrl-C, SIGTERM); what was done is saved.
        ProcessLostError: another process of the training is gone; what was done up to the last checkpoint is saved.

    Example:
        >>> import tempfile
        >>> from energynets import Experiment, train
        >>> tree = {"name": "small", "data": {"planted": {"num_documents": 50, "num_labels": 6}, "inputs": "counts"}}
        >>> tree |= {"model": {"kind": "classifier", "features": {"kind": "bag_of_words", "hidden": [8]}}}
        >>> stage = {"name": "all", "trains": ["features", "unary"], "epochs": 1}
        >>> experiment = Experiment.from_tree(tree | {"training": {"stages": [stage]}, "device": "cpu"})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = train(experiment, folder=f"{folder}/small")
        >>> result.data["labels"]
        6
    """
    progress = progress or Progress()
    check_monitor(experiment.training.monitor, experiment.evaluation.ks)
    with launched(experiment) as mesh:
        progress = progress if mesh.first else Progress()
        return _train(experiment, mesh, folder, resume, progress, data, model, trained)


def _train(
    experiment: Experiment,
    mesh: Mesh,
    folder: str | Path | None,
    resume: bool,
    progress: Progress,
    data: BuiltData | None,
    model: Any,
    trained: str | Path | None,
) -> RunResult:
    device = mesh.device
    source = None if trained is None else RunFolder(Path(trained), writes=False)
    if source is not None:
        if mesh.size > 1 or model is not None:
            raise ConfigError(f"{source.folder}: a trained run is measured by one process, and its model is its own")
        source.check_trained(experiment)
    run = RunFolder(Path("runs") / experiment.name if folder is None else Path(folder), writes=mesh.first)
    with run.opened(experiment, resume=resume):
        if mesh.first_says(run.result.exists()):
            progress.note(f"{run.folder}: already finished")
            run.tidy()
            return _said_by_first(mesh, run)
        found = environment(device) | {"processes": mesh.size, "label_shards": mesh.labels}
        if source is not None:
            found["trained"] = source.read_environment()
            run.take_over(source)
        run.save_environment(found)
        data = _prepare(experiment, run, data, progress)
        mesh.same("data", data.prepared.fingerprint.sha256)
        reset_peak_memory(device)
        if source is not None:
            with deterministic(device), interruptible(progress.note) as request:
                return _Session(experiment, run, data, mesh, request, progress).measure(source)
        built = model is None
        if model is None:
            with nullcontext() if mesh.draws else torch.device("meta"):
                model = _build(experiment, data, progress, drawn=mesh.draws)
        # A baseline is fitted in one call, with nothing to save before its end: Ctrl-C stops it at once.
        network = isinstance(model, nn.Module)
        with deterministic(device), interruptible(progress.note) if network else nullcontext(Request()) as request:
            return _Session(experiment, run, data, mesh, request, progress).train(model, built=built)


def _said_by_first(mesh: Mesh, run: RunFolder) -> RunResult:
    """The finished run's row, which other machines' processes may have no file of."""
    return RunResult.from_dict(mesh.first_says(run.read_result().to_dict() if mesh.first else None))


def _build(experiment: Experiment, data: BuiltData, progress: Progress, *, drawn: bool) -> Any:
    vectors = build_vectors(experiment, data.preparation, progress=progress) if drawn else None
    documents = prepared_documents(experiment, data)
    neighbours = build_neighbours(experiment, documents)
    model = build_model(experiment, Sizes.of(documents), vectors=vectors, neighbours=neighbours)
    if drawn:
        set_initial_bias(experiment, model, data.prepared)
    return model


def _prepare(experiment: Experiment, run: RunFolder, data: BuiltData | None, progress: Progress) -> BuiltData:
    """The data; a resumed run prepares them as it did before, whatever fitting anew would give."""
    if run.preparation.is_dir():
        preparation = Preparation.load(run.preparation)
        if data is None:
            return build_dataset(experiment, preparation=preparation, progress=progress)
        return BuiltData(data.raw, preparation, preparation.prepare(data.raw))
    data = build_dataset(experiment, progress=progress) if data is None else data
    run.save_preparation(data.preparation, data.raw.label_names)
    return data


class _Session:
    """One process's work on one run, which it may share with others."""

    def __init__(
        self,
        experiment: Experiment,
        run: RunFolder,
        data: BuiltData,
        mesh: Mesh,
        request: Request,
        progress: Progress,
    ) -> None:
        self.experiment = experiment
        self.run = run
        self.data = data
        self.dataset: MultiLabelDataset = prepared_documents(experiment, data)
        self.mesh, self.device = mesh, mesh.device
        self.request = request
        self.progress = progress
        self.measures = Measures.of(experiment.evaluation, self.dataset)
        if not len(self.dataset.splits.get("train", ())):
            raise DataError(f"data set {self.dataset.name!r} has no training documents")
        if self.dataset.documents.unknown is not None and experiment.objective.kind != "end_to_end":
            raise ConfigError(
                f"objective.kind: {experiment.objective.kind} reads the energy of every label, and some labels of "
                f"{self.dataset.name} are unknown: use end_to_end"
            )

    def train(self, model: Any, *, built: bool) -> RunResult:
        if not self._has("validation"):
            self.progress.note(
                "no validation documents: every stage runs all its epochs and keeps its last weights, and sets of "
                f"labels come from: {self.measures.unchosen().rule}"
            )
        if not isinstance(model, nn.Module):
            position = self._fit_baseline(model)
            return self._finish(model, position, _count_parameters(model))
        parameters = _count_parameters(model)
        # Its own labels alone, before it goes to the device.
        self.mesh.place(model, self.dataset.num_labels, drawn=built)
        model = model.to(self.device)
        return self.finish_network(model, self._fit_network(model), parameters)

    def finish_network(self, model: nn.Module, position: Position, parameters: int, *, together: int = 1) -> RunResult:
        """Its weights, then the result, of one of `together` seeds that trained at once."""
        state = {"config_hash": self.experiment.hash(), "sizes": dataclasses.asdict(Sizes.of(self.dataset))}
        neighbours = getattr(model, "neighbours", None)
        if neighbours is not None and self.run.writes:
            save_folder(self.run.neighbours, neighbours.nearest.save)
        self.run.save_model(Checkpoint(self.mesh.weights(model, model.state_dict()), state))
        return self._finish(model, position, parameters, together=together)

    def measure(self, trained: RunFolder) -> RunResult:
        """The result of another run's weights, which took its training."""
        from energynets.training.load import load_run

        loaded = load_run(trained.folder, device=str(self.device))
        model, row = loaded.model, loaded.result
        position = Position(
            examples=round(row.examples_per_second * row.train_seconds),
            step_seconds=row.train_seconds,
            seconds=row.train_seconds,
            peak_memory=row.peak_memory_bytes,
            peak_host_memory=row.peak_host_memory_bytes,
            stages=row.stages,
        )
        if isinstance(model, nn.Module):
            return self.finish_network(model, position, row.parameters, together=row.together)
        save_folder(self.run.baseline, model.save)
        return self._finish(model, position, row.parameters)

    def loop(self, model: nn.Module) -> Loop:
        """What trains a model that is on its device."""
        objective = build_objective(self.experiment, build_propensity(self.experiment, self.dataset))
        return Loop(
            model,
            objective,
            self.experiment,
            self.dataset,
            self.run,
            device=self.device,
            request=self.request,
            progress=self.progress,
            mesh=self.mesh,
        )

    def _fit_network(self, model: nn.Module) -> Position:
        loop = self.loop(model)
        self.mesh.first_says(None)  # which has swept up what a killed process left
        checkpoint = self.run.checkpoints.latest()
        if checkpoint is None:
            self.run.truncate_metrics(0)
            torch.manual_seed(self.experiment.seed)
        else:
            loop.resume(checkpoint)
        return loop.run()

    def _fit_baseline(self, model: Any) -> Position:
        documents = self.dataset.split("train")
        began = time.perf_counter()
        model.fit(documents, progress=self.progress.fitting)
        seconds = time.perf_counter() - began
        save_folder(self.run.baseline, model.save)
        return Position(examples=len(documents), seconds=seconds, step_seconds=seconds)

    # ------------------------------------------------------------------------------------------------ the result

    def _finish(self, model: Any, position: Position, parameters: int, *, together: int = 1) -> RunResult:
        """Threshold from validation, metrics of validation and test, the row."""
        decoder = self.measures.unchosen()
        metrics: dict[str, dict[str, float]] = {}
        documents: dict[str, np.ndarray] = {}
        reliability: dict[str, Any] | None = None
        seconds: list[float] = []
        if self._has("validation"):
            validation, scores = self._score(model, "validation", seconds)
            if scores is not None:
                decoder = self.measures.decoder(scores, validation.labels)
                metrics["validation"] = self.measures.metrics(scores, validation.labels, decoder)
        if self._has("test"):
            seconds.clear()
            test, scores = self._score(model, "test", seconds)
            if scores is not None:
                metrics["test"] = self.measures.metrics(scores, test.labels, decoder)
                if scores.any_ranked:
                    reliability = {"split": "test", **calibration(scores, test.labels).to_dict()}
                else:
                    self.progress.note("no calibration: every label of every test document is unknown")
                documents |= self.measures.documents(scores, test.labels, decoder)
                if missed := decoder.missed(scores):
                    self.progress.note(
                        f"{missed} test documents may have labels to predict beyond the {scores.k} scores kept of "
                        "each: raise evaluation.top"
                    )
        observed = {}
        for fraction in self.experiment.evaluation.observed:
            observed[f"{fraction:g}"], values = self._observed(model, fraction)
            documents |= {observed_name(metric, f"{fraction:g}"): value for metric, value in values.items()}
        trace = self._trace(model)
        if not self.mesh.first:
            return _said_by_first(self.mesh, self.run)
        examples = position.examples / position.step_seconds if position.step_seconds else 0.0
        result = RunResult(
            name=self.experiment.name,
            kind=kind_label(self.experiment),
            seed=self.experiment.seed,
            config_hash=self.experiment.hash(),
            data=dataclasses.asdict(self.dataset.fingerprint),
            metrics=metrics,
            threshold=decoder.row(),
            train_seconds=position.seconds,
            examples_per_second=examples,
            peak_memory_bytes=position.peak_memory or peak_host_memory(),
            peak_host_memory_bytes=max(position.peak_host_memory, peak_host_memory()),
            inference_ms_per_document=median_milliseconds(seconds),
            parameters=parameters,
            stages=position.stages,
            version=package_version(),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            preparation={**self.data.raw.documents.notes, **self.data.preparation.report()},
            device=str(self.device) if isinstance(model, nn.Module) else "cpu",
            trace=trace,
            padded_share=self._padded_share(model),
            calibration=reliability,
            observed=observed or None,
            together=together,
        )
        if documents:
            self.run.save_documents(documents)
        self.run.save_diagnostics(self._diagnostics(model, decoder))
        self.run.finish(result, decoder.arrays())
        return _said_by_first(self.mesh, self.run)

    def _has(self, split: str) -> bool:
        return len(self.dataset.splits.get(split, ())) > 0

    def _observed(self, model: Any, fraction: float) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Decoder and metrics of the rest where a fraction of the labels is shown, and those of each test document."""
        decoder, metrics, values = self.measures.unchosen(), {}, {}
        for split in filter(self._has, ("validation", "test")):
            parts: Iterable[tuple[TopScores, csr_array]] = self._rest(model, split, fraction)
            if split == "validation" and (parts := list(parts)):
                decoder = self.measures.decoder(*pooled(parts), draws=len(parts))
            drawn = [
                (rest_metrics(self.measures, *part, decoder), self.measures.documents(*part, decoder)) for part in parts
            ]
            if drawn:
                metrics[split] = mean_metrics([found for found, _ in drawn])
                values = mean_documents([found for _, found in drawn])
        return {"threshold": decoder.row(), **metrics}, values

    def _rest(self, model: Any, split: str, fraction: float) -> Iterator[tuple[TopScores, csr_array]]:
        """Of each draw of the labels shown scores and labels of the rest; nothing but on the first process."""
        for reveal in reveals(fraction, split, self.experiment.evaluation.draws):
            documents, scores = self._score(model, split, [], reveal)
            if scores is not None:
                yield scores, sought(documents, reveal)

    def _score(
        self, model: Any, split: str, seconds: list[float], reveal: RandomReveal | None = None
    ) -> tuple[Documents, TopScores | None]:
        """Documents of a split, and on the first process their scores."""

        def scored(done: int, total: int) -> None:
            self.progress.scoring(split, done, total)
            if self.request and self.mesh.size == 1:
                # The last checkpoint of training is still there: nothing needs to be saved.
                raise Interrupted(stop_message(self.run.folder, self.request))

        documents = self.dataset.split(split)
        scores = score(
            model,
            documents,
            k=self.measures.top,
            batch_size=self.experiment.evaluation.batch_size,
            device=self.device,
            loss=self.experiment.objective.loss,
            rows=self.mesh.rows(len(documents), self.experiment.evaluation.batch_size),
            on_batch=scored,
            seconds=seconds,
            reveal=reveal,
        )
        return documents, self.mesh.collect(scores)

    def _diagnostics(self, model: Any, decoder: Decoder) -> dict[str, Any] | None:
        """What the energy has learned, for people; None where there is none."""
        how = Diagnostics(
            self.dataset,
            self.data.raw.documents,
            decoder.predict,
            top=self.measures.top,
            choose=self._choose,
            loss=self.experiment.objective.loss,
            batch_size=self.experiment.evaluation.batch_size,
            device=self.device,
        )
        return diagnose(model, how, label_shards=self.mesh.labels)

    def _choose(self, scores: TopScores, labels: Any) -> Callable[[TopScores], Any]:
        return self.measures.decoder(scores, labels).predict

    def _padded_share(self, model: Any) -> float | None:
        """Of the batches of the first epoch."""
        documents, training = self.dataset.split("train"), self.experiment.training
        if not isinstance(model, nn.Module) or not isinstance(documents.inputs, TokenSequences):
            return None
        order = training_order(documents, training.batch_size, training.length_window, self.experiment.seed, 0)
        return padded_share(order, documents.inputs.lengths, training.batch_size)

    def _trace(self, model: Any) -> dict[str, Any] | None:
        """Mean energy and gradient norm at each inference step, over the first validation documents.

        Not of a model that has no logits of all labels at once: a trace takes a dozen tensors of that size.
        """
        if not isinstance(model, nn.Module) or not hasattr(model, "infer") or getattr(model, "streams", False):
            return None
        if self.mesh.labels > 1:  # E(y) is of all labels at once
            return None
        split = next((name for name in ("validation", "test", "train") if self._has(name)), "train")
        rows = self.dataset.splits[split][:TRACED]
        # So over many labels it takes few documents at a time.
        batch_size = max(1, min(self.experiment.evaluation.batch_size, TRACED_NUMBERS // self.dataset.num_labels))
        return inference_trace(model, self.dataset.documents[rows], batch_size, self.device)


def inference_trace(model: Any, documents: Documents, batch_size: int, device: torch.device | str) -> dict[str, Any]:
    """How inference goes, step by step, averaged over documents.

    Returns:
        {"energy": T + 1 means of E(y_t), "gradient_norm": T + 1 means of |dE/dy|, "documents": N, "not_converged":
        documents whose last step still moved a label, "non_finite": documents whose result is not finite}.
    """
    model.eval()
    energies: Any = 0.0
    norms: Any = 0.0
    not_converged = non_finite = 0
    for batch in batches(documents, batch_size):
        with torch.no_grad():
            found = model.infer(batch.inputs.to(device), trace=True)
        energies = energies + found.trace.energies.double().sum(dim=1).cpu()
        norms = norms + found.trace.gradient_norms.double().sum(dim=1).cpu()
        not_converged += int((~found.converged).sum())
        non_finite += int((~found.finite).sum())
    count = len(documents)
    return {
        "energy": _means(energies, count),
        "gradient_norm": _means(norms, count),
        "documents": count,
        "not_converged": not_converged,
        "non_finite": non_finite,
    }


def _means(totals: torch.Tensor, count: int) -> Sequence[float]:
    return [float(total) / count for total in totals]


def _count_parameters(model: Any) -> int:
    """Weights of a network; what a baseline says of itself, else 0."""
    if isinstance(model, nn.Module):
        return sum(parameter.numel() for parameter in model.parameters())
    return int(getattr(model, "num_parameters", 0) or 0)
