"""Labels that are missing in training: left out where it is known which, weighted where it is known how often."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from energynets.energies import Box, Domain
from energynets.errors import ConfigError
from energynets.masks import where, without

_BELOW = 40.0  # sigmoid(-40) adds nothing to a sum in float32, and 4e-18 in float64


def leave_out(logits: Tensor, targets: Tensor, mask: Tensor | None, domain: Domain) -> tuple[Tensor, Tensor]:
    """Logits and targets of which every loss of labels is that of the other labels alone.

    A label left out becomes a certain negative that is one: it adds nothing to a loss, and has no gradient.

    Args:
        logits: z (B, L).
        targets: (B, L).
        mask: which labels to leave out, (B, L) bool; None leaves all as it is.
        domain: of y.

    Raises:
        ConfigError: y is not a vector of labels.
    """
    if mask is None:
        return logits, targets
    if not isinstance(domain, Box):
        raise ConfigError(f"labels left out of a loss: expected y in Box, got {domain}")
    # Below the smallest of a row, for a softmax looks at differences alone.
    certain = logits.detach().amin(-1, keepdim=True).clamp(max=0) - _BELOW
    return where(mask, certain.expand_as(logits), logits), without(targets, mask)


def propensity_bce(logits: Tensor, targets: Tensor, propensity: Tensor | float, *, nonnegative: bool = True) -> Tensor:
    """Binary cross-entropy of the true labels where only some of them are listed.

        1/B sum_l [ sum_n t_nl / p_l bce(1, z_nl) + max(0, sum_n (1 - t_nl / p_l) bce(0, z_nl)) ]

    A true label is listed with probability p_l, whatever x is; one that is not listed may be true. Then E[t / p] is the
    truth, and without the maximum the mean over all listings is the binary cross-entropy of the true labels, exactly.
    That estimate has no lower bound: a listed label's loss falls with slope 1 - 1 / p for ever. What it stands for,
    the loss of the negatives of a label, cannot be below 0, so that there a batch's estimate stops.

    Args:
        logits: z (B, L).
        targets: t (B, L), 1 where a label is listed.
        propensity: p, a number in (0, 1] or (L,) of them.
        nonnegative: whether to stop at 0.

    Source: the estimate: Natarajan, Dhillon, Ravikumar & Tewari (2013), lemma 1, with labels lost on one side, and
        Jain, Prabhu & Varma (2016), section 4; its bound: Kiryo, Niu, du Plessis & Sugiyama (2017), equation 6.
    """
    weights = targets / propensity
    listed = weights * functional.softplus(-logits)
    others = ((1 - weights) * functional.softplus(logits)).sum(0)
    return (listed.sum() + (others.clamp(min=0) if nonnegative else others).sum()) / max(len(logits), 1)
