"""What was read from large files, kept as arrays that are mapped the next time.

An entry is a folder of arrays and `entry.json`. Its name carries a hash of what it was made from (the contents of the
files, the reader's options): it can be for these and nothing else. It comes into being whole, by one renaming; the
arrays' hashes are checked before they are used, and what fails is made anew. Several processes may make, read and
remove entries at once: what is open stays readable whatever becomes of its folder.

Entries lie in $XDG_CACHE_HOME/energynets/read, else ~/.cache/energynets/read, never in the data folder, which may be
read-only; ENERGYNETS_CACHE=0 does without. They can be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from energynets.data.dataset import Documents, TextDocuments
from energynets.data.readers.collect import label_matrix, table, texts
from energynets.data.store import FolderStore, MappedStore, sha256_of

_FORMAT = 1
_ENTRY = "entry.json"
_NOT_WHOLE = (OSError, ValueError, KeyError, TypeError)  # what opening a damaged entry may raise
_ABANDONED = 24 * 3600.0  # seconds after which nobody is still writing
WORTH_BYTES = 1 << 25
"""Files of less than this in all are read each time: that takes less than half a second."""


def cache_folder() -> Path | None:
    """Where entries lie; None where ENERGYNETS_CACHE=0 says to keep none."""
    if os.environ.get("ENERGYNETS_CACHE", "1") == "0":
        return None
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "energynets" / "read"


def read_cached(
    read: Callable[..., Documents], files: Sequence[Path], *, name: str, worth: int | None = None, **options: Any
) -> Documents:
    """`read(files[0], **options)`, or what it gave before where the files are large.

    Args:
        read: a reader that takes `store`.
        files: what it reads: its file first, then all others.
        name: of the format.
        worth: bytes from which on an entry is kept; default `WORTH_BYTES`.
        options: the reader's own, `progress` among them.

    Raises:
        DataError: as the reader.
    """
    folder = cache_folder()
    try:
        small = sum(file.stat().st_size for file in files) < (WORTH_BYTES if worth is None else worth)
    except OSError:
        small = True  # the reader says it better
    if folder is None or small:
        return read(files[0], **options)
    made_of = [sha256_of(file) for file in files]
    settings = {key: str(value) for key, value in options.items() if key != "progress"}
    key = {"format": name, "files": made_of, "settings": settings}

    def make(store: FolderStore) -> dict[str, Any]:
        return _facts(read(files[0], **options, store=store))

    place = hashlib.sha256(json.dumps([name, str(files[0].resolve()), settings]).encode()).hexdigest()[:8]
    found = entry(folder, f"{files[0].name.partition('.')[0]}-{place}", key, make)
    return read(files[0], **options) if found is None else _documents(*found, "-".join(made_of))


def entry(
    folder: Path, name: str, key: Mapping[str, Any], make: Callable[[FolderStore], dict[str, Any]]
) -> tuple[MappedStore, dict[str, Any]] | None:
    """The arrays and facts of an entry, made where there is none that is whole.

    Args:
        folder: of all entries.
        name: the entry's; entries of this name with another key are out of date, and removed.
        key: what it is made from, plain values.
        make: fills a store and gives the facts, plain values.

    Returns:
        None, with a warning, where nothing can be written there.
    """
    digest = hashlib.sha256(json.dumps([_FORMAT, key], sort_keys=True).encode()).hexdigest()[:16]
    target = folder / f"{name}-{digest}"
    with contextlib.suppress(*_NOT_WHOLE):
        return _open(target, verify=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f"{name}-", suffix=".part", dir=folder))
    except OSError as error:
        _warn(folder, error)
        return None
    try:
        with FolderStore(part) as store:
            facts = make(store)
            body = json.dumps({"facts": facts, "arrays": store.contents()})
        (part / _ENTRY).write_text(json.dumps([hashlib.sha256(body.encode()).hexdigest(), body]), encoding="utf-8")
        made = _open(part, verify=False)
        for old in folder.glob(f"{name}-*"):
            if old != target and (old.suffix != ".part" or _abandoned(old)):
                _remove(old)
        with contextlib.suppress(OSError):
            part.rename(target)
            return made
        with contextlib.suppress(*_NOT_WHOLE):  # another process was quicker: its entry is the same
            return _open(target, verify=True)
        _remove(target)
        with contextlib.suppress(OSError):
            part.rename(target)
        return made
    except OSError as error:
        _warn(folder, error)
        return None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _abandoned(part: Path) -> bool:
    try:
        return time.time() - part.stat().st_mtime > _ABANDONED
    except OSError:  # it has its name by now
        return False


def _remove(old: Path) -> None:
    """Remove a folder or file; another process may do so too."""
    if old.is_dir():
        shutil.rmtree(old, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            old.unlink()


def _open(target: Path, *, verify: bool) -> tuple[MappedStore, dict[str, Any]]:
    digest, body = json.loads((target / _ENTRY).read_text(encoding="utf-8"))
    if hashlib.sha256(body.encode()).hexdigest() != digest:
        raise ValueError(f"{target / _ENTRY} has changed")
    content = json.loads(body)
    return MappedStore(target, content["arrays"], verify=verify), content["facts"]


def _warn(folder: Path, error: OSError) -> None:
    warnings.warn(
        f"{folder}: cannot be written ({error.strerror or error}): large files will be read anew each time; "
        "XDG_CACHE_HOME names another place, ENERGYNETS_CACHE=0 does without",
        stacklevel=3,
    )


def _facts(documents: Documents) -> dict[str, Any]:
    text = isinstance(documents.inputs, TextDocuments)
    return {
        "features": None if text else documents.input_size,
        "labels": documents.num_labels,
        "label_names": documents.label_names,
        "notes": dict(documents.notes),
    }


def _documents(store: MappedStore, facts: Mapping[str, Any], identity: str) -> Documents:
    inputs: Any = (
        TextDocuments(texts(store, identity)) if facts["features"] is None else table(store, facts["features"])
    )
    names = None if facts["label_names"] is None else tuple(facts["label_names"])
    return Documents(inputs, label_matrix(store, facts["labels"]), names, None, facts["notes"])
