"""E -> argmin y, forwards and backwards: uses energies."""

from energynets.inference.gradient import GradientMode, NoGradient, Unroll
from energynets.inference.infer import InferenceResult, Trace, infer
from energynets.inference.solvers import GradientDescent, MirrorDescent, ProjectedGradient, Solver

SOLVERS: dict[str, type[Solver]] = {
    "mirror_descent": MirrorDescent,
    "gradient_descent": GradientDescent,
    "projected_gradient": ProjectedGradient,
}

__all__ = [
    "SOLVERS",
    "GradientDescent",
    "GradientMode",
    "InferenceResult",
    "MirrorDescent",
    "NoGradient",
    "ProjectedGradient",
    "Solver",
    "Trace",
    "Unroll",
    "infer",
]
