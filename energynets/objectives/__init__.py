"""model, batch -> scalar to minimise: uses models."""

from energynets.objectives.end_to_end import EndToEnd
from energynets.objectives.losses import LOSSES, probabilities

OBJECTIVES: dict[str, type[EndToEnd]] = {"end_to_end": EndToEnd}

__all__ = ["LOSSES", "OBJECTIVES", "EndToEnd", "probabilities"]
