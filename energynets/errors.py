"""The errors a user can meet, under one root: each says what was expected, what came, and what to change."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from numbers import Integral


class EnergyNetsError(Exception):
    """Root of every error this package raises on purpose.

    Example:
        >>> from energynets import BagOfWords, EnergyNetsError
        >>> try:
        ...     BagOfWords(num_inputs=4, activation="rleu")
        ... except EnergyNetsError as error:
        ...     print(error)
        BagOfWords: unknown activation 'rleu' (did you mean 'relu'? valid: relu, softplus, tanh)
    """


class ConfigError(EnergyNetsError, ValueError):
    """A configuration that cannot be honoured: unknown key, wrong type, unknown component."""


class DataError(EnergyNetsError, ValueError):
    """Input data that is not what its format says."""


class ShapeError(EnergyNetsError, ValueError):
    """A tensor whose shape does not fit the model."""


class InferenceError(EnergyNetsError, ArithmeticError):
    """Inference over y that cannot go on."""


class NotConvergedWarning(UserWarning):
    """Inference or its implicit gradient stopped short of its tolerance: what came is not what was asked for."""


class NotCompiledWarning(UserWarning):
    """Something that was to be compiled runs uncompiled: slower perhaps, never other numbers."""


class TrainingError(EnergyNetsError, ArithmeticError):
    """Training that must stop: a non-finite loss or gradient."""


class ProcessLostError(TrainingError):
    """Another process of the same training is gone, or has stopped."""


class CheckpointError(EnergyNetsError, ValueError):
    """A checkpoint or run folder that is missing, truncated or written by something else."""


class NotWrittenError(CheckpointError):
    """A checkpoint or a line of metrics that cannot be written (a full disk, say): training had to stop."""


class MissingExtraError(EnergyNetsError, ImportError):
    """An optional dependency that the requested feature needs."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package!r}, which is not installed: pip install 'energynets[{extra}]'")


def counts(given: object, least: int = 1) -> bool:
    """Whether a number of things is a whole one, `least` or more; True is none."""
    return isinstance(given, Integral) and not isinstance(given, bool) and int(given) >= least


MANY = 60
"""A message lists as many names in full; of more it gives the nearest, or where none is near the first `SOME`."""

SOME = 10


def nearest(name: str, valid: Iterable[str]) -> str:
    """`" (did you mean 'x'? valid: x, y)"`: the hint that closes an error about an unknown name."""
    names = sorted(valid)
    match = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hints = [f"did you mean {match[0]!r}?"] if match else []
    if len(names) <= MANY:
        hints.append(f"valid: {', '.join(names)}")
    elif not match:
        hints.append(f"valid: {', '.join(names[:SOME])} and {len(names) - SOME:,} more")
    return f" ({' '.join(hints)})"
