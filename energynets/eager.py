"""Whether PyTorch runs operation by operation, with nothing at work that would have a say in what an operation is."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad


def eager() -> bool:
    """No compiler, trace, autocast, transform of torch.func or forward-mode derivative: a kernel of our own may run."""
    return (
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined]
        and not torch.is_autocast_enabled("cpu")
        and not under_transforms()
        and forward_ad._current_level < 0
    )


def under_transforms() -> bool:
    """Whether a torch.func transform is at work, which cannot enter a hand-derived backward."""
    return bool(torch._C._functorch.peek_interpreter_stack())


def under_vmap(tensor: torch.Tensor) -> bool:
    """Whether a tensor is one of many that `torch.func.vmap` goes through at once: none of them decides anything."""
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(tensor):
        if functorch.is_batchedtensor(tensor):
            return True
        tensor = functorch.get_unwrapped(tensor)
    return False
