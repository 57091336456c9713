"""The run folder: what a run writes, and reading it back.

    runs/<name>/  config.yaml  environment.json  metrics.jsonl  result.json  documents.npz  diagnostics.json
                  checkpoints/  preparation/  decoder.safetensors, where labels have thresholds of their own

While a run trains, `checkpoints/` holds numbered training states; when it has finished, `model.safetensors` alone, with
the folder `neighbours/` where the model looks up its training documents (for a baseline, the folder `baseline/`).
`diagnostics.json` is of energy networks alone.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import math
import os
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from energynets.errors import CheckpointError, ConfigError, NotWrittenError
from energynets.metrics import DECODERS, Decoder, GlobalThreshold
from energynets.parallel.whole import take_part
from energynets.training.checkpoint import Checkpoint, CheckpointFolder, write_file
from energynets.training.files import TEMPORARY, write_atomically, write_json, write_text

if TYPE_CHECKING:
    from energynets.config import Experiment
    from energynets.data.prepare import Preparation

# What may differ between a run and its resumption.
_FREE = ("name", "device", "data.root", "training.parallel.labels")


@dataclass(frozen=True)
class RunResult:
    """One row of a comparison: what result.json holds.

    Args:
        name: of the experiment.
        kind: what the table calls the model's kind: an energy, feature network or baseline.
        seed: of the experiment.
        config_hash: equal for equal settings, whatever the seed, name or device.
        data: the data fingerprint; rows are comparable where its `sha256` agree.
        metrics: split ("validation", "test") -> metric -> value, fractions in [0, 1].
        threshold: what makes sets of scores: {"value": float, None where there is no one threshold; "rule": how it was
            chosen, "decoding": global, per_label or expected_f1, and its settings}; see `metrics.decoding`.
        train_seconds: wall time of fitting, validation and feature caching included, over all resumptions.
        examples_per_second: training documents (counted once an epoch) over the time of the optimiser steps alone.
        peak_memory_bytes: of the device that trained: resident on a CPU, allocated on CUDA.
        peak_host_memory_bytes: resident size of the process.
        inference_ms_per_document: median over the batches of the test split of (transfer + forward + top k) / B.
        parameters: number of weights (0 for baselines without any).
        stages: [{"name", "epochs", "best_epoch", "best_value", "seconds"}]; epoch 0 is the stage's entry.
        version: of this package.
        finished: ISO time, UTC.
        preparation: what was counted in reading and preparing: vocabulary, documents without tokens, ...
        device: that it trained on.
        trace: energy networks: {"energy": [T + 1 means], "gradient_norm": [T + 1 means], "documents", "not_converged",
            "non_finite"} over the first validation documents; None with labels in chunks or a shortlist.
        calibration: {"split": "test", "ece", "ece_equal_mass", "brier", "pairs", "kept", "bins": [{"low", "high",
            "count", "confidence", "frequency"}]}, see `metrics.Calibration`; none where there are no test documents, or
            all their labels are unknown.
        observed: fraction of labels shown, as text -> {"threshold": as the run's own, split: metric -> value of the
            rest}; none where `evaluation.observed` names no fraction.
        padded_share: share of the token places of the first epoch's batches that is padding; none for tables.
        together: seeds that trained at once, 1 where it trained alone; its seconds are its share of theirs, its peak
            memory is that of all.
    """

    name: str
    kind: str
    seed: int
    config_hash: str
    data: Mapping[str, Any]
    metrics: Mapping[str, Mapping[str, float]]
    threshold: Mapping[str, Any]
    train_seconds: float
    examples_per_second: float
    peak_memory_bytes: int
    peak_host_memory_bytes: int
    inference_ms_per_document: float | None
    parameters: int
    stages: list[dict[str, Any]]
    version: str
    finished: str
    preparation: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    trace: Mapping[str, Any] | None = field(default=None)
    padded_share: float | None = None
    calibration: Mapping[str, Any] | None = None
    observed: Mapping[str, Mapping[str, Any]] | None = None
    together: int = 1

    def to_dict(self) -> dict[str, Any]:
        """As result.json: plain values, without what there is none of."""
        row = asdict(self)
        for key in ("trace", "padded_share", "calibration", "observed"):
            if row[key] is None:
                del row[key]
        return row

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> RunResult:
        """The inverse of `to_dict`; keys of later versions are left out.

        Raises:
            CheckpointError: a key is missing.
        """
        names = [f.name for f in fields(cls)]
        try:
            return cls(**{name: row[name] for name in names if name in row})
        except TypeError as error:
            raise CheckpointError(f"result.json: {str(error).partition('() ')[2] or error}") from None


class RunFolder:
    """Paths and files of one run.

    Args:
        folder: where they are.
        writes: false in all but one of several processes: nothing is then created, changed or removed.
    """

    def __init__(self, folder: Path, *, writes: bool = True) -> None:
        self.folder = Path(folder)
        self.writes = writes
        self.config = self.folder / "config.yaml"
        self.environment = self.folder / "environment.json"
        self.metrics = self.folder / "metrics.jsonl"
        self.result = self.folder / "result.json"
        self.diagnostics = self.folder / "diagnostics.json"
        self.documents = self.folder / "documents.npz"
        self.preparation = self.folder / "preparation"
        self.label_names = self.folder / "preparation" / "label_names.json"
        self.checkpoints = CheckpointFolder(self.folder / "checkpoints", writes=writes)
        self.model = self.checkpoints.folder / "model.safetensors"
        self.baseline = self.checkpoints.folder / "baseline"
        self.neighbours = self.checkpoints.folder / "neighbours"
        self.decoder = self.folder / "decoder.safetensors"
        self.cache = self.folder / "cache"
        self.cross_fit = self.folder / "cross-fit"

    # ------------------------------------------------------------------------------------------------ opening

    @contextlib.contextmanager
    def opened(self, experiment: Experiment, *, resume: bool) -> Iterator[None]:
        """Create the folder, or with `resume` check that it is this experiment's; held for one process meanwhile.

        Raises:
            ConfigError: the folder has something in it and `resume` is false; another process trains in it; or it
                belongs to other settings, which are listed.
        """
        if not self.writes:
            yield
            return
        occupied = self.check_free(resume=resume)
        if not self.config.exists() and occupied and any(entry.suffix != TEMPORARY for entry in self.folder.iterdir()):
            raise ConfigError(f"{self.folder}: not a run folder (no config.yaml), so nothing is written into it")
        self.folder.mkdir(parents=True, exist_ok=True)
        with _lock(self.folder):
            if self.config.exists():
                self.check_same(experiment)
            else:
                write_text(self.config, experiment.to_yaml())
            try:
                yield
            except BaseException:
                if not occupied and not self.metrics.exists() and not self.checkpoints.paths():
                    self._clear()
                raise

    def check_free(self, *, resume: bool) -> bool:
        """Whether something is in the folder.

        Raises:
            ConfigError: it is no folder; or something is in it, and `resume` is false.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise ConfigError(f"{self.folder}: a run needs a folder, but this is a file")
        occupied = self.folder.is_dir() and any(self.folder.iterdir())
        if occupied and not resume:
            raise ConfigError(
                f"{self.folder}: there is a run here already; continue it with --resume, or choose another name"
            )
        return occupied

    def _clear(self) -> None:
        """Leave nothing of a run that failed before it began: the next attempt needs no other name."""
        for entry in self.folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def check_same(self, experiment: Experiment) -> None:
        """That the run was started with these settings.

        Raises:
            ConfigError: it was not; which differ.
        """
        if differing := self._differing(experiment, _FREE):
            raise ConfigError(f"{self.folder}: was started with other settings: {differing}; choose another name")

    def check_trained(self, experiment: Experiment) -> None:
        """That the run's weights are those that this experiment would train.

        Raises:
            ConfigError: they are not; which settings differ.
            CheckpointError: no finished run.
        """
        from energynets.config import Evaluation

        theirs = self.experiment()
        if (theirs.hash(trained=True), theirs.seed) != (experiment.hash(trained=True), experiment.seed):
            differing = self._differing(experiment, (*_FREE, *(f"evaluation.{key}" for key in Evaluation.AFTERWARDS)))
            raise ConfigError(f"{self.folder}: was trained with other settings than are to be measured: {differing}")
        self.read_result()

    def _differing(self, experiment: Experiment, free: tuple[str, ...]) -> str:
        old, new = _flatten(self.experiment().model_dump(mode="json")), _flatten(experiment.model_dump(mode="json"))
        differing = sorted(key for key in old.keys() | new.keys() if key not in free and old.get(key) != new.get(key))
        shown = "; ".join(f"{key}: {_show(old, key)} there, {_show(new, key)} now" for key in differing[:8])
        return shown + (f" (and {len(differing) - 8} more)" if len(differing) > 8 else "")

    def experiment(self) -> Experiment:
        """The experiment of config.yaml.

        Raises:
            CheckpointError: there is none, so this is no run folder.
        """
        from energynets.config import Experiment

        if not self.config.exists():
            raise CheckpointError(f"{self.folder}: not a run folder (no config.yaml)")
        return Experiment.load(self.config)

    # ------------------------------------------------------------------------------------------------ writing

    def save_environment(self, environment: Mapping[str, Any]) -> None:
        """environment.json, unless an earlier session of this run wrote it."""
        if self.writes and not self.environment.exists():
            write_json(self.environment, environment)

    def take_over(self, trained: RunFolder) -> None:
        """Another run's preparation and learning curves: what training leaves besides weights."""
        if self.writes:
            copy = functools.partial(shutil.copytree, trained.preparation, dirs_exist_ok=True)
            save_folder(self.preparation, copy)
            self.checkpoints.folder.mkdir(exist_ok=True)
            if trained.metrics.exists():
                shutil.copyfile(trained.metrics, self.metrics)

    def save_preparation(self, preparation: Preparation, label_names: tuple[str, ...] | None) -> None:
        """What turns raw inputs into the model's, whole or not at all."""

        if not self.writes:
            return

        def save(folder: Path) -> None:
            preparation.save(folder)
            write_json(folder / self.label_names.name, label_names)

        save_folder(self.preparation, save)

    def append_metrics(self, line: Mapping[str, Any]) -> int:
        """Append a line to metrics.jsonl; returns its size in bytes, for `truncate_metrics`.

        Raises:
            NotWrittenError: it cannot be written.
        """
        if not self.writes:
            return 0
        text = json.dumps(plain(line), allow_nan=False) + "\n"
        try:
            with self.metrics.open("ab") as file:
                file.write(text.encode())
                file.flush()
                return file.tell()
        except OSError as error:
            reason = "no space left on the device" if error.errno == errno.ENOSPC else str(error)
            raise NotWrittenError(
                f"{self.metrics}: cannot append: {reason}; checkpoints are whole. Make room, then --resume"
            ) from error

    def truncate_metrics(self, size: int) -> bool:
        """Cut metrics.jsonl to what a checkpoint knew; false where it is already shorter."""
        if not self.writes:
            return True
        if not self.metrics.exists():
            return size == 0
        if self.metrics.stat().st_size < size:
            return False
        os.truncate(self.metrics, size)
        return True

    def save_model(self, checkpoint: Checkpoint) -> None:
        """The trained weights.

        Raises:
            NotWrittenError: they cannot be written.
        """
        if self.writes:
            write_file(self.model, checkpoint)
        else:
            take_part(checkpoint.tensors)

    def save_diagnostics(self, diagnostics: Mapping[str, Any] | None) -> None:
        """What an energy has learned; nothing where there is no energy."""
        if self.writes and diagnostics is not None:
            write_json(self.diagnostics, plain(diagnostics))

    def save_documents(self, values: Mapping[str, np.ndarray]) -> None:
        """Metrics of the test split document by document, in the split's order: what a paired test compares.

        Args:
            values: metric -> (N,) float32; of the rest, where labels are shown, by its `metrics.observed_name`.
        """

        def write(path: Path) -> None:
            with path.open("wb") as file:
                np.savez_compressed(file, **values)  # type: ignore[arg-type]

        write_atomically(self.documents, write)

    def finish(self, result: RunResult, decoder: Mapping[str, np.ndarray] | None = None) -> None:
        """Write what the decoder knows of each label, where there is any, and result.json, then drop what only resuming
        needed."""
        if decoder:
            write_atomically(self.decoder, lambda path: save_file(dict(decoder), path))
        write_json(self.result, plain(result.to_dict()))
        self.tidy()

    def tidy(self) -> None:
        """Drop what only resuming needed; of a finished run that was killed while it did so, too."""
        if self.writes:
            self.checkpoints.clear()
            for folder in (self.cache, self.cross_fit):
                shutil.rmtree(folder, ignore_errors=True)

    # ------------------------------------------------------------------------------------------------ reading

    def read_result(self) -> RunResult:
        """The finished run's row.

        Raises:
            CheckpointError: the run has not finished, or result.json is not what a run writes.
        """
        try:
            return RunResult.from_dict(json.loads(self.result.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise CheckpointError(
                f"{self.folder}: not a finished run (no result.json); finish it with --resume"
            ) from None
        except ValueError as error:
            raise CheckpointError(f"{self.result}: not what a run writes ({error})") from None

    def read_environment(self) -> dict[str, Any] | None:
        """Where it was trained, but for the command line; None where nothing says so."""
        try:
            found = json.loads(self.environment.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        found.pop("command", None)
        return dict(found.pop("trained", None) or found)

    def read_documents(self) -> dict[str, np.ndarray]:
        """What `save_documents` wrote; empty where there is none: no test split, or a run of an earlier version.

        Raises:
            CheckpointError: the file is damaged.
        """
        try:
            with self.documents.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise CheckpointError(f"{self.documents}: not what a run writes ({error})") from None

    def read_diagnostics(self) -> dict[str, Any]:
        """What `save_diagnostics` wrote; empty where there is none: no energy, or a run of an earlier version.

        Raises:
            CheckpointError: the file is damaged.
        """
        try:
            found = json.loads(self.diagnostics.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise CheckpointError(f"{self.diagnostics}: not what a run writes ({error})") from None
        if not isinstance(found, dict):
            raise CheckpointError(f"{self.diagnostics}: not what a run writes (expected an object)")
        return found

    def read_decoder(self, result: RunResult) -> Decoder:
        """What made the run's sets of labels.

        Raises:
            CheckpointError: unknown, or its file is missing or damaged.
        """
        row = result.threshold
        kind = str(row.get("decoding", GlobalThreshold.kind))  # results of earlier versions know one alone
        try:
            arrays = load_file(self.decoder) if self.decoder.exists() else {}
            return DECODERS[kind].restore(row, arrays)
        except (KeyError, TypeError, SafetensorError) as error:
            raise CheckpointError(f"{self.decoder}: not the {kind} decoder of {self.result} ({error})") from None

    def read_label_names(self) -> tuple[str, ...] | None:
        """Names of the labels, where the data has any."""
        names = json.loads(self.label_names.read_text(encoding="utf-8"))
        return None if names is None else tuple(names)


def save_folder(folder: Path, save: Callable[[Path], object]) -> None:
    """Let `save` fill a folder that appears whole or not at all (what was there before is replaced)."""
    temporary = folder.with_name(folder.name + TEMPORARY)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)


def plain(value: Any) -> Any:
    """JSON's own types: mappings, lists, numbers; a non-finite number becomes null."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; the system lets go of it however the process ends."""
    try:
        import fcntl
    except ImportError:  # a system without it: two processes in one folder are the user's to avoid
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConfigError(f"{folder}: another process is training in this folder") from None
    try:
        yield
    finally:
        os.close(descriptor)


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves by their path as `--set` takes it; lists are walked where they hold sections."""
    sections = isinstance(tree, list) and any(isinstance(entry, dict) for entry in tree)
    if not tree or not (isinstance(tree, dict) or sections):
        return {prefix: tree}
    leaves: dict[str, Any] = {}
    children: Iterable[tuple[Any, Any]] = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for name, child in children:
        leaves |= _flatten(child, f"{prefix}.{name}" if prefix else name)
    return leaves


def _show(leaves: Mapping[str, Any], key: str) -> str:
    return json.dumps(leaves[key]) if key in leaves else "absent"
