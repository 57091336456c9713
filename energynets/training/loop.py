"""The loop over stages, epochs and batches: all that happens to a model between its first and last weights."""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from energynets.data.batches import Batch, batches, training_order
from energynets.data.dataset import Documents, MultiLabelDataset
from energynets.data.reveal import RandomReveal, Reveal
from energynets.errors import CheckpointError, ConfigError, InferenceError, TrainingError
from energynets.features import FeatureCache
from energynets.parallel.mesh import Mesh
from energynets.training.checkpoint import (
    Checkpoint,
    load_random_tensors,
    load_weights,
    random_tensors,
)
from energynets.training.cross_fit import fold_networks, fold_rows, held_out_unary, unary_logits
from energynets.training.fit_unary import fit_unary
from energynets.training.graph import GraphedUpdate, most_entries
from energynets.training.interrupt import Interrupted, Request, stop_message
from energynets.training.machine import peak_host_memory, peak_memory, synchronize
from energynets.training.optimizers import Optimizers, schedule_factor
from energynets.training.progress import Progress
from energynets.training.run import RunFolder
from energynets.training.stages import Position, infers, stage_objective, stage_view, trained
from energynets.training.update import NothingToTrainError, Objective, Update
from energynets.training.validation import Validator

if TYPE_CHECKING:
    from energynets.config import Experiment, LinearFit, Stage


class _Stop(Exception):
    """Raised between two batches where someone asked to stop."""


@dataclass
class _Current:
    """The stage being run: its view of the model, what it trains, and what it reads, once or by what an epoch shows."""

    stage: Stage
    view: Any
    parameters: list[nn.Parameter]
    optimizer: Optimizers
    objective: Objective
    train_features: Tensor | None = None
    validation_features: Tensor | None = None
    held_out: Callable[[Reveal | None], Tensor] | None = None
    update: Update | GraphedUpdate | None = None


class Loop:
    """Trains a model through the stages of an experiment, from where a checkpoint left off.

    Args:
        model: with `parameter_groups()`, `project()`, `compute_features` and `features`; on `device`.
        objective: (model, batch) -> scalar.
        experiment: its stages, `training`, `evaluation`, `objective.loss` and `seed`.
        dataset: prepared; its training rows are trained on, its validation rows (if any) pick the best weights.
        folder: gets checkpoints and metrics.jsonl.
        device: where the model is.
        request: stops the loop after the current batch when it comes true.
        progress: listener.
        mesh: the processes that train together, in which the model has its place.

    Raises:
        ConfigError: `training.monitor` is no metric.
    """

    def __init__(
        self,
        model: Any,
        objective: Objective,
        experiment: Experiment,
        dataset: MultiLabelDataset,
        folder: RunFolder,
        *,
        device: torch.device,
        request: Request | None = None,
        progress: Progress | None = None,
        mesh: Mesh | None = None,
    ) -> None:
        self.mesh = Mesh() if mesh is None else mesh
        self.model = model
        self.objective = objective
        self.experiment = experiment
        self.folder = folder
        self.device = device
        self.request = Request() if request is None else request
        self.progress = progress or Progress()
        self.validator = Validator(experiment, dataset, device, self._scored, self.mesh)
        self.dataset = dataset
        self.train = dataset.split("train")
        self.fingerprint = dataset.fingerprint.sha256
        self.batches = math.ceil(len(self.train) / experiment.training.batch_size)
        crossed = any(stage.cross_fit is not None for stage in experiment.stages)
        self.untrained = copy.deepcopy(model) if crossed else None  # what each fold's network starts as
        self.position = Position()
        self.best: dict[str, Tensor] | None = None
        self._resumed: Checkpoint | None = None
        self._clock = time.perf_counter()
        self.share = 1.0  # of the time that passes, where several models train at once

    # ------------------------------------------------------------------------------------------------ the loop

    def run(self) -> Position:
        """Train until every stage is done; the model then holds the weights that the last stage keeps.

        Raises:
            Interrupted: asked to stop; a checkpoint has been saved.
            TrainingError: a loss or gradient that is not finite; the weights are those before it.
            CheckpointError: a checkpoint cannot be written; earlier ones are whole.
        """
        self._clock = time.perf_counter()
        stages = self.experiment.stages
        while self.position.stage < len(stages):
            stage = stages[self.position.stage]
            if stage.fit is None:
                self._run_stage(stage)
            else:
                self._fit_stage(stage, stage.fit)
        return self.position

    def _run_stage(self, stage: Stage) -> None:
        view = stage_view(self.model, stage.trains, cross_fit=stage.cross_fit is not None)
        at = self.position
        self._announce(stage)
        with contextlib.ExitStack() as stack:
            parameters = stack.enter_context(trained(view, stage.trains, stage.name))
            optimizer = Optimizers(
                stage.optimizer, view, stage.trains, capturable=self._graphs, deferred=self.mesh.data == 1
            )
            stack.callback(optimizer.close)
            current = _Current(stage, view, parameters, optimizer, stage_objective(self.objective, stage))
            if stage.cross_fit is not None:
                try:
                    self._cross_fit(current, stage.cross_fit)
                except Interrupted:
                    if not at.entered:  # the folds keep what they did, this the time that it took
                        self._save(None)
                    raise
                self._announce(stage)  # once more: the folds have had stages of their own
            elif "features" not in stage.trains and getattr(self.model, "cacheable", True):
                self._cache_features(current)
            self._restore_stage(optimizer)
            current.update = self._update(current)
            with self._saving_on_stop(optimizer):
                if not at.entered:
                    self._enter(current)
                while self._goes_on(stage):
                    self._run_epoch(current)
                    self._save(optimizer)
        self._leave(stage)
        self._save(None)
        if stage.cross_fit is not None:
            shutil.rmtree(self.folder.cross_fit, ignore_errors=True)

    def _fit_stage(self, stage: Stage, settings: LinearFit) -> None:
        """The output layer, solved for: an epoch without steps, evaluated once."""
        self._announce(stage)
        at, view = self.position, stage_view(self.model, stage.trains)
        self._resumed = None  # there was no optimiser

        def fitted(done: int, total: int) -> None:
            self.progress.fitting(done, total)
            self._stop_if_asked()

        with self._saving_on_stop(None):
            if not at.entered:  # else stopped while it was evaluated: the checkpoint has what was solved for
                began = time.perf_counter()
                size = self.experiment.evaluation.batch_size
                stopped = fit_unary(view, self.train, settings, batch_size=size, device=self.device, progress=fitted)
                at.step_seconds += time.perf_counter() - began
                at.examples += len(self.train)
                if stopped:
                    what = f"the solvers of {stopped} labels stopped at their step limit"
                    self.progress.note(f"stage {stage.name!r}: {what}")
                at.epoch, at.entered = 1, True
            if self.validator.documents is not None:
                metrics = self._evaluate(stage, view, self.objective)
                at.best_value, at.best_epoch = metrics[self.validator.monitor], 1
                self._record(stage, metrics, None)
        self._leave(stage)
        self._save(None)

    def _announce(self, stage: Stage) -> None:
        number, stages = self.position.stage + 1, len(self.experiment.stages)
        self.progress.stage(stage.name, number, stages, stage.epochs, 0 if stage.fit else self.batches)

    def _leave(self, stage: Stage) -> None:
        """The model has the weights that the stage keeps; the next one comes."""
        if self.best is not None:
            self.model.load_state_dict(self.best)
        self._tick()
        self.position.end_stage(stage.name)
        self.best = None

    def _goes_on(self, stage: Stage) -> bool:
        """Whether the stage has another epoch."""
        at = self.position
        return at.epoch < stage.epochs and not (stage.patience and at.stale >= stage.patience)

    def _enter(self, current: _Current) -> None:
        """The entry is epoch 0: a stage that never gains on it gives back the weights it was given."""
        at = self.position
        if self.validator.documents is not None:
            metrics = self._evaluate(current.stage, current.view, current.objective, current.validation_features)
            at.best_value, at.best_epoch = metrics[self.validator.monitor], 0
            self._keep(current.stage)
            self._record(current.stage, metrics, None)
        at.entered = True

    def _run_epoch(self, current: _Current) -> None:
        at = self.position
        training = self.experiment.training
        current.view.train()
        if "features" not in current.stage.trains:
            self.model.features.eval()  # as a cache has them
        for batch in self._batches(current):
            began = time.perf_counter()
            self._step(current, batch)
            at.step_seconds += time.perf_counter() - began
            self.progress.step(at.epoch + 1, at.step, self.batches, at.loss_sum / at.loss_count)
            if training.checkpoint_every and at.steps % training.checkpoint_every == 0:
                self._save(current.optimizer)
            self._stop_if_asked()
        self._end_epoch(current)

    def _batches(self, current: _Current) -> Iterator[Batch]:
        """What is left of the current epoch."""
        at, training = self.position, self.experiment.training
        cached = current.train_features is not None or current.held_out is not None
        window = 1 if cached else training.length_window  # which have no padding
        order = training_order(self.train, training.batch_size, window, self.experiment.seed, at.order)
        reveal = None
        if training.reveal is not None and self._sees_known(current.stage):
            low, high = training.reveal.low, training.reveal.high
            reveal = RandomReveal.training(low, high, self.experiment.seed, at.order)
        features = current.train_features if current.held_out is None else current.held_out(reveal)
        return batches(self.train, training.batch_size, order=order, start=at.step, features=features, reveal=reveal)

    def _sees_known(self, stage: Stage) -> bool:
        """Whether labels that are known reach what the stage trains; a classifier without inputs for them has nothing
        to learn from being shown some, and would lose them from its loss."""
        return getattr(self.model, "observes", False) or infers(stage.trains)

    def _end_epoch(self, current: _Current) -> None:
        at, training = self.position, self.experiment.training
        epoch = at.epoch + 1
        metrics: dict[str, float] = {}
        if self.validator.documents is not None and (
            epoch % training.evaluate_every == 0 or epoch == current.stage.epochs
        ):
            metrics = self._evaluate(current.stage, current.view, current.objective, current.validation_features)
        loss = at.loss_sum / at.loss_count
        at.end_epoch()
        if metrics:
            self._compare(current.stage, metrics[self.validator.monitor])
        self._record(current.stage, metrics, loss)

    def _step(self, current: _Current, batch: Batch) -> None:
        current.optimizer.set_factor(self._rate_factor(current.stage))
        assert current.update is not None
        try:
            numbers = current.update.gradients(batch.to(self.device))
        except NothingToTrainError as error:
            raise ConfigError(f"stage {current.stage.name!r}: {error} ({', '.join(current.stage.trains)})") from None
        # One transfer for both: on CUDA each waits for the device.
        self._count(current.stage, batch, *numbers.tolist())
        current.update.apply()

    def _rate_factor(self, stage: Stage) -> float:
        """Of the learning rate, at this step."""
        at, total = self.position, stage.epochs * self.batches
        return schedule_factor(stage.optimizer.schedule, at.epoch * self.batches + at.step, total)

    def _count(self, stage: Stage, batch: Batch, loss_value: float, norm_value: float) -> None:
        """A step whose gradients are there, unless they are not finite."""
        at = self.position
        if not (math.isfinite(loss_value) and math.isfinite(norm_value)):
            raise TrainingError(self._diverged(stage, batch, loss_value, norm_value))
        at.step += 1
        at.steps += 1
        at.examples += len(batch)
        at.loss_sum += loss_value * len(batch)
        at.loss_count += len(batch)

    @property
    def _graphs(self) -> bool:
        return self.experiment.training.compile == "graph" and self.device.type == "cuda"

    def _update(self, current: _Current) -> Update | GraphedUpdate:
        """The step of a stage, as `training.compile` says."""
        training = self.experiment.training
        update = Update(
            current.view,
            current.objective,
            current.parameters,
            current.optimizer,
            clip_norm=current.stage.optimizer.clip_norm,
            project=self.model.project,
            compiled_from=training.batch_size if training.compile == "engine" else None,
            mesh=self.mesh,
        )
        if self._graphs:
            entries = most_entries(self.train, training.batch_size)
            return GraphedUpdate(update, training.batch_size, entries, self.progress.note)
        if training.compile == "graph":
            self.progress.note(
                f"training.compile: graph: needs a CUDA device, and this is {self.device}: nothing changes"
            )
        return update

    def _diverged(self, stage: Stage, batch: Batch, loss: float, norm: float) -> str:
        rows = batch.rows.tolist()
        shown = ", ".join(map(str, rows[:8])) + (f", ... ({len(rows)} rows)" if len(rows) > 8 else "")
        at, number = self.position, self.position.stage
        what = f"gradient norm is {norm}" if math.isfinite(loss) else f"loss is {loss}"
        knobs = [f"training.stages.{number}.optimizer.learning_rate (now {stage.optimizer.learning_rate:g})"]
        for group in stage.trains:
            if getattr(stage.optimizer, group) is not None:
                rate = stage.optimizer.of(group).learning_rate
                knobs.append(f"training.stages.{number}.optimizer.{group}.learning_rate (now {rate:g})")
        if hasattr(self.model, "solver"):
            knobs.append("model.solver.mixing" if hasattr(self.model.solver, "mixing") else "model.solver.step_size")
        clip = stage.optimizer.clip_norm
        knobs.append(f"training.stages.{number}.optimizer.clip_norm" + (f" (now {clip:g})" if clip else ", e.g. to 1"))
        paths = self.folder.checkpoints.paths()
        kept = f"; the last checkpoint is {paths[-1].name}" if paths else ""
        return (
            f"stage {stage.name!r}, epoch {at.epoch + 1}, step {at.step + 1} of {self.batches}: the {what}, on "
            f"training rows {shown}; nothing was updated. Lower {' or '.join(knobs[:-1])}, or set {knobs[-1]}{kept}"
        )

    # ------------------------------------------------------------------------------------------------ validation

    def _evaluate(
        self, stage: Stage, view: Any, objective: Objective, features: Tensor | None = None
    ) -> dict[str, float]:
        """Metrics of the stage's view of the model; they must be numbers."""
        try:
            metrics = self.validator.metrics(view, features, objective)
            if not math.isfinite(metrics[self.validator.monitor]):
                value = metrics[self.validator.monitor]
                raise InferenceError(f"{self.validator.monitor} is {value}")
        except InferenceError as error:
            at, rate = self.position, stage.optimizer.learning_rate
            raise TrainingError(
                f"stage {stage.name!r}, after epoch {at.epoch + bool(at.step)}: on validation, {error}. "
                f"Lower training.stages.{at.stage}.optimizer.learning_rate (now {rate:g})"
            ) from error
        return metrics

    def _compare(self, stage: Stage, value: float) -> None:
        """Note whether the monitored value is better than any before in this stage."""
        at = self.position
        assert at.best_value is not None
        if self.validator.better(value, than=at.best_value):
            at.best_value, at.best_epoch, at.stale = value, at.epoch, 0
            self._keep(stage)
        else:
            at.stale += 1

    def _keep(self, stage: Stage) -> None:
        """The stage ends with these weights unless better ones come, or with its last where it says so."""
        if stage.keep == "best":
            self.best = self._weights()

    def _scored(self, done: int, total: int) -> None:
        self.progress.scoring("validation", done, total)
        if self.mesh.size == 1:  # else all must stop at one place: after the next step
            self._stop_if_asked()

    def _record(self, stage: Stage, metrics: dict[str, float], train_loss: float | None) -> None:
        self._tick()
        at = self.position
        line = {"stage": stage.name, "epoch": at.epoch, "step": at.steps, "train_loss": train_loss}
        line |= {"seconds": at.seconds, "validation": metrics}
        at.metrics_size = self.folder.append_metrics(line)
        self.progress.evaluation(line)

    # ------------------------------------------------------------------------------------------------ features

    def _cache_features(self, current: _Current) -> None:
        """Features that no step of this stage changes: computed once, in evaluation mode, for all of its epochs."""
        storage = self.experiment.training.cache
        cache = FeatureCache(
            self.model.features, storage=storage, folder=self.folder.cache if storage == "disk" else None
        )
        size = self.experiment.evaluation.batch_size

        def get(documents: Documents, split: str) -> Tensor:
            return cache.get(documents, key=f"{self.fingerprint}-{split}", batch_size=size, device=self.device)

        def get_all() -> None:
            current.train_features = get(self.train, "train")
            if self.validator.documents is not None:
                current.validation_features = get(self.validator.documents, "validation")

        if storage == "memory":
            get_all()
        else:
            self.mesh.first_then_others(get_all)

    def _cross_fit(self, current: _Current, folds: int) -> None:
        """Unary logits that the energy learns from: of networks that have not seen the documents. Validation's are the
        model's own."""
        if len(self.train) < folds:
            raise ConfigError(
                f"stage {current.stage.name!r}, cross_fit: expected at most {len(self.train)} folds, one a training "
                f"document, got {folds}"
            )
        size = self.experiment.evaluation.batch_size
        self.folder.cross_fit.mkdir(exist_ok=True)
        parts = fold_rows(len(self.train), folds, self.experiment.seed)
        networks = fold_networks(self, parts)
        if self.model.observes:  # phi is another in each epoch, and all networks stay for it
            kept = list(networks)
            current.held_out = functools.partial(held_out_unary, self.train, parts, kept, size, self.device)
        else:
            current.train_features = held_out_unary(self.train, parts, networks, size, self.device)
        if self.validator.documents is not None:
            current.validation_features = unary_logits(
                self.model, self.validator.documents, size, self.device, reveal=self.validator.reveal
            )

    # ------------------------------------------------------------------------------------------------ checkpoints

    def resume(self, checkpoint: Checkpoint) -> None:
        """Stand where a checkpoint was taken.

        Raises:
            CheckpointError: it belongs to other data or another model.
        """
        name = self.folder.checkpoints.paths()[-1].name
        if checkpoint.state.get("data") != self.fingerprint:
            raise CheckpointError(f"{name}: was trained on other data; the data files have changed since")
        weights = dict(self.model.named_parameters())

        def part(name: str, tensor: Tensor) -> tuple[slice, ...]:
            return self.mesh.own(weights.get(name))

        load_weights(self.model, checkpoint.under("model", part), name)
        best = checkpoint.under("best", part)
        self.best = {key: tensor.to(self.device) for key, tensor in best.items()} if best else None
        self.position = Position(**checkpoint.state["position"])
        self._resumed = checkpoint
        if not self.folder.truncate_metrics(self.position.metrics_size):
            self.progress.note(
                f"{self.folder.metrics} is shorter than at the last checkpoint: its early lines are lost"
            )
        load_random_tensors(checkpoint.under("random"), self.device)

    def _restore_stage(self, optimizer: Optimizers) -> None:
        """The optimiser of a stage that a checkpoint was taken in."""
        checkpoint, self._resumed = self._resumed, None
        if checkpoint is not None:

            def part(key: str, tensor: Tensor) -> tuple[slice, ...]:
                weight = optimizer.weight(key)
                return self.mesh.own(weight if tensor.ndim == weight.ndim else None)

            optimizer.load_tensors(checkpoint.under("optimizer", part))
            # Caching features may have drawn random numbers that the uninterrupted run drew before this moment.
            load_random_tensors(checkpoint.under("random"), self.device)

    def _save(self, optimizer: Optimizers | None) -> None:
        self._tick()
        tensors: dict[str, Any] = {}
        for prefix, state_dict in (("model", self.model.state_dict()), ("best", self.best or {})):
            whole = self.mesh.weights(self.model, state_dict)
            tensors |= {f"{prefix}/{name}": tensor for name, tensor in whole.items()}
        tensors |= {f"random/{name}": tensor for name, tensor in random_tensors(self.device).items()}
        if optimizer is not None:
            own = optimizer.tensors()
            of = optimizer.weight
            tensors |= {f"optimizer/{key}": self.mesh.whole(tensor, of(key)) for key, tensor in own.items()}
        state = {"position": self.position.to_dict(), "data": self.fingerprint}
        self.folder.checkpoints.save(Checkpoint(tensors, state))

    def _weights(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}

    def _tick(self) -> None:
        """Add the time since the last tick, and look at the peak memory."""
        synchronize(self.device)
        now = time.perf_counter()
        at, passed = self.position, (now - self._clock) * self.share
        self._clock, at.seconds, at.stage_seconds = now, at.seconds + passed, at.stage_seconds + passed
        at.peak_memory = max(at.peak_memory, peak_memory(self.device))
        at.peak_host_memory = max(at.peak_host_memory, peak_host_memory())

    def _stop_if_asked(self) -> None:
        if self.mesh.any(bool(self.request)):
            raise _Stop

    @contextlib.contextmanager
    def _saving_on_stop(self, optimizer: Optimizers | None) -> Iterator[None]:
        try:
            yield
        except _Stop:
            self._save(optimizer)
            self.mesh.first_says(None)  # it is written: no process ends before
            raise Interrupted(stop_message(self.folder.folder, self.request)) from None
