"""Planted data on disk: text files that the `tsv` reader reads, and the spec that the posterior needs.

    planted.json     the spec
    labels.txt       label-00000, one a line
    train.tsv.gz     labels<TAB>text        label-00003,label-00017<TAB>w00412 w00009 ...
    test.tsv.gz

Word `w00412` is token id 412. The files are drawn and written chunk by chunk, so that memory does not grow with N.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from energynets.data.dataset import TextDocuments, TokenSequences
from energynets.data.planted.generate import Progress, chunks, label_names
from energynets.data.planted.model import PlantedModel
from energynets.data.planted.spec import PlantedSpec
from energynets.errors import DataError

SPLIT_FILES = ("train.tsv.gz", "test.tsv.gz")


def write_planted(spec: PlantedSpec, folder: str | Path, *, progress: Progress | None = None) -> Path:
    """Draw a planted data set into a new folder, whole or not at all.

    Read it with `format: tsv`, `train: train.tsv.gz`, `test: test.tsv.gz`, `labels: labels.txt`. Equal specs give equal
    files.

    Args:
        spec: the distribution and the number of documents.
        folder: created; may exist, but empty.
        progress: called with (documents done, documents in all).

    Returns:
        The folder.

    Raises:
        DataError: the folder holds something, cannot be written, or the spec contradicts itself.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: exists and is not an empty folder: choose another, or delete it first")
    model = PlantedModel.build(spec)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        partial.mkdir(parents=True)
        _write(model, partial, progress)
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    except OSError as error:
        raise DataError(f"{folder}: cannot write planted data: {error.strerror or error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _write(model: PlantedModel, folder: Path, progress: Progress | None) -> None:
    spec = model.spec
    words = [f"w{word:05d}" for word in range(spec.vocabulary_size)]
    with open(folder / "labels.txt", "w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(f"{name}\n" for name in label_names(spec.num_labels))
    done, total = 0, spec.num_documents + spec.num_test_documents
    for split, wanted in enumerate((spec.num_documents, spec.num_test_documents)):
        # Neither the time nor a file name goes into the gzip header: equal specs give equal bytes.
        with (
            open(folder / SPLIT_FILES[split], "wb") as raw,
            gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as stream,
        ):
            stream.write(b"labels\ttext\n")
            for tokens, labels in chunks(model, split, wanted):
                stream.write(_lines(tokens, labels, words).encode())
                done += len(tokens)
                if progress is not None:
                    progress(done, total)
    (folder / "planted.json").write_text(json.dumps(spec.to_dict(), indent=2) + "\n", encoding="utf-8")


def _lines(tokens: TokenSequences, labels: csr_array, words: list[str]) -> str:
    ids, ends = tokens.ids.tolist(), tokens.offsets.tolist()
    columns, starts = labels.indices.tolist(), labels.indptr.tolist()
    return "".join(
        ",".join([f"label-{label:05d}" for label in columns[starts[row] : starts[row + 1]]])
        + "\t"
        + " ".join([words[word] for word in ids[ends[row] : ends[row + 1]]])
        + "\n"
        for row in range(len(tokens))
    )


def read_spec(folder: str | Path) -> PlantedSpec:
    """The spec of a folder that `write_planted` wrote.

    Raises:
        DataError: there is none, or it is damaged.
    """
    path = Path(folder) / "planted.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}") from None
    if not isinstance(values, dict):
        raise DataError(f"{path}: expected an object of fields, got {type(values).__name__}")
    return PlantedSpec.from_dict(values)


def tokens_of_texts(spec: PlantedSpec, documents: TextDocuments) -> TokenSequences:
    """Texts as `write_planted` writes them, back to the token ids that the posterior takes.

    Raises:
        DataError: a word that is none of the spec's.
    """
    texts = [text.split() for text in documents.texts]
    try:
        ids = np.array([int(word.removeprefix("w")) for text in texts for word in text], dtype=np.int32)
    except ValueError as error:
        raise DataError(f"expected words like w00412, got {str(error).rpartition(':')[2].strip()}") from None
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in texts])]).astype(np.int64)
    return TokenSequences(ids, offsets, spec.vocabulary_size)
