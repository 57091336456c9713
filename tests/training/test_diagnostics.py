"""What diagnostics.json says, against planted energies and sets counted by hand."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from toy_run import SPEN as SPEN_TREE
from toy_run import run_toy, stage, toy_experiment

from energynets.data.batches import SparseBatch, batches
from energynets.data.dataset import Documents, MultiLabelDataset, TextDocuments
from energynets.energies import ICNN, SPEN, Energy
from energynets.inference import AmortizedStart, MirrorDescent
from energynets.metrics import TopScores, choose_threshold, f1_example, predict_above
from energynets.models import Classifier, EnergyNetwork
from energynets.training.diagnostics import Diagnostics, diagnose
from energynets.training.diagnostics.excerpts import Excerpts
from energynets.training.diagnostics.inferred import inferred

L = 5


class Inputs(nn.Module):
    """phi is the input itself."""

    num_features = L

    def forward(self, inputs: SparseBatch) -> Tensor:
        return inputs.dense()


def planted(count: int = 40, seed: int = 0) -> tuple[EnergyNetwork, Diagnostics]:
    """Labels 0 and 1 attract, labels 2 and 3 repel, neither is favoured by itself.

    h = -3 [softplus(m) + softplus(-m)] + 3 [softplus(n) + softplus(-n)], m = y_0 + y_1 - 1, n = y_2 + y_3 - 1
    """
    rng = np.random.default_rng(seed)
    labels = (rng.random((count, L)) < 0.4).astype(np.float32)
    labels[:, 4] = 0
    labels[:, 1] = labels[:, 0]
    logits = (4 * labels - 2 + 2 * rng.normal(size=labels.shape)).astype(np.float32)
    documents = Documents(csr_array(logits), csr_array(labels), label_names=tuple("abcde"))
    train, validation, test = np.split(np.arange(count), [count // 2, 3 * count // 4])
    splits = {"train": train, "validation": validation, "test": test}
    dataset = MultiLabelDataset("planted", documents, splits, "by position")
    energy = SPEN(L, L, num_measurements=4, bias=False)
    with torch.no_grad():
        energy.unary.weight.copy_(torch.eye(L))
        pairs = torch.tensor([[1.0, 1, 0, 0, 0], [0, 0, 1, 1, 0]])
        energy.measure.copy_(torch.cat((pairs, -pairs)))
        energy.offset.copy_(torch.tensor([-1.0, -1, 1, 1]))
        energy.head.output.copy_(torch.tensor([-3.0, 3, -3, 3]))  # type: ignore[union-attr, operator]
    model = EnergyNetwork(Inputs(), energy, MirrorDescent(steps=8))
    return model, Diagnostics(dataset, documents, lambda scores: predict_above(scores, 0.5), top=L)


def test_planted_ties_have_names_counts_and_log_odds() -> None:
    model, how = planted()
    found = diagnose(model, how)
    assert found is not None
    ties = found["ties"]
    (attracting,), (repelling,) = ties["attracting"], ties["repelling"]
    assert (attracting["first"], attracting["second"]) == (0, 1)
    assert (repelling["first"], repelling["second"]) == (2, 3)
    assert attracting["log_odds"] > 0 > repelling["log_odds"]
    training = how.dataset.split("train").labels.toarray()
    assert attracting["together"] == int((training[:, 0] * training[:, 1]).sum())
    assert attracting["expected"] == pytest.approx(training[:, 0].sum() * training[:, 1].sum() / len(training))
    assert ties["labels"] == 4, "a label without training documents has the weights it was drawn with"
    assert sorted(label for label, _ in ties["measurements"][0]["weights"][:2]) in ([0, 1], [2, 3])
    assert found["label_names"] == dict(zip("0123", "abcd", strict=True)) | (
        {"4": "e"} if "4" in found["label_names"] else {}
    )


def test_log_odds_are_what_inference_does() -> None:
    """The first-order effect of label 1 on the logit of label 0, by moving y_1 a little."""
    model, how = planted()
    found = diagnose(model, how)
    assert found is not None
    documents = how.dataset.split("validation")
    energy = model.energy.double()
    phi = torch.from_numpy(documents.inputs.toarray()).double()  # type: ignore[union-attr]
    context = energy.condition(phi)
    with torch.no_grad():
        y = MirrorDescent(steps=8).solve(energy, context).sigmoid()
        up, down = y.clone(), y.clone()
        up[:, 1] += 1e-4
        down[:, 1] -= 1e-4
        moved = -(energy.gradient(up, context) - energy.gradient(down, context))[:, 0].mean() / 2e-4
    assert found["ties"]["attracting"][0]["log_odds"] == pytest.approx(float(moved), rel=1e-4)


def test_changes_are_counted_and_shown_largest_first() -> None:
    model, how = planted(400)
    found = diagnose(model, how)
    assert found is not None
    compared = found["changes"]
    test = how.dataset.split("test")
    phi = torch.from_numpy(test.inputs.toarray())  # type: ignore[union-attr]
    with torch.no_grad():
        z = MirrorDescent(steps=8).solve(model.energy, model.energy.condition(phi))
    before, after = csr_array((phi > 0).float().numpy()), csr_array((z > 0).float().numpy())
    assert compared["f1_unary"] == pytest.approx(f1_example(before, test.labels))
    assert compared["f1_energy"] == pytest.approx(f1_example(after, test.labels))
    assert compared["changed"] == int((before.toarray() != after.toarray()).any(1).sum()) > 0
    assert compared["better"] > compared["worse"] > 0, "the planted energy knows what the data do"
    first = compared["better_examples"][0]
    place = first["document"] - how.dataset.splits["test"][0]
    assert first["true"] == np.flatnonzero(test.labels.toarray()[place]).tolist()
    assert first["unary"] == np.flatnonzero(before.toarray()[place]).tolist()
    assert first["energy"] == np.flatnonzero(after.toarray()[place]).tolist()
    gains = [example["f1_energy"] - example["f1_unary"] for example in compared["better_examples"]]
    assert gains == sorted(gains, reverse=True)
    assert all(example["f1_energy"] < example["f1_unary"] for example in compared["worse_examples"])


def test_labels_that_nobody_knows_are_in_no_predicted_set() -> None:
    model, how = planted()
    documents = how.dataset.documents
    wrong = csr_array(((1 - documents.labels.toarray()) > 0).astype(np.float32))
    unknown = replace(how.dataset, documents=replace(documents, unknown=wrong))
    found = diagnose(model, replace(how, dataset=unknown, choose=None))
    assert found is not None
    # what is known is true: whatever is predicted is right
    for example in found["changes"]["better_examples"] + found["changes"]["worse_examples"]:
        assert set(example["unary"]) | set(example["energy"]) <= set(example["true"])
    assert found["changes"]["f1_energy"] > diagnose(model, how)["changes"]["f1_energy"]  # type: ignore[index]


def test_certificates_are_of_convex_energies() -> None:
    model, how = planted()
    spen = diagnose(model, how)
    model.energy = ICNN(L, L, hidden=(3, 3))
    icnn = diagnose(model, how)
    assert spen is not None
    assert icnn is not None
    assert "not convex" in spen["certificates"]["skipped"]
    assert len(icnn["certificates"]["values"]) == len(how.dataset.splits["validation"])
    assert all(0 <= value < 1 for value in icnn["certificates"]["values"])


def test_batches_change_nothing() -> None:
    model, how = planted(100)
    whole, small = diagnose(model, how), diagnose(model, replace(how, batch_size=7))
    assert whole is not None
    assert small is not None
    assert small["changes"] == whole["changes"]
    for one, other in zip(whole["ties"]["attracting"], small["ties"]["attracting"], strict=True):
        assert one == pytest.approx(other, rel=1e-5)


def test_what_cannot_be_looked_at_says_why() -> None:
    model, how = planted()
    assert diagnose(Classifier(Inputs(), L), how) is None
    gated = EnergyNetwork(Inputs(), ICNN(L, L, hidden=(2, 2), gate=True))
    found = diagnose(gated, how)
    assert found is not None
    assert "gated" in found["ties"]["skipped"]
    assert found["changes"]["documents"] == 10
    chunks = diagnose(EnergyNetwork(Inputs(), SPEN(L, L), label_chunk=2), how)
    assert chunks is not None
    assert {part["skipped"] for part in chunks.values()} == {"the labels come in chunks, and never all at once"}
    shortlisted = diagnose(EnergyNetwork(Inputs(), SPEN(L, L), shortlist=3), how)
    assert shortlisted is not None
    assert "shortlist" in shortlisted["ties"]["skipped"]
    shards = diagnose(model, how, label_shards=2)
    assert shards is not None
    assert "several processes" in shards["changes"]["skipped"]

    class Own(Energy):
        def potential(self, y: Tensor, context: Any) -> Tensor:
            return (y * context).sum(-1)

    own = diagnose(EnergyNetwork(Inputs(), Own(L)), how)
    assert own is not None
    assert "linear measurements" in own["ties"]["skipped"]
    assert "no unary" in own["changes"]["skipped"]


def test_the_unary_gets_the_rule_that_is_best_for_it() -> None:
    """All logits raised by 3: at 1/2 the unary alone would predict nearly everything."""
    model, how = planted(400)
    with torch.no_grad():
        model.energy.unary.bias = nn.Parameter(torch.full((L,), 3.0))  # type: ignore[union-attr]

    def choose(scores: TopScores, labels: csr_array) -> Any:
        threshold = choose_threshold(scores, labels)
        return lambda others: predict_above(others, threshold)

    fixed, fair = diagnose(model, how), diagnose(model, replace(how, choose=choose))
    assert fixed is not None
    assert fair is not None
    assert fair["changes"]["f1_unary"] > fixed["changes"]["f1_unary"] + 0.1
    assert fair["changes"]["f1_energy"] == fixed["changes"]["f1_energy"]
    validation, test = how.dataset.split("validation"), how.dataset.split("test")
    scores = [TopScores.from_dense(1 / (1 + np.exp(-3 - d.inputs.toarray())), L) for d in (validation, test)]  # type: ignore[union-attr]
    expected = f1_example(predict_above(scores[1], choose_threshold(scores[0], validation.labels)), test.labels)
    assert fair["changes"]["f1_unary"] == pytest.approx(expected)


def test_excerpts() -> None:
    labels = csr_array(np.zeros((1, 1), np.float32))
    long = " ".join(f"word{i}" for i in range(40))
    first_words = " ".join(f"word{i}" for i in range(24)) + " …"
    assert Excerpts(Documents(TextDocuments((long,)), labels)).of(0) == first_words
    assert Excerpts(Documents(TextDocuments(("a  few\nwords",)), labels)).of(0) == "a few words"
    table = csr_array(np.array([[0.0, 2, 5]], np.float32))
    assert Excerpts(Documents(table, labels, feature_names=("x", "y", "z"))).of(0) == "z, y"
    assert Excerpts(Documents(table, labels)).of(0) is None
    words = csr_array(np.array([[1.0, 1, 1], [1, 0, 1], [1, 0, 0]], np.float32))
    three = csr_array(np.zeros((3, 1), np.float32))
    named = Excerpts(Documents(words, three, feature_names=("the", "rare", "some")))
    assert named.of(0) == "rare, some, the"


def test_a_run_writes_them_and_keeps_its_bits(tmp_path: Path) -> None:
    experiment = toy_experiment(SPEN_TREE, stages=[stage("joint", "features", "unary", "energy", epochs=2)])
    run_toy(tmp_path / "run", experiment=experiment)
    text = (tmp_path / "run" / "diagnostics.json").read_text()
    found = json.loads(text)
    assert set(found) == {"certificates", "ties", "changes", "label_names"}
    run_toy(tmp_path / "again", experiment=experiment)
    assert (tmp_path / "again" / "diagnostics.json").read_text() == text
    run_toy(tmp_path / "plain", experiment=toy_experiment(stages=[stage("unary", "features", "unary", epochs=1)]))
    assert not (tmp_path / "plain" / "diagnostics.json").exists()


def test_inference_starts_where_the_models_own_does() -> None:
    model, how = planted()
    start = AmortizedStart(L, L, hidden=())
    with torch.no_grad():
        start.correction[0].bias.fill_(1.5)  # type: ignore[union-attr]
    model = EnergyNetwork(model.features, model.energy, MirrorDescent(steps=0), amortized=start)
    documents = how.dataset.split("test")
    (found,) = inferred(model, documents, len(documents), "cpu")
    (batch,) = batches(documents, len(documents))
    assert torch.equal(found.result.logits, model.infer(batch.inputs).logits)
    assert found.unary is not None
    torch.testing.assert_close(found.result.logits, found.unary + 1.5)
