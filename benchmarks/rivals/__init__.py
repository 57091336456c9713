"""Who is timed: energynets and its rivals, each in a file of its own, all of one interface."""

from benchmarks.rivals.contestant import TASKS, Array, Contestant, Problem
from benchmarks.rivals.ours import Ours, OursBF16, OursCompiled, OursGraph, build_energy
from benchmarks.rivals.plain import EnergyLoop, PlainLoop
from benchmarks.rivals.with_higher import Higher
from benchmarks.rivals.with_jax import JaxScan, JaxUnrolled
from benchmarks.rivals.with_optimistix import Optimistix
from benchmarks.rivals.with_torchopt import TorchOpt

RIVALS: tuple[type[Contestant], ...] = (PlainLoop, EnergyLoop, TorchOpt, Higher, JaxUnrolled, JaxScan, Optimistix)
CONTESTANTS: tuple[type[Contestant], ...] = (Ours, *RIVALS)

__all__ = [
    "CONTESTANTS",
    "RIVALS",
    "TASKS",
    "Array",
    "Contestant",
    "EnergyLoop",
    "Ours",
    "OursBF16",
    "OursCompiled",
    "OursGraph",
    "PlainLoop",
    "Problem",
    "build_energy",
]
