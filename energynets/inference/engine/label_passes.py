"""What makes a pass over many labels as one call, for `streamed`: Triton kernels on a GPU, native code on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor


class Packed(NamedTuple):
    """What a pass reads: phi (B, L) and A (K, L), as those who make it want them.

    And where the passes keep y_t and dz_t for those after them; None where they make them again.
    """

    phi: Tensor
    rows: Tensor
    kept: Tensor | None = None


class LabelPasses(Protocol):
    """The passes, with y = sigmoid(c phi + n A): the modules `label_kernels` and `label_native`."""

    def pack(self, phi: Tensor, rows: Tensor, steps: int = 0) -> Packed:
        """From phi (B, L), its rows perhaps apart, and A (K, L).

        Args:
            phi, rows: these.
            steps: T, where the passes of a loss and its gradients may keep 2 T tensors like phi; else 0.
        """

    def measure(self, given: Packed, factor: float, n: Tensor | None, step: int = 0) -> Tensor:
        """y A^T (B, K).

        Args:
            given: phi and A.
            factor: c.
            n: (B, K), or None for 0.
            step: t, below T, under which y is kept.
        """

    def measure_and_loss(self, given: Packed, factor: float, n: Tensor) -> tuple[Tensor, Tensor]:
        """`measure` of z_T, and sum_l softplus(z_l) (B,), the loss of documents without labels, in float64."""

    def pull(self, given: Packed, factor: float, n: Tensor, measurement_bars: Tensor, step: int = 0) -> Tensor:
        """dz A^T (B, K), dz = y (1 - y) (dm A); t, above 0, as in `measure`."""

    def gradients(
        self,
        given: Packed,
        factors: Sequence[float],
        n: Tensor,
        bars: Tensor,
        scale: Tensor,
        out: Tensor | None,
        *,
        wants_shares: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """dA (K, L), written to `out` where it is wanted; dphi (B, L); sum dz_t phi of every step (T + 1,), if wanted.

        Args:
            given: phi and A.
            factors: c_0 .. c_T.
            n: n_1 .. n_T (T, B, K).
            bars: dm_0 .. dm_{T-1} (T, B, K).
            scale: one number, of the last step: dz_T = scale sigmoid(z_T).
            out: (K, L), its rows perhaps apart.
            wants_shares: whether the factors are learned.
        """
