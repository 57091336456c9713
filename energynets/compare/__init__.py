"""Many runs -> one table, statistics, report."""

import sys
from types import ModuleType
from typing import Any

from energynets.compare.cells import Cell
from energynets.compare.comparison import Comparison, Row, Spread, compare
from energynets.compare.demonstration import demonstration

__all__ = ["Cell", "Comparison", "Row", "Spread", "compare", "demonstration"]


class _CallableRoom(ModuleType):
    """`energynets.compare` names this room and, in the public names, its function: it is both."""

    def __call__(self, *args: Any, **kwargs: Any) -> Comparison:
        return compare(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableRoom
