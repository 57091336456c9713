"""The loop, stages, checkpoints and run folder: uses models, objectives, data, metrics and baselines."""

from energynets.training.build import BuiltData, Sizes, build_dataset, build_model, kind_label
from energynets.training.evaluate import evaluate, metric_names
from energynets.training.interrupt import Interrupted
from energynets.training.load import TrainedRun, load_run, predict
from energynets.training.progress import Progress
from energynets.training.run import RunFolder, RunResult
from energynets.training.score import score
from energynets.training.trainer import train

__all__ = [
    "BuiltData",
    "Interrupted",
    "Progress",
    "RunFolder",
    "RunResult",
    "Sizes",
    "TrainedRun",
    "build_dataset",
    "build_model",
    "evaluate",
    "kind_label",
    "load_run",
    "metric_names",
    "predict",
    "score",
    "train",
]
