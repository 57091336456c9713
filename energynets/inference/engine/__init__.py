"""The fast path: a whole descent over a measured energy as one differentiable operation.

`path` says which models take it. The general path, plain operations under autograd, takes everything else and is the
oracle of this one.
"""

from energynets.eager import under_transforms
from energynets.inference.engine.compiled import compiled_engine, compiling, not_compiled
from energynets.inference.engine.path import (
    Path,
    asked_for_general_path,
    general_path,
    general_reason,
    path,
    unmeasured,
)
from energynets.inference.engine.solve import iterate_descent, mirror_descent
from energynets.products import Precision

__all__ = [
    "Path",
    "Precision",
    "asked_for_general_path",
    "compiled_engine",
    "compiling",
    "general_path",
    "general_reason",
    "iterate_descent",
    "mirror_descent",
    "not_compiled",
    "path",
    "under_transforms",
    "unmeasured",
]
