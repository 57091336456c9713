"""Kernels for a Hopper GPU, without one: they compile, and fit. What they compute is checked on one (cuda)."""

from __future__ import annotations

import pytest
import torch

from energynets.inference.engine import label_hopper, label_kernels

ON_CHIP = 227 << 10
WIDTH = 256


def descriptor(kind: str, *shape: int) -> str:
    """The type of a tensor that TMA reads, as the compiler writes it."""
    from triton.experimental.gluon import language as gl

    element = {"bf16": gl.bfloat16, "fp32": gl.float32}[kind]
    layout = gl.NVMMASharedLayout.get_default_for(list(shape), element)
    return f"tensordesc<{kind}{list(shape)},{layout!r}>"


def compiled(kernel, types, constants):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.experimental.gluon._runtime import GluonASTSource

    constants |= {"num_warps": label_hopper.WARPS}
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    source = GluonASTSource(kernel, signature, {(names.index(name),): value for name, value in constants.items()})
    options = {"num_warps": label_hopper.WARPS}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


def check(kernel, most_copies):
    assert kernel.metadata.shared <= ON_CHIP
    assert "wgmma.mma_async" in kernel.asm["ptx"]
    assert 0 < kernel.asm["ptx"].count("cp.async.bulk.tensor.2d") <= most_copies


@pytest.fixture(autouse=True)
def compiler(monkeypatch):
    if label_hopper.gluon is None:
        pytest.skip("no Triton of 3.6 or later")
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")  # or 3.9 warns that 3.10 will not fuse


@pytest.mark.parametrize("given", ["n", "n, bars", "n, loss"])
def test_sums_compile(given):
    bars = "bars" in given
    documents, labels = label_hopper.DOCUMENTS, label_hopper.LABELS
    types = {
        "rows": descriptor("bf16", labels, WIDTH),
        "phi": descriptor("fp32", documents, labels),
        "n": descriptor("bf16", documents, WIDTH),
        "bars": descriptor("bf16", documents if bars else 8, WIDTH),
        **dict.fromkeys(("sums", "losses"), "*fp32"),
        "factor": "fp32",
    }
    constants = {"has_n": True, "has_bars": bars, "has_loss": "loss" in given}
    check(compiled(label_hopper._sum_kernel, types, constants | label_hopper.stages(has_bars=bars)), 12)


@pytest.mark.parametrize("steps", [1, 3])
def test_gradients_compile(steps):
    types = {
        "rows": descriptor("bf16", label_hopper.GRADIENT_LABELS, WIDTH),
        "source": descriptor("bf16", label_hopper.GRADIENT_DOCUMENTS, WIDTH),
        **dict.fromkeys(("phi", "out", "dphi", "factors", "scale"), "*fp32"),
    }
    constants = {"steps": steps, "stages": label_hopper.GRADIENT_STAGES}
    check(compiled(label_hopper._gradient_kernel, types, constants), 20)


def test_what_they_take():
    phi, rows = torch.zeros(128, 160), torch.zeros(160, 256, dtype=torch.bfloat16)
    assert not label_hopper.take(phi, rows)  # on a CPU
    assert label_hopper._readable(phi)
    assert label_hopper._readable(rows)
    assert not label_hopper._readable(phi[:, 1:])
    assert not label_hopper._readable(torch.zeros(4, 7))
    assert label_kernels.aligned(3, 7, phi).stride() == (16, 1)
