"""What a stage trains, caches, keeps and stops at."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from toy_run import CLASSIFIER, FEATURES, SPEN, run_toy, stage, staged_experiment, toy_data, toy_experiment

from energynets.errors import ConfigError, TrainingError
from energynets.training import BuiltData, Progress, build_model, train
from energynets.training import loop as loops
from energynets.training.build import Sizes
from energynets.training.optimizers import schedule_factor
from energynets.training.stages import trained

ICNN = {**SPEN, "energy": {"kind": "icnn", "hidden": [4, 4]}}


def fresh(model: dict[str, Any], data: BuiltData) -> Any:
    return build_model(toy_experiment(model), Sizes.of(data.prepared))


def copy(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed(before: dict[str, torch.Tensor], module: nn.Module) -> set[str]:
    """First parts of the names of the weights that moved."""
    after = module.state_dict()
    moved = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    return {"unary" if "unary" in name else name.partition(".")[0] for name in moved}


def fit(folder: Path, model: dict[str, Any], *stages: dict[str, Any], **training: Any) -> tuple[Any, Any, Any]:
    """Train; the result, the model and its weights before."""
    data = toy_data()
    network = fresh(model, data)
    before = copy(network)
    experiment = toy_experiment(model, stages=list(stages), **training)
    return train(experiment, folder=folder, data=data, model=network), network, before


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# ------------------------------------------------------------------------------------------------ what is trained


@pytest.mark.parametrize("trains", [("features", "unary"), ("unary",), ("energy",), ("features", "unary", "energy")])
def test_a_stage_trains_what_it_names(tmp_path: Path, trains: tuple[str, ...]) -> None:
    # Without validation nothing is compared, so the last weights stay.
    data = toy_data(validation=False)
    network = fresh(SPEN, data)
    before = copy(network)
    experiment = toy_experiment(SPEN, stages=[stage("only", *trains, epochs=2)])
    train(experiment, folder=tmp_path / "run", data=data, model=network)
    assert changed(before, network) == set(trains)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_without_the_energy_the_classifier_is_trained(tmp_path: Path) -> None:
    network = fresh(SPEN, toy_data())
    run, solved = network.solver.run, []
    network.solver.run = lambda *given, **options: (solved.append(1), run(*given, **options))[1]

    class Watch(Progress):
        def evaluation(self, line: Any) -> None:
            assert not solved

    experiment = toy_experiment(SPEN, stages=[stage("unary", "features", "unary", epochs=1)])
    train(experiment, folder=tmp_path / "run", data=toy_data(), model=network, progress=Watch())
    assert solved  # the final evaluation is the whole model's


def test_frozen_weights_stay_frozen() -> None:
    network = fresh(CLASSIFIER, toy_data())
    network.unary.bias.requires_grad_(False)
    with trained(network, ("unary",), "s") as parameters:
        assert [id(p) for p in parameters] == [id(network.unary.weight)]
        assert not any(p.requires_grad for p in network.features.parameters())
    assert not network.unary.bias.requires_grad
    assert network.unary.weight.requires_grad


def test_unknown_and_empty_groups() -> None:
    network = fresh(CLASSIFIER, toy_data())
    with pytest.raises(ConfigError, match="'energy', which the model has not"), trained(network, ("energy",), "s"):
        pass
    network.requires_grad_(False)
    with pytest.raises(ConfigError, match="nothing to train"), trained(network, ("unary",), "s"):
        pass


def test_projection_follows_every_step(tmp_path: Path) -> None:
    """ICNN's weights are non-negative after every optimiser step of a real training."""
    data = toy_data()
    network = fresh(ICNN, data)
    constrained = [p for name, p in network.named_parameters() if "hidden_weights" in name or "output_weight" in name]
    projections = 0
    project = network.project

    def counting() -> None:
        nonlocal projections
        project()
        projections += 1
        assert all((weight >= 0).all() for weight in constrained)

    network.project = counting
    settings = {"learning_rate": 0.1}
    experiment = toy_experiment(ICNN, stages=[stage("all", "energy", "unary", "features", optimizer=settings)])
    train(experiment, folder=tmp_path / "run", data=data, model=network)
    assert projections == 3 * 4


# ------------------------------------------------------------------------------------------------ frozen features


@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_frozen_features_are_computed_once(tmp_path: Path, storage: str) -> None:
    data = toy_data()
    network = fresh(SPEN, data)
    rows: list[int] = []
    modes: set[bool] = set()

    def count(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        rows.append(len(arguments[0]))
        modes.add(module.training)

    class Watch(Progress):
        seen = 0

        def evaluation(self, line: Any) -> None:
            self.seen = sum(rows)

    watch = Watch()
    network.features.register_forward_pre_hook(count)
    experiment = toy_experiment(SPEN, stages=[stage("energy", "energy", "unary", epochs=4)], cache=storage)
    train(experiment, folder=tmp_path / "run", data=data, model=network, progress=watch)
    documents = len(data.raw.splits["train"]) + len(data.raw.splits["validation"])
    assert watch.seen == documents  # five evaluations and four epochs read every document once
    assert modes == {False}
    assert not (tmp_path / "run" / "cache").exists()


def test_both_caches_give_the_same_bits(tmp_path: Path) -> None:
    stages = [stage("energy", "energy", "unary")]
    networks = [fit(tmp_path / storage, SPEN, *stages, cache=storage)[1] for storage in ("memory", "disk")]
    assert changed(copy(networks[0]), networks[1]) == set()


# ------------------------------------------------------------------------------------------------ best and stopping


def scripted(monkeypatch: pytest.MonkeyPatch, values: list[float], metric: str = "f1_example") -> list[dict]:
    """Evaluations on validation give these values; also the weights at each of them."""
    seen: list[dict] = []
    evaluate = loops.Loop._evaluate

    def fake(self: Any, *arguments: Any) -> dict[str, float]:
        metrics = evaluate(self, *arguments)
        seen.append(copy(self.model))
        return {**metrics, metric: values[len(seen) - 1]}

    monkeypatch.setattr(loops.Loop, "_evaluate", fake)
    return seen


def same(one: dict[str, torch.Tensor], other: nn.Module) -> bool:
    return not changed(one, other)


def test_best_weights_are_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = scripted(monkeypatch, [0.1, 0.3, 0.9, 0.9, 0.2])
    result, network, _ = fit(tmp_path / "run", CLASSIFIER, stage("s", "features", "unary", epochs=4))
    assert same(seen[2], network)
    assert not same(seen[4], network)
    row = result.stages[0]
    assert (row["epochs"], row["best_epoch"], row["best_value"]) == (4, 2, 0.9)


def test_last_weights_are_kept_where_the_stage_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = scripted(monkeypatch, [0.1, 0.9, 0.2])
    _, network, _ = fit(tmp_path / "run", CLASSIFIER, stage("s", "features", "unary", epochs=2, keep="last"))
    assert same(seen[2], network)
    assert not same(seen[1], network)


def test_a_stage_without_gain_gives_back_its_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [0.5, 0.5, 0.4, 0.3])
    result, network, before = fit(tmp_path / "run", CLASSIFIER, stage("s", "features", "unary"))
    assert same(before, network)
    assert result.stages[0]["best_epoch"] == 0


def test_the_next_stage_starts_from_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = scripted(monkeypatch, [0.1, 0.9, 0.2, 0.9, 0.1])
    fit(tmp_path / "run", SPEN, stage("one", "features", "unary", epochs=2), stage("two", "energy", epochs=1))
    assert all(torch.equal(seen[1][name], seen[3][name]) for name in seen[1])


def test_patience_counts_evaluations_without_gain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [0.1, 0.5, 0.4, 0.6, 0.6, 0.5, 0.9])
    result, _, _ = fit(tmp_path / "run", CLASSIFIER, stage("s", "features", "unary", epochs=20, patience=2))
    assert (result.stages[0]["epochs"], result.stages[0]["best_epoch"]) == (5, 3)


@pytest.mark.parametrize("monitor", ["loss", "hamming_loss", "hamming_loss_at_0.5"])
def test_some_metrics_should_fall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, monitor: str) -> None:
    scripted(monkeypatch, [0.5, 0.2, 0.9, 0.3], monitor)
    result, _, _ = fit(tmp_path / "run", CLASSIFIER, stage("s", "features", "unary"), monitor=monitor)
    assert result.stages[0]["best_epoch"] == 1


def test_validation_loss_is_the_objective_in_evaluation_mode(tmp_path: Path) -> None:
    result, network, _ = fit(tmp_path / "run", CLASSIFIER, stage("s", "features", "unary"), monitor="loss")
    values = [line["validation"]["loss"] for line in lines(tmp_path / "run")]
    assert min(values) == result.stages[0]["best_value"] == values[-1]
    validation = toy_data().prepared.split("validation")
    network.eval()
    with torch.no_grad():
        logits = network(next(iter(loops.batches(validation, 100))).inputs)
    labels = torch.from_numpy(validation.labels.toarray())
    expected = nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum") / len(validation)
    assert result.stages[0]["best_value"] == pytest.approx(float(expected), rel=1e-5)


def test_unknown_monitor(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"training.monitor: unknown metric 'f1_exmple'.*did you mean 'f1_example'"):
        run_toy(tmp_path / "run", experiment=toy_experiment(monitor="f1_exmple"))
    assert not (tmp_path / "run").exists()


def test_evaluate_every(tmp_path: Path) -> None:
    fit(tmp_path / "run", CLASSIFIER, stage("s", "features", "unary", epochs=5), evaluate_every=2)
    rows = lines(tmp_path / "run")
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3, 4, 5]
    assert [bool(row["validation"]) for row in rows] == [True, False, True, False, True, True]
    assert [row["step"] for row in rows] == [0, 4, 8, 12, 16, 20]
    assert rows[0]["train_loss"] is None
    assert all(row["train_loss"] > 0 for row in rows[1:])


def test_without_validation_every_epoch_runs(tmp_path: Path) -> None:
    notes: list[str] = []

    class Listen(Progress):
        def note(self, text: str) -> None:
            notes.append(text)

    experiment = toy_experiment(stages=[stage("s", "features", "unary", patience=1)])
    result = train(experiment, folder=tmp_path / "run", data=toy_data(validation=False), progress=Listen())
    assert result.stages[0]["epochs"] == result.stages[0]["best_epoch"] == 3
    assert result.stages[0]["best_value"] is None
    assert result.threshold == {"value": 0.5, "rule": "fixed 0.5", "decoding": "global"}
    assert result.metrics.keys() == {"test"}
    assert result.metrics["test"]["f1_example"] == result.metrics["test"]["f1_example_at_0.5"]
    assert "no validation documents" in notes[0]


# ------------------------------------------------------------------------------------------------ optimisation


def test_schedules() -> None:
    assert [schedule_factor("constant", step, 4) for step in range(4)] == [1, 1, 1, 1]
    assert [schedule_factor("linear", step, 4) for step in range(4)] == [1, 0.75, 0.5, 0.25]
    assert schedule_factor("cosine", 0, 4) == 1
    assert schedule_factor("cosine", 2, 4) == pytest.approx(0.5)


def test_each_epoch_has_its_own_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs: list[int] = []
    orders = importlib.import_module("energynets.data.batches")  # the package has a function of this name
    order = orders.epoch_order
    monkeypatch.setattr(orders, "epoch_order", lambda n, seed, epoch: (epochs.append(epoch), order(n, seed, epoch))[1])
    run_toy(tmp_path / "run", experiment=staged_experiment(2))
    assert epochs == [0, 1, 2, 3, 4, 5]


def test_two_runs_give_the_same_bits(tmp_path: Path) -> None:
    torch.manual_seed(1)
    one = run_toy(tmp_path / "one")
    torch.manual_seed(2)
    state = torch.get_rng_state()
    two = run_toy(tmp_path / "two")
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.are_deterministic_algorithms_enabled()
    first, second = [(tmp_path / name / "checkpoints" / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert first == second
    assert one.metrics == two.metrics


# ------------------------------------------------------------------------------------------------ non-finite numbers


class Poisoned:
    """The objective, not finite at one call: in its value, or in its gradient alone."""

    def __init__(self, objective: Any, call: int, where: str) -> None:
        self.objective, self.left, self.where = objective, call, where
        self.weights: dict[str, torch.Tensor] = {}

    def __call__(self, model: nn.Module, batch: Any) -> torch.Tensor:
        self.left -= 1
        loss = self.objective(model, batch)
        if self.left:
            return loss
        self.weights = copy(model)
        if self.where == "loss":
            return loss * float("nan")
        # sqrt at 0: value 0, slope infinite.
        return loss + torch.sqrt(next(iter(model.parameters())).sum() * 0)


@pytest.mark.parametrize(("where", "said"), [("loss", "the loss is nan"), ("gradient", "the gradient norm is nan")])
def test_not_finite_stops_before_the_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, said: str
) -> None:
    poisoned: list[Poisoned] = []
    create = loops.Loop.__init__

    def init(self: Any, model: Any, objective: Any, *arguments: Any, **named: Any) -> None:
        poisoned.append(Poisoned(objective, 7, where))
        create(self, model, poisoned[0], *arguments, **named)

    monkeypatch.setattr(loops.Loop, "__init__", init)
    network = fresh(SPEN, toy_data())
    experiment = toy_experiment(SPEN, stages=[stage("joint", "features", "unary", "energy")])
    with pytest.raises(TrainingError) as error:
        train(experiment, folder=tmp_path / "run", data=toy_data(), model=network)
    message = str(error.value)
    for part in (said, "stage 'joint', epoch 2, step 3 of 4", "(16 rows)", "learning_rate (now 0.001)", "clip_norm"):
        assert part in message
    assert "model.solver.step_size" in message
    assert "checkpoint-000001.safetensors" in message
    assert same(poisoned[0].weights, network)
    # What was kept goes on once the cause is gone.
    monkeypatch.undo()
    train(experiment, folder=tmp_path / "run", data=toy_data(), model=network, resume=True)
    whole = fresh(SPEN, toy_data())
    train(experiment, folder=tmp_path / "whole", data=toy_data(), model=whole)
    assert same(copy(whole), network)


def test_weights_that_overflow_stop_at_the_evaluation(tmp_path: Path) -> None:
    settings = {"kind": "sgd", "learning_rate": 1e38}
    experiment = toy_experiment(stages=[stage("s", "features", "unary", optimizer=settings)], batch_size=1000)
    with pytest.raises(TrainingError, match=r"on validation, document \d+: its scores are not numbers.*learning_rate"):
        run_toy(tmp_path / "run", experiment=experiment)


def test_clip_norm_bounds_the_update(tmp_path: Path) -> None:
    settings = {"kind": "sgd", "learning_rate": 1.0, "clip_norm": 1e-3}
    data = toy_data(validation=False)
    network = fresh(CLASSIFIER, data)
    before = nn.utils.parameters_to_vector(network.parameters()).detach().clone()
    experiment = toy_experiment(stages=[stage("s", "features", "unary", epochs=1, optimizer=settings)], batch_size=1000)
    train(experiment, folder=tmp_path / "run", data=data, model=network)
    moved = nn.utils.parameters_to_vector(network.parameters()).detach() - before
    assert float(moved.norm()) == pytest.approx(1e-3, rel=1e-3)


def test_features_kind_must_fit_the_data() -> None:
    tokens = {"kind": "kim_cnn", "num_filters": 2, "embedding_dim": 4}
    with pytest.raises(ConfigError, match="kim_cnn reads token sequences, but the data are a table"):
        fresh({"kind": "classifier", "features": tokens}, toy_data())
    with pytest.raises(ConfigError, match=r"bag_of_words reads a table.*set data.inputs: counts"):
        build_model(toy_experiment(), Sizes(inputs=10, labels=3, tokens=True))


def test_weights_depend_on_the_seed_alone() -> None:
    data = toy_data()
    torch.manual_seed(123)
    one = fresh(SPEN, data)
    state = torch.get_rng_state()
    two = fresh(SPEN, data)
    assert torch.equal(torch.get_rng_state(), state)
    assert same(copy(one), two)
    seeded = build_model(toy_experiment(SPEN).model_copy(update={"seed": 1}), Sizes.of(data.prepared))
    assert not same(copy(one), seeded)
    classifier = fresh({"kind": "classifier", "features": FEATURES}, data)
    assert same(copy(one.features), classifier.features)


@pytest.mark.parametrize("energy", [SPEN, ICNN], ids=["spen", "icnn"])
def test_an_energy_network_starts_and_warms_up_as_its_classifier(tmp_path: Path, energy: dict[str, Any]) -> None:
    """Of one seed, its unary stage is the classifier's training to the bit: what differs later is its energy."""
    warm_up = stage("unary", "features", "unary", epochs=2)
    _, classifier, _ = fit(tmp_path / "classifier", CLASSIFIER, warm_up)
    _, network, _ = fit(tmp_path / "network", energy, warm_up)
    for name, tensor in classifier.state_dict().items():
        assert torch.equal(tensor, network.as_classifier().state_dict()[name]), name
