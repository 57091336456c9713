"""Writing a safetensors file one tensor at a time: none is copied but the one being written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from energynets.parallel.whole import ShardedTensor, in_order

_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
# Bytes that pass through at once: a page cache has no use for more.
_PIECE = 1 << 26


def save_file(tensors: Mapping[str, Tensor | ShardedTensor], path: Path, metadata: Mapping[str, str]) -> None:
    """What `safetensors.torch.save_file` writes, tensors of several processes gathered as their turn comes.

    Tensors that share memory (tied weights) are written once each: the format knows no aliases.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    names, end = in_order(tensors), 0
    for name in names:
        tensor = tensors[name]
        begin, end = end, end + tensor.shape.numel() * tensor.dtype.itemsize
        header[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin aligned
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            tensor = tensors[name]
            whole = tensor.gather() if isinstance(tensor, ShardedTensor) else tensor.detach().cpu()
            assert whole is not None, "the first process writes"
            for piece in whole.contiguous().view(-1).view(torch.uint8).split(_PIECE):
                file.write(memoryview(piece.numpy()))
