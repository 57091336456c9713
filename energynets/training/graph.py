"""A training step as two CUDA graphs: what a thousand launches did, two do.

The first graph is forward, loss, backward and norm, the second the optimiser's step and the projection. Between them
the host looks at loss and norm, as it does without graphs: what is not finite never reaches a weight.

Graphs read and write fixed places, so batches are copied into them: cached features as they are, sparse rows padded
with zeros, labels dense. An epoch's smaller last batch, and each stage's first, run operation by operation.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from energynets.data.batches import Batch, CachedFeatures, SparseBatch
from energynets.data.dataset import Documents
from energynets.training.update import Update

Capture = Callable[[Callable[[], None]], Callable[[], None]]
"""A function that only launches work on the device -> what launches the same work again."""


class CannotGraphError(Exception):
    """Why a step cannot be captured."""


@dataclass(frozen=True)
class DenseLabels:
    """Labels (B, L) in a fixed place, where objectives expect sparse ones."""

    values: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def dense(self, dtype: torch.dtype | None = None) -> Tensor:
        return self.values.to(dtype or self.values.dtype)


class StaticBatch:
    """The fixed places of batches of one size.

    Args:
        like: a batch on the device.
        entries: most entries that sparse inputs of such a batch can have.
    """

    def __init__(self, like: Batch, entries: int) -> None:
        if like.left_out is not None:
            raise CannotGraphError("known labels are checked on the CPU, and masks have no fixed place")
        inputs: Any = like.inputs
        if isinstance(inputs, CachedFeatures):
            inputs = CachedFeatures(torch.zeros_like(inputs.values))
        elif isinstance(inputs, SparseBatch):
            columns, values = inputs.columns.new_zeros(entries), inputs.values.new_zeros(entries)
            inputs = SparseBatch(columns, values, torch.zeros_like(inputs.offsets), inputs.num_columns)
        else:
            raise CannotGraphError("features of token sequences read the documents' lengths on the CPU")
        self.batch: Any = Batch(inputs, DenseLabels(like.labels.dense()), torch.zeros_like(like.rows))  # type: ignore[arg-type]

    def fill(self, batch: Batch) -> None:
        """Copy a batch of the same size, on any device, into its places."""
        static: Any = self.batch
        given: Any = batch.inputs
        if isinstance(given, CachedFeatures):
            static.inputs.values.copy_(given.values)
        else:
            count = len(given.columns)
            for place, entries in ((static.inputs.columns, given.columns), (static.inputs.values, given.values)):
                place[:count].copy_(entries)
                place[count:].zero_()
            # The zeros that fill up belong to the last row and to column 0: they add nothing to either.
            static.inputs.offsets.copy_(given.offsets)
            static.inputs.offsets[-1:].fill_(len(static.inputs.columns))
        static.labels.values.copy_(batch.labels.to(static.labels.values.device).dense(static.labels.values.dtype))
        static.rows.copy_(batch.rows)


class GraphedUpdate:
    """`Update` by graphs, made of the first batches that are seen.

    Args:
        update: the step; its optimiser's learning rate is a tensor.
        batch_size: of batches that are replayed.
        entries: as of `StaticBatch`.
        note: told once, in one line, why steps are not replayed, where they cannot be.
        capture: how work is captured.
    """

    def __init__(
        self, update: Update, batch_size: int, entries: int, note: Callable[[str], None], capture: Capture | None = None
    ) -> None:
        self.update = update
        self.batch_size = batch_size
        self.entries = entries
        self.note = note
        self.capture = CudaCapture(update) if capture is None else capture
        self.replayed = 0
        self._warm = self._replaying = self._refused = False
        self._static: StaticBatch | None = None

    def gradients(self, batch: Batch) -> Tensor:
        """As `Update.gradients`."""
        self._replaying = len(batch) == self.batch_size and self._warm and self._ready(batch)
        if not self._replaying:
            # The first step makes the optimiser's state and loads what kernels need: neither can be captured.
            self._warm = True
            return self.update.gradients(batch)
        assert self._static is not None
        self._static.fill(batch)
        self._replay_gradients()
        return self._numbers

    def apply(self) -> None:
        """As `Update.apply`."""
        if self._replaying:
            self._replay_apply()
            self.replayed += 1
        else:
            self.update.apply()

    def _ready(self, batch: Batch) -> bool:
        if self._static is None and not self._refused:
            try:
                self._make(batch)
            except (CannotGraphError, RuntimeError) as error:
                self._refused, self._static = True, None
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                self.note(f"training.compile: graph: every step runs operation by operation, because {reason}")
        return self._static is not None

    def _make(self, batch: Batch) -> None:
        static = StaticBatch(batch, self.entries)
        if getattr(self.update.model, "neighbours", None) is not None:
            raise CannotGraphError("neighbours are looked up on the CPU")
        if getattr(self.update.model, "streams", False):
            raise CannotGraphError("an output in chunks of labels reads where they are on the CPU")
        static.fill(batch)
        numbers = torch.zeros(2, device=batch.rows.device)

        def gradients() -> None:
            numbers.copy_(self.update.gradients(static.batch))

        self._replay_gradients = self.capture(gradients)
        # Held, so that nothing captured later takes their places.
        self._gradients = [parameter.grad for parameter in self.update.parameters]
        self._replay_apply = self.capture(self.update.apply)
        self._static, self._numbers = static, numbers


class CudaCapture:
    """Capture by `torch.cuda.graph`. The first function is rehearsed: what waits for the device is an error.

    Dropout draws anew on each replay: capture registers the device's generator, and replays move it on.
    """

    def __init__(self, update: Update) -> None:
        self.update = update
        self._pool: Any = None

    def __call__(self, function: Callable[[], None]) -> Callable[[], None]:
        with torch.cuda.device(self.update.parameters[0].device):
            if self._pool is None:
                self._rehearse(function)
                self._pool = torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                function()
        return graph.replay

    def _rehearse(self, function: Callable[[], None]) -> None:
        """Run it once beside the main stream, leaving random state and buffers as they were."""
        random = torch.cuda.get_rng_state()
        buffers = [(buffer, buffer.clone()) for buffer in self.update.model.buffers()]
        mode = torch.cuda.get_sync_debug_mode()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        torch.cuda.synchronize()
        try:
            with warnings.catch_warnings():  # that the mode does not see every synchronisation
                warnings.simplefilter("ignore", UserWarning)
                torch.cuda.set_sync_debug_mode("error")
            with torch.cuda.stream(stream):
                function()
        finally:
            torch.cuda.set_sync_debug_mode(mode)
            torch.cuda.current_stream().wait_stream(stream)
            torch.cuda.set_rng_state(random)
            for buffer, before in buffers:
                buffer.copy_(before)
            self.update.optimizer.zero_grad(set_to_none=True)


def most_entries(documents: Documents, batch_size: int) -> int:
    """Entries of the fullest batch that could be drawn; 0 for inputs that are no table."""
    if not isinstance(documents.inputs, csr_array):
        return 0
    return int(np.sort(np.diff(documents.inputs.indptr))[-batch_size:].sum())
