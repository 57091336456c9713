"""What `import energynets` promises."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
