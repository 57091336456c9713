"""energynets itself, through its public names, as it comes and in the ways it can be told to run."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import torch

import energynets.inference
from benchmarks.rivals.contestant import Contestant, Problem
from energynets import ICNN, SPEN, MirrorDescent, NoGradient
from energynets.energies import MeasuredEnergy
from energynets.objectives.losses import bce


def build_energy(energy: str, num_features: int, num_labels: int, num_measurements: int) -> MeasuredEnergy:
    """A SPEN, or an ICNN of two layers, with K measurements in all."""
    if energy == "spen":
        return SPEN(num_features, num_labels, num_measurements=num_measurements)
    return ICNN(num_features, num_labels, hidden=(num_measurements // 2, num_measurements // 2))


class Ours(Contestant):
    """`solver.solve` of a `SPEN` or an `ICNN`, on the path that the package itself takes."""

    name = "energynets"

    def __init__(self, problem: Problem, task: str, device: str = "cpu") -> None:
        super().__init__(problem, task, device)
        measurements, labels = problem.parameters["measure"].shape
        self.energy = build_energy(problem.energy, problem.features.shape[1], labels, measurements)
        state = {name: torch.tensor(array) for name, array in problem.parameters.items()}
        self.energy.to(state["measure"].dtype).load_state_dict(state)
        self.energy.to(device)
        self.solver = self.build_solver().to(device)
        self.features = torch.tensor(problem.features, device=device)
        self.targets = torch.tensor(problem.targets, device=device)
        self.parameters = dict(self.energy.named_parameters())

    def build_solver(self) -> MirrorDescent:
        """T steps of mirror descent."""
        return MirrorDescent(self.problem.steps, step_size=self.problem.step_size)

    def run(self) -> Mapping[str, Any]:
        if self.task == "inference":
            with torch.no_grad():
                context = self.energy.condition(self.features)
                return {"logits": self.solver.solve(self.energy, context, gradient=NoGradient())}
        loss = bce(self.solver.solve(self.energy, self.energy.condition(self.features)), self.targets)
        return dict(zip(self.parameters, torch.autograd.grad(loss, list(self.parameters.values())), strict=True))


class OursBF16(Ours):
    """The same with factors of products in bfloat16."""

    name = "energynets bf16"
    tolerance = 2e-2
    rounding = 2.0**-9

    @classmethod
    def missing(cls, device: str = "cpu") -> str | None:
        if "precision" not in inspect.signature(MirrorDescent).parameters:
            return "this version has no `precision`"
        fast = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        if device == "cpu" and not fast():
            return "this CPU has no bfloat16 products"
        return super().missing(device)

    def build_solver(self) -> MirrorDescent:
        wanted: dict[str, Any] = {"precision": "bf16"}
        return MirrorDescent(self.problem.steps, step_size=self.problem.step_size, **wanted)


class OursCompiled(Ours):
    """The same within `compiled_engine()`."""

    name = "energynets compiled"
    tasks = ("training",)

    def __init__(self, problem: Problem, task: str, device: str = "cpu") -> None:
        super().__init__(problem, task, device)
        with warnings.catch_warnings():
            # What could not be compiled runs as it is, with a warning: that must not be timed under this name.
            warnings.filterwarnings("error", message="not compiled")
            self.run()

    @classmethod
    def missing(cls, device: str = "cpu") -> str | None:
        return super().missing(device) if hasattr(energynets.inference, "compiled_engine") else "not in this version"

    def run(self) -> Mapping[str, Any]:
        with energynets.inference.compiled_engine():  # type: ignore[attr-defined]
            return super().run()


class OursGraph(Ours):
    """The same, recorded once as a CUDA graph and replayed."""

    name = "energynets graph"
    devices = ("cuda",)
    has_peak = False  # a graph keeps its memory from its recording on

    def __init__(self, problem: Problem, task: str, device: str = "cuda") -> None:
        super().__init__(problem, task, device)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                super().run()
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._found = super().run()

    def run(self) -> Mapping[str, Any]:
        self._graph.replay()
        return self._found
