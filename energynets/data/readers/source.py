"""Files as bytes: plain or gzip (told by their first bytes, not their name), whole or in blocks of whole lines.

Every way in which a file cannot be read is a `DataError` that names it, so no reader needs to know of gzip or zlib.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from energynets.errors import DataError

Progress = Callable[[int, int], None]

_GZIP_MAGIC = b"\x1f\x8b"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
BLOCK_BYTES = 1 << 19  # what numpy makes of a block stays in the processor's cache


@dataclass(frozen=True)
class Block:
    """Whole lines of a file: `data` ends in a newline, its first line has number `line` (from 1), its first byte
    stands at `offset` of the decompressed file."""

    data: bytes
    line: int
    offset: int


def _pieces(path: Path, progress: Progress | None, size: int) -> Iterator[bytes]:
    """The decompressed contents, piece by piece; progress counts bytes of the file as stored."""
    if path.is_dir():
        raise DataError(f"{path}: expected a file, got a folder")
    try:
        with open(path, "rb") as raw:
            total = path.stat().st_size
            packed = raw.peek(2)[:2] == _GZIP_MAGIC
            stream: BinaryIO = gzip.GzipFile(fileobj=raw) if packed else raw  # type: ignore[assignment]
            empty = True
            while piece := stream.read(size):
                empty = False
                if progress is not None:
                    progress(raw.tell(), total)
                yield piece
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except EOFError:
        raise DataError(f"{path}: truncated gzip file: it ends before its end-of-stream mark; fetch it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip file ({error}); fetch it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    if empty:
        raise DataError(f"{path}: the file is empty")


def read_bytes(path: Path, progress: Progress | None = None) -> bytes:
    """The whole decompressed file.

    Raises:
        DataError: missing, empty or unreadable file, or a truncated or damaged gzip stream.
    """
    return b"".join(_pieces(Path(path), progress, BLOCK_BYTES))


def blocks(path: Path, progress: Progress | None = None, size: int = BLOCK_BYTES) -> Iterator[Block]:
    """The file in blocks of whole lines, about `size` bytes each; a last line without newline is given one, and a byte
    order mark before the first line is dropped.

    Raises:
        DataError: as `read_bytes`.
    """
    rest, line, offset = b"", 1, 0
    for piece in _pieces(Path(path), progress, size):
        head, newline, tail = piece.rpartition(b"\n")
        if not newline:
            rest += piece
            continue
        data = rest + head + newline
        yield _block(data, line, offset)
        line, offset, rest = line + data.count(b"\n"), offset + len(data), tail
    if rest:
        yield _block(rest + b"\n", line, offset)


def _block(data: bytes, line: int, offset: int) -> Block:
    mark = len(_BYTE_ORDER_MARK) if offset == 0 and data.startswith(_BYTE_ORDER_MARK) else 0
    return Block(data[mark:], line, offset + mark)


def decode(data: bytes, path: Path, *, line: int = 1, offset: int = 0) -> str:
    """Bytes that start at this line and byte offset of the file, as UTF-8.

    Raises:
        DataError: invalid UTF-8, with its line and byte offset in the (decompressed) file.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        number = line + data.count(b"\n", 0, error.start)
        raise DataError(
            f"{path}: line {number}: expected UTF-8, got byte 0x{data[error.start]:02x} at byte offset "
            f"{offset + error.start} ({error.reason})"
        ) from None


def lines(path: Path, progress: Progress | None = None) -> Iterator[tuple[int, str]]:
    """(number from 1, text) of each line, split at newlines alone; a carriage return before the newline is dropped,
    and as in `blocks` a byte order mark.

    Raises:
        DataError: as `read_bytes` and `decode`.
    """
    for block in blocks(path, progress):
        text = decode(block.data, path, line=block.line, offset=block.offset)
        for number, content in enumerate(text[:-1].split("\n"), block.line):
            yield number, content.removesuffix("\r")


def shown(value: str | bytes, limit: int = 40) -> str:
    """A value from a file as an error message quotes it: escaped, and cut when long."""
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
    return repr(text if len(text) <= limit else text[:limit] + "...")
