"""What `import energynets` promises."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys

import pytest
import torch

import energynets

NAMES = [
    "Anderson",
    "BagOfWords",
    "BundleEntropy",
    "Classifier",
    "Contrastive",
    "EndToEnd",
    "Energy",
    "EnergyNetsError",
    "EnergyNetwork",
    "Experiment",
    "FeatureCache",
    "GradientDescent",
    "ICNN",
    "Implicit",
    "InferenceNetwork",
    "InferenceResult",
    "KimCNN",
    "MeasuredEnergy",
    "MirrorDescent",
    "MultiLabelDataset",
    "NoGradient",
    "ProjectedGradient",
    "SPEN",
    "StructuredHinge",
    "Truncated",
    "Unroll",
    "ValueNetwork",
    "XMLCNN",
    "compare",
    "evaluate",
    "infer",
    "load_dataset",
    "train",
]


def test_public_names_are_the_golden_list() -> None:
    assert sorted({*energynets.__all__} - {"__version__"}) == NAMES
    assert len(NAMES) < 40


@pytest.mark.parametrize("name", NAMES)
def test_public_names_are_there_and_documented(name: str) -> None:
    assert getattr(energynets, name).__doc__
    assert name in dir(energynets)


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_has_an_example_that_runs(name: str) -> None:
    found = getattr(importlib.import_module(energynets._HOME[name]), name)  # `energynets.compare` is also a package
    examples = doctest.DocTestFinder(recurse=False).find(found, name, globs={})
    runner = doctest.DocTestRunner()
    torch.manual_seed(0)
    for example in examples:
        runner.run(example)
    assert runner.tries > 0
    assert runner.failures == 0


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'SPENN'"):
        energynets.SPENN  # noqa: B018


def test_the_python_api_needs_neither_pydantic_nor_yaml() -> None:
    """A machine with torch alone trains through the Python API."""
    code = (
        "import sys; sys.modules['pydantic'] = sys.modules['yaml'] = sys.modules['sklearn'] = None\n"
        "from energynets import SPEN, XMLCNN, BagOfWords, EndToEnd, EnergyNetwork, MirrorDescent, infer, load_dataset\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
