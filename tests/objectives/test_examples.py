"""The examples of the docstrings run."""

from __future__ import annotations

import doctest
import importlib
import inspect

import pytest

from energynets.inference import AmortizedStart
from energynets.objectives import OBJECTIVES

WITH_EXAMPLES = [kind for kind in OBJECTIVES.values() if ">>>" in inspect.getdoc(kind)] + [AmortizedStart]


@pytest.mark.parametrize("kind", WITH_EXAMPLES)
def test_examples_say_what_happens(kind: type) -> None:
    found = doctest.testmod(importlib.import_module(kind.__module__))
    assert found.attempted > 0
    assert found.failed == 0


def test_every_objective_has_an_example() -> None:
    assert set(OBJECTIVES.values()) <= set(WITH_EXAMPLES)
