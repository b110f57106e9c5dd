"""What a report looks like in a notebook, and in lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prefmill.progress import notebook
from prefmill.shown import shown


def cells(fields: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """The fields of a report that have a value, those inside of a field one by one.

    >>> list(cells({"rows_in": 5, "dropped": {"tie": 2}, "notes": ()}))
    [('rows_in', '5'), ('dropped: tie', '2')]
    """
    for name, value in fields.items():
        if isinstance(value, Mapping):
            for key, each in value.items():
                yield (f"{name}: {key}" if key else name), shown(str(each))
        elif value not in (None, (), []):
            yield name, shown(str(value))


def as_html(fields: Mapping[str, object]) -> str:
    """The fields of a report as a table, for notebooks; empty ones are left out.

    >>> as_html({"rows_in": 5, "dropped": {"tie": 2}, "notes": ()})
    '<table><tr><td>rows_in</td><td>5</td></tr><tr><td>dropped: tie</td><td>2</td></tr></table>'
    """
    import html  # most runs show nothing

    rows = (
        f"<tr><td>{html.escape(shown(name))}</td><td>{html.escape(value)}</td></tr>"
        for name, value in cells(fields)
    )
    return f"<table>{''.join(rows)}</table>"


def lines(fields: Mapping[str, object]) -> str:
    """The same in lines.

    >>> print(lines({"rows_in": 5, "dropped": {"tie": 2}}))
    rows_in       5
    dropped: tie  2
    """
    told = [(shown(name), value) for name, value in cells(fields)]
    width = max((len(name) for name, _ in told), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in told)


def display(what: object, text: str) -> None:
    """Show `what` in a notebook, and `text` on stdout elsewhere."""
    if notebook():
        import IPython.display as cell

        cell.display(what)  # type: ignore[no-untyped-call]
    else:
        print(text)


class Showing:
    """A report that a notebook shows as a table; `show()` does so anywhere in a cell."""

    def as_json(self) -> dict[str, Any]:
        """The report with plain values only."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        return as_html(self.as_json())

    def show(self) -> None:
        """Show the report: in a notebook as it shows one, elsewhere as lines on stdout."""
        has_words = type(self).__str__ is not object.__str__
        display(self, str(self) if has_words else lines(self.as_json()))
