"""Several seeds of one experiment trained at once: their weights stacked, one step for all of them.

Small networks spend their time between operations, not in them; S of them in one operation pay for it once. Each seed
has its own weights, order of documents, dropout, validation and early stopping, and ends, to rounding, where it ends
alone. `worth_it` says where it is faster.

Measured by benchmarks/seeds.py on one thread of a shared x86-64 machine, processor time of ten seeds one after another
over that of all at once, whole runs of four epochs: SPEN with 128 hidden units on emotions 1.83 (11,000 weights), yeast
1.73, scene 1.62; with 1,024 units 1.61, 1.36 and 1.30 (309,000 weights); three seeds on bibtex 1.07 (2,054,000). There
the time is in reading weights, of which each seed has its own. In a process each, as a comparison trains them, five
seeds on emotions took 4.6 times as long: every process has to start.

"To rounding" is of every step. Adam moves a weight whose gradient is nothing but rounding by a whole learning rate, so
after some hundred steps single weights are 1e-2 apart, as they are between the engine's path and the general path.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from energynets.data.batches import Batch, CachedFeatures
from energynets.errors import ConfigError
from energynets.features import BagOfWords
from energynets.features.stacked import stacked_features
from energynets.parallel.launch import processes
from energynets.parallel.mesh import Mesh
from energynets.training.build import BuiltData, Sizes, build_dataset, build_model, prepared_documents
from energynets.training.initial_bias import set_initial_bias
from energynets.training.interrupt import Interrupted, Request, interruptible
from energynets.training.loop import Loop, _Current
from energynets.training.machine import deterministic, environment, reset_peak_memory, resolve_device
from energynets.training.optimizers import Optimizers
from energynets.training.progress import Progress
from energynets.training.run import RunFolder, RunResult
from energynets.training.stages import stage_objective, stage_view, trained
from energynets.training.trainer import _count_parameters, _Session, train
from energynets.training.update import Objective

if TYPE_CHECKING:
    from energynets.config import Experiment, Stage

FEW_WEIGHTS = 320_000  # of a seed: where it was still 1.3 times as fast


def train_seeds(
    experiment: Experiment,
    seeds: Sequence[int],
    folders: Sequence[str | Path],
    *,
    progress: Progress | None = None,
    data: BuiltData | None = None,
) -> list[RunResult]:
    """`train` of one experiment under several seeds, at once, on a CPU.

    Every seed gets the run folder, and to rounding the result, of a training alone; its seconds are its share of all
    seeds' together, its memory is that of all. Without checkpoints: what is interrupted starts again.

    Args:
        experiment: a classifier or an energy network over bag-of-words features.
        seeds: S different ones; each takes the place of the experiment's own.
        folders: the run's of each seed, new or empty.
        progress: listener.
        data: the experiment's data, where `build_dataset` has already read it.

    Returns:
        A row for each seed.

    Raises:
        ConfigError: what cannot be trained so, by its setting; or a folder that has a run in it.
        TrainingError: a loss or gradient that is not finite, of any seed.
        Interrupted: asked to stop.
    """
    if len(seeds) != len(folders) or len(set(seeds)) != len(seeds) or not seeds:
        raise ConfigError(f"seeds: expected different seeds and a folder for each, got {len(seeds)} and {len(folders)}")
    reason = cannot(experiment)
    if reason:
        raise ConfigError(f"several seeds at once: {reason}")
    progress = progress or Progress()
    own = [experiment.model_copy(update={"seed": seed}) for seed in seeds]
    runs = [RunFolder(Path(folder)) for folder in folders]
    device = resolve_device("cpu")
    with contextlib.ExitStack() as stack:
        for run, settings in zip(runs, own, strict=True):
            stack.enter_context(run.opened(settings, resume=False))
            run.save_environment(environment(device) | {"processes": 1, "label_shards": 1})
        data = build_dataset(experiment, progress=progress) if data is None else data
        if data.prepared.documents.unknown is not None:
            raise ConfigError("several seeds at once: expected data whose labels are all known, got unknown ones")
        reset_peak_memory(device)
        models = [build_model(settings, Sizes.of(data.prepared)) for settings in own]
        for model in models:
            set_initial_bias(experiment, model, data.prepared)
        request = stack.enter_context(interruptible(progress.note))
        stack.enter_context(deterministic(device))
        sessions = []
        for run, settings in zip(runs, own, strict=True):
            run.save_preparation(data.preparation, data.raw.label_names)
            sessions.append(_Session(settings, run, data, Mesh(device=device), request, progress))
        loops = [session.loop(model) for session, model in zip(sessions, models, strict=True)]
        _Together(loops, seeds, request).run()
        results = []
        for session, model, loop in zip(sessions, models, loops, strict=True):
            session.run.model.parent.mkdir(exist_ok=True)
            done = session.finish_network(model, loop.position, _count_parameters(model), together=len(seeds))
            results.append(done)
        return results


def train_in_one_process(
    experiment: Experiment,
    seeds: Sequence[int],
    folders: Sequence[str | Path],
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> list[RunResult]:
    """`train` under several seeds, which start once and read the data once: at once where that is faster, else in turn.

    Args:
        experiment, seeds, folders, progress: as for `train_seeds`, of any model.
        resume: keep the runs that are finished and go on with the others. Those that trained at once start again, and
            train alone.

    Returns:
        A row for each seed.

    Raises:
        ConfigError, DataError, TrainingError, Interrupted: as `train`.
    """
    runs = [RunFolder(Path(folder)) for folder in folders]
    for run in runs:  # before anything trains: a clash is told at once
        run.check_free(resume=resume)
    new = [(seed, run.folder) for seed, run in zip(seeds, runs, strict=True) if not run.folder.exists()]
    finished = all(run.result.exists() for run in runs)
    data = None if finished else build_dataset(experiment, progress=progress)
    results: dict[int, RunResult] = {}
    documents = None if data is None else prepared_documents(experiment, data)
    known = documents is not None and documents.documents.unknown is None
    if documents is not None and known and worth_it(experiment, len(new), Sizes.of(documents)):
        at_once, into = zip(*new, strict=True)
        results |= zip(at_once, train_seeds(experiment, at_once, into, progress=progress, data=data), strict=True)
    for seed, folder in zip(seeds, folders, strict=True):
        if seed not in results:
            own = experiment.model_copy(update={"seed": seed})
            results[seed] = train(own, folder=folder, resume=resume, progress=progress, data=data)
    return [results[seed] for seed in seeds]


def worth_it(experiment: Experiment, seeds: int, sizes: Sizes) -> bool:
    """Whether so many seeds are faster at once than one after another: several, of few weights each."""
    if seeds < 2 or cannot(experiment):
        return False
    return _count_parameters(build_model(experiment, sizes)) <= FEW_WEIGHTS


def cannot(experiment: Experiment) -> str | None:
    """Why several seeds of an experiment cannot train at once, naming the setting; None where they can."""
    model: Any = experiment.model
    if experiment.objective.kind != "end_to_end":
        return f"objective.kind: expected end_to_end, got {experiment.objective.kind}"
    if any(stage.cross_fit is not None for stage in experiment.stages):
        return "training.stages: expected cross_fit null, whose folds are runs of their own"
    if any(stage.fit is not None for stage in experiment.stages):
        return "training.stages: expected fit null, which has no steps to share"
    if experiment.training.reveal is not None:
        return "training.reveal: expected null"
    if getattr(model, "observes", False):
        return "model.observes: expected false"
    if getattr(model, "neighbours", None) is not None:
        return "model.neighbours: expected null, for they are looked up seed by seed"
    if experiment.objective.convergence_penalty:
        return "objective.convergence_penalty: expected 0"
    if model.kind not in ("classifier", "energy_network"):
        return f"model.kind {model.kind} has no seeds, or no steps to share"
    if model.features.kind != "bag_of_words":
        return f"model.features.kind: expected bag_of_words, got {model.features.kind}"
    if experiment.device not in ("auto", "cpu") or resolve_device(experiment.device).type != "cpu":
        return "device: expected cpu, whose random numbers a generator for each seed repeats"
    if experiment.training.compile != "none":
        return f"training.compile: expected none, got {experiment.training.compile}"
    if processes() > 1:
        return "expected one process, started without torchrun"
    if model.kind == "classifier":
        return None if model.output.kind == "linear" else f"model.output.kind: expected linear, got {model.output.kind}"
    for key in ("label_chunk", "shortlist"):
        if getattr(model, key) is not None:
            return f"model.{key}: expected null"
    if model.energy.dropout:
        return "model.energy.dropout: expected 0, its mask is drawn inside the energy"
    if model.gradient.kind == "implicit":
        return "model.gradient.kind: expected unroll or truncated, got implicit"
    if model.solver.kind not in ("mirror_descent", "gradient_descent", "projected_gradient"):
        return f"model.solver.kind: expected a descent, got {model.solver.kind}"
    return None if model.solver.precision == "float32" else "model.solver.precision: expected float32"


class Stack:
    """The weights of S models of one architecture, (S, ...) each; the models' own are views of them."""

    def __init__(self, models: Sequence[Any]) -> None:
        network = models[0].features
        if type(network) is not BagOfWords or any(True for _ in models[0].buffers()):
            raise ConfigError(
                f"several seeds at once: expected BagOfWords without buffers, got {type(network).__name__}"
            )
        stacked, _ = torch.func.stack_module_state(list(models))
        self.weights = {name: nn.Parameter(tensor.detach()) for name, tensor in stacked.items()}
        for number, model in enumerate(models):
            for name, weight in model.named_parameters():
                weight.data = self.weights[name].data[number]
        self._names = {id(weight): name for name, weight in models[0].named_parameters()}

    def of(self, view: nn.Module) -> dict[str, nn.Parameter]:
        """The stacked weights by their name in a view of the first model."""
        return {name: self.weights[self._names[id(weight)]] for name, weight in view.named_parameters()}

    def groups(self, view: Any) -> dict[str, list[nn.Parameter]]:
        """The stacked weights by group."""
        groups = view.parameter_groups().items()
        return {name: [self.weights[self._names[id(weight)]] for weight in weights] for name, weights in groups}


class _Groups:
    """What an optimiser wants of a model."""

    def __init__(self, groups: Mapping[str, list[nn.Parameter]]) -> None:
        self._groups = groups

    def parameter_groups(self) -> Mapping[str, list[nn.Parameter]]:
        return self._groups


class _Loss(nn.Module):
    """(f (B, F), targets (B, L)) -> the objective's scalar, of whatever weights the model is called with."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, features: Tensor, targets: Tensor) -> Tensor:
        return self.objective(self.model, Batch(CachedFeatures(features), _Dense(targets), targets))  # type: ignore[arg-type]


class _Dense:
    """Labels that are dense already."""

    def __init__(self, targets: Tensor) -> None:
        self.targets = targets

    def dense(self, dtype: torch.dtype | None = None) -> Tensor:
        return self.targets if dtype is None else self.targets.to(dtype)


class _Together:
    """S loops, one a seed, that share their steps."""

    def __init__(self, loops: Sequence[Loop], seeds: Sequence[int], request: Request) -> None:
        self.loops = loops
        self.request = request
        self.stack = Stack([loop.model for loop in loops])
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        for loop in loops:
            loop.share = 1 / len(loops)

    def run(self) -> None:
        for stage in self.loops[0].experiment.stages:
            self._run_stage(stage)

    def _run_stage(self, stage: Stage) -> None:
        views = [stage_view(loop.model, stage.trains) for loop in self.loops]
        with contextlib.ExitStack() as context:
            chosen = [context.enter_context(trained(view, stage.trains, stage.name)) for view in views]
            marked = {id(weight) for weight in chosen[0]}
            stacked, trains = self.stack.of(views[0]), []
            for name, weight in views[0].named_parameters():
                stacked[name].requires_grad_(id(weight) in marked)
                trains += [stacked[name]] if id(weight) in marked else []
            optimizer = Optimizers(stage.optimizer, _Groups(self.stack.groups(views[0])), stage.trains)
            objective = stage_objective(self.loops[0].objective, stage)
            currents = [
                _Current(stage, view, weights, optimizer, objective)
                for view, weights in zip(views, chosen, strict=True)
            ]
            for loop, current in zip(self.loops, currents, strict=True):
                if "features" not in stage.trains:
                    loop._cache_features(current)
                loop._enter(current)
            step = _Step(views[0], objective, stacked, trains, stage.optimizer.clip_norm)
            ended: dict[int, dict[str, Tensor]] = {}
            while going := [n for n, loop in enumerate(self.loops) if n not in ended and loop._goes_on(stage)]:
                self._run_epoch(currents, going, step)
                for number in going:
                    loop = self.loops[number]
                    if not loop._goes_on(stage):  # the others' steps go on moving its weights
                        ended[number] = loop._weights() if loop.best is None else loop.best
        for number, loop in enumerate(self.loops):
            loop.best = ended[number]
            loop._leave(stage)

    def _run_epoch(self, currents: Sequence[_Current], going: Sequence[int], step: _Step) -> None:
        loops, stage, optimizer = self.loops, currents[0].stage, currents[0].optimizer
        for current in currents:
            current.view.train()
        for batches in self._batches(currents, going):
            began = time.perf_counter()
            optimizer.set_factor(loops[going[0]]._rate_factor(stage))
            optimizer.zero_grad(set_to_none=True)
            generators = [self.generators[n] if n in going else None for n in range(len(loops))]
            numbers = step.gradients(batches, generators).tolist()
            for number in going:
                loops[number]._count(stage, batches[number], *numbers[number])
            optimizer.step()
            for loop in loops:
                loop.model.project()
            for number in going:
                loops[number].position.step_seconds += (time.perf_counter() - began) / len(going)
            at = loops[going[0]].position
            loops[0].progress.step(at.epoch + 1, at.step, loops[0].batches, at.loss_sum / at.loss_count)
            if self.request:
                raise Interrupted("stopped: seeds that train at once keep no checkpoints, so start them again")
        for number in going:
            loops[number]._end_epoch(currents[number])

    def _batches(self, currents: Sequence[_Current], going: Sequence[int]) -> Iterator[list[Batch]]:
        """A batch for each seed; those that have ended look on at another's."""
        streams = [self.loops[number]._batches(currents[number]) for number in going]
        for found in zip(*streams, strict=True):
            batch = dict(zip(going, found, strict=True))
            yield [batch.get(number, found[0]) for number in range(len(self.loops))]


class _Step:
    """Losses and gradients of S seeds, by vmap over all that comes after the features."""

    def __init__(
        self,
        view: Any,
        objective: Objective,
        stacked: Mapping[str, Tensor],
        trains: Sequence[nn.Parameter],
        clip_norm: float | None,
    ) -> None:
        self.network: Any = view.features
        self.trains = trains
        self.clip_norm = clip_norm
        self.loss = _Loss(view, objective)
        prefix = "features."
        self.first = {name.removeprefix(prefix): w for name, w in stacked.items() if name.startswith(prefix)}
        self.rest = {f"model.{name}": w for name, w in stacked.items() if not name.startswith(prefix)}

    def gradients(self, batches: Sequence[Batch], generators: Sequence[torch.Generator | None]) -> Tensor:
        """Gradients, clipped, in the stacked weights; (S, 2) losses and norms before that."""
        inputs: list[Any] = [batch.inputs for batch in batches]
        if isinstance(inputs[0], CachedFeatures):
            features = torch.stack([cached.values for cached in inputs])
        else:
            features = stacked_features(self.network, self.first, inputs, generators)
        targets = torch.stack([batch.labels.dense(features.dtype) for batch in batches])
        losses_S = torch.vmap(self._one)(self.rest, features, targets)
        losses_S.sum().backward()
        grads = [weight.grad for weight in self.trains if weight.grad is not None]
        norms_S = torch.stack([grad.reshape(len(grad), -1).norm(dim=1) for grad in grads]).norm(dim=0)
        if self.clip_norm is not None:
            factors_S = (self.clip_norm / (norms_S + 1e-6)).clamp(max=1)  # as torch clips
            for grad in grads:
                grad.mul_(factors_S.view(-1, *[1] * (grad.ndim - 1)))
        return torch.stack([losses_S.detach().double(), norms_S.double()], dim=1)

    def _one(self, weights: dict[str, Tensor], features: Tensor, targets: Tensor) -> Tensor:
        return torch.func.functional_call(self.loss, weights, (features, targets))
