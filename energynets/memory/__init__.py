"""What a model needs in memory, from its configuration alone: nothing that grows with its labels is allocated."""

from energynets.memory.counting import Memory, StageMemory, estimate
from energynets.memory.sizes import sizes_of
from energynets.memory.text import bytes_text, count_text, report_lines

__all__ = ["Memory", "StageMemory", "bytes_text", "count_text", "estimate", "report_lines", "sizes_of"]
