"""Cross-fitting: unary logits of training documents, by networks that have not seen them.

A network knows its training documents by heart: its logits there are far surer and better than on new ones, and an
energy that learns from them finds nothing to mend. So the documents are cut into folds; each fold's logits come from a
network trained on the other folds, and on these the energy meets the errors that it will meet in use (stacked
generalisation; Wolpert, Neural Networks 5, 1992).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from energynets.data.batches import batches
from energynets.data.dataset import Documents
from energynets.data.reveal import Reveal
from energynets.models import observed_in
from energynets.training.interrupt import Interrupted, stop_message
from energynets.training.run import RunFolder

if TYPE_CHECKING:
    from energynets.training.loop import Loop


def fold_rows(num_documents: int, folds: int, seed: int) -> list[np.ndarray]:
    """Row numbers of each fold, sorted: a random partition whose sizes differ by one at most.

    Args:
        num_documents: N, at least as many as folds.
        folds: how many.
        seed: with N and the number of folds it fixes the partition.
    """
    order = np.random.default_rng([seed, folds]).permutation(num_documents)
    return [np.sort(order[fold::folds]) for fold in range(folds)]


def unary_logits(
    model: Any,
    documents: Documents,
    batch_size: int,
    device: torch.device | str,
    *,
    rows: np.ndarray | None = None,
    reveal: Reveal | None = None,
) -> Tensor:
    """phi of an energy network in evaluation mode, (N, L) on the CPU.

    Args:
        model: the network.
        documents: x.
        batch_size: documents a pass.
        device: where the network is.
        rows: of these documents, in this order; default: of all.
        reveal: which labels are shown, where its features see them.
    """
    classifier, parts = model.as_classifier().eval(), []
    with torch.no_grad():
        for part in batches(documents, batch_size, order=rows, reveal=reveal):
            batch = part.to(device)
            parts.append(classifier.unary(classifier.compute_features(batch.inputs, observed_in(batch))).cpu())
    return torch.cat(parts) if parts else torch.empty(0, documents.num_labels)


def held_out_unary(
    documents: Documents,
    parts: Sequence[np.ndarray],
    networks: Iterable[Any],
    batch_size: int,
    device: torch.device | str,
    reveal: Reveal | None = None,
) -> Tensor:
    """phi of each document by the network of its fold, (N, L) on the CPU.

    Args:
        documents: N training documents.
        parts: the rows of each fold.
        networks: an energy network for each fold, trained on the others; each asked for once the one before is done.
        batch_size: documents a pass.
        device: where the networks are.
        reveal: which labels are shown, where features see them.
    """
    held = torch.empty(len(documents), documents.num_labels)
    for rows, network in zip(parts, networks, strict=True):
        held[torch.from_numpy(rows)] = unary_logits(network, documents, batch_size, device, rows=rows, reveal=reveal)
    return held


def fold_networks(loop: Loop, parts: Sequence[np.ndarray]) -> Iterator[Any]:
    """For each fold of a loop's training documents a network trained on the others, one after the other."""
    every = np.arange(len(loop.train))
    for fold, rows in enumerate(parts):
        yield fold_network(loop, len(parts), fold, np.setdiff1d(every, rows, assume_unique=True))


def fold_network(loop: Loop, folds: int, fold: int, rows: np.ndarray) -> Any:
    """A network trained on some of a loop's training documents as the stages before the current one trained its own.

    It has a folder beside the others' in the run's, with checkpoints, and goes on from there: a fold that is done is
    read.

    Raises:
        Interrupted: asked to stop; the fold has been saved.
    """
    before = loop.experiment.stages[: loop.position.stage]
    watched = any(stage.keep == "best" or stage.patience for stage in before) and loop.validator.documents is not None
    splits = {"train": loop.dataset.splits["train"][rows]}
    splits |= {"validation": loop.dataset.splits["validation"]} if watched else {}
    stages = tuple(stage.model_copy(update={"name": f"{stage.name}-fold-{fold + 1}-of-{folds}"}) for stage in before)
    training = loop.experiment.training.model_copy(update={"stages": stages})
    folder = RunFolder(loop.folder.cross_fit / str(fold))
    folder.folder.mkdir(exist_ok=True)
    with torch.random.fork_rng(devices=[loop.device] if loop.device.type == "cuda" else []):
        torch.manual_seed(loop.experiment.seed)
        own = type(loop)(
            copy.deepcopy(loop.untrained),
            loop.objective,
            loop.experiment.model_copy(update={"training": training}),
            replace(loop.dataset, splits=splits),  # the fingerprint of all documents stays
            folder,
            device=loop.device,
            request=loop.request,
            progress=loop.progress,
        )
        checkpoint = folder.checkpoints.latest()
        if checkpoint is not None:
            own.resume(checkpoint)
        try:
            own.run()
        except Interrupted:
            raise Interrupted(stop_message(loop.folder.folder, loop.request)) from None
    return own.model
