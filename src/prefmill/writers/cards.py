"""What cards of data sets and of models are made of: YAML front matter, and Markdown tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence


def front_matter(values: Mapping[str, object]) -> str:
    """The head of a card.

    >>> print(front_matter({"tags": ["prefmill"], "rows": {"in": 3}}))
    ---
    tags:
    - "prefmill"
    rows:
      in: 3
    ---
    """
    return f"---\n{_yaml(values)}---\n"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table: names to the left, numbers to the right.

    >>> table(["", "rows"], [["in", "3"]])
    ['| | rows |', '|---|---:|', '| in | 3 |']
    """
    marks = "|---|" + "---:|" * (len(heads) - 1)
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, *rows)]
    return [lines[0].replace("|  |", "| |"), marks, *lines[1:]]


def _yaml(values: Mapping[str, object], indent: str = "") -> str:
    """YAML of mappings, lists and scalars; a scalar is JSON, of which YAML is a superset."""
    lines = ""
    for key, value in values.items():
        plain = key.replace("_", "").replace("-", "").isalnum() and not key.isdigit()
        name = key if plain else _scalar(key)
        if isinstance(value, Mapping) and value:
            lines += f"{indent}{name}:\n{_yaml(value, indent + '  ')}"
        elif isinstance(value, list) and value and not _nested(value):
            lines += f"{indent}{name}:\n"
            lines += "".join(f"{indent}- {_scalar(item)}\n" for item in value)
        else:
            lines += f"{indent}{name}: {_scalar(value)}\n"
    return lines


def _nested(items: Sequence[object]) -> bool:
    return any(isinstance(item, Mapping | list) for item in items)


def _scalar(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
