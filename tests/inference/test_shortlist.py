"""An energy over candidates: with all labels it is the energy itself, with fewer a naive loop is the oracle."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_streamed import (
    ENERGIES,
    SOLVERS,
    F,
    Itself,
    Largest,
    OwnGradient,
    assert_equal,
    documents,
    loss_and_gradients,
    make_batch,
    make_sparse,
)
from torch import Tensor, nn

from energynets import (
    ICNN,
    SPEN,
    Anderson,
    BundleEntropy,
    EndToEnd,
    Energy,
    EnergyNetwork,
    GradientDescent,
    Implicit,
    MeasuredEnergy,
    MirrorDescent,
    ProjectedGradient,
    Truncated,
)
from energynets.data.batches import Batch, SparseBatch
from energynets.energies import GatheredContext, GatheredEnergy, Simplex
from energynets.errors import ConfigError, InferenceError, ShapeError
from energynets.inference import Shortlist, general_path
from energynets.inference.engine.gathered import choose, columns_of, distinct, find, targets_at
from energynets.inference.engine.streamed import Inputs
from energynets.top import top_labels
from energynets.training.score import score

LABELS = 11


def network(
    energy: Energy, solver: Any = None, shortlist: Any = None, chunk: int | None = None, gradient: Any = None
) -> EnergyNetwork:
    return EnergyNetwork(Itself(), energy, solver, gradient, chunk, shortlist=shortlist).double()


def everything(model: EnergyNetwork, batch: Batch) -> list[Tensor]:
    """Its loss and all its gradients."""
    assert isinstance(batch.inputs, Tensor)
    return loss_and_gradients(model, batch, [*model.parameters(), batch.inputs])


def shortlisted(model: EnergyNetwork, shortlist: Any, chunk: int | None = None) -> EnergyNetwork:
    """The same weights."""
    return EnergyNetwork(model.features, model.energy, model.solver, model.gradient, chunk, shortlist=shortlist)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ n = L


@pytest.mark.parametrize("steps", [0, 1, 4])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("energy", ENERGIES)
def test_with_all_labels_it_is_the_energy_itself(energy: str, solver: str, steps: int) -> None:
    if not steps and solver == "uniform":
        pytest.skip("z_0 = 0 depends on nothing")
    torch.manual_seed(0)
    full, batch = network(ENERGIES[energy](LABELS), SOLVERS[solver](steps)), make_batch(5, LABELS)
    expected = everything(full, batch)
    with general_path():
        assert_equal(everything(full, batch), expected)
    full.eval()
    answer, best = full(batch.inputs), full.top_k(batch.inputs, 4)
    for chunk, count in ((3, LABELS), (None, LABELS), (4, 99)):
        model = shortlisted(full, count, chunk)
        assert_equal(everything(model.train(), batch), expected)
        model.eval()
        torch.testing.assert_close(model(batch.inputs), answer, rtol=1e-10, atol=1e-10)
        found = model.top_k(batch.inputs, 4)
        assert torch.equal(found.labels, best.labels)
        torch.testing.assert_close(found.logits, best.logits, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(found.log_total, best.log_total, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("solver", "gradient"),
    [
        (GradientDescent(3, step_size=2.0, momentum=0.3, learn_step_sizes=True), None),
        (ProjectedGradient(3), None),
        (MirrorDescent(4, step_size=0.5), Truncated(2)),
    ],
)
def test_other_solvers_and_gradients_with_all_labels(solver: Any, gradient: Any) -> None:
    torch.manual_seed(0)
    full, batch = network(SPEN(F, LABELS), solver, gradient=gradient), make_batch(5, LABELS)
    assert_equal(everything(shortlisted(full, LABELS, 4), batch), everything(full, batch))


@pytest.mark.parametrize(
    ("solver", "gradient"),
    [
        (MirrorDescent(60, step_size=0.5, tolerance=1e-9), Implicit(1e-7)),
        (MirrorDescent(60, step_size=0.5, line_search=True, tolerance=1e-9), Implicit(1e-7)),
        (BundleEntropy(60, tolerance=1e-12), None),
    ],
)
def test_minima_with_all_labels(solver: Any, gradient: Any) -> None:
    torch.manual_seed(0)
    full, batch = network(ICNN(F, LABELS, hidden=(3, 2)), solver, gradient=gradient), make_batch(5, LABELS)
    found, expected = everything(shortlisted(full, LABELS, 4), batch), everything(full, batch)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------------------------------ n < L


def naive(model: EnergyNetwork, batch: Batch, candidates: list[set[int]]) -> Tensor:
    """The loss by all labels at once: of each step only the candidates' part is taken."""
    energy, solver = model.energy, model.solver
    assert isinstance(energy, MeasuredEnergy)
    assert isinstance(solver, MirrorDescent)
    context = energy.condition(batch.inputs)  # type: ignore[arg-type]
    moves = torch.tensor([[label in row for label in range(LABELS)] for row in candidates])
    phi = context.unary
    z = torch.where(moves, phi if solver.initial == "unary" else torch.zeros_like(phi), phi)
    velocity = torch.zeros_like(phi)
    for size in solver.step_sizes():
        y = torch.sigmoid(z)
        velocity = solver.momentum * velocity - size * (energy.gradient(y, context) + energy.tau * z)
        z = torch.where(moves, z + velocity, phi)
    dense = batch.labels.dense(z.dtype)
    return nn.functional.binary_cross_entropy_with_logits(z, dense, reduction="sum") / len(dense)


def filled(gradients: Any, wanted: Any) -> list[Tensor]:
    return [torch.zeros_like(x) if g is None else g for g, x in zip(gradients, wanted, strict=True)]


def expected_candidates(model: EnergyNetwork, batch: Batch, count: int, *, positives: bool) -> list[set[int]]:
    phi, true = model.energy.unary(batch.inputs), batch.labels.dense() > 0  # type: ignore[union-attr, operator]
    most = int(true.sum(1).max()) if positives else 0
    found = []
    for row, holds in zip(phi.tolist(), true.tolist(), strict=True):
        first = [label for label in range(LABELS) if positives and holds[label]]
        ranked = [label for label in sorted(range(LABELS), key=lambda i: -row[i]) if label not in first]
        found.append(set((first + ranked)[: max(count, most)]))
    return found


@pytest.mark.parametrize(("training", "positives"), [(True, False), (True, True), (False, True)])
@pytest.mark.parametrize("count", [1, 4, 9])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("energy", ENERGIES)
def test_only_candidates_move(energy: str, solver: str, count: int, training: bool, positives: bool) -> None:
    torch.manual_seed(1)
    shortlist = Shortlist(count, positives=positives)
    model, batch = network(ENERGIES[energy](LABELS), SOLVERS[solver](3), shortlist, 4), make_batch(6, LABELS)
    model.train(training)
    wanted = [*model.parameters(), batch.inputs]
    torch.manual_seed(7)
    candidates = expected_candidates(model, batch, count, positives=training and positives)
    loss = naive(model, batch, candidates)
    gradients = torch.autograd.grad(1.7 * loss, wanted, allow_unused=True)  # type: ignore[arg-type]
    expected = [loss.detach(), *filled(gradients, wanted)]
    assert_equal(everything(model, batch), expected)
    with general_path():
        assert_equal(everything(model, batch), expected)


@pytest.mark.parametrize("energy", ENERGIES)
def test_chunks_do_not_matter(energy: str) -> None:
    torch.manual_seed(2)
    batch = make_batch(6, LABELS)
    model = network(ENERGIES[energy](LABELS), SOLVERS["momentum"](3), Shortlist(8, negatives=3, positives=True))
    first: list[Tensor] | None = None
    for chunk in (None, 1, 2, 5, 10, LABELS, 40):
        model.label_chunk = chunk
        found = everything(model, batch)
        first = found if first is None else first
        for mine, theirs in zip(found, first, strict=True):
            assert (mine - theirs).norm() <= 1e-12 * theirs.norm() + 1e-15


@pytest.mark.parametrize(("size", "labels"), [(0, 7), (1, 1), (3, 64)])
def test_batches_and_label_sets_of_any_size(size: int, labels: int) -> None:
    torch.manual_seed(1)
    batch = make_batch(size, labels)
    for chunk in (1, 5, labels):
        model = network(SPEN(F, labels), MirrorDescent(2), 5, chunk)
        found = everything(model, batch)
        with general_path():
            assert_equal(found, everything(model, batch))
        assert model.top_k(batch.inputs, 3).labels.shape == (size, min(3, labels))


def test_finite_differences_agree() -> None:
    model, batch = network(ICNN(F, 6, hidden=(2, 2)), SOLVERS["learned"](2), 4, 2), make_batch(2, 6)
    names = [name for name, _ in model.named_parameters()]

    class Called(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, inputs: Tensor) -> Tensor:
            return EndToEnd()(self.inner, Batch(inputs, batch.labels, batch.rows))

    def loss(features: Tensor, *values: Tensor) -> Tensor:
        parameters = {f"inner.{name}": value for name, value in zip(names, values, strict=True)}
        return torch.func.functional_call(Called(), parameters, (features,))

    values = [parameter.detach().clone().requires_grad_() for parameter in model.parameters()]
    assert torch.autograd.gradcheck(loss, (batch.inputs, *values))  # type: ignore[arg-type]
    with general_path():
        assert torch.autograd.gradgradcheck(loss, (batch.inputs, *values))  # type: ignore[arg-type]
    with pytest.raises(InferenceError, match="general_path"):
        torch.autograd.grad(EndToEnd()(model, batch), model.energy.measure, create_graph=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("trains", ["features", "unary", "energy", "head"])
def test_parts_that_are_frozen(trains: str) -> None:
    model, batch = network(SPEN(F, LABELS), MirrorDescent(3), 4, 3), make_batch(4, LABELS)
    assert isinstance(batch.inputs, Tensor)
    groups = model.parameter_groups() | {"features": [], "head": list(model.energy.head.parameters())}  # type: ignore[union-attr]
    model.requires_grad_(False)
    batch.inputs.requires_grad_(trains == "features")
    for parameter in groups[trains]:
        parameter.requires_grad_()
    wanted = [x for x in (*model.parameters(), batch.inputs) if x.requires_grad]
    found = loss_and_gradients(model, batch, wanted)
    with general_path():
        assert_equal(found, loss_and_gradients(model, batch, wanted))


# ------------------------------------------------------------------------------------------------ candidates


def sparse(rows: list[list[int]], labels: int) -> SparseBatch:
    columns = torch.tensor([label for row in rows for label in row], dtype=torch.int64)
    offsets = torch.tensor([0, *(len(row) for row in rows)]).cumsum(0)
    return SparseBatch(columns, torch.ones(len(columns)), offsets, labels)


def test_true_labels_come_first_then_random_ones_and_lists_grow_where_they_must() -> None:
    targets = sparse([[5, 5, 2], [], [0]], 50)
    first, count = Shortlist(4, 2, torch.Generator().manual_seed(3), positives=True).before_all(targets)
    assert count == 4
    assert first[:, :3].tolist() == [[5, 5, 2], [-1, -1, -1], [0, -1, -1]]
    again, _ = Shortlist(4, 2, torch.Generator().manual_seed(3), positives=True).before_all(targets)
    other, _ = Shortlist(4, 2, torch.Generator().manual_seed(4), positives=True).before_all(targets)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert ((first[:, 3:] >= 0) & (first[:, 3:] < 50)).all()
    assert Shortlist(1, positives=True).before_all(targets)[1] == 2  # twice the same true label is one
    assert Shortlist(9).before_all(sparse([[1]], 4))[1] == 4
    unasked, count = Shortlist(1).before_all(targets)
    assert (unasked.shape, count) == ((3, 0), 1)


def test_the_first_distinct_labels_are_chosen() -> None:
    labels = torch.tensor([[7, -1, 7, 3, 9, 3, 1], [-1, -1, 4, 4, 4, 0, 2]])
    assert distinct(labels).tolist() == [
        [True, False, False, True, True, False, True],
        [False, False, True, False, False, True, True],
    ]
    chosen, phi = choose(labels, labels.double() / 10, 3)
    assert chosen.tolist() == [[3, 7, 9], [0, 2, 4]]
    assert torch.equal(phi, chosen.double() / 10)


@pytest.mark.parametrize("negatives", [0, 2, 4])
def test_random_labels_and_asked_for_true_ones_are_always_in_the_training_shortlist(negatives: int) -> None:
    torch.manual_seed(0)
    true = [[0, 30], [7], [], [1, 2, 3, 4, 5, 6, 8]]
    targets, energy = sparse(true, 40), SPEN(F, 40)
    inputs = Inputs(torch.randn(4, F), energy.unary.weight, energy.unary.bias, energy.measure, energy.offset)
    best = energy.unary(inputs.features).argsort(dim=1, descending=True).tolist()
    for _ in range(20):
        first, count = Shortlist(5, negatives, positives=True).before_all(targets)
        found = find(inputs, 9, count, first, targets)[0].labels.tolist()
        assert count == 7  # the last document's true labels
        for row, must, drawn, ranked in zip(found, true, first[:, 7:].tolist(), best, strict=True):
            others = [label for label in dict.fromkeys([*drawn, *ranked]) if label not in must]
            assert row == sorted([*must, *others[: 7 - len(must)]])


@pytest.mark.parametrize("positives", [True, False])
def test_training_alone_knows_true_labels_and_only_where_asked(positives: bool) -> None:
    torch.manual_seed(0)
    targets = sparse([[0, 30], [7], [], [1, 2, 3, 4, 5, 6, 8]], 40)
    model = network(SPEN(F, 40), MirrorDescent(1), Shortlist(5, positives=positives), 9)
    with torch.no_grad():
        model.energy.unary.bias[targets.columns] = -50  # type: ignore[union-attr, index]
    seen: list[Tensor] = []
    solve = model.solver.solve

    def spy(view: Any, context: GatheredContext, **given: Any) -> Tensor:
        seen.append(context.measured.unary)
        return solve(view, context, **given)

    model.solver.solve = spy  # type: ignore[method-assign]
    batch = Batch(torch.randn(4, F, dtype=torch.float64), targets, torch.arange(4))
    EndToEnd()(model, batch)
    model.eval()
    EndToEnd()(model, batch)
    train, evaluation = seen
    assert train.shape == ((4, 7) if positives else (4, 5))  # the last document's seven
    assert (train < -30).sum(1).tolist() == ([2, 1, 0, 7] if positives else [0, 0, 0, 0])
    assert evaluation.shape == (4, 5)
    assert not (evaluation < -30).any()


def test_a_seed_fixes_the_random_labels() -> None:
    batch = make_batch(6, 60)

    def run(seed: int) -> Tensor:
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(seed)
        model = network(SPEN(F, 60), MirrorDescent(2), Shortlist(30, 10, generator), 7)
        return torch.stack([EndToEnd()(model, batch).detach() for _ in range(3)])

    first = run(1)
    assert torch.equal(run(1), first)
    assert not torch.equal(run(2), first)
    assert len(first.unique()) == 3
    state = torch.get_rng_state()
    run(1)
    torch.manual_seed(0)
    network(SPEN(F, 60), MirrorDescent(2))
    expected = torch.get_rng_state()
    torch.set_rng_state(state)
    run(1)
    assert torch.equal(torch.get_rng_state(), expected)  # its own generator alone


def test_targets_and_columns_of_candidates() -> None:
    targets = sparse([[4, 1, 4], [], [0]], 6)
    labels = torch.tensor([[1, 2, 4], [0, 1, 2], [1, 2, 5]])
    assert targets_at(targets, labels, torch.zeros(())).tolist() == [[1, 0, 2], [0, 0, 0], [0, 0, 0]]
    rows = torch.randn(4, 6)
    found = columns_of(rows, labels)
    assert all(torch.equal(found[b], rows[:, labels[b]]) for b in range(3))


# ------------------------------------------------------------------------------------------------ prediction


@pytest.mark.parametrize("chunk", [1, 4, LABELS, None])
@pytest.mark.parametrize("k", [1, 4, 9, 50])
@pytest.mark.parametrize("count", [1, 5, LABELS])
def test_best_labels_are_those_of_all_logits(count: int, k: int, chunk: int | None) -> None:
    torch.manual_seed(3)
    model, batch = network(SPEN(F, LABELS), MirrorDescent(3), count, chunk).eval(), make_batch(5, LABELS)
    with torch.no_grad():
        model.energy.measure.mul_(8)  # type: ignore[union-attr, operator]  # some candidates end below other labels
    dense = model(batch.inputs)
    torch.testing.assert_close(torch.cat(list(model.logits_in_chunks(batch.inputs)), 1), dense, rtol=0, atol=1e-12)
    found, expected = model.top_k(batch.inputs, k), top_labels([dense], k)
    assert torch.equal(found.labels, expected.labels)
    torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.log_total, expected.log_total, rtol=1e-10, atol=1e-10)
    assert found.num_labels == LABELS
    unary = top_labels([model.energy.unary(batch.inputs)], count).labels  # type: ignore[union-attr, operator]
    assert torch.equal(found.candidates, unary.sort(1).values)  # type: ignore[arg-type]
    assert not found.logits.requires_grad


def test_logits_of_all_labels_are_differentiable_and_move_candidates_alone() -> None:
    torch.manual_seed(3)
    model, batch = network(SPEN(F, LABELS), MirrorDescent(3), 4, 3).eval(), make_batch(5, LABELS)
    logits, phi = model(batch.inputs), model.energy.unary(batch.inputs)  # type: ignore[union-attr, operator]
    assert ((logits != phi).sum(1) == 4).all()
    wanted = [*model.parameters(), batch.inputs]
    dense = batch.labels.dense(logits.dtype)
    loss = nn.functional.binary_cross_entropy_with_logits(logits, dense, reduction="sum") / 5
    gradients = torch.autograd.grad(1.7 * loss, wanted)  # type: ignore[arg-type]
    assert_equal(everything(model, batch), [loss.detach(), *gradients])


def test_recall_is_of_the_true_labels_among_the_candidates() -> None:
    model = EnergyNetwork(Itself(), SPEN(F, 4), MirrorDescent(1), shortlist=2, label_chunk=3)
    docs, features = documents(3, 4)
    labels = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 1]])
    docs = type(docs)(docs.inputs, type(docs.labels)(labels.float().numpy()))
    with torch.no_grad():
        model.energy.unary.weight.zero_()  # type: ignore[union-attr, operator]
        model.energy.unary.bias.copy_(torch.tensor([3.0, 2, 1, 0]))  # type: ignore[union-attr, operator]
    for k in (1, 4):
        found = score(model, docs, k=k, features=features.float(), batch_size=2)
        assert found.recall is not None
        assert found.recall.tolist()[::2] == [1.0, 0.5]
        assert found.recall[1] != found.recall[1]  # no label, no recall
    model.shortlist = Shortlist(4)
    assert score(model, docs, k=1, features=features.float()).recall.tolist()[::2] == [1, 1]  # type: ignore[union-attr]
    model.shortlist = None
    assert score(model, docs, k=1, features=features.float()).recall is None


@pytest.mark.parametrize("weight", ["unary", "measure"])
def test_scores_that_are_not_numbers_are_an_error(weight: str) -> None:
    model = network(SPEN(F, 40), MirrorDescent(1), 5, 7)
    with torch.no_grad():
        if weight == "unary":
            model.energy.unary.bias[33] = torch.nan  # type: ignore[union-attr, index]
        else:
            model.energy.measure[0, 33] = torch.nan  # type: ignore[union-attr, index]
    docs, features = documents(3, 40)
    with pytest.raises(InferenceError, match="document 0"):
        score(model, docs, k=2, features=features)


# ------------------------------------------------------------------------------------------------ memory


@pytest.mark.parametrize("energy", ["spen", "icnn", "dropout"])
def test_no_tensor_has_the_size_of_all_logits(energy: str) -> None:
    size, labels, chunk, count = 64, 3000, 16, 20
    model = network(ENERGIES[energy](labels), MirrorDescent(2), Shortlist(count, 5, positives=True), chunk)
    batch = make_batch(size, labels)
    batch = Batch(batch.inputs, make_sparse(size, labels), batch.rows)
    weights = {tuple(p.shape) for p in model.parameters()} | {tuple(p.shape)[::-1] for p in model.parameters()}
    docs, features = documents(size, labels)

    def all_of_it() -> int:
        with Largest(weights) as seen:
            EndToEnd()(model, batch).backward()
            score(model, docs, k=5, batch_size=size, features=features)
        return seen.numbers

    assert all_of_it() <= size * max(count * 5, count + 5 + chunk)  # K columns of each candidate, or a chunk to rank
    with general_path():
        assert all_of_it() >= size * labels


# ------------------------------------------------------------------------------------------------ the energy


def gathered_energy(energy: MeasuredEnergy, features: Tensor, labels: Tensor) -> tuple[GatheredEnergy, GatheredContext]:
    """Of labels (B, n), the others at 0."""
    context = energy.condition(features)
    offset = context.offset.expand(len(features), -1)
    measured = context._replace(unary=context.unary.gather(1, labels), offset=offset)
    return GatheredEnergy(energy, labels.shape[1]), GatheredContext(measured, columns_of(energy.measure, labels))


@pytest.mark.parametrize("energy", ENERGIES)
def test_the_gathered_energy_is_the_measured_one_where_other_labels_do_nothing(energy: str) -> None:
    torch.manual_seed(0)
    full, features = ENERGIES[energy](LABELS).double().eval(), torch.randn(4, F, dtype=torch.float64)
    labels = torch.stack([torch.randperm(LABELS)[:5].sort().values for _ in range(4)])
    view, context = gathered_energy(full, features, labels)
    y = torch.rand(4, 5, dtype=torch.float64)
    whole, given = torch.zeros(4, LABELS, dtype=torch.float64).scatter(1, labels, y), full.condition(features)
    torch.testing.assert_close(view.potential(y, context), full.potential(whole, given))
    torch.testing.assert_close(view.gradient(y, context), full.gradient(whole, given).gather(1, labels))
    torch.testing.assert_close(view.gradient(y, context), Energy.gradient(view, y, context))
    rows = torch.tensor([2, 0])
    torch.testing.assert_close(view.gradient(y[rows], view.select(context, rows)), view.gradient(y, context)[rows])
    assert (view.convex, view.num_labels, view.tau) == (full.convex, 5, full.tau)


# ------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: network(ICNN(F, 7, gate=True), None, 3), "gates of ICNN: use gate=False"),
        (lambda: network(SPEN(F, 6, domain=Simplex(3)), None, 3), r"domain Simplex.*use Box"),
        (lambda: network(OwnGradient(F, 7), None, 3), "OwnGradient brings its own `gradient`"),
        (lambda: network(SPEN(F, 7), Anderson(2), 3), "solver Anderson.*use MirrorDescent"),
        (lambda: network(SPEN(F, 7), MirrorDescent(2, precision="bf16"), 3), "solver.precision float32"),
        (lambda: network(SPEN(F, 7), MirrorDescent(2, memory=1), 3), "solver.memory null"),
        (lambda: network(SPEN(F, 7), None, 0), "shortlist.candidates: expected 1 label or more, a whole number, got 0"),
        (lambda: network(SPEN(F, 7), None, 2.5), "shortlist.candidates: expected .* a whole number, got 2.5"),
        (lambda: network(SPEN(F, 7), None, True), "shortlist.candidates: expected .* a whole number, got True"),
        (lambda: Shortlist(2.5), "shortlist.candidates: expected .* a whole number, got 2.5"),  # type: ignore[arg-type]
        (lambda: Shortlist(3, 1.5), "shortlist.negatives: expected a whole number, .* got 1.5"),  # type: ignore[arg-type]
        (lambda: Shortlist(3, -1), "shortlist.negatives: expected a whole number, 0 or more"),
        (lambda: Shortlist(3, 3), "fewer than the 3 candidates, got 3"),
        (
            lambda: EnergyNetwork(Itself(), SPEN(F, 7), label_chunk=2, keep_unary=True, shortlist=3),
            "keep_unary: a shortlist has two passes",
        ),
        (lambda: network(SPEN(F, 7), None, 3, 0), "label_chunk: expected 1 label or more"),
    ],
)
def test_what_does_not_go_with_a_shortlist_is_refused_by_name(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_what_is_of_all_labels_is_refused_by_name() -> None:
    model, batch = network(SPEN(F, 7), MirrorDescent(2), 3, 2), make_batch(2, 7)
    for call, message in (
        (lambda: model.infer(batch.inputs), "infer: is of all labels.*use top_k"),
        (lambda: list(model.trajectory(batch.inputs)), "trajectory: is of all labels"),
        (lambda: model.with_losses(batch.inputs, lambda *_: 0), "with_losses: is of all labels"),
        (lambda: model.streamed_bce(batch.inputs, batch.labels), "streamed_bce: is of all labels"),
        (lambda: EndToEnd("softmax")(model, batch), "shortlist: it has loss bce on the last step, got softmax"),
        (lambda: EndToEnd(steps="all")(model, batch), "got bce on all"),
    ):
        with pytest.raises(ConfigError, match=message):
            call()
    with pytest.raises(ShapeError, match=r"expected \(2, 7\), got \(2, 8\)"):
        EndToEnd()(model, Batch(batch.inputs, make_batch(2, 8).labels, batch.rows))
