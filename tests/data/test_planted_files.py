"""Planted data on disk, and at a million labels."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from energynets.data.planted import PlantedSpec, generate, posterior, read_spec, tokens_of_texts, write_planted
from energynets.data.readers import READERS
from energynets.errors import DataError


@pytest.mark.parametrize("length", [1, 2])
def test_what_is_written_reads_back(tmp_path, length):
    spec = PlantedSpec(
        num_documents=1_500, num_test_documents=200, mean_labels=1.5, allow_empty=True, phrase_length=length
    )
    calls = []
    folder = write_planted(spec, tmp_path / "planted", progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (1_700, 1_700)
    assert read_spec(folder) == spec
    drawn = generate(spec)
    for split in ("train", "test"):
        read = READERS["tsv"](folder / f"{split}.tsv.gz", labels=folder / "labels.txt")
        expected = drawn.split(split)
        assert read.label_names == expected.label_names
        np.testing.assert_array_equal(read.labels.indptr, expected.labels.indptr)
        np.testing.assert_array_equal(read.labels.indices, expected.labels.indices)
        tokens = tokens_of_texts(spec, read.inputs)
        np.testing.assert_array_equal(tokens.ids, expected.inputs.ids)
        np.testing.assert_array_equal(tokens.offsets, expected.inputs.offsets)
        assert posterior(spec, tokens).shape == (len(read), 64)


def test_equal_specs_give_equal_files(tmp_path):
    spec = PlantedSpec(num_documents=20, num_test_documents=5)
    first, second = write_planted(spec, tmp_path / "a"), write_planted(spec, tmp_path / "b")
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(DataError, match="not an empty folder"):
        write_planted(PlantedSpec(num_documents=2), tmp_path)
    (tmp_path / "empty").mkdir()
    assert write_planted(PlantedSpec(num_documents=2), tmp_path / "empty").is_dir()


def test_a_failure_leaves_nothing(tmp_path):
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_planted(PlantedSpec(num_documents=2), tmp_path / "planted", progress=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "cannot be read"), ("{", "not JSON"), ("[]", "expected an object"), ('{"x": 1}', "unknown field 'x'")],
)
def test_damaged_specs(tmp_path, text, message):
    if text is not None:
        (tmp_path / "planted.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_spec(tmp_path)


SCALE = """
import resource, sys
from energynets.data.planted import PlantedModel, PlantedSpec, Posterior, generate, write_planted
idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
labels, documents, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
spec = PlantedSpec(num_labels=labels, num_documents=documents, num_test_documents=500, vocabulary_size=100_000)
write_planted(spec, folder)
written = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
data = generate(spec)
drawn = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
test = data.split("test")
indices, values = Posterior(PlantedModel.build(spec)).top(test.inputs, 5)
ended = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
hits = sum(len(set(row) & set(test.labels[[i]].indices.tolist())) for i, row in enumerate(indices.tolist()))
print((written - idle) // 1024, (drawn - idle) // 1024, (ended - idle) // 1024, hits / indices.size, values.mean())
"""


def peaks(tmp_path, labels: int, documents: int) -> tuple[int, int, int]:
    """MiB above the imports: after writing, after drawing into memory, after the posterior."""
    command = [sys.executable, "-c", SCALE, str(labels), str(documents), str(tmp_path / f"{labels}-{documents}")]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    precision, expected = float(out[3]), float(out[4])
    assert precision == pytest.approx(expected, abs=0.05)
    written, drawn, ended = map(int, out[:3])
    return written, drawn, ended


def test_memory_does_not_grow_with_documents(tmp_path):
    few, many = peaks(tmp_path, 20_000, 2_000), peaks(tmp_path, 20_000, 20_000)
    assert many[0] < few[0] + 24


def test_a_million_labels_in_bounded_memory(tmp_path):
    """20,000 x 1,000,000 would be 20 GB even at one byte a label; measured 122, 122 and 217 MiB."""
    written, drawn, ended = peaks(tmp_path, 1_000_000, 20_000)
    assert written < 250
    assert drawn < 250
    assert ended < 400
