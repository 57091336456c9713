"""(f, y) -> E and dE/dy: knows tensors only."""

from energynets.energies.domain import Box, Domain, Euclidean, Simplex, binary_entropy
from energynets.energies.energy import Energy
from energynets.energies.gathered import GatheredContext, GatheredEnergy
from energynets.energies.heads import ConvexHead, SoftplusHead
from energynets.energies.icnn import ICNN
from energynets.energies.measured import MeasuredContext, MeasuredEnergy
from energynets.energies.spen import SPEN

ENERGIES: dict[str, type[MeasuredEnergy]] = {"spen": SPEN, "icnn": ICNN}

__all__ = [
    "ENERGIES",
    "ICNN",
    "SPEN",
    "Box",
    "ConvexHead",
    "Domain",
    "Energy",
    "Euclidean",
    "GatheredContext",
    "GatheredEnergy",
    "MeasuredContext",
    "MeasuredEnergy",
    "Simplex",
    "SoftplusHead",
    "binary_entropy",
]
