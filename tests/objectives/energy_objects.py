"""Energy networks to enumerate: few labels, weights as large as the test needs."""

from __future__ import annotations

import torch
from objective_contract import F, Features, L

from energynets.energies import ICNN, SPEN
from energynets.inference import MirrorDescent
from energynets.models import EnergyNetwork


def energy_over(kind: str, seed: int, *, tau: float = 1.0, scale: float = 1.0, head: float = 3.0) -> EnergyNetwork:
    """Unary logits of size `scale`, and h `head` times what an untrained energy's is."""
    torch.manual_seed(seed)
    energy = ICNN(F, L, hidden=(4, 3), tau=tau) if kind == "icnn" else SPEN(F, L, num_measurements=4, tau=tau)
    with torch.no_grad():
        energy.unary.weight.normal_().mul_(scale)
        energy.head.output *= head
    return EnergyNetwork(Features(), energy, MirrorDescent()).double()
