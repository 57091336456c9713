"""E -> argmin y, forwards and backwards: uses energies."""

from energynets.inference.amortized import AmortizedStart
from energynets.inference.anderson import Anderson
from energynets.inference.bundle_entropy import BundleEntropy
from energynets.inference.certificate import NO_CERTIFICATE, certificate
from energynets.inference.descent import Descent, GradientDescent, MirrorDescent, ProjectedGradient
from energynets.inference.engine import Path, Precision, compiled_engine, general_path, path
from energynets.inference.gradient import GradientMode, Implicit, NoGradient, Truncated, Unroll
from energynets.inference.infer import InferenceResult, Trace, infer
from energynets.inference.observed import OBSERVED_LOGIT, Observed
from energynets.inference.shortlist import Shortlist
from energynets.inference.solver import Solution, Solver, StepLoss

SOLVERS: dict[str, type[Solver]] = {
    "mirror_descent": MirrorDescent,
    "gradient_descent": GradientDescent,
    "projected_gradient": ProjectedGradient,
    "anderson": Anderson,
    "bundle_entropy": BundleEntropy,
}
GRADIENTS: dict[str, type[Unroll | Truncated | Implicit]] = {
    "unroll": Unroll,
    "truncated": Truncated,
    "implicit": Implicit,
}
"""How training may differentiate inference."""

__all__ = [
    "GRADIENTS",
    "NO_CERTIFICATE",
    "OBSERVED_LOGIT",
    "SOLVERS",
    "AmortizedStart",
    "Anderson",
    "BundleEntropy",
    "Descent",
    "GradientDescent",
    "GradientMode",
    "Implicit",
    "InferenceResult",
    "MirrorDescent",
    "NoGradient",
    "Observed",
    "Path",
    "Precision",
    "ProjectedGradient",
    "Shortlist",
    "Solution",
    "Solver",
    "StepLoss",
    "Trace",
    "Truncated",
    "Unroll",
    "certificate",
    "compiled_engine",
    "general_path",
    "infer",
    "path",
]
