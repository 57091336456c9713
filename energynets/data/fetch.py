"""Files over HTTP(S): resumed where a server allows it, checked, and in place only when whole.

A download grows in `NAME.part`; `NAME.part.json` says what it is a part of. An interrupted one goes on with a Range
request, but only where the server can be held to the same file: its ETag or Last-Modified goes along as If-Range, or
the checksum is known beforehand. Otherwise it starts again.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import os
import re
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from energynets.errors import DataError

Progress = Callable[[int, int], None]

_BLOCK = 1 << 16
_RETRIED_STATUS = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class RemoteFile:
    """A file, where it can be had, and how to know it.

    Args:
        path: where it goes, relative to the folder.
        urls: places to get it from, tried in turn.
        sha256: hex digests of the contents that will do; empty where none is known.
    """

    path: str
    urls: tuple[str, ...]
    sha256: tuple[str, ...] = ()


class _TryAgain(Exception):
    """A failure that may pass: a dropped connection, a busy server."""


def fetch(
    files: Iterable[RemoteFile],
    folder: str | Path,
    *,
    progress: Progress | None = None,
    timeout: float = 30.0,
    retries: int = 4,
    wait: float = 1.0,
) -> list[Path]:
    """Download files into a folder; one that is there already is kept.

    Args:
        files: what to get.
        folder: created where it does not exist.
        progress: called with (bytes done, bytes in all; 0 where the server does not say), for one file after the other.
        timeout: seconds without a byte before a connection counts as dropped.
        retries: how often a dropped connection is taken up again, for each address of a file.
        wait: seconds before the first of them, doubled each time.

    Returns:
        The paths of the files, in order.

    Raises:
        DataError: an address that cannot be reached or refuses, contents with another checksum, a full disk. Whatever
            has come stays in `.part` and the next call goes on from there.
    """
    return [_fetch_one(file, Path(folder), progress, timeout, retries, wait) for file in files]


def _fetch_one(
    file: RemoteFile, folder: Path, progress: Progress | None, timeout: float, retries: int, wait: float
) -> Path:
    relative = PurePosixPath(file.path)
    if relative.is_absolute() or ".." in relative.parts:
        raise DataError(f"{file.path}: expected a path inside the data folder")
    target = folder / relative
    if target.exists():
        if file.sha256 and _sha256(target) not in file.sha256:
            raise DataError(f"{target}: exists with another checksum: move or delete it, then fetch again")
        return target
    if not file.urls:
        raise DataError(f"{target}: no address to fetch it from")
    failures = []
    for url in file.urls:
        if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
            raise DataError(f"{url}: expected an http or https address")
        try:
            _from_url(url, target, file.sha256, progress, timeout, retries, wait)
            return target
        except DataError as error:
            failures.append(error)
            if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.ENOSPC:
                break  # another address has no more disk
    raise DataError("; ".join(str(failure) for failure in failures)) from failures[-1]


def _from_url(
    url: str,
    target: Path,
    sha256: tuple[str, ...],
    progress: Progress | None,
    timeout: float,
    retries: int,
    wait: float,
) -> None:
    part = _Part(url, target)
    part.prepare()
    for attempt in range(retries + 1):
        try:
            resumed = _transfer(part, bool(sha256), progress, timeout)
            if sha256 and (digest := _sha256(part.path)) not in sha256:
                part.discard()
                if not resumed:
                    raise DataError(f"{url}: checksum mismatch: expected sha256 {sha256[0]}, got {digest}")
                raise _TryAgain("the part on disk belonged to another version of the file")
            part.finish()
            return
        except _TryAgain as failure:
            if attempt == retries:
                raise DataError(
                    f"{url}: gave up after {attempt + 1} attempts: {failure}; {part.size} bytes are kept in "
                    f"{part.path}, fetch again to go on"
                ) from failure
            time.sleep(wait * 2**attempt)


class _Part:
    """The incomplete file and the note of what it is a part of."""

    def __init__(self, url: str, target: Path) -> None:
        self.url = url
        self.target = target
        self.path = target.with_name(target.name + ".part")
        self.note_path = target.with_name(target.name + ".part.json")

    def prepare(self) -> None:
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{self.target.parent}: cannot make the folder: {error.strerror}") from error

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def note(self) -> dict[str, str]:
        """What the part is a part of; empty where that is not known, or another address."""
        try:
            note = json.loads(self.note_path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return note if isinstance(note, dict) and note.get("url") == self.url else {}

    def begin(self, validator: str, total: int) -> None:
        note = {"url": self.url, "validator": validator, "total": str(total)}
        self.note_path.write_text(json.dumps(note), encoding="utf-8")

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self.note_path.unlink(missing_ok=True)

    def finish(self) -> None:
        os.replace(self.path, self.target)
        self.note_path.unlink(missing_ok=True)


def _transfer(part: _Part, has_checksum: bool, progress: Progress | None, timeout: float) -> bool:
    """Get what is missing; True where it went on from an earlier part."""
    note = part.note()
    if part.size and (not note or not (note.get("validator") or has_checksum)):
        part.discard()
        note = {}
    begin = part.size
    # A transparent compression would make lengths and checksums those of something else.
    headers = {"User-Agent": "energynets", "Accept-Encoding": "identity"}
    if begin:
        headers["Range"] = f"bytes={begin}-"
        if note.get("validator"):
            headers["If-Range"] = note["validator"]
    try:
        request = urllib.request.Request(part.url, headers=headers)
        with urllib.request.urlopen(request, timeout=timeout) as response:
            total = int(response.headers.get("Content-Length") or 0)
            if begin and response.status == 206:
                continued = _continued_total(response.headers.get("Content-Range", ""), begin, note)
                if continued is None:
                    part.discard()
                    raise _TryAgain("the server went on with another file than the one begun")
                total = continued
            else:
                begin = 0
            _receive(response, part, begin, total, progress)
    except urllib.error.HTTPError as error:
        with error:
            _refused(error, part, note)
    except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
        _dropped(error, part.url)
    return begin > 0


def _receive(
    response: http.client.HTTPResponse, part: _Part, begin: int, total: int, progress: Progress | None
) -> None:
    done = begin
    with _Disk(part):
        if not begin:
            part.begin(_validator(response.headers), total)
        stream: BinaryIO = open(part.path, "ab" if begin else "wb")  # noqa: SIM115 - closed below, as writing can fail
    try:
        if progress is not None:
            progress(done, total)
        while piece := response.read(_BLOCK):
            with _Disk(part):
                stream.write(piece)
            done += len(piece)
            if progress is not None:
                progress(done, total)
        with _Disk(part):
            stream.flush()
            os.fsync(stream.fileno())
    finally:
        with _Disk(part):
            stream.close()
    if total and done != total:
        raise _TryAgain(f"the connection closed after {done} of {total} bytes")


class _Disk:
    """Around writes: their failures are the disk's, not the network's."""

    def __init__(self, part: _Part) -> None:
        self.part = part

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            what = "the disk is full" if error.errno == errno.ENOSPC else f"cannot write: {error.strerror}"
            raise DataError(f"{self.part.path}: {what}; fetch again to go on") from error


def _validator(headers: http.client.HTTPMessage) -> str:
    """What If-Range may carry: a strong ETag, else the time of the last change."""
    tag = headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")


def _continued_total(content_range: str, begin: int, note: dict[str, str]) -> int | None:
    """Bytes of the whole file, of which `begin` on follow; None where that is not what the server sends."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", content_range.strip())
    if match is None or int(match[1]) != begin or note.get("total") not in ("0", match[2]):
        return None
    return int(match[2])


def _refused(error: urllib.error.HTTPError, part: _Part, note: dict[str, str]) -> None:
    if error.code == 416:
        if part.size and note.get("total") == str(part.size):
            return  # complete already: interrupted between the last byte and the renaming
        part.discard()
        raise _TryAgain("the part on disk does not fit the file any more")
    if error.code in _RETRIED_STATUS:
        raise _TryAgain(f"HTTP status {error.code} {error.reason}")
    raise DataError(f"{part.url}: HTTP status {error.code} {error.reason}") from error


def _dropped(error: Exception, url: str) -> None:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    host = urllib.parse.urlsplit(url).hostname
    if isinstance(reason, socket.gaierror):
        raise DataError(f"{url}: cannot find the host {host!r}: is this machine on line?") from error
    if isinstance(reason, ssl.SSLCertVerificationError):
        raise DataError(f"{url}: the certificate of {host!r} is not valid: {reason.verify_message}") from error
    if isinstance(reason, TimeoutError):
        raise _TryAgain("no answer in time") from error
    raise _TryAgain(str(reason) or type(reason).__name__) from error


def _sha256(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
