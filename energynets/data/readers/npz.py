"""A numpy archive (`.npz`) with inputs X and labels Y as the parts of two CSR matrices.

    X_data (nnz,) numbers         Y_indices (nnz,) integers
    X_indices (nnz,) integers     Y_indptr (N + 1,) integers
    X_indptr (N + 1,) integers    Y_shape (2,): N, L
    X_shape (2,): N, D            Y_data (nnz,) all 1; optional
                                  U_indices, U_indptr: pairs of a document and a label that are unknown; optional
                                  label_names (L,), feature_names (D,) of unicode; optional

`np.savez_compressed(path, X_data=X.data, X_indices=X.indices, X_indptr=X.indptr, X_shape=X.shape, ...)` writes one, and
so does `write`. Arrays of Python objects are refused: reading them would run code from the file.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from energynets.data.dataset import Documents, csr
from energynets.data.readers.label_names import check_count, read_label_names
from energynets.data.readers.notes import documents_of
from energynets.data.readers.source import Progress, read_bytes
from energynets.errors import DataError

_REQUIRED = ("X_data", "X_indices", "X_indptr", "X_shape", "Y_indices", "Y_indptr", "Y_shape")
_OPTIONAL = ("Y_data", "U_indices", "U_indptr", "label_names", "feature_names")


def read(path: str | Path, *, labels: str | Path | None = None, progress: Progress | None = None) -> Documents:
    """Read an `.npz` of two CSR matrices.

    Args:
        path: the file.
        labels: file of L label names, one a line; optional, stands above `label_names` in the archive.
        progress: called with (bytes done, bytes in all).

    Returns:
        Documents with inputs (N, D), labels (N, L) and, where the archive has them, unknown labels (N, L).

    Raises:
        DataError: naming file, array, what was expected and what came.
    """
    path = Path(path)
    arrays = _arrays(path, progress)
    inputs = _matrix(path, arrays, "X", arrays["X_data"])
    marks = _matrix(path, arrays, "Y", arrays.get("Y_data", np.ones(len(arrays["Y_indices"]), np.float32)))
    if not (marks.data == 1).all():
        raise DataError(f"{path}: Y_data: expected labels of 1 alone, got {marks.data[marks.data != 1][0]:g}")
    if inputs.shape[0] != marks.shape[0]:
        raise DataError(f"{path}: expected as many rows in Y as the {inputs.shape[0]} of X, got {marks.shape[0]}")
    label_names = _names(path, arrays, "label_names", marks.shape[1])
    if labels is not None:
        label_names = read_label_names(Path(labels), unique=False)
        check_count(label_names, marks.shape[1], Path(labels), f"Y_shape of {path} says so")
    documents = documents_of(inputs, marks, label_names, _names(path, arrays, "feature_names", inputs.shape[1]))
    if "U_indices" not in arrays and "U_indptr" not in arrays:
        return documents
    if lacking := [key for key in ("U_indices", "U_indptr") if key not in arrays]:
        raise DataError(f"{path}: expected U_indices and U_indptr together; got no {lacking[0]}")
    unknown = _matrix(path, arrays | {"U_shape": arrays["Y_shape"]}, "U", np.ones(len(arrays["U_indices"]), np.float32))
    try:
        return replace(documents, unknown=unknown)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def write(path: str | Path, documents: Documents) -> None:
    """Write documents with a table of inputs as `read` reads them.

    Raises:
        DataError: the inputs are text or tokens.
    """
    if not isinstance(documents.inputs, csr_array):
        raise DataError(f"{path}: expected a table of inputs, got {type(documents.inputs).__name__}")
    arrays: dict[str, np.ndarray] = {}
    for letter, matrix in (("X", documents.inputs), ("Y", documents.labels)):
        arrays[f"{letter}_data"], arrays[f"{letter}_indices"] = matrix.data, matrix.indices
        arrays[f"{letter}_indptr"], arrays[f"{letter}_shape"] = matrix.indptr, np.array(matrix.shape)
    if documents.unknown is not None:
        arrays |= {"U_indices": documents.unknown.indices, "U_indptr": documents.unknown.indptr}
    for key, names in (("label_names", documents.label_names), ("feature_names", documents.feature_names)):
        if names is not None:
            arrays[key] = np.array(names, dtype=np.str_)
    with open(path, "wb") as stream:  # given a name, numpy would add .npz to it
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]


def _arrays(path: Path, progress: Progress | None) -> dict[str, np.ndarray]:
    data = read_bytes(path, progress)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            if not hasattr(archive, "files"):
                raise DataError(f"{path}: expected an .npz archive of arrays, got a single array")
            absent = [key for key in _REQUIRED if key not in archive.files]
            if absent:
                raise DataError(f"{path}: expected the arrays {', '.join(_REQUIRED)}; got no {absent[0]}")
            return {key: archive[key] for key in (*_REQUIRED, *_OPTIONAL) if key in archive.files}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path}: expected an .npz archive of plain arrays, got something else or a part of one ({error})"
        ) from None


def _matrix(path: Path, arrays: dict[str, np.ndarray], letter: str, data: np.ndarray) -> csr_array:
    indices, indptr, shape = (arrays[f"{letter}_{part}"] for part in ("indices", "indptr", "shape"))
    for part, array in (("indices", indices), ("indptr", indptr), ("shape", shape)):
        if array.dtype.kind not in "iu" or array.ndim != 1:
            raise DataError(
                f"{path}: {letter}_{part}: expected integers in one dimension, got {array.dtype} {array.shape}"
            )
    if data.dtype.kind not in "biuf" or data.shape != indices.shape:
        raise DataError(f"{path}: {letter}_data: expected {len(indices)} numbers, got {data.dtype} {data.shape}")
    if len(shape) != 2 or shape.min() < 0:
        raise DataError(f"{path}: {letter}_shape: expected rows and columns, got {shape.tolist()}")
    rows, columns = (int(size) for size in shape)
    if len(indptr) != rows + 1 or indptr[0] != 0 or indptr[-1] != len(indices) or (indptr[1:] < indptr[:-1]).any():
        raise DataError(
            f"{path}: {letter}_indptr: expected {rows + 1} non-decreasing numbers from 0 to {len(indices)}, "
            f"got {len(indptr)} that do not fit {letter}_shape and {letter}_indices"
        )
    starts = indptr.astype(np.int64)
    row = np.repeat(np.arange(rows), starts[1:] - starts[:-1])
    outside = np.flatnonzero((indices < 0) | (indices >= columns))
    if len(outside):
        raise DataError(
            f"{path}: {letter}_indices: row {row[outside[0]]}: index {indices[outside[0]]} is out of range: "
            f"expected 0 to {columns - 1}"
        )
    with np.errstate(over="ignore"):
        values = data.astype(np.float32)
    odd = np.flatnonzero(~np.isfinite(values))
    if len(odd):
        raise DataError(
            f"{path}: {letter}_data: row {row[odd[0]]}: expected a finite float32 number, got {data[odd[0]]}"
        )
    order = np.lexsort((indices, row))
    again = np.flatnonzero((row[order][1:] == row[order][:-1]) & (indices[order][1:] == indices[order][:-1]))
    if len(again):
        where = order[again[0]]
        raise DataError(f"{path}: {letter}_indices: row {row[where]}: duplicate index {indices[where]}")
    matrix = csr(values[order], indices[order], starts, (rows, columns))
    matrix.eliminate_zeros()
    return matrix


def _names(path: Path, arrays: dict[str, np.ndarray], key: str, count: int) -> tuple[str, ...] | None:
    if key not in arrays:
        return None
    names = arrays[key]
    if names.dtype.kind != "U" or names.shape != (count,):
        raise DataError(f"{path}: {key}: expected {count} unicode strings, got {names.dtype} {names.shape}")
    return tuple(str(name) for name in names)
