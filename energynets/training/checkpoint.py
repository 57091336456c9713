"""Checkpoints: one safetensors file each, with everything that is not a tensor as JSON in its header.

A checkpoint is never overwritten: each gets the next number, is renamed into place when whole, and only then are all
but the two newest removed. So at any moment the folder holds a whole checkpoint, and usually the one before it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from energynets.errors import CheckpointError, NotWrittenError
from energynets.parallel.whole import take_part
from energynets.training.files import TEMPORARY, write_atomically
from energynets.training.tensors import save_file

_HEADER = "energynets"
_FORMAT = 1
_NAME = re.compile(r"checkpoint-(\d{6,})\.safetensors")
KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, those of several processes to be gathered, and the rest as plain JSON values."""

    tensors: Mapping[str, Any]
    state: Mapping[str, Any]

    def under(
        self, prefix: str, part: Callable[[str, Tensor], tuple[slice, ...]] = lambda name, tensor: ()
    ) -> dict[str, Tensor]:
        """Copies of the tensors whose names start with `prefix/`, by their names without it.

        Args:
            prefix: of their names.
            part: name without the prefix, tensor -> the index of what is wanted of it.
        """
        found = {}
        for name in self.tensors:
            if name.startswith(prefix + "/"):
                tensor, short = self.tensors[name], name.removeprefix(prefix + "/")
                found[short] = tensor[part(short, tensor)].clone()
        return found


class FileTensors(Mapping[str, Tensor]):
    """The tensors of a file, each read when it is asked for: what is only cut from is not read whole."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.names = list(file.keys())

    def __getitem__(self, name: str) -> Tensor:
        found: Tensor = self.file.get_tensor(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def write_file(path: Path, checkpoint: Checkpoint) -> None:
    """One checkpoint, atomically.

    Raises:
        NotWrittenError: it cannot be written (a full disk, say); what was there before still is.
    """
    header = {_HEADER: json.dumps({"format": _FORMAT, "state": checkpoint.state}, allow_nan=False, sort_keys=True)}
    try:
        write_atomically(path, lambda temporary: save_file(checkpoint.tensors, temporary, metadata=header))
    except OSError as error:
        reason = "no space left on the device" if getattr(error, "errno", None) == errno.ENOSPC else str(error)
        earlier = _earlier(path)
        kept = f"the checkpoint before it, {earlier.name}, is whole" if earlier else "there is no checkpoint before it"
        raise NotWrittenError(
            f"{path}: cannot write this checkpoint: {reason}; {kept}. Make room, then continue with --resume"
        ) from error


def read_file(path: Path) -> Checkpoint:
    """One checkpoint.

    Raises:
        CheckpointError: missing, truncated, or not written by this package.
    """
    try:
        file = safe_open(path, framework="pt")
        metadata = file.metadata() or {}
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: truncated or not a safetensors file ({error}){_alternative(path)}") from None
    if _HEADER not in metadata:
        raise CheckpointError(f"{path}: a safetensors file, but not a checkpoint of energynets{_alternative(path)}")
    try:
        header = json.loads(metadata[_HEADER])
        version, state = header["format"], header["state"]
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(f"{path}: its header is not what energynets writes{_alternative(path)}") from None
    if version != _FORMAT:
        raise CheckpointError(f"{path}: checkpoint format {version}, this version reads format {_FORMAT}")
    return Checkpoint(FileTensors(file), state)


class CheckpointFolder:
    """The numbered checkpoints of one run.

    Args:
        folder: where they are.
        writes: false in a process that only takes part when another one writes.
    """

    def __init__(self, folder: Path, *, writes: bool = True) -> None:
        self.folder = folder
        self.writes = writes

    def paths(self) -> list[Path]:
        """The checkpoints, oldest first."""
        return _numbered(self.folder)

    def save(self, checkpoint: Checkpoint) -> None:
        """Write the next checkpoint, then remove all but the newest two.

        Raises:
            CheckpointError: as `write_file`.
        """
        if not self.writes:
            take_part(checkpoint.tensors)
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        paths = self.paths()
        number = _number(paths[-1]) + 1 if paths else 1
        path = self.folder / f"checkpoint-{number:06d}.safetensors"
        write_file(path, checkpoint)
        for old in [*paths, path][:-KEPT]:
            old.unlink(missing_ok=True)

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint, or None where there is none; leftovers of a killed write are removed.

        Raises:
            CheckpointError: it is damaged or foreign; the message names the one before it.
        """
        if self.writes:
            self._sweep()
        paths = self.paths()
        return read_file(paths[-1]) if paths else None

    def clear(self) -> None:
        """Remove every numbered checkpoint."""
        self._sweep()
        for path in self.paths():
            path.unlink(missing_ok=True)

    def _sweep(self) -> None:
        # safetensors writes to a temporary file of its own (`.tmp...`) before it renames it to ours (`....tmp`).
        for pattern in ("*" + TEMPORARY, TEMPORARY + "*"):
            for leftover in self.folder.glob(pattern):
                leftover.unlink(missing_ok=True)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State of an optimiser by `number of the parameter/name`; its settings come from the configuration."""
    state = optimizer.state_dict()["state"]
    return {
        f"{number}/{name}": value if isinstance(value, Tensor) else torch.tensor(value)
        for number, entries in state.items()
        for name, value in entries.items()
        if value is not None
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors` into an optimiser over the same parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, _, name = key.partition("/")
        state.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def load_weights(module: torch.nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Load every weight of a module.

    Raises:
        CheckpointError: a tensor is missing, unknown, or of another shape.
    """
    own = module.state_dict()
    for problem, names in (("lacks", own.keys() - weights.keys()), ("has an unknown", weights.keys() - own.keys())):
        if names:
            raise CheckpointError(
                f"{source}: {problem} tensor {min(names)!r} ({len(names)} such); another model's file?"
            )
    for name, tensor in own.items():
        if tensor.shape != weights[name].shape:
            raise CheckpointError(
                f"{source}: {name!r} has shape {tuple(weights[name].shape)}, the model needs {tuple(tensor.shape)}"
            )
    module.load_state_dict(dict(weights))


def random_tensors(device: torch.device) -> dict[str, Tensor]:
    """State of the global generators: what dropout draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def load_random_tensors(states: Mapping[str, Tensor], device: torch.device) -> None:
    """The inverse of `random_tensors`; a state of a device not in use is left out."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def _number(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match
    return int(match.group(1))


def _numbered(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), key=_number)


def _earlier(path: Path) -> Path | None:
    """The newest whole checkpoint numbered below this one."""
    if not _NAME.fullmatch(path.name):
        return None
    for candidate in reversed(_numbered(path.parent)):
        if _number(candidate) < _number(path):
            with contextlib.suppress(CheckpointError):
                read_file(candidate)
                return candidate
    return None


def _alternative(path: Path) -> str:
    earlier = _earlier(path)
    if earlier is None:
        return ""
    return f"; the one before it, {earlier.name}, is whole: delete {path.name} and --resume continues from there"
