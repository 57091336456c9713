"""Losses of a part of the labels against losses that never saw the others; the propensity estimate by enumeration."""

from __future__ import annotations

import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor, nn

from energynets.data.batches import Batch, SparseBatch
from energynets.energies import ICNN, SPEN, Box, Simplex
from energynets.errors import ConfigError
from energynets.inference import AmortizedStart, MirrorDescent, Observed, general_path
from energynets.models import Classifier, EnergyNetwork
from energynets.objectives import LOSSES, EndToEnd
from energynets.objectives.end_to_end import move
from energynets.objectives.missing import leave_out, propensity_bce

OF_LABELS = list(LOSSES)


def some(seed: int, rows: int = 4, labels: int = 6, scale: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(rows, labels, generator=draw, dtype=torch.float64)
    targets = (torch.rand(rows, labels, generator=draw) < 0.4).double()
    return logits, targets, torch.rand(rows, labels, generator=draw) < 0.5


@pytest.mark.parametrize("name", OF_LABELS)
@given(seed=st.integers(0, 1000), shift=st.sampled_from([0.0, -60.0, 25.0]))
def test_a_loss_of_a_part_is_the_loss_of_rows_without_the_others(name: str, seed: int, shift: float) -> None:
    logits, targets, mask = some(seed)
    logits = logits + (shift if name == "softmax" else 0)  # which no shift of a row changes
    expected = sum(
        LOSSES[name](z[~m][None], t[~m][None], Box())
        for z, t, m in zip(logits, targets, mask, strict=True)
        if not m.all()
    )
    free = logits.clone().requires_grad_()
    found = LOSSES[name](*leave_out(free, targets, mask, Box()), Box())
    # The loss of F1 is 1 where there is nothing to find.
    empty = int(mask.all(1).sum()) if name in ("soft_f1", "sample_f1") else 0
    torch.testing.assert_close(found * len(logits) - empty, torch.as_tensor(expected).double(), rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(found, free)
    assert not gradient[mask].any()


def test_labels_are_left_out_of_a_box_alone() -> None:
    logits, targets, mask = some(0)
    assert leave_out(logits, targets, None, Simplex(3))[0] is logits
    with pytest.raises(ConfigError, match="labels left out of a loss: expected y in Box, got Simplex"):
        leave_out(logits, targets, mask, Simplex(3))


# --------------------------------------------------------------------------------------------------------- propensities


def over_listings(true: Tensor, propensity: Tensor):
    """Every set of labels that could be listed, with its probability."""
    places = true.nonzero().tolist()
    for listed in itertools.product([0.0, 1.0], repeat=len(places)):
        targets, chance = torch.zeros_like(true), torch.ones((), dtype=true.dtype)
        for (row, label), value in zip(places, listed, strict=True):
            targets[row, label] = value
            chance = chance * (propensity[label] if value else 1 - propensity[label])
        yield targets, chance


def test_the_estimate_is_unbiased_and_its_bound_only_adds() -> None:
    for seed in range(3):
        logits, true, _ = some(seed, rows=3, labels=4)
        propensity = torch.tensor([0.9, 0.5, 0.3, 0.7], dtype=torch.float64)
        free = logits.clone().requires_grad_()
        expected = LOSSES["bce"](free, true)
        unbiased, bounded, total = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64), 0.0
        for targets, chance in over_listings(true, propensity):
            unbiased = unbiased + chance * propensity_bce(free, targets, propensity, nonnegative=False)
            bounded = bounded + chance * propensity_bce(free, targets, propensity)
            total += float(chance)
        assert total == pytest.approx(1)
        torch.testing.assert_close(unbiased, expected, rtol=1e-12, atol=1e-12)
        (a,), (b,) = (torch.autograd.grad(value, free, retain_graph=True) for value in (unbiased, expected))
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
        assert bounded.item() >= expected.item() - 1e-12


def test_the_estimate_without_a_bound_falls_for_ever_and_with_it_does_not() -> None:
    targets = torch.ones(1, 1, dtype=torch.float64)
    values = {
        nonnegative: [
            float(propensity_bce(torch.full((1, 1), z).double(), targets, 0.5, nonnegative=nonnegative))
            for z in (10.0, 1000.0)
        ]
        for nonnegative in (False, True)
    }
    assert values[False][1] < values[False][0] < 0
    assert 0 <= values[True][1] <= values[True][0] < 1e-3


def test_a_propensity_of_one_is_bce() -> None:
    logits, targets, _ = some(2)
    torch.testing.assert_close(propensity_bce(logits, targets, 1.0), LOSSES["bce"](logits, targets))
    free = logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: propensity_bce(z, targets, torch.full((6,), 0.6).double()), free)


def test_a_propensity_goes_with_bce_alone() -> None:
    with pytest.raises(ConfigError, match=r"objective.propensity: goes with loss bce alone, got mse"):
        EndToEnd("mse", propensity=0.5)


@pytest.mark.parametrize(
    ("propensity", "came"),
    [
        (0, "got 0$"),
        (0.0, r"got 0\.0"),
        (-1, "got -1"),
        (2, "got 2"),
        (float("nan"), "got nan"),
        ("half", "got 'half'"),
        (torch.tensor([0.5, 0.0]), "got 0 among them"),
        (torch.tensor([0.5, 1.5]), r"got 1\.5 among them"),
        (torch.tensor([0.5, torch.nan]), "got nan among them"),
    ],
)
def test_a_propensity_that_is_no_chance_is_named(propensity: Tensor | float, came: str) -> None:
    with pytest.raises(ConfigError, match=rf"objective.propensity: expected a number in \(0, 1\] .*{came}"):
        EndToEnd(propensity=propensity)


def test_one_propensity_may_be_any_number() -> None:
    assert isinstance(EndToEnd(propensity=1).propensity, float)
    assert EndToEnd(propensity=np.float32(0.5)).with_loss("bce").propensity == 0.5  # type: ignore[arg-type]
    chances = torch.tensor([0.5, 1.0])
    assert EndToEnd(propensity=chances).propensity is chances
    assert EndToEnd(propensity=torch.tensor(1)).propensity == 1


# ----------------------------------------------------------------------------------------------------------- end to end


class Dense(nn.Module):
    num_features = 3

    def forward(self, inputs: SparseBatch) -> Tensor:
        return inputs.dense()


def make_batch(seed: int, revealed: bool, unknown: bool) -> Batch:
    rng = np.random.default_rng(seed)
    labels = (rng.random((4, 6)) < 0.5).astype(np.float64)
    masks = [torch.from_numpy(rng.random((4, 6)) < 0.4) if wanted else None for wanted in (revealed, unknown)]

    def sparse(dense: np.ndarray) -> SparseBatch:
        rows, columns = dense.nonzero()
        offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(dense)))])
        return SparseBatch(*map(torch.from_numpy, (columns, dense[rows, columns], offsets)), dense.shape[1])

    return Batch(sparse(rng.normal(size=(4, 3))), sparse(labels), torch.arange(4), *masks)


@pytest.mark.parametrize("steps", ["last", "all"])
@pytest.mark.parametrize("masks", [(True, False), (False, True), (True, True)])
def test_end_to_end_shows_what_is_revealed_and_learns_from_the_rest(steps: str, masks: tuple[bool, bool]) -> None:
    torch.manual_seed(0)
    batch = make_batch(1, *masks)
    targets, out = batch.labels.dense(torch.float64), batch.left_out
    assert out is not None
    observed = None if batch.revealed is None else Observed(targets, batch.revealed)
    for energy in (SPEN(3, 6, num_measurements=4), ICNN(3, 6, hidden=(3, 3))):
        model = EnergyNetwork(Dense(), energy, MirrorDescent(steps=3, learn_step_sizes=True)).double()
        found = EndToEnd(steps=steps)(model, batch)
        with general_path():
            iterates = list(model.trajectory(batch.inputs, observed))
        chosen = iterates if steps == "all" else iterates[-1:]
        weights = torch.tensor([1 / (len(chosen) - t) for t in range(len(chosen))], dtype=torch.float64)
        bce = nn.functional.binary_cross_entropy_with_logits
        losses = torch.stack([bce(z[~out], targets[~out], reduction="sum") / 4 for z in chosen])
        expected = (weights / weights.sum() * losses).sum()
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
        parameters = list(model.parameters())
        for a, b in zip(*(torch.autograd.grad(value, parameters) for value in (found, expected)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("steps", ["last", "all"])
def test_known_labels_cannot_move_and_have_no_penalty(steps: str) -> None:
    torch.manual_seed(0)
    batch = make_batch(1, True, True)
    targets, mask = batch.labels.dense(torch.float64), batch.revealed
    model = EnergyNetwork(Dense(), SPEN(3, 6, num_measurements=4), MirrorDescent(steps=2)).double()
    found = EndToEnd(steps=steps, convergence_penalty=2.0)(model, batch) - EndToEnd(steps=steps)(model, batch)
    logits = model(batch.inputs, Observed(targets, mask))
    moved = move(model.energy, logits, model.begin(batch.inputs)[0])
    assert moved[mask].abs().max() > 1e-3  # what would be counted
    torch.testing.assert_close(found, 2 * moved[~mask].square().sum() / 4)


def test_an_amortised_start_and_known_labels_go_together() -> None:
    torch.manual_seed(0)
    batch = make_batch(1, True, False)
    observed = Observed(batch.labels.dense(torch.float64), batch.revealed)
    energy = SPEN(3, 6, num_measurements=4)
    with torch.no_grad():
        energy.head.output *= 30  # so that the start is not forgotten
    model = EnergyNetwork(Dense(), energy, MirrorDescent(steps=1), amortized=AmortizedStart(3, 6)).double()
    torch.nn.init.normal_(next(reversed(list(model.amortized.parameters()))))
    context, start = model.begin(batch.inputs, observed)
    expected = model.solver.solve(energy, context, start, observed=observed)
    blind_start = model.solver.solve(energy, context, observed=observed)
    assert (expected - blind_start).abs().max() > 1e-3
    *_, last = model.trajectory(batch.inputs, observed)
    given = model.with_losses(batch.inputs, lambda _, z: z.sum(), observed)[0]
    for logits in (model(batch.inputs, observed), last, given, model.infer(batch.inputs, observed).logits):
        torch.testing.assert_close(logits, expected)
        assert torch.equal(torch.sigmoid(logits)[observed.mask].round(), observed.values[observed.mask])


def test_end_to_end_with_a_propensity_leaves_out_too() -> None:
    torch.manual_seed(0)
    batch = make_batch(2, True, True)
    model = Classifier(Dense(), 6).double()
    targets, out = batch.labels.dense(torch.float64), batch.left_out
    assert out is not None
    logits = model(batch.inputs)
    expected = torch.zeros((), dtype=torch.float64)
    for label, free in enumerate(~out.T):
        part = propensity_bce(logits[free, label, None], targets[free, label, None], 0.7)
        expected = expected + part * free.sum() / 4
    torch.testing.assert_close(EndToEnd(propensity=0.7)(model, batch), expected)
