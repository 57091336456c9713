"""Rows of sparse numbers in some dozens of numpy passes over the bytes of a whole block.

Blanks, newlines, colons, commas and points cut the text into items; what an item is, the two separators around it say.
Digits are not read one by one: eight of them are one 64-bit word, and three multiplications make it a number. A decimal
of 15 digits or fewer is then (whole * 10^k + fraction) / 10^k, both exact in float64, so the quotient is the number
that a correctly rounding parser gives.

Gives up, without an opinion, at the first thing it finds odd; `sparse_rows` then looks at every line.

Source: D. Lemire, "Number parsing at a gigabyte per second", Software: Practice and Experience 51 (2021), sections 3
(words of eight digits) and 5 (the exact quotient, after Clinger 1990).
"""

from __future__ import annotations

import numpy as np

from energynets.data.readers.rows import FLOAT32_MAX, Limits, Rows

# Separators first: `kind < _DIGIT` finds them.
_BLANK, _NEWLINE, _COLON, _COMMA, _POINT, _DIGIT, _SIGN, _ODD = range(8)
_CLASSES = np.full(256, _ODD, dtype=np.uint8)
for _kind, _bytes in (
    (_BLANK, b" \t\r"),
    (_NEWLINE, b"\n"),
    (_COLON, b":"),
    (_COMMA, b","),
    (_POINT, b"."),
    (_DIGIT, b"0123456789"),
    (_SIGN, b"+-eE"),
):
    _CLASSES[np.frombuffer(_bytes, np.uint8)] = _kind
_KINDS = _CLASSES.tobytes()

# What an item is by whether it is empty, the separator before it and the one after it.
_NOTHING, _LABEL, _INDEX, _VALUE, _WHOLE, _FRACTION, _BAD = range(7)
_ROLES = np.full((2, 5, 5), _BAD, dtype=np.uint8)
_GAPS = np.ix_([0], [_BLANK, _NEWLINE], [_BLANK, _NEWLINE])
_ROLES[_GAPS] = _NOTHING
_ROLES[1, _NEWLINE, [_BLANK, _NEWLINE, _COMMA]] = _LABEL
_ROLES[1, _COMMA, [_BLANK, _NEWLINE, _COMMA]] = _LABEL
_ROLES[1, [_BLANK, _NEWLINE], _COLON] = _INDEX
_ROLES[1, _COLON, [_BLANK, _NEWLINE]] = _VALUE
_ROLES[:, _COLON, _POINT] = _WHOLE  # `:.5` has none, `:5.` no fraction
_ROLES[:, _POINT, [_BLANK, _NEWLINE]] = _FRACTION
_ROLE = _ROLES.reshape(-1)

_EXACT_DIGITS = 15  # below 2^53
_POWERS = 10.0 ** np.arange(_EXACT_DIGITS + 1)


def parse_fast(data: bytes, limits: Limits) -> Rows | None:
    """Parse whole lines at once; None for anything odd, right or wrong."""
    text = np.frombuffer(bytes(16) + data, np.uint8)  # an item's last 16 bytes can be read wherever it ends
    kind = np.frombuffer(data.translate(_KINDS), np.uint8)
    if (kind == _ODD).any():
        return None
    marks = np.flatnonzero(kind < _DIGIT)
    after = kind[marks]
    before = np.empty_like(after)
    before[0], before[1:] = _NEWLINE, after[:-1]
    lengths = np.diff(marks, prepend=-1) - 1
    role = _ROLE[(lengths > 0) * np.uint8(25) + before * np.uint8(5) + after]
    if (role == _BAD).any():
        return None
    index_items = np.flatnonzero(role == _INDEX)
    label_items = np.flatnonzero(role == _LABEL)
    columns = _integers(text, marks[index_items] + 16, lengths[index_items])
    labels = _integers(text, marks[label_items] + 16, lengths[label_items])
    if columns is None or labels is None:
        return None
    values = _numbers(text, kind, marks, lengths, role, index_items + 1)
    if values is None:
        return None

    newlines = np.flatnonzero(after == _NEWLINE)
    column_offsets = np.searchsorted(index_items, np.concatenate([[0], newlines]))
    label_offsets = np.searchsorted(label_items, np.concatenate([[0], newlines + 1]))
    columns -= limits.first_column
    labels -= limits.first_label
    ordered = _ordered(columns, column_offsets, limits.columns)
    label_ordered = _ordered(labels, label_offsets, limits.labels)
    if ordered is None or label_ordered is None:
        return None
    return Rows(
        columns[ordered], values[ordered].astype(np.float32), column_offsets, labels[label_ordered], label_offsets
    )


def _ordered(indices: np.ndarray, offsets: np.ndarray, size: int | None) -> np.ndarray | slice | None:
    """What sorts the indices within each line; None for an index out of range or a duplicate."""
    if len(indices) == 0:
        return slice(None)
    if indices.min() < 0 or (size is not None and indices.max() >= size):
        return None
    rising = np.ones(len(indices) + 1, bool)
    np.greater(indices[1:], indices[:-1], out=rising[1:-1])
    rising[offsets] = True  # where a line begins, anything may come
    if rising.all():
        return slice(None)
    line = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    order = np.lexsort((indices, line))
    if ((line[1:] == line[:-1]) & (indices[order][1:] == indices[order][:-1])).any():
        return None
    return order


def _integers(text: np.ndarray, ends: np.ndarray, lengths: np.ndarray) -> np.ndarray | None:
    """The integers of 16 digits or fewer that end before text[ends], int64, an empty one 0; None for anything else."""
    if len(ends) == 0:
        return np.zeros(0, np.int64)
    longest = lengths.max()
    if longest > 16:
        return None
    values = _eight(text, ends, np.minimum(lengths, 8) if longest > 8 else lengths)
    if values is not None and longest > 8:
        long = np.flatnonzero(lengths > 8)
        upper = _eight(text, ends[long] - 8, lengths[long] - 8)
        if upper is None:
            return None
        values[long] += upper * 100_000_000
    return values


def _eight(text: np.ndarray, ends: np.ndarray, lengths: np.ndarray) -> np.ndarray | None:
    """As `_integers`, for 8 digits or fewer: a word ends in the last digit, and what stands before the first is 0."""
    every_byte = np.ndarray((len(text) - 7,), np.dtype("<u8"), text.data, strides=(1,))
    word = every_byte[ends - 8]
    word ^= np.uint64(0x3030303030303030)
    before = (8 * (8 - lengths)).astype(np.uint64)
    word >>= before  # by 64: numpy gives 0
    word <<= before
    # A byte above 9 has a bit of its upper half set, or gets one when 6 is added.
    if (((word + np.uint64(0x0606060606060606)) | word) & np.uint64(0xF0F0F0F0F0F0F0F0)).any():
        return None
    # The first digit is the lowest byte: pairs of digits, of pairs, of fours.
    for shift, scale, mask in ((8, 10, 0x00FF00FF00FF00FF), (16, 100, 0x0000FFFF0000FFFF), (32, 10_000, 0xFFFFFFFF)):
        word = (word * np.uint64(scale) + (word >> np.uint64(shift))) & np.uint64(mask)
    return word.view(np.int64)


def _numbers(
    text: np.ndarray, kind: np.ndarray, marks: np.ndarray, lengths: np.ndarray, role: np.ndarray, items: np.ndarray
) -> np.ndarray | None:
    """The numbers whose first items these are, float64; None if any is not a number that float32 can hold."""
    starts = marks[items] - lengths[items]
    pointed = role[items] == _WHOLE
    last = items + pointed
    ends, digits = marks[last], lengths[items] + np.where(pointed, lengths[last], 0)
    if len(items) and digits.min() < 1:
        return None
    plain = digits <= _EXACT_DIGITS
    # A minus sign is taken off; numbers with another sign or an exponent take the long way.
    signs = np.flatnonzero(kind == _SIGN)
    negative = np.zeros(len(items), bool)
    if len(signs):
        negative = (text[starts + 16] == ord("-")) & (lengths[items] > 1)
        signed = np.diff(np.searchsorted(signs, np.stack([starts + negative, ends]), side="left"), axis=0)[0] > 0
        plain &= ~signed
    chosen: np.ndarray | slice = slice(None) if plain.all() else plain
    first = items[chosen]
    values = np.empty(len(items), np.float64)
    whole = _integers(text, marks[first] + 16, lengths[first] - negative[chosen])
    if whole is None:
        return None
    if pointed.any():
        places = np.where(pointed, lengths[last], 0)[chosen]
        fraction = _integers(text, marks[last[chosen]] + 16, places)
        if fraction is None:
            return None
        power = _POWERS[places]
        values[chosen] = (whole * power + fraction) / power
    else:
        values[chosen] = whole
    values[negative] *= -1.0
    return values if plain.all() else _long_way(text, values, np.flatnonzero(~plain), starts, ends)


def _long_way(
    text: np.ndarray, values: np.ndarray, rest: np.ndarray, starts: np.ndarray, ends: np.ndarray
) -> np.ndarray | None:
    """Fill in what has an exponent or many digits, through one fixed-width byte string for each number: numpy's
    conversion of those is strict and correctly rounded."""
    lengths = (ends - starts)[rest]
    if lengths.max() > 40:
        return None
    position = np.arange(lengths.max())
    characters = text[np.minimum(starts[rest, None] + 16 + position, len(text) - 1)]
    characters = np.where(position < lengths[:, None], characters, 0)
    try:
        values[rest] = np.ascontiguousarray(characters).view(f"S{lengths.max()}")[:, 0].astype(np.float64)
    except ValueError:
        return None
    return values if (np.abs(values) <= FLOAT32_MAX).all() else None
