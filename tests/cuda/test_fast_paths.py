"""The fast paths that only a CUDA device has: fused kernels, bf16 products summed in float32, graphs of whole steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from energynets import ICNN, SPEN, BagOfWords, EnergyNetwork, MirrorDescent, products
from energynets.config import Optimizer
from energynets.data.batches import Batch, CachedFeatures, sparse_batch
from energynets.inference import compiled_engine
from energynets.inference.engine import elementwise, label_hopper, label_kernels, measurements
from energynets.objectives import EndToEnd
from energynets.training.graph import GraphedUpdate
from energynets.training.optimizers import build_optimizer, set_learning_rate
from energynets.training.update import Update

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

ENERGIES = {
    "spen": lambda: SPEN(16, 50, num_measurements=8),
    "dropout": lambda: SPEN(16, 50, num_measurements=8, dropout=0.5),
    "icnn": lambda: ICNN(16, 50, hidden=(6, 4), gate=True),
}


def step(energy, solver, features):
    torch.manual_seed(1)
    # In this thread, or a backward pass on CUDA knows nothing of `plain_operations`.
    with torch.autograd.set_multithreading_enabled(False):
        logits = solver.solve(energy, energy.condition(features))
        return [logits.detach(), *torch.autograd.grad(logits.square().sum(), list(energy.parameters()))]


@pytest.mark.parametrize("options", [{}, {"step_size": 0.5, "initial": "uniform"}, {"momentum": 0.3}])
def test_fused_passes_equal_torch_operations(options):
    pytest.importorskip("triton")
    energy, features = ENERGIES["spen"]().cuda(), torch.randn(12, 16, device="cuda")
    assert elementwise.fuses(features)
    found = step(energy, MirrorDescent(5, **options), features)
    with products.plain_operations():
        expected = step(energy, MirrorDescent(5, **options), features)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_bf16_sums_come_back_in_float32():
    x, y = torch.randn(64, 4000, device="cuda"), torch.randn(4000, 32, device="cuda")
    exact = x.bfloat16().double() @ y.bfloat16().double()
    found = products.mm(x, y.bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ENERGIES)
@pytest.mark.filterwarnings("default", "error::energynets.errors.NotCompiledWarning")
def test_compiled_engine_equals_the_engine(name):
    energy, features = ENERGIES[name]().cuda(), torch.randn(12, 16, device="cuda")
    expected = step(energy, MirrorDescent(3), features)
    with compiled_engine():
        found = step(energy, MirrorDescent(3), features)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def trained(name, kind, graphed):
    torch.manual_seed(0)
    model = EnergyNetwork(BagOfWords(30, hidden=(16,), input_dropout=0), ENERGIES[name](), MirrorDescent(3)).cuda()
    parameters = list(model.energy.parameters())
    settings = Optimizer(kind=kind, learning_rate=0.01, momentum=0.9 if kind == "sgd" else 0.0)
    optimizer = build_optimizer(settings, parameters, capturable=True)
    update = Update(model, EndToEnd(), parameters, optimizer, clip_norm=1.0, project=model.project)
    notes: list[str] = []
    if graphed:
        update = GraphedUpdate(update, 8, 0, notes.append)
    rng, numbers = np.random.default_rng(0), []
    torch.cuda.manual_seed(0)
    for index in range(10):
        rows = 3 if index == 6 else 8
        labels = sparse_batch(csr_array((rng.random((rows, 50)) < 0.1).astype(np.float32)))
        features = CachedFeatures(torch.from_numpy(rng.normal(size=(rows, 16)).astype(np.float32)))
        set_learning_rate(optimizer, 0.01 / (1 + index))
        numbers.append(update.gradients(Batch(features, labels, torch.arange(rows)).to("cuda")).tolist())
        update.apply()
    assert notes == []
    if graphed:
        assert update.replayed == 8
    return numbers


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("name", ["spen", "icnn"])
def test_replayed_steps_are_the_steps(name, kind):
    torch.testing.assert_close(
        torch.tensor(trained(name, kind, True)), torch.tensor(trained(name, kind, False)), rtol=1e-3, atol=1e-4
    )


def test_replays_draw_dropout_anew():
    numbers = trained("dropout", "adam", True)
    assert len({round(loss, 6) for loss, _ in numbers}) == len(numbers)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize(("name", "size"), [("spen", 150), ("dropout", 3), ("icnn", 3)])
def test_passes_by_kernel_equal_passes_in_chunks(name, size, learned, steps, monkeypatch):
    pytest.importorskip("triton")
    torch.manual_seed(0)
    energy = {
        "spen": lambda: SPEN(16, 5000, num_measurements=200),
        "dropout": lambda: SPEN(16, 5000, num_measurements=8, dropout=0.5),
        "icnn": lambda: ICNN(16, 5000, hidden=(10, 6)),
    }[name]()
    # From 0, z_t's share of phi depends on the step sizes, and their gradient is a sum that only one kernel makes.
    start = "uniform" if learned else "unary"
    solver = MirrorDescent(steps, step_size=0.8, learn_step_sizes=learned, initial=start, precision="bf16")
    network = BagOfWords(16, hidden=(), input_dropout=0)
    made = []
    for function in ("sums", "gradients"):
        original = getattr(label_hopper, function)
        monkeypatch.setattr(label_hopper, function, lambda *a, f=original, **k: made.append(f.__name__) or f(*a, **k))
    model = EnergyNetwork(network, energy, solver, label_chunk=1024, keep_unary=True).cuda()
    features = torch.randn(size, 16, device="cuda", requires_grad=True)
    if not label_kernels.take(features, energy.measure):
        pytest.skip("no kernels for this device")
    labels = sparse_batch(csr_array((torch.rand(size, 5000) < 1e-3).float().numpy()))
    batch = Batch(CachedFeatures(features), labels.to("cuda"), torch.arange(size))
    wanted = [features, *(p for p in model.parameters() if p.numel())]

    def step():
        torch.manual_seed(7)
        loss = EndToEnd()(model, batch)
        return [loss, *torch.autograd.grad(loss, wanted)]

    found, again = step(), step()
    if name == "spen" and label_hopper.gluon is not None and torch.cuda.get_device_capability()[0] == 9:
        assert made == 2 * (["sums"] * (2 * steps) + ([] if learned else ["gradients"]))
    else:
        assert not made
    assert all(torch.equal(x, y) for x, y in zip(found, again, strict=True))
    with products.plain_operations():
        expected = step()
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine - theirs).norm() <= 1e-2 * theirs.norm() + 1e-6


@pytest.mark.parametrize("steps", [2, 5])
def test_products_of_several_steps_as_one(steps, monkeypatch):
    energy, features = ENERGIES["spen"]().cuda(), torch.randn(12, 16, device="cuda")
    made = []
    stacked = measurements.StackedMeasurementsBackward
    monkeypatch.setattr(measurements, "StackedMeasurementsBackward", lambda *given: made.append(1) or stacked(*given))
    found = step(energy, MirrorDescent(steps), features)
    assert made
    monkeypatch.setattr(measurements, "_STACKED", 0)
    expected = step(energy, MirrorDescent(steps), features)
    assert len(made) == 1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
