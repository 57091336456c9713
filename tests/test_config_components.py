"""A component's keys in the configuration are the arguments of its class, with the same defaults."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest

from energynets import config, config_models, config_objectives

# What a class needs besides its keys comes from the data.
FROM_DATA = {"self", "num_features", "num_labels", "num_inputs", "vocabulary_size", "vectors", "domain"}


def components() -> Iterator[tuple[type, type]]:
    from energynets.energies import ENERGIES
    from energynets.features import FEATURES
    from energynets.inference import GRADIENTS, SOLVERS
    from energynets.objectives import OBJECTIVES

    sections: dict[str, type] = {
        section.model_fields["kind"].default: section
        for section in [*vars(config_models).values(), *vars(config_objectives).values()]
        if isinstance(section, type) and issubclass(section, config_models.Section) and "kind" in section.model_fields
    }
    for registry in (FEATURES, ENERGIES, SOLVERS, GRADIENTS, OBJECTIVES):
        for kind, component in registry.items():
            yield sections[kind], component


def signature(component: type) -> dict[str, Any]:
    parameters = inspect.signature(component.__init__).parameters  # type: ignore[misc]
    return {name: parameter.default for name, parameter in parameters.items() if name not in FROM_DATA}


def test_component_keys_are_constructor_arguments() -> None:
    for section, component in components():
        keys = {name: field.default for name, field in section.model_fields.items() if name != "kind"}  # type: ignore[attr-defined]
        assert keys == signature(component), component.__name__


def test_amortized_keys_are_constructor_arguments() -> None:
    from energynets.inference import AmortizedStart

    keys = {name: field.default for name, field in config_models.AmortizedConfig.model_fields.items()}
    assert keys == signature(AmortizedStart)


def test_neighbours_keys_are_constructor_arguments() -> None:
    from energynets.baselines import NearestNeighbours
    from energynets.output import NeighbourLogits

    keys = {name: field.default for name, field in config_models.NeighboursConfig.model_fields.items()}
    term = {name: default for name, default in signature(NeighbourLogits).items() if name != "nearest"}
    assert keys == signature(NearestNeighbours) | term


def test_baseline_keys_are_constructor_arguments() -> None:
    baselines = pytest.importorskip("energynets.baselines")
    pairs = [
        (config.LinearModel, "LinearOneVsRest"),
        (config.NeighboursModel, "NearestNeighbours"),
        (config.TargetEmbeddingModel, "TargetEmbedding"),
        (config.LabelTreeModel, "LabelTree"),
    ]
    for section, name in pairs:
        keys = {key: field.default for key, field in section.model_fields.items() if key != "kind"}
        given = signature(getattr(baselines, name))
        assert keys == {key: given.get(key) for key in keys}


def test_formats_are_the_readers() -> None:
    from energynets.data.readers import READERS

    annotation = str(config.Data.model_fields["format"].annotation)
    assert all(repr(name) in annotation for name in READERS)
    assert annotation.count("'") == 2 * len(READERS)


def test_planted_keys_are_the_spec() -> None:
    planted = pytest.importorskip("energynets.data.planted")
    fields = {name: field.default for name, field in planted.PlantedSpec.__dataclass_fields__.items()}
    assert {name: field.default for name, field in config.Planted.model_fields.items()} == fields
