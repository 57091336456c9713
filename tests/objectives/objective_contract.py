"""What every objective promises; a new objective's tests subclass this and give `make`."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch import nn

from energynets.config import Experiment
from energynets.data.batches import Batch, SparseBatch
from energynets.data.dataset import Documents, MultiLabelDataset
from energynets.data.prepare import Preparation
from energynets.energies import ICNN, SPEN, Energy, Euclidean
from energynets.errors import ConfigError
from energynets.inference import MirrorDescent, Shortlist, Solver
from energynets.models import EnergyNetwork
from energynets.objectives import EndToEnd
from energynets.objectives.agreement import COSTS
from energynets.parallel import draws
from energynets.training import BuiltData, train
from energynets.training.build import build_objective

F, L = 4, 5
ROWS = [[0, 2], [], [1], [0, 3, 4]]


class Features(nn.Module):
    """Features that count how often x is read."""

    num_features = F

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, F))
        self.calls = 0

    def forward(self, inputs):
        self.calls += 1
        return self.scale * inputs.dense(self.scale.dtype)


def sparse(rows: list[list[int]], columns: int, values: torch.Tensor | None = None) -> SparseBatch:
    flat = torch.tensor([column for row in rows for column in row], dtype=torch.int64)
    offsets = torch.tensor([0, *np.cumsum([len(row) for row in rows])])
    return SparseBatch(flat, torch.ones(len(flat)) if values is None else values, offsets, columns)


def make_batch(order: tuple[int, ...] = (0, 1, 2, 3)) -> Batch:
    """Some of four documents, one of them without labels."""
    x = torch.randn(4, F, generator=torch.Generator().manual_seed(5))
    inputs = sparse([list(range(F))] * len(order), F, x[list(order)].flatten())
    return Batch(inputs, sparse([ROWS[i] for i in order], L), torch.tensor(order))


def dense(batch: Batch) -> torch.Tensor:
    return batch.labels.dense(torch.float64)


def make_energy(kind: str) -> Energy:
    """An energy whose h is not small, as after training."""
    torch.manual_seed(0)
    energy = SPEN(F, L, num_measurements=3) if kind == "spen" else ICNN(F, L, hidden=(3, 2))
    with torch.no_grad():
        energy.head.output *= 40
        energy.offset += torch.randn(energy.offset.shape)
    return energy.double()


class Replay(Solver):
    """Says at every round what another solver said in the first: its answers are constants."""

    def __init__(self, solver: Solver) -> None:
        super().__init__()
        self.solver, self.steps = solver, solver.steps
        self.kept: list[Any] = []
        self.again: Any = None

    def rewind(self) -> None:
        self.again = iter(self.kept)

    def _answer(self, make):
        if self.again is not None:
            return next(self.again)
        self.kept.append(make())
        return self.kept[-1]

    def run(self, energy, context, initial=None, **options):
        return self._answer(lambda: self.solver.run(energy, context, initial, **options))

    def trajectory(self, energy, context, initial=None, *, observed=None):
        return self._answer(lambda: list(self.solver.trajectory(energy, context, initial, observed=observed)))


class ObjectiveContract:
    """Subclass, and return an objective from `make`; `settings` is its section of a configuration."""

    settings: ClassVar[dict[str, Any]]
    solver: ClassVar[dict[str, Any]] = {"kind": "mirror_descent", "steps": 4}
    extra: ClassVar[dict[str, Any]] = {}
    """Further keys of the model section."""
    differentiated: tuple[str, ...] = ("features", "unary", "energy")
    """Groups of parameters that the gradient, with inference's answers constant, is the derivative of."""
    trains: tuple[str, ...] = ()
    """Groups that the tiny training trains; none named are all."""
    gain = 0.05
    """Of f1_example by it, over a unary of two epochs."""

    def make(self):
        raise NotImplementedError

    def network(self, kind: str) -> EnergyNetwork:
        return EnergyNetwork(Features(), make_energy(kind), MirrorDescent(steps=4)).double()

    def value(self, model, batch, objective=None):
        """The same random numbers every time."""
        torch.manual_seed(3)
        return (objective or self.make())(model, batch)

    @pytest.fixture(params=["spen", "icnn"])
    def model(self, request) -> EnergyNetwork:
        return self.network(request.param)

    @pytest.fixture
    def shared_draws(self, monkeypatch):
        """Random numbers that are the same for every document."""
        real = draws.uniform
        monkeypatch.setattr(draws, "uniform", lambda like, *shape: real(like[:1], *shape).expand(len(like), *shape))

    def test_is_a_finite_scalar_that_reaches_every_parameter_and_reads_x_once(self, model):
        value = self.value(model, make_batch())
        assert value.shape == ()
        assert value.isfinite()
        value.backward()
        assert model.features.calls == 1
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name

    def test_gradient_is_that_of_finite_differences(self, model):
        batch = make_batch()
        model.solver = Replay(model.solver)
        groups = model.parameter_groups()
        weights = [weight for name in self.differentiated for weight in groups[name]]
        gradients = torch.autograd.grad(self.value(model, batch), weights)
        directions = [torch.randn(weight.shape, dtype=torch.float64) for weight in weights]
        expected = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
        values = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                for weight, direction in zip(weights, directions, strict=True):
                    weight += step * direction
                model.solver.rewind()
                values.append(self.value(model, batch))
                for weight, direction in zip(weights, directions, strict=True):
                    weight -= step * direction
        torch.testing.assert_close((values[0] - values[1]) / 2e-6, expected, rtol=1e-5, atol=1e-7)

    def test_order_of_documents_does_not_matter(self, model, shared_draws):
        first = self.value(model, make_batch())
        torch.testing.assert_close(self.value(model, make_batch((2, 0, 3, 1))), first, rtol=1e-12, atol=1e-12)

    def test_a_batch_is_the_mean_of_its_documents(self, model, shared_draws):
        alone = torch.stack([self.value(model, make_batch((i,))) for i in range(4)])
        torch.testing.assert_close(alone.mean(), self.value(model, make_batch()), rtol=1e-12, atol=1e-12)
        assert len(alone.unique()) == 4

    def test_keeps_no_graph_under_no_grad(self, model):
        with torch.no_grad():
            value = self.value(model, make_batch())
        assert not value.requires_grad
        torch.testing.assert_close(value, self.value(model, make_batch()).detach())

    @pytest.mark.parametrize("kind", ["spen", "icnn"])
    def test_training_makes_it_smaller(self, kind, tmp_path):
        energy = {"kind": "spen", "num_measurements": 8} if kind == "spen" else {"kind": "icnn", "hidden": [6, 4]}
        features = {"kind": "bag_of_words", "hidden": [24], "dropout": 0.0, "input_dropout": 0.0}
        model = {"kind": "energy_network", "features": features, "energy": energy, "solver": self.solver, **self.extra}
        stages = [
            {"name": "unary", "trains": ["features", "unary"], "epochs": 2, "keep": "last"},
            {
                "name": "joint",
                "trains": self.trains,
                "epochs": 12,
                "keep": "last",
                "optimizer": {"learning_rate": 5e-3},
            },
        ]
        training = {"batch_size": 16, "stages": stages}
        tree = {"name": "tiny", "device": "cpu", "data": {"planted": {}}, "model": model, "training": training}
        experiment = Experiment.from_tree(tree | {"objective": self.settings})
        assert type(build_objective(experiment)) is type(self.make())
        result = train(experiment, folder=tmp_path / "run", data=tiny_data())
        lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
        joint = [line for line in lines if line["stage"] == "joint"]
        losses = [line["train_loss"] for line in joint if line["train_loss"] is not None]
        assert len(losses) == 12
        assert np.mean(losses[-3:]) < 0.95 * losses[0]
        before = joint[0]["validation"]["f1_example"]  # of the unary, two epochs old
        assert result.metrics["validation"]["f1_example"] > before + self.gain


class EnergyObjectiveContract(ObjectiveContract):
    """What one that reads the energy's values promises besides."""

    def all_known(self, model, batch):
        """The value where every label is revealed: the cost of true labels, 1 in F1 where a document has none."""
        objective, targets = self.make(), dense(batch)
        return (objective.margin * COSTS[objective.cost](targets, targets)).mean()

    def test_a_classifier_has_the_binary_cross_entropy(self, model):
        objective, batch = self.make(), make_batch()
        assert objective.loss == "bce"
        classifier = model.as_classifier()
        assert torch.equal(objective(classifier, batch), EndToEnd("bce")(classifier, batch))

    def test_unknown_labels_are_refused_by_name(self, model):
        with pytest.raises(ConfigError, match="some are unknown: there is EndToEnd"):
            self.make()(model, replace(make_batch((0, 1)), unknown=torch.eye(2, L) > 0))

    def test_revealed_labels_stand_in_every_y_it_reads(self, model, monkeypatch):
        batch = replace(make_batch(), revealed=torch.rand(4, L) < 0.5)
        known, targets, read = batch.revealed, dense(batch), []
        potential = type(model.energy).potential
        monkeypatch.setattr(
            type(model.energy), "potential", lambda self, y, context: read.append(y) or potential(self, y, context)
        )
        assert self.value(model, batch).isfinite()
        assert read
        for y in read:
            of_document = y.view(4, -1, L).transpose(0, 1)
            torch.testing.assert_close(of_document[:, known], targets[known].expand(len(of_document), -1))

    def test_features_that_observe_are_told_of_revealed_labels(self, model, monkeypatch):
        batch = replace(make_batch(), revealed=torch.eye(4, L) > 0)
        told, condition = [], model.condition
        monkeypatch.setattr(model, "condition", lambda *given: told.append(given[1]) or condition(*given))
        monkeypatch.setattr(model, "compute_features", lambda inputs, observed=None: model.features(inputs))
        self.make()(model, batch)
        assert torch.equal(told[0].mask, batch.revealed)

    def test_where_all_labels_are_revealed_nothing_is_left_to_infer(self, model):
        batch = replace(make_batch(), revealed=torch.ones(4, L, dtype=torch.bool))
        torch.testing.assert_close(self.value(model, batch), self.all_known(model, batch), atol=1e-9, rtol=1e-9)

    def test_labels_in_part_or_in_no_box_are_refused_by_name(self, model):
        energy, name = model.energy, type(self.make()).__name__
        for options in ({"label_chunk": 2}, {"shortlist": Shortlist(3)}):
            streamed = EnergyNetwork(Features().double(), energy, MirrorDescent(steps=2), **options)
            with pytest.raises(ConfigError, match=f"{name}: reads the energy of all labels at once"):
                self.make()(streamed, make_batch())
        numbers = EnergyNetwork(Features(), SPEN(F, L, domain=Euclidean()))
        with pytest.raises(ConfigError, match=rf"{name}: expected labels, y in Box\(\), got Euclidean"):
            self.make()(numbers, make_batch())

    def test_a_document_of_a_shared_batch_draws_what_it_draws_alone(self, model):
        batch = make_batch()
        whole = self.value(model, batch)
        parts = []
        for start, stop in ((0, 1), (1, 4)):
            with draws.cut_from(draws.Cut(batch.inputs, start, stop)):
                part = make_batch(tuple(range(start, stop)))
                parts.append((stop - start) * self.value(model, part))
        torch.testing.assert_close(sum(parts) / 4, whole, rtol=1e-12, atol=1e-12)


def tiny_data() -> BuiltData:
    """Labels in pairs that hold together, and inputs that show the first of each pair well and the second badly."""
    rng = np.random.default_rng(0)
    first = (rng.random((240, 3)) < 0.4).astype(np.float32)
    labels = np.concatenate([first, np.where(rng.random((240, 3)) < 0.9, first, 1 - first)], axis=1).astype(np.float32)
    inputs = labels @ rng.normal(size=(6, 20)) + 0.7 * rng.normal(size=(240, 20))
    rows = {"train": np.arange(120), "validation": np.arange(120, 180), "test": np.arange(180, 240)}
    table = csr_array(np.maximum(inputs, 0).astype(np.float32))
    raw = MultiLabelDataset("tiny", Documents(table, csr_array(labels)), rows, "by position")
    preparation = Preparation.fit(raw)
    return BuiltData(raw, preparation, preparation.prepare(raw))
