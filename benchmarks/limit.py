"""The product limit: the matrix products that the mathematics cannot do without, alone, by the fastest kernel at hand.

T steps of a measured energy need, whatever computes them,

    forward, a step     y A^T and n A
    backward, a step    dz A^T, dm A, the two halves of dA stacked as one, and n A again except at z_0 = phi
    once                f U^T and, in training, dU = dphi^T f (features are data here, so there is no df)

and an ICNN of two layers, on K/2 numbers, v W^T and s W forward, ds W^T, dp W and the two halves of dW backward.
Operands lie in memory as they come: A as (K, L), what is transposed is a view.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.cases import FEATURES, Case
from benchmarks.timing import Budget, interleave, summary

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]
_CONTEST = Budget(seconds=0.05, min_rounds=7, max_rounds=60)


def kernels(device: str = "cpu") -> dict[str, Kernel]:
    """(R, N) (N, C) -> (R, C) in every way known here: factors, then where the result may be written."""
    found: dict[str, Kernel] = {"torch.mm": lambda x, y, out: torch.mm(x, y, out=out)}
    if device == "cpu" and torch.backends.mkldnn.is_available():
        linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
        if linear is not None:
            found["oneDNN linear"] = lambda x, y, out: linear(x, y.T, None, "none", [], "")
    products = importlib.import_module("energynets.products")
    if hasattr(products, "mm"):
        found["energynets mm"] = lambda x, y, out: products.mm(x, y, out=out)
    return found


class Limit:
    """The products of a case, each by the kernel that won a contest at its shape.

    Args:
        case: the shape and the task.
        device: where they run.
        winners: kernels found before, by shape; new ones are added.
    """

    def __init__(self, case: Case, device: str = "cpu", winners: dict[Any, str] | None = None) -> None:
        self._kernels = kernels(device)
        self._winners = {} if winners is None else winners
        self._places: dict[tuple[int, ...], Tensor] = {}
        self._device = device
        operands, self._order = _products(case, device)
        self.products: list[dict[str, Any]] = []
        self.flops = 0
        self._calls: dict[str, tuple[Kernel, Tensor, Tensor, Tensor]] = {}
        for name, (x, y) in operands.items():
            place = self._places.setdefault((len(x), y.shape[1]), x.new_empty(len(x), y.shape[1]))
            winner = self._fastest(x, y, place)
            self._calls[name] = (self._kernels[winner], x, y, place)
            count, flops = self._order.count(name), 2 * x.numel() * y.shape[1]
            self.flops += count * flops
            shape = [*x.shape, y.shape[1]]
            self.products.append({"name": name, "shape": shape, "count": count, "flops": flops, "kernel": winner})

    def run(self) -> None:
        """All of them, in their order."""
        for name in self._order:
            kernel, x, y, place = self._calls[name]
            kernel(x, y, place)

    def _fastest(self, x: Tensor, y: Tensor, place: Tensor) -> str:
        key = (*x.shape, *y.shape, *x.stride(), *y.stride())
        if key not in self._winners:
            expected, able = x @ y, {}
            for name, kernel in self._kernels.items():
                error = (kernel(x, y, place) - expected).norm() / expected.norm()
                if error < 1e-5:  # a kernel of less precision sets no limit
                    able[name] = lambda kernel=kernel: kernel(x, y, place)
            times = {
                name: summary(found)["median_ms"] for name, found in interleave(able, _CONTEST, self._device).items()
            }
            self._winners[key] = min(times, key=times.__getitem__)
        return self._winners[key]


def _products(case: Case, device: str) -> tuple[dict[str, tuple[Tensor, Tensor]], list[str]]:
    """Factors by name, and the names in the order of the task."""
    labels, batch, half = case.labels, case.batch, case.measurements // 2

    def some(*shape: int) -> Tensor:
        return torch.rand(shape, device=device)

    a, u, f = some(case.measurements, labels), some(labels, FEATURES), some(batch, FEATURES)
    y, n = some(batch, labels), some(batch, case.measurements)
    found = {"f U^T": (f, u.T), "y A^T": (y, a.T), "n A": (n, a)}
    forward, backward = ["y A^T", "n A"], ["dz A^T", "dm A", "dA"]
    if case.energy == "icnn":
        w, v = some(half, half), some(batch, half)
        found |= {"v W^T": (v, w.T), "s W": (v, w)}
        forward[1:1] = ["v W^T", "s W"]
    if case.task == "inference":
        return found, ["f U^T", *forward * case.steps]
    found |= {"dz A^T": (some(batch, labels), a.T), "dm A": (some(batch, case.measurements), a)}
    found |= {"dA": (some(2 * batch, case.measurements).T, some(2 * batch, labels)), "dU": (y.T, f)}
    if case.energy == "icnn":
        found |= {"ds W^T": (v, w.T), "dp W": (v, w), "dW": (some(2 * batch, half).T, some(2 * batch, half))}
        backward[1:1] = ["ds W^T", "dp W", "dW"]
    rebuilt = ["n A", *backward] * (case.steps - 1)
    return found, ["f U^T", *forward * case.steps, *rebuilt, *backward, "dU"]
