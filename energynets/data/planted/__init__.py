"""Planted data: documents drawn from a known distribution with strong label dependence, and its exact posterior."""

from energynets.data.planted.files import read_spec, tokens_of_texts, write_planted
from energynets.data.planted.generate import generate
from energynets.data.planted.model import PlantedModel
from energynets.data.planted.posterior import Posterior, posterior, posterior_top
from energynets.data.planted.spec import PlantedSpec

__all__ = [
    "PlantedModel",
    "PlantedSpec",
    "Posterior",
    "generate",
    "posterior",
    "posterior_top",
    "read_spec",
    "tokens_of_texts",
    "write_planted",
]
