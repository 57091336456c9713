"""model, batch -> scalar to minimise: uses models."""

from energynets.objectives.contrastive import Contrastive
from energynets.objectives.end_to_end import EndToEnd
from energynets.objectives.inference_network import InferenceNetwork
from energynets.objectives.losses import LOSSES, probabilities
from energynets.objectives.objective import EnergyObjective
from energynets.objectives.structured_hinge import StructuredHinge
from energynets.objectives.value_network import ValueNetwork

OBJECTIVES: dict[str, type[EndToEnd | EnergyObjective]] = {
    "end_to_end": EndToEnd,
    "structured_hinge": StructuredHinge,
    "value_network": ValueNetwork,
    "inference_network": InferenceNetwork,
    "contrastive": Contrastive,
}

__all__ = [
    "LOSSES",
    "OBJECTIVES",
    "Contrastive",
    "EndToEnd",
    "EnergyObjective",
    "InferenceNetwork",
    "StructuredHinge",
    "ValueNetwork",
    "probabilities",
]
