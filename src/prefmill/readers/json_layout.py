"""How a JSON text is laid out, whatever its name: lines, an array, objects in a row, or records
inside one object.

The first lines decide between the first three. Only for a text that is one object all of it is
looked at, in one pass and bounded memory.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from prefmill.errors import BadInput
from prefmill.readers.blocks import MAX_RECORD, Block, line_blocks
from prefmill.readers.find import Input
from prefmill.readers.json_blocks import elements, objects
from prefmill.readers.json_outline import KEY, MOST_NAMES, Member, Outline, outline
from prefmill.readers.rejects import Bad
from prefmill.table.conversations import MESSAGE_KEYS
from prefmill.table.roles import ALIASES

Read = Callable[[], Iterator[bytes]]
#: How much of a text is looked at for what it is.
_WINDOW = 64 << 10
#: How many values of an object are compared: as many as its first block has, but not more.
_MOST_COMPARED = 1000


def _plain(key: str) -> str:
    return key.lower().replace("-", "").replace("_", "")


#: Keys of a record: an object that has one of them is a record, whatever else it holds.
_OF_RECORDS = frozenset(
    map(_plain, (*ALIASES["prompt"], *ALIASES["completion"], "chosen", "rejected"))
)
_BLANKS = b" \t\r\n"


@dataclass(frozen=True)
class Layout:
    """Where the records of a text are."""

    kind: Literal["lines", "objects", "array", "list", "map"]
    skip: int = 0  #: bytes before what stands inside the bracket around the records
    line: int = 1  #: where that is
    key: str = "key"  #: of a map: the column of its keys
    note: str | None = None  #: what people should know of how the text is read

    def blocks(self, pieces: Iterator[bytes], label: str) -> Iterator[Block | Bad]:
        """The records of a text in blocks."""
        if self.kind == "lines":
            return line_blocks(pieces, label)
        if self.kind == "objects":
            return objects(pieces, label)
        inside = _after(pieces, self.skip)
        if self.kind == "map":
            blocks = elements(inside, label, self.line, close="}")
            return (_with_keys(block, self.key) for block in blocks)
        return elements(inside, label, self.line, last=self.kind == "array")


def layout_of(read: Read, item: Input, named: Collection[str] = ()) -> Layout:
    """How the text of `item` is laid out; `read` gives it from its beginning.

    `named` are columns, or paths, that somebody spelled: an object with one of these keys is a
    record. Raises `BadInput` where several keys of one object hold lists of records, and where
    `item.select` names none.
    """
    pieces = read()
    data = b""
    while len(data.lstrip(_BLANKS)) < _WINDOW and (piece := next(pieces, None)) is not None:
        data += piece
    body = data.lstrip(_BLANKS)
    first, end, rest = body.partition(b"\n")
    is_record = bool(end) and _is_json(first)
    behind = bool(rest.strip()) or (is_record and any(piece.strip() for piece in pieces))
    named_json = item.format == "json" or item.select is not None
    if body[:1] == b"[":
        if item.select is not None:
            raise _no_choice(item, "an array")
        if named_json or not behind or (not is_record and _begins_well(body)):
            start = len(data) - len(body)
            return Layout("array", start + 1, 1 + data.count(b"\n", 0, start))
    elif body[:1] == b"{":
        if is_record and behind and item.select is None:
            return Layout("lines")
        if named_json or (not is_record and _begins_well(body)):
            return _of_object(read, item, named)
    return Layout("lines")


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _begins_well(body: bytes) -> bool:
    """Whether a text is the beginning of JSON that goes on over the ends of its lines.

    A line that is cut off, as the first of a file of lines, does not go on in the next.
    """
    # The line after the first one decides, however long it is.
    second = body.find(b"\n", body.find(b"\n") + 1)
    text = body[: max(_WINDOW, second + 1)].rpartition(b"\n")[0].decode(errors="replace").rstrip()
    try:
        json.JSONDecoder().raw_decode(text)
    except json.JSONDecodeError as error:
        return bool(text) and error.pos >= len(text)
    except RecursionError:
        pass
    return True


def _of_object(read: Read, item: Input, named: Collection[str]) -> Layout:
    """The layout of a text that begins with an object."""
    roots = {name for path in named for name in (path, path.partition(".")[0].partition("[")[0])}

    def is_told(key: str) -> bool:
        return key in roots or _plain(key) in _OF_RECORDS

    seen = outline(read(), item.label, asked=item.select, is_told=is_told)
    if not seen.closed and seen.size > MAX_RECORD:
        raise BadInput(f"{item.label}: line {seen.line}: the file ends inside the object.")
    if seen.behind or not seen.closed:
        if item.select is not None:
            raise _no_choice(item, "several objects, or a part of one")
        return Layout("lines" if seen.closed and seen.is_line else "objects")
    if seen.fault is not None:
        if seen.size > MAX_RECORD:
            raise BadInput(f"{item.label}: not valid JSON; {seen.fault}.")
        return Layout("objects")
    return _records_inside(read, item, seen)


def _records_inside(read: Read, item: Input, seen: Outline) -> Layout:
    if item.select is not None:
        if seen.asked is None:
            raise BadInput(
                f"{item.label}: no key {item.select!r} with a list; got"
                f" {_listed([one.key for one in seen.lists] or seen.names)}.",
            )
        return Layout("list", seen.asked.at, seen.asked.line)
    if seen.told:
        return Layout("objects")
    if not seen.lists:
        return _map_of(read, item, seen) or Layout("objects")
    for one in seen.lists:
        if _is_messages(_first_of(read, item, one)):
            return Layout("objects")
    keys = list(dict.fromkeys(one.key for one in seen.lists))
    if len(keys) > 1 or seen.lists_in_all > MOST_NAMES:
        count = f" (the first of {seen.lists_in_all:,})" * (seen.lists_in_all > MOST_NAMES)
        raise BadInput(
            f"{item.label}: several keys hold lists of objects, and which are the records cannot be"
            f" told; got {_listed(keys)}{count}, expected one.",
            hint=f"name one: '{item.label}#{keys[0]}'. An object that is itself a record goes into"
            " a .jsonl file, on one line.",
        )
    only = seen.lists[0]
    note = f"{item.label}: records are in {only.key!r}"
    if len(seen.lists) > 1:
        note += " (the key is there twice; the first counts)"
    if seen.names:
        note += f"; what its other keys hold is left out: {_listed(seen.names)}"
        if seen.objects + seen.others - 1 > len(seen.names):
            note += ", ..."
    return Layout("list", only.at, only.line, note=f"{note}.")


def _map_of(read: Read, item: Input, seen: Outline) -> Layout | None:
    """The layout of an object whose values are records; None where they are not."""
    if seen.others or seen.objects < 2:
        return None
    inside = elements(_after(read(), seen.start), item.label, seen.line, close="}")
    first = (_value(b"{" + text + b"}") for text in _texts(next(inside, None)))
    # A value that is no JSON is a row that is malformed.
    if not _are_alike([value for entry in first if entry for value in entry.values()]):
        return None
    key = "key"
    while key in seen.key_names:
        key = f"_{key}"
    note = (
        f"{item.label}: the values of one object are the records, its keys are in the column"
        f" {key!r}."
    )
    return Layout("map", seen.start, seen.line, key, note)


def _are_alike(values: list[dict[str, Any]]) -> bool:
    """Whether each value has half of the keys of the first, or the first half of its keys.

    Keys that are numbers are those of the rows of a table that was written column by column.
    """
    first = set(values[0]) if values else set()
    if all(key.isdigit() for key in first):
        return False
    return all(2 * len(first & value.keys()) >= min(len(first), len(value)) for value in values)


def _first_of(read: Read, item: Input, one: Member) -> Any:
    """The first element of a list; None where it is no JSON."""
    block = next(elements(_after(read(), one.at), item.label, one.line, last=False), None)
    return next(map(_value, _texts(block)), None)


def _texts(block: Block | Bad | None) -> list[bytes]:
    if not isinstance(block, Block) or block.starts is None:
        return []
    starts = block.starts[: _MOST_COMPARED + 1].tolist()
    return [block.data[start:end] for start, end in itertools.pairwise(starts)]


def _value(text: bytes) -> Any:
    try:
        return json.loads(text, parse_int=str)
    except (ValueError, RecursionError):
        return None


def _is_messages(value: Any) -> bool:
    return isinstance(value, dict) and any(value.keys() >= set(names) for names in MESSAGE_KEYS)


def _after(pieces: Iterator[bytes], skip: int) -> Iterator[bytes]:
    """The text after its first `skip` bytes."""
    for piece in pieces:
        if skip < len(piece):
            yield piece[skip:]
        skip = max(0, skip - len(piece))


def _with_keys(block: Block | Bad, name: str) -> Block | Bad:
    """Members of an object, `"k": {...}`, as records, `{"key":"k",...}`, each in its own lines."""
    if isinstance(block, Bad) or block.starts is None:
        return block
    texts = []
    column = json.dumps(name).encode()
    for start, end in itertools.pairwise(block.starts.tolist()):
        text = block.data[start:end]
        match = KEY.match(text)
        if match is None or text[match.end() : match.end() + 1] != b"{":
            texts.append(text)
            continue
        key, inner = match[1], text[match.end() + 1 :]
        comma = b"" if inner.lstrip()[:1] == b"}" else b","
        # Line ends before the key and around its colon stay, so that a record keeps its lines.
        lead, _, between = match[0].partition(key)
        texts.append(
            b"".join((lead, b"{", column, b":", key, between.replace(b":", b"", 1), comma, inner))
        )
    ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
    return Block(b"".join(texts), block.line, starts=np.concatenate(([0], ends)))


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names[:MOST_NAMES])) or "no key"


def _no_choice(item: Input, got: str) -> BadInput:
    return BadInput(
        f"{item.label}: '#{item.select}' chooses a key of one object around the records; got {got}."
    )
