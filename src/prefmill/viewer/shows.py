"""A row as a page shows it: texts whose control characters are spelled out, turns, differences."""

from __future__ import annotations

import json
import math
from typing import Any

from prefmill.shown import shown
from prefmill.viewer.table import LONG, Table
from prefmill.viewer.words import difference

#: Whole numbers beyond this are other ones in JavaScript.
_EXACT = 2**53
_ROLES, _CONTENTS = ("role", "from"), ("content", "value")


def plain(value: Any) -> Any:
    """A value that JSON and JavaScript have; what they have not is text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) <= _EXACT else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {shown(str(name)): plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return shown(value.replace("\r\n", "\n") if isinstance(value, str) else str(value))


def row_told(table: Table, position: int, other: int | None = None) -> dict[str, Any]:
    """All of a row; its two sides compared, or its answer with that of the row `other`."""
    row = table.row(position)
    cells = {name: _cell(table, name, value) for name, value in row["cells"].items()}
    told: dict[str, Any] = {
        "row": position,
        "more": {
            shown(name): size - LONG
            for name, size in row["lengths"].items()
            if isinstance(cells[name], str)
        },
    }
    layout = table.layout
    if layout.sides is not None:
        one, two = (cells[name] for name in layout.sides)
        told["sides"] = _compared(layout.sides, one, two)
    elif layout.answer is not None and other is not None:
        there = table.row(other)["cells"]
        names: tuple[str, ...] = (f"row {position}", f"row {other}")
        if layout.score:
            scores = (row["cells"][layout.score], there[layout.score])
            names = tuple(f"{n}, {plain(s)}" for n, s in zip(names, scores, strict=True))
        answer = _cell(table, layout.answer, there[layout.answer])
        told["sides"] = _compared(names, cells[layout.answer], answer)
    told["cells"] = {shown(name): plain(cell) for name, cell in cells.items()}
    return told


def _cell(table: Table, name: str, value: Any) -> Any:
    """A cell; nested ones as what their JSON says, if it is whole."""
    if not isinstance(value, str) or not table.columns[name].is_nested:
        return value
    try:
        return _turns(json.loads(value))
    except ValueError:
        return value


def _turns(value: Any) -> Any:
    """Messages as pairs of role and content, for `{"turns": [...]}`; all else as it is."""
    if not isinstance(value, list) or not value:
        return value
    turns = []
    for each in value:
        if not isinstance(each, dict):
            return value
        role = next((each[name] for name in _ROLES if name in each), None)
        content = next((each[name] for name in _CONTENTS if name in each), None)
        if not isinstance(role, str):
            return value
        if not isinstance(content, str):
            content = "" if content is None else json.dumps(content, ensure_ascii=False)
        turns.append([role, content[:LONG]])
    return {"turns": turns}


def _compared(names: tuple[str, ...], one: Any, two: Any) -> list[dict[str, Any]]:
    pieces = difference(_flat(one), _flat(two))
    return [
        {"name": shown(name), "pieces": [[word, plain(text)] for word, text in side]}
        for name, side in zip(names, pieces, strict=True)
    ]


def _flat(value: Any) -> str:
    """A cell as one text; turns of one message are its content."""
    if isinstance(value, str):
        return value.replace("\r\n", "\n")
    if isinstance(value, dict) and "turns" in value:
        turns = value["turns"]
        if len(turns) == 1:
            return str(turns[0][1])
        return "\n\n".join(f"{role}: {content}" for role, content in turns)
    return "" if value is None else json.dumps(plain(value), ensure_ascii=False)
