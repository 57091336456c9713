"""Training as graphs. Without a CUDA device, what is captured is a function and replaying it calls it again: all but
`CudaCapture`, which needs the device, runs as it would there."""

from __future__ import annotations

import copy
import json
from functools import partial

import numpy as np
import pytest
import torch
from scipy.sparse import random_array
from toy_run import SPEN as SPEN_MODEL
from toy_run import stage, toy_data, toy_experiment

from energynets import ICNN, SPEN, BagOfWords, Classifier, EnergyNetwork, MirrorDescent
from energynets.baselines import NearestNeighbours
from energynets.config import Optimizer
from energynets.data.batches import CachedFeatures, TokenBatch, batches
from energynets.data.dataset import Documents
from energynets.errors import NotCompiledWarning, TrainingError
from energynets.inference.engine import compiled
from energynets.objectives import EndToEnd
from energynets.output import ChunkedLinear, NeighbourLogits
from energynets.training import Progress, train
from energynets.training import graph as graphs
from energynets.training.build import Sizes, build_model, prepared_documents
from energynets.training.graph import GraphedUpdate, StaticBatch, most_entries
from energynets.training.loop import Loop
from energynets.training.optimizers import build_optimizer, set_learning_rate
from energynets.training.update import Update

D, L, SIZE = 30, 7, 8


def documents(count: int = 45, density: float = 0.2) -> Documents:
    rng = np.random.default_rng(0)
    table = random_array((count, D), density=density, format="csr", dtype=np.float32, rng=rng)
    labels = random_array((count, L), density=0.3, format="csr", dtype=np.float32, rng=rng)
    labels.data[:] = 1
    return Documents(table, labels)


def network(energy=lambda: SPEN(6, L, num_measurements=4)) -> EnergyNetwork:
    torch.manual_seed(0)
    return EnergyNetwork(BagOfWords(D, hidden=(6,), input_dropout=0, dropout=0), energy(), MirrorDescent(3))


def by_calling(function):
    """Capture without a device: nothing runs now, and a replay is a call."""
    return function


def trained(model, settings, docs, *, graphed, features=None, notes=None):
    """Losses and norms of three epochs, and the weights after them."""
    parameters = list(model.parameters()) if features is None else list(model.energy.parameters())
    optimizer = build_optimizer(settings, parameters)
    update = Update(model, EndToEnd(), parameters, optimizer, clip_norm=settings.clip_norm, project=model.project)
    if graphed:
        note = (lambda _: None) if notes is None else notes.append
        update = GraphedUpdate(update, SIZE, most_entries(docs, SIZE), note, capture=by_calling)
    numbers = []
    for epoch in range(3):
        for batch in batches(docs, SIZE, order=np.random.default_rng(epoch).permutation(len(docs)), features=features):
            set_learning_rate(optimizer, settings.learning_rate / (1 + len(numbers)))
            numbers.append(update.gradients(batch).tolist())
            update.apply()
    return numbers, [parameter.detach().clone() for parameter in model.parameters()], update


OPTIMIZERS = [
    Optimizer(learning_rate=0.05),
    Optimizer(kind="adamw", learning_rate=0.05, weight_decay=0.1, clip_norm=0.5),
    Optimizer(kind="sgd", learning_rate=0.05, momentum=0.9),
]


@pytest.mark.parametrize("settings", OPTIMIZERS, ids=["adam", "clipped adamw", "sgd"])
@pytest.mark.parametrize("density", [0.02, 0.5], ids=["sparse", "dense"])
@pytest.mark.parametrize("energy", [lambda: SPEN(6, L), lambda: ICNN(6, L, hidden=(3, 3))], ids=["spen", "icnn"])
def test_replayed_steps_are_the_steps(energy, density, settings):
    docs = documents(density=density)
    run = partial(trained, settings=settings, docs=docs)
    numbers, weights, _ = run(network(energy), graphed=False)
    found, found_weights, update = run(network(energy), graphed=True)
    assert update.replayed == 3 * (len(docs) // SIZE) - 1  # all but the first; an epoch's last batch is smaller
    torch.testing.assert_close(torch.tensor(found), torch.tensor(numbers), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found_weights, weights, rtol=1e-4, atol=1e-5)


def test_cached_features_are_replayed():
    docs, features = documents(), torch.randn(45, 6)
    model = network()
    run = partial(trained, settings=OPTIMIZERS[0], docs=docs, features=features)
    numbers, _, _ = run(copy.deepcopy(model), graphed=False)
    found, _, update = run(model, graphed=True)
    assert update.replayed == 14
    torch.testing.assert_close(torch.tensor(found), torch.tensor(numbers))


def test_fixed_places_hold_any_batch():
    docs = documents()
    first, second, *_ = batches(docs, SIZE)
    static = StaticBatch(first, most_entries(docs, SIZE))
    for batch in (first, second, first):
        static.fill(batch)
        torch.testing.assert_close(static.batch.inputs.dense(), batch.inputs.dense())
        torch.testing.assert_close(static.batch.labels.dense(), batch.labels.dense())
        assert len(static.batch.inputs) == len(static.batch.labels) == SIZE


def test_tokens_run_operation_by_operation_and_say_so_once():
    notes: list[str] = []
    docs = documents()
    update = GraphedUpdate(None, SIZE, 0, notes.append, capture=by_calling)  # type: ignore[arg-type]
    update._warm = True
    batch = next(iter(batches(docs, SIZE)))
    tokens = type(batch)(
        TokenBatch(torch.zeros(SIZE, 3, dtype=torch.int64), torch.ones(SIZE)), batch.labels, batch.rows
    )
    assert [update._ready(tokens), update._ready(tokens)] == [False, False]
    assert len(notes) == 1
    assert "read the documents' lengths on the CPU" in notes[0]


def test_work_that_waits_for_the_device_is_refused_by_name_and_runs():
    def refuse(function):
        raise RuntimeError("called a synchronizing CUDA operation\nand a long trace")

    notes: list[str] = []
    docs, model = documents(), network()
    parameters = list(model.parameters())
    update = Update(model, EndToEnd(), parameters, build_optimizer(OPTIMIZERS[0], parameters))
    graphed = GraphedUpdate(update, SIZE, most_entries(docs, SIZE), notes.append, capture=refuse)
    for batch in batches(docs, SIZE):
        graphed.gradients(batch)
        graphed.apply()
    assert graphed.replayed == 0
    assert notes == [
        "training.compile: graph: every step runs operation by operation, because called a synchronizing CUDA operation"
    ]


def test_a_tensor_learning_rate_is_changed_in_place():
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([weight], lr=torch.tensor(0.1), fused=True)
    place = optimizer.param_groups[0]["lr"]
    set_learning_rate(optimizer, 0.5)
    assert optimizer.param_groups[0]["lr"] is place
    assert place.item() == 0.5


class Notes(Progress):
    def __init__(self):
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def losses(folder, experiment):
    train(experiment, folder=folder, data=toy_data(), progress=Notes())
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["train_loss"] for line in lines]


def test_graph_on_a_cpu_says_that_nothing_changes_and_nothing_does(tmp_path):
    notes = Notes()
    train(toy_experiment(SPEN_MODEL, compile="graph", stages=[stage("joint", "energy")]), folder=tmp_path / "graph",
          data=toy_data(), progress=notes)  # fmt: skip
    assert sum("needs a CUDA device, and this is cpu" in line for line in notes.lines) == 1


def test_an_output_in_chunks_runs_operation_by_operation_and_says_so():
    torch.manual_seed(0)
    output = ChunkedLinear(6, L, chunk=3)
    model = Classifier(BagOfWords(D, hidden=(6,), input_dropout=0, dropout=0), L, output=output)
    docs, notes = documents(), []
    expected = trained(copy.deepcopy(model), OPTIMIZERS[0], docs, graphed=False)[:2]
    found = trained(model, OPTIMIZERS[0], docs, graphed=True, notes=notes)
    assert found[0] == expected[0]
    assert all(torch.equal(a, b) for a, b in zip(found[1], expected[1], strict=True))
    assert found[2].replayed == 0
    assert len(notes) == 1
    assert "an output in chunks of labels" in notes[0]


def test_neighbours_run_operation_by_operation_and_say_so():
    docs, notes = documents(), []
    model = network()
    model.neighbours = NeighbourLogits(NearestNeighbours(3).fit(docs))
    expected = trained(copy.deepcopy(model), OPTIMIZERS[0], docs, graphed=False)[:2]
    found = trained(model, OPTIMIZERS[0], docs, graphed=True, notes=notes)
    assert found[0] == expected[0]
    assert all(torch.equal(a, b) for a, b in zip(found[1], expected[1], strict=True))
    assert found[2].replayed == 0
    assert [note.rpartition("because ")[2] for note in notes] == ["neighbours are looked up on the CPU"]


@pytest.fixture
def as_on_a_device(monkeypatch):
    """The loop's graphs, captured by calling."""
    made = []

    def graphed(*arguments):
        made.append(GraphedUpdate(*arguments, capture=by_calling))
        return made[-1]

    monkeypatch.setattr("energynets.training.loop.GraphedUpdate", graphed)
    monkeypatch.setattr(Loop, "_graphs", property(lambda loop: loop.experiment.training.compile == "graph"))
    monkeypatch.setattr(
        "energynets.training.optimizers.build_optimizer",
        lambda settings, parameters, capturable: build_optimizer(settings, parameters),
    )
    return made


def test_a_stage_of_graphs_gives_the_same_losses(tmp_path, as_on_a_device):
    stages = [stage("unary", "features", "unary"), stage("energy", "energy")]
    model = SPEN_MODEL | {"features": {"kind": "bag_of_words", "hidden": [12], "dropout": 0.0, "input_dropout": 0.0}}
    plain = losses(tmp_path / "plain", toy_experiment(model, stages=stages))
    found = losses(tmp_path / "graph", toy_experiment(model, stages=stages, compile="graph"))
    assert [update.replayed > 0 for update in as_on_a_device] == [True, True]
    assert found[1:4] == pytest.approx(plain[1:4], rel=1e-5)
    assert found[5:] == pytest.approx(plain[5:], rel=1e-5)


def test_what_is_not_finite_never_reaches_a_weight(tmp_path, as_on_a_device, monkeypatch):
    """The loss of the fifth step is infinite: its replay is looked at before the second graph runs."""
    monkeypatch.setattr(graphs.StaticBatch, "fill", _poisoned(graphs.StaticBatch.fill))
    experiment = toy_experiment(SPEN_MODEL, compile="graph", stages=[stage("energy", "energy")])
    data = toy_data()
    model = build_model(experiment, Sizes.of(prepared_documents(experiment, data)))
    snapshots = []
    apply = Update.apply
    monkeypatch.setattr(
        Update, "apply", lambda self: (apply(self), snapshots.append([p.clone() for p in model.parameters()]))[0]
    )
    with pytest.raises(TrainingError, match="nothing was updated"):
        train(experiment, folder=tmp_path, data=data, model=model)
    assert len(snapshots) == 4
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), snapshots[-1], strict=True))


def _poisoned(fill):
    count = 0

    def poisoned(self, batch):
        nonlocal count
        count += 1
        fill(self, batch)
        if count == 4:  # the second step fills twice, the fourth (an epoch's last) not at all
            assert isinstance(self.batch.inputs, CachedFeatures)
            self.batch.inputs.values.fill_(torch.inf)

    return poisoned


def test_engine_compiles_full_batches_alone(tmp_path, monkeypatch):
    """`training.compile: engine` in a loop; traced only, which is what is quick."""
    monkeypatch.setattr(compiled, "BACKEND", "eager")
    monkeypatch.setattr(compiled, "_graphs", {})
    monkeypatch.setattr(compiled, "_told", set())
    stages = [stage("energy", "energy")]
    plain = losses(tmp_path / "plain", toy_experiment(SPEN_MODEL, stages=stages))
    found = losses(tmp_path / "engine", toy_experiment(SPEN_MODEL, stages=stages, compile="engine"))
    assert len(compiled._graphs) == 2
    assert found[1:] == pytest.approx(plain[1:], rel=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("default", f"error::{NotCompiledWarning.__module__}.{NotCompiledWarning.__name__}")
def test_training_with_the_compiled_engine_has_the_same_loss_trace(tmp_path):
    stages = [stage("energy", "energy", epochs=6)]
    plain = losses(tmp_path / "plain", toy_experiment(SPEN_MODEL, stages=stages))
    found = losses(tmp_path / "engine", toy_experiment(SPEN_MODEL, stages=stages, compile="engine"))
    assert found[1:] == pytest.approx(plain[1:], rel=1e-4)
