"""Reuters-21578, Distribution 1.0, straight from its archive, with the ModApte split and its 90 topics.

The archive holds `reut2-000.sgm` to `reut2-021.sgm`, SGML that is not well-formed XML, in ISO-8859-1:

    <REUTERS TOPICS="YES" LEWISSPLIT="TRAIN" ... NEWID="1">
    <TOPICS><D>cocoa</D></TOPICS>
    <TEXT TYPE="BRIEF">&#2;
    <TITLE>BAHIA COCOA REVIEW</TITLE><BODY>Showers continued ...</BODY></TEXT>
    </REUTERS>

ModApte (README of the collection, VIII.B): training is LEWISSPLIT="TRAIN" with TOPICS="YES", test is LEWISSPLIT="TEST"
with TOPICS="YES". The label set is the topics with at least one training and one test document; documents without any
of them are left out (7770 train, 3019 test, in the order of NEWID). A document is its title and body; a brief has no
body, an unprocessed one is its text as it stands. Topics are a set: two documents repeat one.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from energynets.data.dataset import Documents, TextDocuments
from energynets.data.readers.label_names import read_label_names
from energynets.data.readers.notes import documents_of, label_matrix
from energynets.data.readers.source import Progress, read_bytes, shown
from energynets.errors import DataError, nearest

_OPEN = re.compile(r"<REUTERS\b([^>]*)>")
_ATTRIBUTE = re.compile(r'(\w+)="([^"]*)"')
_TOPICS = re.compile(r"<TOPICS>(.*?)</TOPICS>", re.DOTALL)
_TOPIC = re.compile(r"<D>(.*?)</D>", re.DOTALL)
_TEXT = re.compile(r"<TEXT[^>]*>(.*?)</TEXT>", re.DOTALL)
_TITLE = re.compile(r"<TITLE>(.*?)</TITLE>", re.DOTALL)
_BODY = re.compile(r"<BODY>(.*?)</BODY>", re.DOTALL)
_TAG = re.compile(r"</?(?:AUTHOR|DATELINE|TITLE|BODY)>")
_ENTITY = re.compile(r"&(?:(lt|gt|amp)|#(\d+));")
_NAMED = {"lt": "<", "gt": ">", "amp": "&"}
_SPLITS = {"TRAIN": "train", "TEST": "test"}


@dataclass(frozen=True)
class _Story:
    number: int
    split: str
    topics: frozenset[str]
    text: str


def read(
    path: str | Path, *, split: str = "train", labels: str | Path | None = None, progress: Progress | None = None
) -> Documents:
    """Read one side of the ModApte split.

    Args:
        path: `reuters21578.tar.gz` (or the archive unpacked to a plain tar).
        split: "train" or "test".
        labels: topics to use instead of the 90, one a line.
        progress: called with (bytes done, bytes in all).

    Returns:
        Documents with raw text, labels (N, 90) and their names, sorted.

    Raises:
        DataError: naming archive, member and line.
    """
    if split not in _SPLITS.values():
        raise DataError(f"unknown split {split!r} of Reuters-21578{nearest(split, _SPLITS.values())}")
    return read_splits(path, labels=labels, progress=progress)[split]


def read_splits(
    path: str | Path, *, labels: str | Path | None = None, progress: Progress | None = None
) -> dict[str, Documents]:
    """Read both sides at once: {"train": ..., "test": ...}, otherwise as `read`."""
    path = Path(path)
    stories = sorted(_stories(path, progress), key=lambda story: story.number)
    sides = {side: [story for story in stories if story.split == side] for side in _SPLITS.values()}
    if labels is not None:
        names = read_label_names(Path(labels))
    else:
        topics = [frozenset[str]().union(*(story.topics for story in side)) for side in sides.values()]
        names = tuple(sorted(frozenset.intersection(*topics)))
    ids = {name: number for number, name in enumerate(names)}
    found = {}
    for side, members in sides.items():
        kept = [story for story in members if not story.topics.isdisjoint(ids)]
        if not kept:
            raise DataError(f"{path}: expected documents of the ModApte split, got none for {side}")
        rows = [[ids[topic] for topic in story.topics if topic in ids] for story in kept]
        texts = TextDocuments(tuple(story.text for story in kept))
        found[side] = documents_of(texts, label_matrix(rows, len(names)), names)
    return found


def _stories(path: Path, progress: Progress | None) -> Iterator[_Story]:
    seen: dict[int, str] = {}
    for member, text in _members(path, progress):
        starts = [*_OPEN.finditer(text)]
        ends = [match.start() for match in starts[1:]] + [len(text)]
        for start, end in zip(starts, ends, strict=True):
            attributes = dict(_ATTRIBUTE.findall(start[1]))
            number = attributes.get("NEWID", "")
            content = text[start.end() : end]
            if not number.isdigit() or "</REUTERS>" not in content or "LEWISSPLIT" not in attributes:
                where = f"{path}: {member}: line {text.count(chr(10), 0, start.start()) + 1}"
                expected = "<REUTERS LEWISSPLIT=... NEWID=number> up to </REUTERS>"
                raise DataError(f"{where}: expected {expected}, got {shown(start[0], 120)}")
            if int(number) in seen:
                raise DataError(f"{path}: {member}: document NEWID={number} again, first in {seen[int(number)]}")
            seen[int(number)] = member
            side = _SPLITS.get(attributes["LEWISSPLIT"])
            if side is None or attributes.get("TOPICS") != "YES":
                continue
            topics = _TOPICS.search(content)
            body = _TEXT.search(content)
            if topics is None or body is None:
                missing = "<TOPICS>" if topics is None else "<TEXT>"
                raise DataError(f"{path}: {member}: document NEWID={number}: expected {missing}, got none")
            yield _Story(
                int(number), side, frozenset(_plain(topic) for topic in _TOPIC.findall(topics[1])), _words(body[1])
            )


def _members(path: Path, progress: Progress | None) -> Iterator[tuple[str, str]]:
    data = read_bytes(path, progress)
    found = False
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for member in archive:
                name = Path(member.name).name
                if member.isfile() and name.startswith("reut2-") and name.endswith(".sgm"):
                    stream = archive.extractfile(member)
                    assert stream is not None, "a regular file has contents"
                    contents = stream.read()
                    if len(contents) < member.size:
                        raise DataError(
                            f"{path}: {name}: expected {member.size} bytes, the archive ends after {len(contents)}"
                        )
                    found = True
                    yield name, contents.decode("iso-8859-1")
    except tarfile.TarError as error:
        raise DataError(f"{path}: expected a tar archive, got something else or a part of one ({error})") from None
    if not found:
        raise DataError(f"{path}: expected reut2-*.sgm in the archive, got none")


def _words(text: str) -> str:
    """Title and body; everything where neither is marked."""
    marked = [match[1] for pattern in (_TITLE, _BODY) if (match := pattern.search(text)) is not None]
    return "\n".join(_plain(part) for part in marked or [_TAG.sub(" ", text)])


def _plain(text: str) -> str:
    def character(match: re.Match[str]) -> str:
        if match[1]:
            return _NAMED[match[1]]
        code = int(match[2])
        return chr(code) if code == 10 or 32 <= code < 127 or 160 <= code < 0x110000 else " "

    return _ENTITY.sub(character, text).strip()
