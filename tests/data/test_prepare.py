"""Preparation: learnt from training rows alone, equal to scikit-learn where it has the same, kept whole on disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays
from scipy.sparse import csr_array, csr_matrix

from energynets.data.dataset import Documents, Inputs, MultiLabelDataset, TextDocuments, TokenSequences
from energynets.data.load import load_dataset
from energynets.data.prepare import Preparation, TextOptions
from energynets.data.scaling import Standardize, is_dense_and_real
from energynets.data.tfidf import TfIdf, unit_rows
from energynets.errors import CheckpointError, ConfigError, DataError

RNG = np.random.default_rng(0)
COUNTS = ((RNG.random((8, 5)) < 0.5) * RNG.integers(1, 6, (8, 5))).astype(np.float32)
REAL = RNG.normal(3, 2, (8, 5)).astype(np.float32)
TEXTS = (
    "A cat and a dog.",
    "The cat!",
    "",
    "Dogs and the cat and the dog",
    "unseen words only",
    "a dog",
    "zebra cat",
    "the the",
)
OPTIONS = TextOptions(min_count=1, max_tokens=4)
SOURCES: dict[str, Inputs] = {
    "counts table": csr_array(COUNTS),
    "real table": csr_array(REAL),
    "text": TextDocuments(TEXTS),
    "tokens": TokenSequences.from_lists([[2, 3], [], [4, 4, 5, 5, 5], [1], [2], [3], [2, 2], [5]], 6),
}


def dataset(inputs: Inputs) -> MultiLabelDataset:
    labels = csr_array(np.ones((8, 2), np.float32))
    return MultiLabelDataset(
        "toy", Documents(inputs, labels), {"train": np.arange(5), "test": np.arange(5, 8)}, "by hand"
    )


def dense(inputs: csr_array | TokenSequences) -> np.ndarray:
    assert isinstance(inputs, csr_array)
    assert inputs.dtype == np.float32
    return inputs.toarray()


def lists(inputs: csr_array | TokenSequences) -> list[list[int]]:
    assert isinstance(inputs, TokenSequences)
    return [inputs.ids[a:b].tolist() for a, b in zip(inputs.offsets, inputs.offsets[1:], strict=False)]


VALID = [
    ("counts table", "auto", "auto", "table", "none"),
    ("counts table", "counts", "auto", "table", "none"),
    ("counts table", "tfidf", "auto", "tfidf", "none"),
    ("counts table", "auto", "unit_norm", "table", "unit_norm"),
    ("counts table", "auto", "standardize", "table", "standardize"),
    ("real table", "auto", "auto", "table", "standardize"),
    ("real table", "auto", "none", "table", "none"),
    ("text", "auto", "auto", "tokens", "none"),
    ("text", "tokens", "none", "tokens", "none"),
    ("text", "counts", "auto", "counts", "none"),
    ("text", "counts", "unit_norm", "counts", "unit_norm"),
    ("text", "tfidf", "auto", "tfidf", "none"),
    ("tokens", "auto", "auto", "tokens", "none"),
    ("tokens", "counts", "standardize", "counts", "standardize"),
    ("tokens", "tfidf", "auto", "tfidf", "none"),
]


@pytest.mark.parametrize(("source", "inputs", "scaling", "made", "scaled"), VALID)
def test_combinations_and_the_disk(
    source: str, inputs: str, scaling: str, made: str, scaled: str, tmp_path: Path
) -> None:
    raw = dataset(SOURCES[source])
    preparation = Preparation.fit(raw, inputs=inputs, scaling=scaling, text=OPTIONS)
    assert (preparation.inputs, preparation.scaling) == (made, scaled)
    prepared = preparation.prepare(raw)
    assert prepared.fingerprint is raw.fingerprint
    assert prepared.documents.input_size == preparation.num_inputs
    assert len(prepared.documents) == 8

    preparation.save(tmp_path / "run")
    again = Preparation.load(tmp_path / "run")
    assert again.report() == preparation.report()
    assert again.words == preparation.words
    first, second = prepared.documents.inputs, again.prepare(raw).documents.inputs
    if made == "tokens":
        assert lists(first) == lists(second)  # type: ignore[arg-type]
    else:
        np.testing.assert_array_equal(dense(first), dense(second))  # type: ignore[arg-type]
    assert not list((tmp_path / "run").glob("*.part"))
    # Rows one by one are the rows together: nothing is learnt from what is prepared.
    for row in (0, 6):
        alone = preparation.apply(raw.documents.inputs[np.array([row])])
        if made == "tokens":
            assert lists(alone) == [lists(first)[row]]  # type: ignore[arg-type]
        else:
            np.testing.assert_array_equal(dense(alone)[0], dense(first)[row])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "inputs", "scaling", "message"),
    [
        ("counts table", "tokens", "auto", "tokens need text or token sequences"),
        ("text", "auto", "standardize", "set data.inputs to counts or tfidf"),
        ("tokens", "tokens", "unit_norm", "set data.inputs to counts or tfidf"),
        ("text", "tfidff", "auto", "did you mean 'tfidf'"),
        ("text", "auto", "standardise", "did you mean 'standardize'"),
    ],
)
def test_combinations_that_make_no_sense(source: str, inputs: str, scaling: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Preparation.fit(dataset(SOURCES[source]), inputs=inputs, scaling=scaling, text=OPTIONS)


def test_test_documents_teach_nothing() -> None:
    for source, inputs in (("text", "tokens"), ("text", "tfidf"), ("real table", "auto"), ("tokens", "tfidf")):
        raw = dataset(SOURCES[source])
        other = replace(raw, documents=raw.documents[np.array([0, 1, 2, 3, 4, 0, 0, 0])])
        one, two = (Preparation.fit(data, inputs=inputs, text=OPTIONS) for data in (raw, other))
        assert one.words == two.words
        assert one.report() == two.report()
        for part in ("weights", "standard"):
            ours, theirs = getattr(one, part), getattr(two, part)
            for key in vars(ours) if ours else ():
                np.testing.assert_array_equal(getattr(ours, key), getattr(theirs, key))


# ------------------------------------------------------------------------------------------------------------- text


def test_text_becomes_tokens() -> None:
    preparation = Preparation.fit(dataset(SOURCES["text"]), text=OPTIONS)
    assert preparation.words is not None
    words = [[preparation.words[i] for i in row] for row in lists(preparation.apply(SOURCES["text"]))]
    assert words[0] == ["a", "cat", "and", "a"]  # cut to four
    assert words[1] == ["the", "cat", "!"]
    assert words[2] == []
    assert words[6] == ["[UNK]", "cat"]
    report = preparation.report()
    assert report["documents_without_tokens"] == 1
    assert report["documents_cut"] == 2
    assert report["vocabulary_size"] == len(preparation.words) == preparation.num_inputs
    assert report["training_documents"] == 5
    assert report["mean_tokens"] == pytest.approx((5 + 3 + 0 + 7 + 3) / 5)
    assert preparation.word_counts is not None
    assert preparation.word_counts[preparation.words.index("cat")] == 3
    assert preparation.prepare(dataset(SOURCES["text"])).documents.feature_names == preparation.words


def test_counts_and_weights_see_whole_documents() -> None:
    short, long = (replace(OPTIONS, max_tokens=most) for most in (1, 100))
    for inputs in ("counts", "tfidf"):
        one, two = (Preparation.fit(dataset(SOURCES["text"]), inputs=inputs, text=text) for text in (short, long))
        np.testing.assert_array_equal(dense(one.apply(SOURCES["text"])), dense(two.apply(SOURCES["text"])))
        assert one.report()["documents_cut"] == 0


def test_tokens_are_cut_and_checked() -> None:
    preparation = Preparation.fit(dataset(SOURCES["tokens"]), text=replace(OPTIONS, max_tokens=2))
    assert lists(preparation.apply(SOURCES["tokens"]))[2] == [4, 4]
    assert preparation.report()["unknown_share"] == pytest.approx(1 / 9)
    narrow = TokenSequences.from_lists([[2]], 3)
    assert preparation.apply(narrow).vocabulary_size == 6  # type: ignore[union-attr]
    with pytest.raises(DataError, match="token ids below 6 as in training, got 7"):
        preparation.apply(TokenSequences.from_lists([[7]], 8))


def test_kinds_are_not_mixed() -> None:
    preparation = Preparation.fit(dataset(SOURCES["text"]), text=OPTIONS)
    with pytest.raises(DataError, match="expected text as in training, got table"):
        preparation.apply(SOURCES["counts table"])


# ----------------------------------------------------------------------------------------------------------- tables


def test_tables_of_another_width() -> None:
    for scaling, inputs in (("none", "auto"), ("standardize", "auto"), ("unit_norm", "auto"), ("auto", "tfidf")):
        preparation = Preparation.fit(dataset(SOURCES["counts table"]), inputs=inputs, scaling=scaling)
        narrow = np.pad(COUNTS[:, :3], ((0, 0), (0, 2)))
        np.testing.assert_array_equal(
            dense(preparation.apply(csr_array(COUNTS[:, :3]))), dense(preparation.apply(csr_array(narrow)))
        )
        with pytest.raises(DataError, match="at most the 5 features of training, got 6"):
            preparation.apply(csr_array(np.ones((1, 6), np.float32)))


def test_what_auto_standardizes() -> None:
    binary = (RNG.random((10, 4)) < 0.9).astype(np.float32)
    assert not is_dense_and_real(csr_array(binary))
    assert is_dense_and_real(csr_array(binary * 2.5))
    assert not is_dense_and_real(csr_array(binary * 2.5 * (RNG.random((10, 4)) < 0.3)))


@given(arrays(np.float32, (6, 3), elements=st.floats(-1e3, 1e3, width=32)))
def test_standardized_like_scikit_learn(values: np.ndarray) -> None:
    from sklearn.preprocessing import StandardScaler

    values[:, 2] = 7
    scaler = StandardScaler().fit(values.astype(np.float64))
    ours = Standardize.fit(csr_array(values))
    np.testing.assert_allclose(ours.mean, scaler.mean_, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(ours.scale, scaler.scale_, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(ours.apply(csr_array(values)).toarray()[:, 2], 0, atol=1e-6)


def test_standardizing_what_would_not_fit() -> None:
    huge = csr_array((200_000, 20_000), dtype=np.float32)
    with pytest.raises(ConfigError, match=r"200000 x 20000 values non-zero, 14.9 GiB: use unit_norm"):
        Standardize.fit(huge)


@given(arrays(np.int64, (7, 4), elements=st.integers(0, 9)), arrays(np.int64, (3, 4), elements=st.integers(0, 9)))
def test_weighted_like_scikit_learn(train: np.ndarray, test: np.ndarray) -> None:
    from sklearn.feature_extraction.text import TfidfTransformer

    theirs = TfidfTransformer(sublinear_tf=True).fit(csr_matrix(train.astype(float)))
    ours = TfIdf.fit(csr_array(train.astype(np.float32)))
    np.testing.assert_allclose(ours.idf, theirs.idf_, rtol=1e-12)
    weights = ours.apply(csr_array(test.astype(np.float32)))
    np.testing.assert_allclose(weights.toarray(), theirs.transform(csr_matrix(test.astype(float))).toarray(), atol=1e-6)


def test_weights_of_what_is_no_count() -> None:
    table = csr_array(np.array([[0.5, 1.0]], np.float32))
    weights = TfIdf(np.ones(2)).apply(table).toarray()[0]
    assert weights[0] / weights[1] == pytest.approx(0.5)
    with pytest.raises(DataError, match="tf-idf needs counts, got -1"):
        TfIdf.fit(csr_array(np.array([[-1.0]])))
    with pytest.raises(DataError, match="fitted on 2 columns, got 3"):
        TfIdf(np.ones(2)).apply(csr_array(np.ones((1, 3), np.float32)))


def test_unit_rows() -> None:
    table = csr_array(np.array([[3.0, 4], [0, 0], [0, -2]], np.float32))
    np.testing.assert_allclose(unit_rows(table).toarray(), [[0.6, 0.8], [0, 0], [0, -1]], rtol=1e-6)
    assert table.toarray().tolist() == [[3, 4], [0, 0], [0, -2]]


# ------------------------------------------------------------------------------------------------------------- disk


@pytest.mark.parametrize("damage", ["missing", "cut", "foreign", "arrays", "tokenizer", "key"])
def test_damaged_folders(damage: str, tmp_path: Path) -> None:
    Preparation.fit(dataset(SOURCES["text"]), inputs="tfidf", text=OPTIONS).save(tmp_path)
    settings = tmp_path / "preparation.json"
    tree = json.loads(settings.read_text())
    if damage == "missing":
        settings.unlink()
    elif damage == "cut":
        settings.write_text(settings.read_text()[:50])
    elif damage == "foreign":
        settings.write_text('{"format": "something else"}')
    elif damage == "arrays":
        other = Preparation.fit(dataset(SOURCES["real table"]))
        other.save(tmp_path / "other")
        (tmp_path / "other" / "preparation.safetensors").replace(tmp_path / "preparation.safetensors")
    elif damage == "tokenizer":
        (tmp_path / "tokenizer.json").write_text("{}")
    else:
        del tree["num_inputs"]
        settings.write_text(json.dumps(tree))
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        Preparation.load(tmp_path)


def test_nothing_is_pickled(tmp_path: Path) -> None:
    Preparation.fit(dataset(SOURCES["text"]), inputs="tfidf", text=OPTIONS).save(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"preparation.json", "preparation.safetensors", "tokenizer.json"}


# ------------------------------------------------------------------------------------------------------- real data


@pytest.mark.parametrize(
    ("name", "files", "scaling"),
    [
        ("yeast", "yeast-{}.arff.gz", "standardize"),
        ("scene", "scene-{}.arff.gz", "standardize"),
        ("emotions", "emotions-{}.arff", "standardize"),
        ("medical", "medical-{}.arff", "none"),
        ("bibtex", "bibtex-{}.arff.gz", "none"),
        ("delicious", "delicious-{}.arff.gz", "none"),
    ],
)
def test_auto_scaling_of_published_tables(name: str, files: str, scaling: str, data_root: Path) -> None:
    raw = load_dataset(
        format="mulan_arff",
        train=f"{name}/{files.format('train')}",
        test=f"{name}/{files.format('test')}",
        labels=f"{name}/{name}.xml",
        root=data_root,
    )
    preparation = Preparation.fit(raw)
    assert preparation.scaling == scaling
    if scaling == "standardize":
        train = dense(preparation.prepare(raw).split("train").inputs)  # type: ignore[arg-type]
        np.testing.assert_allclose(train.mean(axis=0), 0, atol=1e-4)
        np.testing.assert_allclose(train.std(axis=0), 1, atol=1e-3)


def test_linear_line_on_reuters(data_root: Path) -> None:
    """One linear classifier a topic over these weights reaches the published precision."""
    from sklearn.svm import LinearSVC

    archive = "reuters21578/reuters21578.tar.gz"
    raw = load_dataset(format="reuters", train=archive, root=data_root, validation_share=0)
    prepared = Preparation.fit(raw, inputs="tfidf").prepare(raw)
    train, test = prepared.split("train"), prepared.split("test")
    scores = np.empty(test.labels.shape)
    for label in range(train.num_labels):
        model = LinearSVC(random_state=0).fit(train.inputs, train.labels[:, [label]].toarray()[:, 0])
        scores[:, label] = model.decision_function(test.inputs)
    best = scores.argmax(axis=1)
    assert test.labels.toarray()[np.arange(len(test)), best].mean() > 0.93
