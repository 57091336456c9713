"""Labels in chunks: the unstreamed model is the oracle, and no tensor of size (B, L) may exist."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from energynets import (
    ICNN,
    SPEN,
    Anderson,
    Classifier,
    EndToEnd,
    EnergyNetwork,
    GradientDescent,
    Implicit,
    MeasuredEnergy,
    MirrorDescent,
    ProjectedGradient,
    Truncated,
)
from energynets.data.batches import Batch, SparseBatch
from energynets.data.dataset import Documents
from energynets.energies import Energy, Simplex
from energynets.errors import ConfigError, InferenceError, ShapeError, TrainingError
from energynets.inference import general_path
from energynets.inference.engine import label_native, row_products
from energynets.inference.engine.streamed import Part, loss_sum
from energynets.output import ChunkedLinear, ChunkedSGD
from energynets.top import top_labels
from energynets.training.score import score

F = 6


@pytest.fixture(params=["native", "torch"])
def passes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes the passes over labels; without native code, torch both times."""
    if request.param == "torch":
        monkeypatch.setattr(label_native, "take", lambda *given: False)


class Cubic(nn.Module):
    """A head without closed form that sees the features."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.3))

    def forward(self, m: Tensor, features: Tensor) -> Tensor:
        return self.scale * (torch.tanh(m) * features[:, :1]).sum(-1)


class OwnGradient(SPEN):
    def gradient(self, y: Tensor, context: Any) -> Tensor:
        return 2 * super().gradient(y, context)


ENERGIES = {
    "spen": lambda labels: SPEN(F, labels, num_measurements=4),
    "deep spen": lambda labels: SPEN(
        F, labels, num_measurements=4, hidden=(3,), condition_measurements=True, tau=1.3, learn_tau=True, bias=False
    ),
    "dropout": lambda labels: SPEN(F, labels, num_measurements=4, dropout=0.4, tau=0.8),
    "icnn": lambda labels: ICNN(F, labels, hidden=(3, 2), nonnegativity="reparametrization"),
    "own head": lambda labels: MeasuredEnergy(F, labels, 3, Cubic()),
}
SOLVERS = {
    "mean field": lambda steps: MirrorDescent(steps),
    "momentum": lambda steps: MirrorDescent(steps, step_size=0.6, momentum=0.3),
    "learned": lambda steps: MirrorDescent(steps, step_size=0.7, momentum=0.2, learn_step_sizes=True),
    "uniform": lambda steps: MirrorDescent(steps, step_size=0.7, learn_step_sizes=True, initial="uniform"),
}


class Itself(nn.Module):
    num_features = F

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs


def network(energy: Energy, solver: MirrorDescent | None = None, chunk: int | None = None) -> EnergyNetwork:
    return EnergyNetwork(Itself(), energy, solver, label_chunk=chunk).double()


def make_batch(size: int, labels: int, seed: int = 0) -> Batch:
    """Features that want gradients; targets of which one is given twice and one is neither 0 nor 1."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(size, F, dtype=torch.float64, generator=generator).requires_grad_()
    rows, columns = (torch.rand(size, labels, generator=generator) < 0.3).nonzero().unbind(1)
    values = torch.ones(len(rows))
    if len(rows):
        rows, columns = torch.cat((rows[:1], rows)), torch.cat((columns[:1], columns))
        values = torch.cat((torch.tensor([-0.25]), values))
    counts = torch.bincount(rows, minlength=size)
    offsets = torch.cat((torch.zeros(1, dtype=torch.int64), counts.cumsum(0)))
    return Batch(features, SparseBatch(columns, values, offsets, labels), torch.arange(size))


def loss_and_gradients(model: Any, batch: Batch, wanted: list[Tensor]) -> list[Tensor]:
    """One dropout mask for every call; the loss is scaled, as a sum of losses would."""
    torch.manual_seed(7)
    loss = EndToEnd()(model, batch)
    found = torch.autograd.grad(1.7 * loss, wanted, allow_unused=True)
    zeros = (torch.zeros_like(x) if g is None else g for g, x in zip(found, wanted, strict=True))
    return [loss.detach(), *zeros]


def assert_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    """To 1e-10 of the size of each."""
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine - theirs).norm() <= 1e-10 * theirs.norm() + 1e-14, (mine, theirs)


def check(model: EnergyNetwork, batch: Batch, chunk: int) -> None:
    assert isinstance(batch.inputs, Tensor)
    wanted = [*model.parameters(), batch.inputs]
    expected = loss_and_gradients(model, batch, wanted)
    model.label_chunk = chunk
    assert_equal(loss_and_gradients(model, batch, wanted), expected)
    model.keep_unary = True
    assert_equal(loss_and_gradients(model, batch, wanted), expected)


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("energy", ENERGIES)
def test_loss_and_gradients_are_the_unstreamed_ones(energy: str, solver: str, steps: int, passes: None) -> None:
    if not steps and solver == "uniform":
        pytest.skip("z_0 = 0 depends on nothing")
    torch.manual_seed(0)
    for chunk in (3, 7, 8, 20):
        check(network(ENERGIES[energy](7), SOLVERS[solver](steps)), make_batch(5, 7), chunk)


@pytest.mark.parametrize(("size", "labels"), [(0, 7), (1, 7), (4, 1), (1, 1), (3, 64)])
@pytest.mark.parametrize("energy", ["spen", "icnn"])
def test_batches_and_label_sets_of_any_size(energy: str, size: int, labels: int, passes: None) -> None:
    torch.manual_seed(1)
    for chunk in (1, 5, labels):
        check(network(ENERGIES[energy](labels), SOLVERS["learned"](3)), make_batch(size, labels), chunk)


@pytest.mark.parametrize("trains", ["features", "unary", "energy", "head"])
def test_parts_that_are_frozen(trains: str) -> None:
    model, batch = network(SPEN(F, 7), MirrorDescent(3)), make_batch(4, 7)
    assert isinstance(batch.inputs, Tensor)
    groups = model.parameter_groups() | {"features": [], "head": list(model.energy.head.parameters())}  # type: ignore[union-attr]
    model.requires_grad_(False)
    batch.inputs.requires_grad_(trains == "features")
    for parameter in groups[trains]:
        parameter.requires_grad_()
    wanted = [x for x in (*model.parameters(), batch.inputs) if x.requires_grad]
    expected = loss_and_gradients(model, batch, wanted)
    model.label_chunk = 3
    assert_equal(loss_and_gradients(model, batch, wanted), expected)
    model.keep_unary = True
    assert_equal(loss_and_gradients(model, batch, wanted), expected)


def test_a_kept_unary_is_computed_once(monkeypatch: pytest.MonkeyPatch, passes: None) -> None:
    logits, calls = row_products.logits, []
    monkeypatch.setattr(row_products, "logits", lambda *given: calls.append(len(given[1])) or logits(*given))
    model, batch = network(SPEN(F, 7), MirrorDescent(3), chunk=7), make_batch(4, 7)
    for keep, times in ((False, 2 * 3 + 1), (True, 1)):
        model.keep_unary = keep
        EndToEnd()(model, batch).backward()
        assert calls == [7] * times
        calls.clear()


def test_a_unary_is_kept_of_labels_in_chunks_alone() -> None:
    with pytest.raises(ConfigError, match="keep_unary"):
        EnergyNetwork(Itself(), SPEN(F, 7), keep_unary=True)


def test_the_unary_classifier_streams_too() -> None:
    model, batch = network(SPEN(F, 7), MirrorDescent(3), chunk=3), make_batch(4, 7)
    wanted = [*model.energy.unary.parameters(), batch.inputs]  # type: ignore[union-attr]
    classifier = model.as_classifier()
    found = loss_and_gradients(classifier, batch, wanted)  # type: ignore[arg-type]
    dense = Classifier(Itself(), 7, output=model.energy.unary)  # type: ignore[arg-type]
    assert (classifier.streams, dense.streams) == (True, False)
    assert_equal(found, loss_and_gradients(dense, batch, wanted))  # type: ignore[arg-type]
    mine, theirs = classifier.top_k(batch.inputs, 3), dense.top_k(batch.inputs, 3)
    assert torch.equal(mine.labels, theirs.labels)
    torch.testing.assert_close(mine.logits, theirs.logits, rtol=1e-12, atol=1e-12)


def test_finite_differences_agree() -> None:
    model = network(ICNN(F, 5, hidden=(2, 2)), SOLVERS["learned"](2), chunk=2)
    batch = make_batch(2, 5)
    names = [name for name, _ in model.named_parameters()]

    def loss(features: Tensor, *values: Tensor) -> Tensor:
        def call(inputs: Tensor) -> Tensor:
            return EndToEnd()(model, Batch(inputs, batch.labels, batch.rows))

        class Called(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = model

            def forward(self, inputs: Tensor) -> Tensor:
                return call(inputs)

        parameters = {f"inner.{name}": value for name, value in zip(names, values, strict=True)}
        return torch.func.functional_call(Called(), parameters, (features,))

    values = [parameter.detach().clone().requires_grad_() for parameter in model.parameters()]
    assert torch.autograd.gradcheck(loss, (batch.inputs, *values))  # type: ignore[arg-type]


def test_a_second_backward_gives_the_same_and_a_second_derivative_is_refused() -> None:
    model, batch = network(SPEN(F, 7), MirrorDescent(3), chunk=3), make_batch(4, 7)
    loss, parameter = EndToEnd()(model, batch), model.energy.measure
    (first,) = torch.autograd.grad(loss, parameter, retain_graph=True)  # type: ignore[arg-type]
    (second,) = torch.autograd.grad(loss, parameter, retain_graph=True)  # type: ignore[arg-type]
    assert torch.equal(first, second)
    with pytest.raises(InferenceError, match="general_path"):
        torch.autograd.grad(loss, parameter, create_graph=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("far", [24.0, 36.0, 800.0])
def test_logits_far_out_keep_their_loss(far: float, seed: int) -> None:
    torch.manual_seed(seed)
    model, batch = network(SPEN(F, 7), MirrorDescent(2)), make_batch(4, 7)
    bias = model.energy.unary.bias
    with torch.no_grad():
        bias.copy_(torch.linspace(-far, far, 7))  # type: ignore[union-attr, operator]
    check(model, batch, 2)
    # Every label right, so that little is left of the loss but what is easily rounded off.
    model.label_chunk = None
    holds = torch.tensor([4, 5, 6]).repeat(4)
    with torch.no_grad():
        bias.copy_(torch.tensor([-far] * 4 + [far] * 3))  # type: ignore[union-attr, operator]
    check(model, Batch(batch.inputs, SparseBatch(holds, torch.ones(12), torch.arange(0, 13, 3), 7), batch.rows), 2)


def test_loss_of_a_label_far_on_the_wrong_side() -> None:
    z = torch.linspace(19, 45, 27, dtype=torch.float64)
    nothing = torch.empty(0, dtype=torch.int64)
    loss = loss_sum(z[None], Part(nothing, nothing, z[:0]))
    torch.testing.assert_close(loss, (z + torch.log1p(torch.exp(-z))).sum(), rtol=1e-14, atol=0)


def test_bf16_products() -> None:
    torch.manual_seed(2)
    model, batch = network(SPEN(F, 50), MirrorDescent(3)), make_batch(8, 50)
    wanted = [*model.parameters()]
    expected = loss_and_gradients(model, batch, wanted)
    model.solver.precision, model.label_chunk = "bf16", 16  # type: ignore[assignment]
    found = loss_and_gradients(model, batch, wanted)
    assert 0 < abs(float(found[0] - expected[0])) < 1e-3 * float(expected[0])
    for mine, theirs in zip(found[1:], expected[1:], strict=True):
        assert 0 < (mine - theirs).norm() < 2e-2 * theirs.norm()


def test_float32_products_of_the_size_that_other_kernels_take() -> None:
    torch.manual_seed(3)
    model = EnergyNetwork(Itself(), SPEN(F, 9000, num_measurements=256), MirrorDescent(2))
    features = torch.randn(16, F)
    batch = Batch(features, make_sparse(16, 9000), torch.arange(16))
    wanted = list(model.parameters())
    expected = loss_and_gradients(model, batch, wanted)
    model.label_chunk = 8192
    for mine, theirs in zip(loss_and_gradients(model, batch, wanted), expected, strict=True):
        assert (mine - theirs).norm() < 1e-4 * theirs.norm()


# ---------------------------------------------------------------------------------------------------- best labels


@pytest.mark.parametrize("chunk", [1, 3, 11, 40])
@pytest.mark.parametrize("k", [1, 4, 11, 50])
def test_best_labels_are_those_of_all_logits(chunk: int, k: int) -> None:
    torch.manual_seed(3)
    model, batch = network(SPEN(F, 11), MirrorDescent(3), chunk=chunk), make_batch(5, 11)
    found = model.top_k(batch.inputs, k)
    with general_path():
        expected = model.top_k(batch.inputs, k)
    assert found.labels.shape == (5, min(k, 11))
    assert torch.equal(found.labels, expected.labels)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.log_total, expected.log_total, rtol=1e-12, atol=1e-12)
    assert found.num_labels == expected.num_labels == 11
    assert not found.logits.requires_grad


@pytest.mark.parametrize("k", [1, 2, 5, 9])
def test_ties_go_to_the_smaller_label(k: int) -> None:
    logits = torch.randint(0, 3, (50, 9), generator=torch.Generator().manual_seed(5)).double()
    expected = torch.sort(logits, dim=1, descending=True, stable=True)
    for chunk in (1, 2, 4, 9):
        found = top_labels(logits.split(chunk, dim=1), k)
        assert torch.equal(found.labels, expected.indices[:, :k])
        assert torch.equal(found.logits, expected.values[:, :k])
        torch.testing.assert_close(found.log_total, logits.logsumexp(1))


def documents(count: int, labels: int) -> tuple[Documents, Tensor]:
    generator = torch.Generator().manual_seed(4)
    targets = (torch.rand(count, labels, generator=generator) < 5 / labels).numpy()
    features = torch.randn(count, F, generator=generator, dtype=torch.float64)
    return Documents(csr_array((count, 3), dtype="float32"), csr_array(targets, dtype="float32")), features


@pytest.mark.parametrize("loss", ["bce", "softmax"])
def test_scores_are_those_of_all_logits(loss: str) -> None:
    model = network(ICNN(F, 40, hidden=(3, 3)), MirrorDescent(3), chunk=7)
    docs, features = documents(20, 40)
    found = score(model, docs, k=5, batch_size=6, features=features, loss=loss)
    with general_path():
        expected = score(model, docs, k=5, batch_size=6, features=features, loss=loss)
    assert (found.indices == expected.indices).all()
    torch.testing.assert_close(torch.from_numpy(found.values), torch.from_numpy(expected.values))
    assert found.num_labels == 40


def test_scores_that_are_not_numbers_are_an_error() -> None:
    model = network(SPEN(F, 40), MirrorDescent(1), chunk=7)
    with torch.no_grad():
        model.energy.unary.bias[33] = torch.nan  # type: ignore[union-attr, operator]
    docs, features = documents(3, 40)
    with pytest.raises(InferenceError, match="document 0"):
        score(model, docs, k=2, features=features)


# ---------------------------------------------------------------------------------------------------- memory


class Largest(TorchDispatchMode):
    """The largest tensor that any operation returns, weights' gradients and views of weights apart."""

    def __init__(self, apart: set[tuple[int, ...]]) -> None:
        super().__init__()
        self.apart, self.numbers = apart, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves(result):
            if isinstance(leaf, Tensor) and tuple(leaf.shape) not in self.apart:
                self.numbers = max(self.numbers, leaf.numel())
        return result


@pytest.mark.parametrize("energy", ["spen", "icnn", "dropout"])
def test_no_tensor_has_the_size_of_all_logits(energy: str) -> None:
    size, labels, chunk, steps = 64, 3000, 16, 2
    model, batch = network(ENERGIES[energy](labels), MirrorDescent(steps), chunk=chunk), make_batch(size, labels)
    # Targets stay as sparse as they come; here they are a third of (B, L), elsewhere a few a document.
    batch = Batch(batch.inputs, make_sparse(size, labels), batch.rows)
    weights = {tuple(p.shape) for p in model.parameters()} | {tuple(p.shape)[::-1] for p in model.parameters()}
    docs, features = documents(size, labels)

    def everything() -> int:
        with Largest(weights) as seen:
            EndToEnd()(model, batch).backward()
            score(model, docs, k=5, batch_size=size, features=features)
        return seen.numbers

    assert everything() <= 2 * steps * size * chunk  # the stack of all steps of a chunk
    with general_path():
        assert everything() >= size * labels


def make_sparse(size: int, labels: int) -> SparseBatch:
    """Two labels a document."""
    columns = torch.stack((torch.arange(size), torch.arange(size) + labels - size), 1).flatten()
    return SparseBatch(columns, torch.ones(2 * size), torch.arange(0, 2 * size + 1, 2), labels)


# ---------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: network(SPEN(F, 7), GradientDescent(2), 3), "solver GradientDescent: use MirrorDescent"),  # type: ignore[arg-type]
        (lambda: network(SPEN(F, 7), ProjectedGradient(2), 3), "solver ProjectedGradient"),  # type: ignore[arg-type]
        (lambda: network(SPEN(F, 7), Anderson(2), 3), "path, and Anderson"),  # type: ignore[arg-type]
        (lambda: network(ICNN(F, 7, gate=True), MirrorDescent(2), 3), "gates of ICNN: use gate=False"),
        (lambda: network(SPEN(F, 6, domain=Simplex(3)), MirrorDescent(2), 3), r"domain Simplex.*use Box"),
        (lambda: network(OwnGradient(F, 7), MirrorDescent(2), 3), "OwnGradient brings its own `gradient`"),
        (lambda: network(SPEN(F, 7), MirrorDescent(2, tolerance=1e-3), 3), "solver.tolerance 0"),
        (lambda: network(SPEN(F, 7), MirrorDescent(2, line_search=True), 3), "solver.line_search false"),
        (lambda: EnergyNetwork(Itself(), SPEN(F, 7), gradient=Truncated(1), label_chunk=3), "Truncated: use Unroll"),
        (lambda: EnergyNetwork(Itself(), SPEN(F, 7), gradient=Implicit(), label_chunk=3), "Implicit: use Unroll"),
        (lambda: network(SPEN(F, 7), MirrorDescent(2), 0), "expected 1 label or more"),
        (lambda: network(SPEN(F, 7), MirrorDescent(2), 2.5), "label_chunk: expected .* a whole number.* got 2.5"),  # type: ignore[arg-type]
        (lambda: network(SPEN(F, 7), MirrorDescent(2), True), "label_chunk: expected .* a whole number.* got True"),
    ],
)
def test_what_cannot_come_in_chunks_is_refused_by_name(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("objective", [EndToEnd("softmax"), EndToEnd("mse"), EndToEnd(steps="all")])
def test_losses_that_need_all_labels_or_steps_are_refused(objective: EndToEnd) -> None:
    with pytest.raises(ConfigError, match="labels in chunks have loss bce on the last step"):
        objective(network(SPEN(F, 7), MirrorDescent(2), 3), make_batch(2, 7))


def test_what_a_model_is_asked_must_fit_it() -> None:
    batch = make_batch(2, 7)
    with pytest.raises(ConfigError, match="given a label_chunk"):
        network(SPEN(F, 7), MirrorDescent(2)).streamed_bce(batch.inputs, batch.labels)
    with general_path():  # where nothing streams, models that can are made all the same
        model = network(SPEN(F, 8), MirrorDescent(2), 3)
        assert not model.streams
    with pytest.raises(ShapeError, match=r"expected \(2, 8\), got \(2, 7\)"):
        EndToEnd()(model, batch)


@pytest.mark.parametrize("k", [0, -1, 2.5, True])
@pytest.mark.parametrize("options", [{}, {"label_chunk": 3}, {"shortlist": 4}])
def test_best_labels_are_one_or_more(options: dict[str, Any], k: Any) -> None:
    model = EnergyNetwork(Itself(), SPEN(F, 7), MirrorDescent(2), **options)
    with pytest.raises(ConfigError, match=f"top_k: expected k to be 1 label or more, a whole number, got {k}"):
        model.top_k(torch.zeros(2, F), k)


# ---------------------------------------------------------------------------------------------------- no gradient of U


@pytest.mark.parametrize(
    ("decay", "bias", "frozen"),
    [(0.0, True, None), (0.1, True, None), (0.1, False, None), (0.0, True, "weight"), (0.0, True, "bias")],
)
def test_a_kept_unary_descends_without_its_gradient(decay: float, bias: bool, frozen: str | None) -> None:
    torch.manual_seed(0)
    batch = make_batch(5, 7)
    dense = network(SPEN(F, 7, num_measurements=4, bias=bias), SOLVERS["learned"](3))
    model = copy.deepcopy(dense)
    model = EnergyNetwork(Itself(), model.energy, model.solver, label_chunk=3, keep_unary=True)
    for one in (dense, model):
        if frozen is not None:
            getattr(one.energy.unary, frozen).requires_grad_(False)  # type: ignore[union-attr]
    unary = model.energy.unary
    assert isinstance(unary, ChunkedLinear)
    sgd = torch.optim.SGD([p for p in dense.energy.unary.parameters() if p.requires_grad], 0.3, weight_decay=decay)  # type: ignore[union-attr]
    chunked = ChunkedSGD(unary, lr=0.3, weight_decay=decay)
    others = [name for name, p in model.named_parameters() if "unary" not in name and p.requires_grad]
    for _ in range(3):
        for one in (dense, model):
            one.zero_grad()
            (1.7 * EndToEnd()(one, batch)).backward()
        assert all(parameter.grad is None for parameter in unary.parameters())
        given = [p.grad for p in dense.energy.unary.parameters() if p.grad is not None]  # type: ignore[union-attr]
        norm = torch.stack([gradient.norm() for gradient in given]).norm()
        assert unary.pending is not None
        torch.testing.assert_close(unary.pending.norm(), norm, rtol=1e-7, atol=1e-9)
        for name in others:
            assert_equal([model.get_parameter(name).grad], [dense.get_parameter(name).grad])  # type: ignore[list-item]
        sgd.step()
        chunked.step()
        assert_equal(list(unary.parameters()), list(dense.energy.unary.parameters()))  # type: ignore[union-attr]
    loss = EndToEnd()(model, batch)
    loss.backward(retain_graph=True)
    with pytest.raises(TrainingError, match=r"or a second backward\(\): ChunkedSGD takes one a step"):
        loss.backward()
    with pytest.raises(TrainingError, match="a second batch before the step of the first"):
        EndToEnd()(model, batch)
    chunked.close()
    EndToEnd()(model, batch).backward()
    assert all(p.grad is not None for p in unary.parameters() if p.requires_grad)


def test_losses_over_all_labels_descend_by_their_gradient() -> None:
    torch.manual_seed(0)
    model = EnergyNetwork(Itself(), SPEN(F, 7), MirrorDescent(2), label_chunk=3, keep_unary=True).double()
    unary, batch = model.energy.unary, make_batch(4, 7)
    assert isinstance(unary, ChunkedLinear)
    chunked = ChunkedSGD(unary, lr=0.1, weight_decay=0.2)
    expected = copy.deepcopy(unary)
    sgd = torch.optim.SGD(expected.parameters(), 0.1, weight_decay=0.2)
    with general_path():
        EndToEnd()(model, batch).backward()
    for mine, theirs in zip(unary.parameters(), expected.parameters(), strict=True):
        assert mine.grad is not None
        theirs.grad = mine.grad.clone()
    sgd.step()
    chunked.step()
    assert_equal(list(unary.parameters()), list(expected.parameters()))
