"""Energy-network structured prediction: features read x once, an energy scores (x, y), descent on y predicts."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Name -> its room. Names are imported when first used, so that `import energynets` is quick and a machine without
# the configuration's libraries can still use the Python API.
_ROOMS = {
    "energynets.energies": ("SPEN", "ICNN", "Energy", "MeasuredEnergy"),
    "energynets.features": ("XMLCNN", "KimCNN", "BagOfWords", "FeatureCache"),
    "energynets.inference": (
        "infer",
        "InferenceResult",
        "MirrorDescent",
        "GradientDescent",
        "ProjectedGradient",
        "Anderson",
        "BundleEntropy",
        "Unroll",
        "Truncated",
        "Implicit",
        "NoGradient",
    ),
    "energynets.models": ("Classifier", "EnergyNetwork"),
    "energynets.objectives": ("EndToEnd", "StructuredHinge", "ValueNetwork", "InferenceNetwork", "Contrastive"),
    "energynets.data": ("MultiLabelDataset", "load_dataset"),
    "energynets.training": ("evaluate", "train"),
    "energynets.compare": ("compare",),
    "energynets.config": ("Experiment",),
    "energynets.errors": ("EnergyNetsError",),
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'energynets' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
