"""What every baseline keeps: shapes, range, batches, saving; and each one's own claim."""

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from energynets.baselines import (
    BASELINES,
    Baseline,
    LabelFrequency,
    LabelTree,
    LinearOneVsRest,
    NearestNeighbours,
    TargetEmbedding,
    load_baseline,
)
from energynets.baselines import linear as linear_module
from energynets.baselines import neighbours as neighbours_module
from energynets.baselines.rows import UnitRows
from energynets.data.dataset import Documents, TextDocuments, TokenSequences
from energynets.errors import CheckpointError, ConfigError, DataError, MissingExtraError, ShapeError
from energynets.metrics import TopScores

NUM_LABELS = 7


def table(seed: int, num_rows: int, *, dense: bool = False) -> Documents:
    """Label l is told by columns 2 l and 2 l + 1; label 5 is never true, label 6 always; some rows have no features."""
    rng = np.random.default_rng(seed)
    labels = rng.random((num_rows, NUM_LABELS)) < 0.3
    labels[:, 5], labels[:, 6] = False, True
    told = np.repeat(labels, 2, axis=1)
    rows = rng.normal(size=told.shape) + 2 * told if dense else rng.poisson(0.2 + 2 * told)
    rows[::9] = 0
    return Documents(csr_array(rows.astype(np.float32)), csr_array(labels.astype(np.float32)))


def tokens(seed: int, num_rows: int) -> Documents:
    """The same as sequences of words, some empty."""
    documents = table(seed, num_rows)
    counts = documents.inputs.toarray().astype(int)
    sequences = [np.repeat(np.arange(2, counts.shape[1] + 2), row).tolist() for row in counts]
    return Documents(TokenSequences.from_lists(sequences, counts.shape[1] + 2), documents.labels)


FITTED: dict[str, Callable[[], Baseline]] = {
    "frequency": LabelFrequency,
    "logistic": lambda: LinearOneVsRest("logistic", C=2.0),
    "hinge": lambda: LinearOneVsRest("hinge", C=0.5),
    "neighbours": lambda: NearestNeighbours(5),
    "embedding": lambda: TargetEmbedding(5, num_neighbours=5),
}
if importlib.util.find_spec("napkinxc") is not None:
    FITTED["tree"] = lambda: LabelTree(max_leaves=2)
    FITTED["trees of margins"] = lambda: LabelTree("hinge", C=1.0, num_trees=2)
INPUTS = {"counts": table, "real": lambda seed, n: table(seed, n, dense=True), "tokens": tokens}


@pytest.fixture(params=[(name, kind) for name in FITTED for kind in INPUTS], ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[Baseline, Documents]:
    name, kind = request.param
    return FITTED[name]().fit(INPUTS[kind](0, 80)), INPUTS[kind](1, 30)


def same(first: TopScores, second: TopScores) -> None:
    np.testing.assert_array_equal(first.indices, second.indices)
    np.testing.assert_array_equal(first.values, second.values)


def test_shapes_range_and_batches(case: tuple[Baseline, Documents]) -> None:
    baseline, test = case
    top = baseline.scores(test, 3)
    assert (len(top), top.k, top.num_labels) == (30, 3, NUM_LABELS)
    assert top.values.min() >= 0
    assert top.values.max() <= 1
    assert all(len(set(row)) == 3 for row in top.indices.tolist())
    split = baseline.scores(test, 3, batch_size=7)
    np.testing.assert_array_equal(split.indices, top.indices)
    np.testing.assert_allclose(split.values, top.values, rtol=1e-6)
    assert baseline.scores(test, 100).k == NUM_LABELS
    assert len(baseline.scores(test[np.zeros(0, np.int64)], 3)) == 0
    assert baseline.num_parameters > 0


def test_saved_and_loaded(case: tuple[Baseline, Documents], tmp_path: Path) -> None:
    baseline, test = case
    baseline.save(tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["baseline.safetensors"]
    again = load_baseline(tmp_path / "run")
    assert type(again) is type(baseline)
    same(again.scores(test, 4), baseline.scores(test, 4))
    assert again.num_parameters == baseline.num_parameters


def test_what_is_told_is_found(case: tuple[Baseline, Documents]) -> None:
    baseline, test = case
    top = baseline.scores(test, NUM_LABELS)
    if isinstance(baseline, LabelFrequency):
        return
    found = dense(top)
    truth = test.labels.toarray() > 0
    for label in range(5):
        assert found[truth[:, label], label].mean() > found[~truth[:, label], label].mean() + 0.1
    assert found[:, 5].max() < 0.05
    assert found[:, 6].min() > 0.95


def test_progress_ends_at_the_total() -> None:
    for make in FITTED.values():
        seen: list[tuple[int, int]] = []
        make().fit(table(0, 20), progress=lambda done, total, seen=seen: seen.append((done, total)))
        assert seen[-1][0] == seen[-1][1] == len(seen)


def test_errors(tmp_path: Path) -> None:
    train = table(0, 20)
    for make in FITTED.values():
        with pytest.raises(DataError, match="no training documents"):
            make().fit(train[np.zeros(0, np.int64)])
        with pytest.raises(DataError, match="not fitted"):
            make().scores(train, 3)
    narrow = Documents(csr_array(train.inputs[:, :4]), train.labels)
    text = Documents(TextDocuments(("a",) * 20), train.labels)
    for name, make in FITTED.items():
        if name == "frequency":
            continue
        with pytest.raises(ShapeError, match="fitted on 14 input columns, got 4"):
            make().fit(train).scores(narrow, 3)
        with pytest.raises(DataError, match="prepare it first"):
            make().fit(text)
    with pytest.raises(ConfigError, match="did you mean 'logistic'"):
        LinearOneVsRest("logistc")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="C must be > 0"):
        LinearOneVsRest(C=0.0)
    with pytest.raises(ConfigError, match="num_neighbours"):
        NearestNeighbours(0)
    with pytest.raises(ConfigError, match="power"):
        NearestNeighbours(power=0.0)
    with pytest.raises(ConfigError, match="num_dimensions must be >= 1"):
        TargetEmbedding(0)
    with pytest.raises(ConfigError, match="ridge must be > 0"):
        TargetEmbedding(ridge=0.0)
    with pytest.raises(ConfigError, match="did you mean 'hinge'"):
        LabelTree("hinges")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="max_leaves must be >= 2"):
        LabelTree(max_leaves=1)


def test_what_is_no_baseline_is_not_loaded(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    with pytest.raises(CheckpointError, match="no such file"):
        load_baseline(tmp_path)
    LabelFrequency().fit(table(0, 20)).save(tmp_path)
    file = tmp_path / "baseline.safetensors"
    with pytest.raises(CheckpointError, match="expected a baseline of kind 'linear', found 'label_frequency'"):
        LinearOneVsRest.load(tmp_path)
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        load_baseline(tmp_path)
    save_file({"x": np.zeros(1)}, file)
    with pytest.raises(CheckpointError, match="not one that a baseline wrote"):
        load_baseline(tmp_path)
    save_file({"x": np.zeros(1)}, file, metadata={"kind": "liner", "settings": "{}"})
    with pytest.raises(CheckpointError, match="did you mean 'linear'"):
        load_baseline(tmp_path)


def test_the_registry_has_the_names_of_the_configuration() -> None:
    assert set(BASELINES) == {
        "linear",
        "neighbours",
        "target_embedding",
        "label_tree",
        "label_frequency",
        "bayes_optimal",
    }
    assert all(baseline.kind == kind for kind, baseline in BASELINES.items())


def test_label_frequencies() -> None:
    labels = csr_array(np.array([[1, 0, 1], [0, 0, 1], [0, 0, 0], [0, 1, 1]], dtype=np.float32))
    documents = Documents(csr_array((4, 2), dtype=np.float32), labels)
    top = LabelFrequency().fit(documents).scores(documents, 2)
    assert top.indices.tolist() == [[2, 0]] * 4
    assert top.values.tolist() == [[0.75, 0.25]] * 4


def with_unknown(documents: Documents, share: float = 0.5) -> tuple[Documents, np.ndarray]:
    """The same, nobody knowing some of the labels, true ones and false ones; and which, (N, L)."""
    hidden = np.random.default_rng(7).random(documents.labels.shape) < share
    labels = csr_array(documents.labels.toarray() * ~hidden)
    return replace(documents, labels=labels, unknown=csr_array(hidden.astype(np.float32))), hidden


def test_frequencies_are_of_the_documents_that_know_the_label() -> None:
    labels, unknown = np.zeros((60, 3), np.float32), np.zeros((60, 3), np.float32)
    unknown[:40, 0], labels[40:52, 0], labels[:15, 1], unknown[:, 2] = 1, 1, 1, 1
    documents = Documents(csr_array((60, 2), dtype=np.float32), csr_array(labels), unknown=csr_array(unknown))
    found = dense(LabelFrequency().fit(documents).scores(documents, 3))
    np.testing.assert_allclose(found[0], [0.6, 0.25, 0])


@pytest.mark.parametrize("loss", ["logistic", "hinge"])
def test_linear_fits_each_label_on_the_documents_that_know_it(loss: str) -> None:
    pytest.importorskip("sklearn")
    train, hidden = with_unknown(table(0, 80))
    test = table(1, 30)
    model = LinearOneVsRest(loss, C=0.7, threads=2).fit(train)  # type: ignore[arg-type]
    for label in range(NUM_LABELS):
        alone = LinearOneVsRest(loss, C=0.7).fit(table(0, 80)[np.flatnonzero(~hidden[:, label])])  # type: ignore[arg-type]
        expected = alone.decisions(test.inputs)[:, label]
        np.testing.assert_allclose(model.decisions(test.inputs)[:, label], expected, rtol=1e-6)


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_neighbours_that_do_not_know_a_label_do_not_vote_on_it(share: float, tmp_path: Path) -> None:
    (train, hidden), test = with_unknown(table(0, 80, dense=True), share), table(1, 30, dense=True)
    model = NearestNeighbours(5).fit(train)
    rows, near = UnitRows.fit(train), train.labels.toarray()
    cosines = rows.apply(test.inputs).toarray() @ rows.apply(train.inputs).toarray().T
    expected, frequencies = np.zeros((30, NUM_LABELS)), near.sum(0) / np.maximum((~hidden).sum(0), 1)
    for n, cosine in enumerate(cosines):
        nearest = np.argsort(-cosine, kind="stable")[:5]
        weights = np.maximum(cosine[nearest], 0)[:, None] ** 2.0 * ~hidden[nearest]
        totals = weights.sum(0)
        voted = (weights * near[nearest]).sum(0) / np.where(totals > 0, totals, 1)
        expected[n] = np.where(totals > 0, voted, frequencies)
    np.testing.assert_allclose(model.shares(test.inputs).toarray(), expected, rtol=1e-4, atol=1e-6)
    model.save(tmp_path)
    same(load_baseline(tmp_path).scores(test, 4), model.scores(test, 4))


def test_documents_that_know_every_label_are_as_without_a_mask() -> None:
    train, test = table(0, 80), table(1, 30)
    masked = replace(train, unknown=csr_array(train.labels.shape, dtype=np.float32))
    for make in FITTED.values():
        same(make().fit(masked).scores(test, 4), make().fit(train).scores(test, 4))


@pytest.mark.parametrize("baseline", [TargetEmbedding(5), LabelTree()])
def test_baselines_that_cannot_leave_labels_out_refuse_unknown_ones(baseline: Baseline) -> None:
    train, hidden = with_unknown(table(0, 80))
    message = rf"baseline {baseline.kind}: expected .* all known, got {hidden.sum()} unknown ones: use linear"
    with pytest.raises(ConfigError, match=message):
        baseline.fit(train)


@pytest.mark.parametrize("loss", ["logistic", "hinge"])
def test_linear_is_scikit_learns_one_vs_rest(loss: str) -> None:
    pytest.importorskip("sklearn")
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.svm import LinearSVC

    train, test = table(0, 80), table(1, 30)
    model = LinearOneVsRest(loss, C=0.7, threads=2).fit(train)  # type: ignore[arg-type]
    estimator = LogisticRegression(solver="liblinear", C=0.7) if loss == "logistic" else LinearSVC(C=0.7, dual=False)
    told = np.array([0, 1, 2, 3, 4])
    theirs = OneVsRestClassifier(estimator).fit(train.inputs.toarray(), train.labels.toarray()[:, told])
    expected = theirs.decision_function(test.inputs.toarray())
    np.testing.assert_allclose(model.decisions(test.inputs)[:, told], expected, rtol=1e-4, atol=1e-4)
    rate = 0.5 / 81
    np.testing.assert_allclose(model.decisions(test.inputs)[:, 5], np.log(rate / (1 - rate)), rtol=1e-6)
    np.testing.assert_allclose(model.decisions(test.inputs)[:, 6], -np.log(rate / (1 - rate)), rtol=1e-6)
    assert model.unconverged == 0


def test_linear_does_not_depend_on_threads() -> None:
    train, test = table(0, 80), table(1, 30)
    for loss in ("logistic", "hinge"):
        one, four = (LinearOneVsRest(loss, threads=threads).fit(train) for threads in (1, 4))  # type: ignore[arg-type]
        same(one.scores(test, 7), four.scores(test, 7))


def test_linear_weights_of_large_problems_are_pruned_and_sparse(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    train, test = table(0, 80), table(1, 30)
    dense = LinearOneVsRest().fit(train)
    monkeypatch.setattr(linear_module, "DENSE_WEIGHTS", 10)
    sparse = LinearOneVsRest().fit(train)
    assert isinstance(sparse.weights, csr_array)
    assert sparse.num_parameters < dense.num_parameters
    np.testing.assert_allclose(sparse.decisions(test.inputs), dense.decisions(test.inputs), atol=0.2)
    sparse.save(tmp_path)
    same(LinearOneVsRest.load(tmp_path).scores(test, 3), sparse.scores(test, 3))


def test_neighbours_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real-valued rows: cosines with (1, 0) are 1, .8, .6 and -1; the last never counts."""
    rows = np.array([[2.5, 0], [4, 3], [3, 4], [-1, 0]], dtype=np.float32)
    labels = csr_array(np.array([[1, 0, 0], [0, 1, 0], [0, 1, 1], [1, 1, 1]], dtype=np.float32))
    train = Documents(csr_array(rows), labels)
    query = Documents(csr_array(np.array([[1, 0], [0, 0]], dtype=np.float32)), labels[:2])

    def scores(num_neighbours: int, power: float) -> np.ndarray:
        return dense(NearestNeighbours(num_neighbours, power=power).fit(train).scores(query, 3))

    frequencies = [0.5, 0.75, 0.5]  # of a document similar to none
    np.testing.assert_allclose(scores(2, 1.0), [[1 / 1.8, 0.8 / 1.8, 0], frequencies], rtol=1e-6)
    np.testing.assert_allclose(scores(99, 1.0), [[1 / 2.4, 1.4 / 2.4, 0.6 / 2.4], frequencies], rtol=1e-6)
    np.testing.assert_allclose(scores(3, 2.0), [[1 / 2, 1 / 2, 0.36 / 2], frequencies], rtol=1e-6)
    monkeypatch.setattr(neighbours_module, "SIMILARITIES", 1)  # one document at a time
    np.testing.assert_allclose(scores(3, 2.0), [[1 / 2, 1 / 2, 0.36 / 2], frequencies], rtol=1e-6)


def test_neighbours_weigh_counts_by_tfidf_and_other_tables_by_length() -> None:
    assert UnitRows.fit(table(0, 20)).tfidf is not None
    assert UnitRows.fit(tokens(0, 20)).tfidf is not None
    assert UnitRows.fit(table(0, 20, dense=True)).tfidf is None


def test_an_embedding_of_all_dimensions_is_ridge_regression_of_the_labels() -> None:
    """V is then a rotation: cosines of embeddings are those of Y's own regression."""
    pytest.importorskip("sklearn")
    from sklearn.linear_model import Ridge

    train, test = table(0, 80), table(1, 30)
    reader = UnitRows.fit(train)
    x, query = reader.apply(train.inputs).toarray(), reader.apply(test.inputs).toarray()
    y = train.labels.toarray()
    regression = Ridge(alpha=0.5, solver="cholesky").fit(x, y[:, y.any(axis=0)])
    known, asked = (regression.predict(rows) for rows in (x, query))
    known, asked = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (known, asked))
    cosines = np.maximum(asked @ known.T, 0)
    kept = np.argsort(-cosines, axis=1, kind="stable")[:, :9]
    weights = np.take_along_axis(cosines, kept, axis=1) ** 3
    expected = np.einsum("nk,nkl->nl", weights / weights.sum(axis=1, keepdims=True), y[kept])
    model = TargetEmbedding(NUM_LABELS, 0.5, 9, 3.0).fit(train)
    np.testing.assert_allclose(dense(model.scores(test, NUM_LABELS)), expected, atol=2e-3)


def test_one_label_is_its_own_embedding() -> None:
    """As of that label twice, whose first singular vector is it."""
    train, test = table(0, 80), table(1, 30)
    once, twice = (replace(train, labels=train.labels[:, columns]) for columns in ([0], [0, 0]))
    one = TargetEmbedding(5).fit(once).scores(test, 1)
    two = TargetEmbedding(1).fit(twice).scores(test, 1)
    np.testing.assert_allclose(one.values, two.values, atol=1e-6)
    assert one.num_labels == 1
    assert TargetEmbedding().fit(once[np.arange(1)]).num_parameters > 0


def test_few_dimensions_are_the_largest_singular_ones() -> None:
    train = table(0, 80)
    y = train.labels.toarray().astype(float)
    model = TargetEmbedding(2, ridge=1e-9).fit(table(0, 80))
    reader = UnitRows.fit(train)
    design = np.hstack([reader.apply(train.inputs).toarray(), np.ones((80, 1))])
    fitted = design @ np.linalg.lstsq(design, y @ np.linalg.svd(y)[2][:2].T, rcond=None)[0]
    fitted /= np.linalg.norm(fitted, axis=1, keepdims=True)
    assert model.embedded is not None
    assert model.embedded.shape == (80, 2)
    np.testing.assert_allclose(model.embedded @ model.embedded.T, fitted @ fitted.T, atol=2e-2)


def test_a_tree_of_one_level_is_one_vs_rest_below_any_label() -> None:
    """P(y_l | x) = P(any | x) P(y_l | x, any): every document has label 6, so the first factor is about 1."""
    pytest.importorskip("napkinxc")

    def two_labels(seed: int, num_rows: int) -> Documents:
        documents = table(seed, num_rows)
        return Documents(documents.inputs, csr_array(documents.labels[:, [0, 6]]))

    train, test = two_labels(0, 80), two_labels(1, 30)
    tree = dense(LabelTree(C=1.0).fit(train).scores(test, 2))
    reader = UnitRows.fit(train)
    unit = [Documents(reader.apply(documents.inputs), documents.labels) for documents in (train, test)]
    flat = dense(LinearOneVsRest(C=1.0).fit(unit[0]).scores(unit[1], 2))
    np.testing.assert_allclose(tree[:, 0], flat[:, 0], atol=0.005)


def test_trees_do_not_depend_on_threads() -> None:
    pytest.importorskip("napkinxc")
    train, test = table(0, 80), table(1, 30)
    one, four = (LabelTree(max_leaves=2, num_trees=2, threads=threads).fit(train) for threads in (1, 4))
    same(one.scores(test, 7), four.scores(test, 7))


def test_a_tree_without_labels_scores_0() -> None:
    pytest.importorskip("napkinxc")
    train = table(0, 20)
    bare = Documents(train.inputs, csr_array(train.labels.shape, dtype=np.float32))
    top = LabelTree().fit(bare).scores(train, 3)
    assert top.indices.tolist() == [[0, 1, 2]] * 20
    assert not top.values.any()


@pytest.mark.parametrize(
    ("package", "extra", "make"), [("sklearn", "baselines", TargetEmbedding), ("napkinxc", "trees", LabelTree)]
)
def test_a_missing_library_is_named(
    monkeypatch: pytest.MonkeyPatch, package: str, extra: str, make: type[Baseline]
) -> None:
    for name in [package, *(name for name in sys.modules if name.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=rf"energynets\[{extra}\]"):
        make().fit(table(0, 20))


def dense(top: TopScores) -> np.ndarray:
    """(N, L) of complete scores."""
    out = np.zeros((len(top), top.num_labels))
    np.put_along_axis(out, top.indices.astype(int), top.values, axis=1)
    return out
