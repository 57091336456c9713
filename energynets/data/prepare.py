"""Raw inputs -> model inputs, by what the training documents alone have taught: vocabulary, idf, means and scales."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file
from scipy.sparse import csr_array

from energynets.data.dataset import Inputs, MultiLabelDataset, TextDocuments, TokenSequences, csr
from energynets.data.readers.source import Progress
from energynets.data.scaling import Standardize, is_dense_and_real
from energynets.data.text import TextOptions, Vocabulary, cut
from energynets.data.texts import Texts
from energynets.data.tfidf import TfIdf, unit_rows
from energynets.errors import CheckpointError, ConfigError, DataError, nearest

__all__ = ["Preparation", "TextOptions"]

INPUTS = ("auto", "tokens", "counts", "tfidf")
SCALINGS = ("auto", "none", "standardize", "unit_norm")
_FORMAT = "energynets preparation 1"
_SETTINGS, _TOKENIZER, _ARRAYS = "preparation.json", "tokenizer.json", "preparation.safetensors"


def _kind(inputs: Inputs) -> str:
    if isinstance(inputs, TextDocuments):
        return "text"
    return "tokens" if isinstance(inputs, TokenSequences) else "table"


@dataclass(frozen=True)
class Preparation:
    """Everything fitted on training rows that turns raw inputs into model inputs.

    raw text -> tokens, counts or tf-idf; token sequences -> the same; a table stays one, or is weighted by tf-idf;
    then tables are scaled: (x - mean) / deviation, or x / |x|_2.

    Args:
        raw: what it takes: "text", "tokens" or "table".
        inputs: what it makes: "tokens", "counts", "tfidf" or "table".
        scaling: "none", "standardize" or "unit_norm".
        num_inputs: D of a table or V of tokens, of what it takes (text: after the vocabulary) and makes alike.
        text: how text is cut into tokens.
        vocabulary: of raw text, else None.
        word_counts: (V,) how often each token id occurs in training, None for a table.
        weights: tf-idf, or None.
        standard: means and deviations, or None.
        facts: what was counted over the training documents.
    """

    raw: str
    inputs: str
    scaling: str
    num_inputs: int
    text: TextOptions = field(default_factory=TextOptions)
    vocabulary: Vocabulary | None = None
    word_counts: np.ndarray | None = None
    weights: TfIdf | None = None
    standard: Standardize | None = None
    facts: Mapping[str, float] = field(default_factory=dict)

    @property
    def words(self) -> tuple[str, ...] | None:
        """The word of each token id, where inputs were raw text."""
        return None if self.vocabulary is None else self.vocabulary.words

    @classmethod
    def fit(
        cls,
        dataset: MultiLabelDataset,
        *,
        inputs: str = "auto",
        scaling: str = "auto",
        text: TextOptions | None = None,
        progress: Progress | None = None,
    ) -> Preparation:
        """Learn from the training documents of a data set.

        Args:
            dataset: raw documents with a split "train".
            inputs: auto (text and tokens become token sequences, tables stay tables), tokens, counts or tfidf.
            scaling: auto (standardises dense real-valued tables), none, standardize or unit_norm.
            text: how raw text becomes tokens.
            progress: called with (documents tokenised, documents in all).

        Raises:
            ConfigError: an unknown name, or a combination that makes no sense, such as tokens of a table.
            DataError: the training documents hold no word, or values that tf-idf cannot weight.
        """
        for name, value, valid in (("inputs", inputs, INPUTS), ("scaling", scaling, SCALINGS)):
            if value not in valid:
                raise ConfigError(f"data.{name}: unknown value {value!r}{nearest(value, valid)}")
        text = text or TextOptions()
        train = dataset.split("train").inputs
        raw = _kind(train)
        inputs = _resolve_inputs(raw, inputs)
        if inputs == "tokens" and scaling not in ("auto", "none"):
            raise ConfigError(
                f"data.scaling: {scaling} is for tables, and these inputs are token sequences: set "
                "data.inputs to counts or tfidf"
            )
        vocabulary = Vocabulary.fit(train, text) if isinstance(train, TextDocuments) else None
        tokens = train if vocabulary is None else _training_tokens(vocabulary, dataset, progress)
        facts: dict[str, float] = {"training_documents": len(dataset.splits["train"])}
        word_counts = None
        if isinstance(tokens, TokenSequences):
            word_counts = tokens.word_counts()
            facts |= _token_facts(tokens, word_counts, text.max_tokens if inputs == "tokens" else None)
            table = None if inputs == "tokens" else tokens.counts()
            num_inputs = tokens.vocabulary_size
        else:
            assert isinstance(tokens, csr_array), "text has become tokens"
            table = tokens
            num_inputs = table.shape[1]
            facts["documents_without_features"] = int((np.diff(table.indptr) == 0).sum())
            facts["density"] = table.nnz / max(1, table.shape[0] * table.shape[1])
        weights = standard = None
        if inputs == "tfidf" and table is not None:
            weights = TfIdf.fit(table)
            table = weights.apply(table)
        if scaling == "auto":
            scaling = "standardize" if inputs == "table" and is_dense_and_real(table) else "none"
        if scaling == "standardize":
            standard = Standardize.fit(table)
        return cls(raw, inputs, scaling, num_inputs, text, vocabulary, word_counts, weights, standard, facts)

    def apply(self, inputs: Inputs, progress: Progress | None = None) -> csr_array | TokenSequences:
        """Raw inputs of any documents -> model inputs.

        A table with fewer columns than in training is widened; unknown words become id 1, long documents are cut.

        Returns:
            (N, D) or (N, V) float32, or token sequences.

        Raises:
            DataError: another kind of input than in training, or columns or token ids that training did not have.
        """
        if _kind(inputs) != self.raw:
            raise DataError(f"expected {self.raw} as in training, got {_kind(inputs)}")
        if isinstance(inputs, TextDocuments):
            assert self.vocabulary is not None, "fitted on text"
            inputs = self.vocabulary.tokens(inputs, self.text.max_tokens if self.inputs == "tokens" else None, progress)
        if isinstance(inputs, TokenSequences):
            table = self._tokens(inputs) if self.inputs == "tokens" else self._tokens(inputs).counts()
            if isinstance(table, TokenSequences):
                return table
        else:
            table = self._widened(inputs)
        if self.weights is not None:
            table = self.weights.apply(table)
        if self.standard is not None:
            table = self.standard.apply(table)
        return unit_rows(table) if self.scaling == "unit_norm" else table

    def prepare(self, dataset: MultiLabelDataset, progress: Progress | None = None) -> MultiLabelDataset:
        """The data set with every document's inputs prepared; labels, splits and fingerprint as they were."""
        names = dataset.documents.feature_names if self.raw == "table" else self.words
        return dataset.with_inputs(self.apply(dataset.documents.inputs, progress), names)

    def report(self) -> dict[str, Any]:
        """What was fitted and counted, for people and result files."""
        report: dict[str, Any] = {"raw": self.raw, "inputs": self.inputs, "scaling": self.scaling}
        report["input_size" if self.raw == "table" else "vocabulary_size"] = self.num_inputs
        return report | dict(self.facts)

    def _tokens(self, tokens: TokenSequences) -> TokenSequences:
        if tokens.vocabulary_size > self.num_inputs and tokens.ids.max(initial=0) >= self.num_inputs:
            raise DataError(f"expected token ids below {self.num_inputs} as in training, got {tokens.ids.max()}")
        tokens = replace(tokens, vocabulary_size=self.num_inputs)
        return cut(tokens, self.text.max_tokens) if self.inputs == "tokens" else tokens

    def _widened(self, table: csr_array) -> csr_array:
        if table.shape[1] > self.num_inputs:
            raise DataError(f"expected at most the {self.num_inputs} features of training, got {table.shape[1]}")
        if table.shape[1] == self.num_inputs:
            return table
        return csr(table.data, table.indices, table.indptr, (table.shape[0], self.num_inputs))

    # ---------------------------------------------------------------------------------------------------- on disk

    def save(self, folder: str | Path) -> None:
        """Write preparation.json, preparation.safetensors and, for raw text, tokenizer.json into a folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, np.ndarray] = {}
        if self.word_counts is not None:
            arrays["word_counts"] = self.word_counts.astype(np.int64)
        if self.weights is not None:
            arrays["idf"] = self.weights.idf
        if self.standard is not None:
            arrays |= {"mean": self.standard.mean, "scale": self.standard.scale}
        settings = {
            "format": _FORMAT,
            **{key: getattr(self, key) for key in ("raw", "inputs", "scaling", "num_inputs")},
            "text": asdict(self.text),
            "facts": dict(self.facts),
            "arrays": sorted(arrays),
        }
        if self.vocabulary is not None:
            _write(folder / _TOKENIZER, self.vocabulary.to_json())
        save_file(arrays, folder / f"{_ARRAYS}.part")
        (folder / f"{_ARRAYS}.part").replace(folder / _ARRAYS)
        _write(folder / _SETTINGS, json.dumps(settings, indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> Preparation:
        """Read what `save` wrote; `apply` then gives the same bits.

        Raises:
            CheckpointError: missing, damaged or foreign files.
        """
        folder = Path(folder)
        try:
            settings = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
            if not isinstance(settings, dict) or settings.get("format") != _FORMAT:
                raise CheckpointError(f"{folder / _SETTINGS}: expected {_FORMAT!r}, got something else")
            arrays = load_file(folder / _ARRAYS)
            if sorted(arrays) != settings["arrays"]:
                raise CheckpointError(f"{folder / _ARRAYS}: expected {settings['arrays']}, got {sorted(arrays)}")
            tokenizer = (folder / _TOKENIZER).read_text(encoding="utf-8") if settings["raw"] == "text" else None
            vocabulary = None if tokenizer is None else Vocabulary.from_json(tokenizer, str(folder / _TOKENIZER))
            return cls(
                **{key: settings[key] for key in ("raw", "inputs", "scaling", "num_inputs")},
                text=TextOptions(**settings["text"]),
                vocabulary=vocabulary,
                word_counts=arrays.get("word_counts"),
                weights=TfIdf(arrays["idf"]) if "idf" in arrays else None,
                standard=Standardize(arrays["mean"], arrays["scale"]) if "mean" in arrays else None,
                facts=settings["facts"],
            )
        except OSError as error:
            raise CheckpointError(f"{error.filename or folder}: cannot be read: {error.strerror or error}") from None
        except CheckpointError:
            raise
        except Exception as error:  # json, safetensors and missing keys each raise their own
            raise CheckpointError(f"{folder}: not a preparation that was saved whole: {error}") from None


def _resolve_inputs(raw: str, inputs: str) -> str:
    if raw == "table":
        if inputs == "tokens":
            raise ConfigError("data.inputs: tokens need text or token sequences, and these documents are a table")
        return "tfidf" if inputs == "tfidf" else "table"
    return "tokens" if inputs == "auto" else inputs


def _training_tokens(vocabulary: Vocabulary, dataset: MultiLabelDataset, progress: Progress | None) -> TokenSequences:
    whole, rows = dataset.documents.inputs, dataset.splits["train"]
    assert isinstance(whole, TextDocuments), "a vocabulary is of text"
    if isinstance(whole.texts, Texts):  # `prepare` finds the tokens of all of them kept
        return vocabulary.tokens(whole, progress=progress)[rows]
    return vocabulary.tokens(whole[rows], progress=progress)


def _token_facts(tokens: TokenSequences, word_counts: np.ndarray, max_tokens: int | None) -> dict[str, float]:
    lengths = tokens.lengths
    return {
        "documents_without_tokens": int((lengths == 0).sum()),
        "documents_cut": 0 if max_tokens is None else int((lengths > max_tokens).sum()),
        "mean_tokens": float(lengths.mean()) if len(lengths) else 0.0,
        "unknown_share": float(word_counts[1] / total) if (total := word_counts.sum()) else 0.0,
    }


def _write(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
