"""The estimate in words."""

from __future__ import annotations

from energynets.memory.counting import Memory


def count_text(count: int) -> str:
    """9000000 -> '9.00 M', 224000 -> '224 K'."""
    for unit, size, digits in (("G", 10**9, 2), ("M", 10**6, 2), ("K", 10**3, 0)):
        if count >= size:
            return f"{count / size:.{digits}f} {unit}"
    return str(count)


def bytes_text(count: int) -> str:
    """1434221824 -> '1.34 GiB'."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} B"


def report_lines(memory: Memory) -> list[str]:
    """The estimate as aligned text."""
    lines = [f"{name:<16}{count_text(count):>10}  ({count:,})" for name, count in memory.components]
    lines.append(f"{'total':<16}{count_text(memory.parameters):>10}  ({memory.parameters:,})")
    stage = memory.largest
    batch = f"batch {memory.batch_size}" + (f" of {memory.tokens} tokens each" if memory.tokens else "")
    inference = f", {memory.steps} steps of inference" if memory.steps else ""
    rows = [
        ("weights", memory.weights, "float32" if memory.weights == 4 * memory.parameters else "float32 and bf16"),
        ("best weights", memory.weights, "the copy that validation picked"),
        ("gradients", stage.gradients, f"stage {stage.name}"),
        ("optimiser", stage.optimizer, f"stage {stage.name}"),
        ("step", stage.step, f"activations, logits and the rest: {batch}{inference}"),
        ("training", memory.total, "besides the program and the documents"),
    ]
    return [*lines, "", *(f"{name:<16}{bytes_text(count):>10}  {note}" for name, count, note in rows)]
