"""The faces of a report: lines for a terminal, a page, a part of a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prefmill.disk.targets import check_free, staging, target_of
from prefmill.errors import BadArgument
from prefmill.reports import page, text
from prefmill.reports.found import Warned
from prefmill.reports.parts import Section
from prefmill.table.showing import Showing

_PAGES = (".html", ".htm")


class Faces(Showing):
    """What has warnings and sections under a title."""

    _where = "report"

    if TYPE_CHECKING:

        @property
        def warnings(self) -> Sequence[Warned]:
            """What needs a look, in words."""

        @property
        def _title(self) -> str: ...

        @property
        def _parts(self) -> list[Section]: ...

    @property
    def ok(self) -> bool:
        """Nothing was found that needs a look."""
        return not self.warnings

    @property
    def found(self) -> list[str]:
        """The names of the warnings."""
        return [each.name for each in self.warnings]

    def __str__(self) -> str:
        return "\n".join(text.lines(self._title, self.warnings, self._parts))

    def _repr_html_(self) -> str:
        return page.fragment(self._title, self.warnings, self._parts)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the report as one page of HTML, at once or not at all.

        Raises `BadArgument` for another kind of file, `TargetExists` where one stands already.
        """
        target = page_target(path, overwrite=overwrite)
        made = page.page(self._title, self.warnings, self._parts)
        with staging([target], where=self._where) as stage:
            stage.path(target).write_text(made, "utf-8")
            stage.publish(overwrite=overwrite)


def page_target(path: str | Path, *, overwrite: bool) -> Path:
    """The target of a page; raises what `Faces.save` raises of it, before any work.

    >>> page_target("report.pdf", overwrite=False)
    Traceback (most recent call last):
    ...
    prefmill.errors.BadArgument: report: cannot write such a page; got 'report.pdf', expected ...
    """
    target = target_of(path, "report")
    if target.suffix.lower() not in _PAGES:
        raise BadArgument(
            f"report: cannot write such a page; got {str(path)!r},"
            " expected a name that ends in .html."
        )
    check_free(target, overwrite=overwrite, where="report")
    return target
