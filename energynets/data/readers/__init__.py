"""Readers by the name of their format: `READERS["xmc"](path, labels=..., progress=...) -> Documents`, for one file.

Every reader takes `path`, `labels` (the label set: Mulan XML, or names one a line) and `progress`; what else it takes
stands in its module. A new format is one module here with a `read` function, and one line below.
"""

from __future__ import annotations

from collections.abc import Callable

from energynets.data.dataset import Documents
from energynets.data.readers import mulan_arff, npz, reuters, svmlight, tsv, xmc, xmc_pair, xmc_raw

Reader = Callable[..., Documents]

READERS: dict[str, Reader] = {
    "mulan_arff": mulan_arff.read,
    "npz": npz.read,
    "reuters": reuters.read,
    "svmlight": svmlight.read,
    "tsv": tsv.read,
    "xmc": xmc.read,
    "xmc_pair": xmc_pair.read,
    "xmc_raw": xmc_raw.read,
}

STORED = ("svmlight", "xmc", "xmc_pair", "xmc_raw")
"""Formats of large data: their readers take `store`, and `energynets.data.cache` keeps what they read."""
