"""What a run writes, and reading, scoring, evaluating and predicting with it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch import nn
from toy_run import CLASSIFIER, SPEN, run_toy, stage, toy_data, toy_experiment

from energynets.config import Experiment
from energynets.data.batches import SparseBatch
from energynets.data.dataset import Documents
from energynets.errors import CheckpointError, ConfigError, DataError, InferenceError
from energynets.metrics import DECODERS, TopScores, calibration
from energynets.training import (
    Progress,
    RunResult,
    build_model,
    evaluate,
    load_run,
    metric_names,
    predict,
    score,
    train,
)
from energynets.training.build import Sizes
from energynets.training.machine import git_commit, peak_host_memory, resolve_device
from energynets.training.run import RunFolder
from energynets.training.score import top_probabilities
from energynets.training.validation import Validator

ROOT = Path(__file__).parents[2]

ONE = [stage("unary", "features", "unary", epochs=2)]
ROW = {
    "name", "kind", "seed", "config_hash", "data", "metrics", "threshold", "train_seconds", "examples_per_second",
    "peak_memory_bytes", "peak_host_memory_bytes", "inference_ms_per_document", "parameters", "stages", "version",
    "finished", "device", "preparation", "calibration", "together",
}  # fmt: skip


@pytest.fixture(scope="module")
def spen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spen") / "run"
    run_toy(folder, experiment=toy_experiment(SPEN, stages=[*ONE, stage("energy", "energy", epochs=2)]))
    return folder


def test_the_run_folder(spen: Path) -> None:
    assert {path.name for path in spen.iterdir()} == {
        "config.yaml", "environment.json", "metrics.jsonl", "result.json", "documents.npz", "diagnostics.json",
        "checkpoints", "preparation",
    }  # fmt: skip
    assert Experiment.load(spen / "config.yaml").model.kind == "energy_network"
    environment = json.loads((spen / "environment.json").read_text())
    assert environment["torch"] == torch.__version__
    assert environment.keys() >= {
        "python",
        "numpy",
        "platform",
        "cpu",
        "threads",
        "device_name",
        "git_commit",
        "command",
    }


def test_the_row(spen: Path) -> None:
    row = json.loads((spen / "result.json").read_text())
    assert row.keys() == ROW | {"trace"}
    assert row["kind"] == "spen"
    assert row["data"]["sizes"] == {"train": 60, "validation": 30, "test": 30}
    assert row["metrics"].keys() == {"validation", "test"}
    assert list(row["metrics"]["test"]) == metric_names((1, 3, 5))
    assert row["threshold"]["rule"] == "f1_example on validation"
    assert [stage["name"] for stage in row["stages"]] == ["unary", "energy"]
    assert row["parameters"] == sum(p.numel() for p in load_run(spen).model.parameters())
    assert row["train_seconds"] >= sum(stage["seconds"] for stage in row["stages"]) > 0
    assert row["peak_memory_bytes"] > 10_000_000
    assert row["inference_ms_per_document"] > 0
    assert RunResult.from_dict(row).to_dict() == row


def test_documents_are_what_the_row_is_the_mean_of(spen: Path) -> None:
    metrics = json.loads((spen / "result.json").read_text())["metrics"]["test"]
    values = RunFolder(spen).read_documents()
    assert {"precision@1", "ndcg@5", "psp@5", "f1_example", "f1_example_at_0.5"} <= values.keys()
    for name, value in values.items():
        assert value.shape == (30,)
        assert value.mean(dtype=np.float64) == pytest.approx(metrics[name], abs=1e-6), name


def test_damaged_documents_are_told(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.read_documents() == {}
    run.save_documents({"f1_example": np.ones(3, np.float32)})
    run.documents.write_bytes(run.documents.read_bytes()[:40])
    with pytest.raises(CheckpointError, match=r"documents.npz: not what a run writes"):
        run.read_documents()


def test_the_trace_of_inference(spen: Path) -> None:
    trace = json.loads((spen / "result.json").read_text())["trace"]
    assert len(trace["energy"]) == len(trace["gradient_norm"]) == 4
    assert (trace["documents"], trace["non_finite"]) == (30, 0)
    assert 0 <= trace["not_converged"] <= 30


def test_a_row_without_a_key() -> None:
    with pytest.raises(CheckpointError, match="kind"):
        RunResult.from_dict({"name": "x"})


def test_evaluate_a_run_gives_its_row(spen: Path) -> None:
    data = toy_data().raw
    row = json.loads((spen / "result.json").read_text())
    assert evaluate(spen, data) == pytest.approx(row["metrics"]["test"])
    assert evaluate(load_run(spen), data, split="validation") == pytest.approx(row["metrics"]["validation"])
    assert evaluate(spen, data, threshold=0.5)["f1_example"] == row["metrics"]["test"]["f1_example_at_0.5"]
    with pytest.raises(DataError, match="no split 'dev'"):
        evaluate(spen, data, split="dev")
    test_alone = replace(data, splits={"test": data.splits["test"]})
    with pytest.raises(DataError, match=r"expected a training split, .*; it has test: give it the training documents"):
        evaluate(spen, test_alone)


def test_calibration_of_the_test_split_is_in_the_row(spen: Path) -> None:
    row = json.loads((spen / "result.json").read_text())["calibration"]
    found: list[Any] = []
    evaluate(spen, toy_data().raw, on_scores=lambda scores, labels: found.append(calibration(scores, labels)))
    assert row == {"split": "test", **json.loads(json.dumps(found[0].to_dict()))}
    assert sum(entry["count"] for entry in row["bins"]) == row["pairs"] == 30 * 6
    assert row["bins"][0].keys() == {"low", "high", "count", "confidence", "frequency"}


def test_evaluate_a_model_chooses_its_threshold_on_validation(spen: Path) -> None:
    run = load_run(spen)
    dataset = run.prepare(toy_data().raw)
    row = json.loads((spen / "result.json").read_text())
    assert evaluate(run.model, dataset) == pytest.approx(row["metrics"]["test"])
    alone = evaluate(run.model, toy_data(validation=False).prepared)
    assert alone["f1_example"] == alone["f1_example_at_0.5"]
    with pytest.raises(ConfigError, match="needs a data set"):
        evaluate(run.model)


def test_predict(spen: Path) -> None:
    inputs = toy_data().raw.split("test").inputs
    top = predict(spen, inputs, top=2)
    assert top.indices.shape == (30, 2)
    run = load_run(spen)
    whole = predict(run, inputs, top=100, batch_size=7)
    assert whole.indices.shape == (30, 6)
    np.testing.assert_array_equal(whole.indices[:, :2], top.indices)
    assert run.label_name(3) == "3"


@pytest.mark.parametrize("kind", ["per_label", "expected_f1"])
def test_the_runs_own_decoder(tmp_path: Path, spen: Path, kind: str) -> None:
    experiment = toy_experiment(SPEN, stages=[*ONE, stage("energy", "energy", epochs=2)])
    evaluation = experiment.evaluation.model_copy(update={"decoding": kind})
    folder, data = tmp_path / "run", toy_data()
    result = run_toy(folder, experiment=experiment.model_copy(update={"evaluation": evaluation}))
    assert result.threshold["decoding"] == kind
    assert (folder / "decoder.safetensors").exists() == (kind == "per_label")
    run = load_run(folder)
    found: list[TopScores] = []
    for split in ("validation", "test"):
        metrics = evaluate(run, data.raw, split=split, on_scores=lambda scores, labels: found.append(scores))
        assert metrics == pytest.approx(result.metrics[split])
    fitted = DECODERS[kind].fit(found[0], data.raw.split("validation").labels)
    assert json.loads(json.dumps(fitted.row())) == json.loads((folder / "result.json").read_text())["threshold"]
    np.testing.assert_array_equal(run.decoder.choose(found[1]), fitted.choose(found[1]))
    assert type(run.decoder) is DECODERS[kind]
    # A run of the same model under one threshold, decoded otherwise.
    assert evaluate(spen, data.raw, decoding=kind) == pytest.approx(result.metrics["test"])
    model = evaluate(run.model, run.prepare(data.raw), decoding=kind)
    assert model == pytest.approx(result.metrics["test"])
    with pytest.raises(ConfigError, match="did you mean 'per_label'"):
        evaluate(spen, data.raw, decoding="per-label")


def test_a_lost_or_unknown_decoder(tmp_path: Path) -> None:
    experiment = toy_experiment(stages=ONE)
    evaluation = experiment.evaluation.model_copy(update={"decoding": "per_label"})
    folder = tmp_path / "run"
    run_toy(folder, experiment=experiment.model_copy(update={"evaluation": evaluation}))
    (folder / "decoder.safetensors").write_bytes(b"cut short")
    with pytest.raises(CheckpointError, match=r"decoder\.safetensors: not the per_label decoder"):
        load_run(folder)
    (folder / "decoder.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"decoder\.safetensors: not the per_label decoder"):
        load_run(folder)


def test_a_run_of_an_earlier_version_has_one_threshold(tmp_path: Path, spen: Path) -> None:
    shutil.copytree(spen, tmp_path / "run")
    path = tmp_path / "run" / "result.json"
    row = json.loads(path.read_text())
    del row["threshold"]["decoding"], row["calibration"]
    path.write_text(json.dumps(row))
    assert load_run(tmp_path / "run").decoder == load_run(spen).decoder


@pytest.mark.parametrize(("kind", "rule"), [("per_label", "fixed 0.5"), ("expected_f1", "expected f1_example of each")])
def test_decoders_without_validation(tmp_path: Path, kind: str, rule: str) -> None:
    experiment = toy_experiment(stages=ONE)
    evaluation = experiment.evaluation.model_copy(update={"decoding": kind})
    experiment = experiment.model_copy(update={"evaluation": evaluation})
    result = train(experiment, folder=tmp_path / "run", data=toy_data(validation=False))
    assert result.threshold["rule"].startswith(rule)
    assert evaluate(tmp_path / "run", toy_data(validation=False).raw) == pytest.approx(result.metrics["test"])


def test_reading_what_is_no_finished_run(tmp_path: Path, spen: Path) -> None:
    with pytest.raises(CheckpointError, match=r"not a run folder \(no config.yaml\)"):
        load_run(tmp_path)
    (tmp_path / "config.yaml").write_text((spen / "config.yaml").read_text())
    with pytest.raises(CheckpointError, match="not a finished run"):
        load_run(tmp_path)
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"result\.json"):
        load_run(tmp_path)


def test_label_names_are_kept(tmp_path: Path) -> None:
    data = toy_data()
    documents = data.raw.documents
    named = Documents(documents.inputs, documents.labels, tuple("abcdef"))
    raw = type(data.raw)("toy", named, data.raw.splits, "by position")
    built = type(data)(raw, data.preparation, data.preparation.prepare(raw))
    train(toy_experiment(stages=ONE), folder=tmp_path / "run", data=built)
    assert load_run(tmp_path / "run").label_name(2) == "c"


# ------------------------------------------------------------------------------------------------ baselines


@pytest.mark.parametrize("kind", ["label_frequency", "linear", "neighbours", "target_embedding", "label_tree"])
def test_baselines_go_the_same_way(tmp_path: Path, kind: str) -> None:
    if kind != "label_frequency":
        pytest.importorskip("napkinxc" if kind == "label_tree" else "sklearn")
    result = run_toy(tmp_path / "run", experiment=toy_experiment({"kind": kind}))
    row = json.loads((tmp_path / "run" / "result.json").read_text())
    assert row.keys() == ROW
    assert (result.kind, result.stages) == (kind, [])
    assert result.threshold["rule"] == "f1_example on validation"
    assert (tmp_path / "run" / "checkpoints" / "baseline").is_dir()
    assert evaluate(tmp_path / "run", toy_data().raw) == pytest.approx(result.metrics["test"])
    assert run_toy(tmp_path / "run", experiment=toy_experiment({"kind": kind}), resume=True) == result


def test_the_posterior_needs_planted_data(tmp_path: Path) -> None:
    tree = {"name": "x", "data": {"name": "bibtex"}, "model": {"kind": "bayes_optimal"}}
    with pytest.raises(ConfigError, match="planted"):
        train(Experiment.from_tree(tree), folder=tmp_path / "run", data=toy_data())


# ------------------------------------------------------------------------------------------------ scores


class Fixed(nn.Module):
    """Logits that are given."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)
        self.position = 0

    def forward(self, inputs: SparseBatch) -> torch.Tensor:
        self.position += len(inputs)
        return self.logits[self.position - len(inputs) : self.position]


def documents(rows: int, labels: int) -> Documents:
    return Documents(csr_array((rows, 4), dtype=np.float32), csr_array((rows, labels), dtype=np.float32))


@pytest.mark.parametrize("k", [1, 3, 7, 20])
@pytest.mark.parametrize("loss", ["bce", "softmax"])
def test_scores_agree_with_dense_ones(k: int, loss: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(-2, 3, (50, 7), generator=generator).float()  # many ties
    found = score(Fixed(logits), documents(50, 7), k=k, batch_size=8, loss=loss)
    dense = torch.softmax(logits, 1) if loss == "softmax" else torch.sigmoid(logits)
    expected = TopScores.from_dense(dense.numpy(), k)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-6)


def test_saturated_probabilities_are_ranked_by_logit() -> None:
    indices, values = top_probabilities(torch.tensor([[40.0, 30.0, 50.0]]), 2, "bce")
    assert indices.tolist() == [[2, 0]]
    assert values.tolist() == [[1.0, 1.0]]


def test_scores_that_are_no_numbers() -> None:
    logits = torch.zeros(6, 3)
    logits[4, 1] = float("nan")
    with pytest.raises(InferenceError, match="document 4"):
        score(Fixed(logits), documents(6, 3), k=2, batch_size=2)


def test_scoring_leaves_the_mode_and_makes_no_graph() -> None:
    model = Fixed(torch.zeros(4, 3))
    model.train()
    seen: list[tuple[int, int]] = []
    seconds: list[float] = []
    score(model, documents(4, 3), k=1, batch_size=3, on_batch=lambda *a: seen.append(a), seconds=seconds)
    assert model.training
    assert seen == [(3, 4), (4, 4)]
    assert len(seconds) == 2


# ------------------------------------------------------------------------------------------------ the machine


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(ConfigError, match="no CUDA device here; use device: auto or cpu"):
        resolve_device("cuda:1")
    for wrong in ("gpu", "cpu:0", "cuda:x"):
        with pytest.raises(ConfigError, match="expected auto, cpu, cuda or cuda:N"):
            resolve_device(wrong)


def test_peak_memory_sees_an_allocation() -> None:
    before = peak_host_memory()
    held = np.ones(30_000_000)
    assert peak_host_memory() >= before
    assert peak_host_memory() > held.nbytes


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here to read a process's own peak from")
def test_peak_memory_is_not_that_of_the_process_before() -> None:
    held = np.ones(60_000_000)
    command = [sys.executable, "-c", "from energynets.training.machine import peak_host_memory as p; print(p())"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert 0 < int(said) < held.nbytes + 30_000_000


def test_the_commit_says_where_the_package_is_not_what_was_committed(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        settings = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        return subprocess.run(["git", *settings, *words], cwd=tmp_path, capture_output=True, text=True).stdout.strip()

    assert git_commit(tmp_path) is None
    (tmp_path / "energynets").mkdir()
    (module := tmp_path / "energynets" / "a.py").write_text("1")
    git("init")
    assert git_commit(tmp_path) is None  # nothing committed
    git("add", ".")
    git("commit", "-m", "a")
    (tmp_path / "notes.txt").write_text("not the package")
    commit = git("rev-parse", "HEAD")
    assert git_commit(tmp_path) == commit != ""
    (tmp_path / "energynets" / "b.py").touch()
    assert git_commit(tmp_path) == f"{commit}-dirty"
    (tmp_path / "energynets" / "b.py").unlink()
    module.write_text("2")
    assert git_commit(tmp_path) == f"{commit}-dirty"


def test_a_validation_loss_takes_no_random_numbers_of_training() -> None:
    experiment = toy_experiment(CLASSIFIER)
    validator = Validator(experiment, toy_data().prepared, torch.device("cpu"), lambda done, total: None)
    validator.monitor = "loss"
    model, drawn = build_model(experiment, Sizes.of(toy_data().prepared)), []

    def objective(model: Any, batch: Any) -> torch.Tensor:
        drawn.append(float(torch.rand(())))
        return torch.zeros(())

    before = torch.get_rng_state()
    for _ in range(2):
        validator.metrics(model, None, objective)
    assert torch.equal(torch.get_rng_state(), before)
    assert drawn[: len(drawn) // 2] == drawn[len(drawn) // 2 :]
    assert drawn


def test_device_that_is_not_there_makes_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    experiment: Any = toy_experiment(CLASSIFIER).model_copy(update={"device": "cuda"})
    with pytest.raises(ConfigError, match="no CUDA device"):
        run_toy(tmp_path / "run", experiment=experiment)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("top", "notes"), [(1, 1), (6, 0)])
def test_scores_cut_short_of_the_threshold_are_told(tmp_path: Path, top: int, notes: int) -> None:
    told: list[str] = []

    class Notes(Progress):
        def note(self, text: str) -> None:
            told.append(text)

    experiment = toy_experiment(stages=[stage("s", "features", "unary", epochs=1)])
    evaluation = experiment.evaluation.model_copy(update={"top": top, "ks": (1,)})
    run_toy(tmp_path / "run", experiment=experiment.model_copy(update={"evaluation": evaluation}), progress=Notes())
    assert len([text for text in told if "evaluation.top" in text]) == notes
