"""`prefmill.report`: what preference data looks like before it costs GPU hours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

from prefmill.disk.targets import check_free, staging, target_of
from prefmill.errors import BadArgument
from prefmill.plans import Pairs
from prefmill.progress import Progress
from prefmill.reports import page, text
from prefmill.reports.cut import MAX_LENGTH, Cutter
from prefmill.reports.found import Figures, Warned
from prefmill.reports.look import PAIRS_SHOWN, look
from prefmill.reports.sections import Section, sections
from prefmill.reports.warned import warnings
from prefmill.runs.job import Reading
from prefmill.table.roles import Inputs, RoleNames
from prefmill.table.showing import Showing
from prefmill.telemetry.watch import watched

_PAGES = (".html", ".htm")


@dataclass(frozen=True)
class Report(Showing):
    """What was found of preference data: `figures`, and `warnings` in words.

    `str` is the report in lines, for a terminal; `save` writes it as a page; a notebook shows it.
    """

    figures: Figures
    warnings: Sequence[Warned]

    @property
    def ok(self) -> bool:
        """Nothing was found that needs a look."""
        return not self.warnings

    @property
    def found(self) -> list[str]:
        """The names of the warnings."""
        return [each.name for each in self.warnings]

    @cached_property
    def _parts(self) -> list[Section]:
        return sections(self.figures)

    @property
    def _title(self) -> str:
        return f"Report on {self.figures.name} ({self.figures.kind})"

    def __str__(self) -> str:
        return "\n".join(text.lines(self._title, self.warnings, self._parts))

    def _repr_html_(self) -> str:
        return page.fragment(self._title, self.warnings, self._parts)

    def as_json(self) -> dict[str, Any]:
        """Plain values only."""
        told = {"ok": self.ok, "warnings": [asdict(each) for each in self.warnings]}
        return {**told, **asdict(self.figures)}

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the report as one page of HTML, at once or not at all.

        Raises `BadArgument` for another kind of file, `TargetExists` where one stands already.
        """
        made = page.page(self._title, self.warnings, self._parts)
        save_page(path, made, where="report", overwrite=overwrite)


def save_page(path: str | Path, made: str, *, where: str, overwrite: bool) -> None:
    """Write a page, at once or not at all; raises what `Report.save` raises."""
    target = page_target(path, overwrite=overwrite)
    with staging([target], where=where) as stage:
        stage.path(target).write_text(made, "utf-8")
        stage.publish(overwrite=overwrite)


def page_target(path: str | Path, *, overwrite: bool) -> Path:
    """The target of a page; raises what `Report.save` raises of it, before any work.

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


@watched("report")
def report(
    inputs: Inputs,
    *,
    plan: Pairs | None = None,
    pairs: int = PAIRS_SHOWN,
    near: bool = False,
    against: Sequence[str | Path] = (),
    tokenizer: str | Path | None = None,
    max_length: int | None = None,
    roles: RoleNames | None = None,
    progress: Progress | None = None,
    **reading: Unpack[Reading],
) -> Report:
    """Look at feedback, pairs, labels or pools: what is there, and what a model could learn of it
    that is not quality.

    Args:
        plan: the pairs of feedback that are looked at; None: the default plan, without thresholds
            where these do not fit. Pairs of a file that has pairs are its own.
        pairs: how many pairs there are to read.
        near: look for texts that are nearly the same too, prompts and answers. It needs the extra
            `report`, and takes about 0.3 ms for a different text of 1,000 characters.
        against: benchmark files, whose texts are looked for in prompts and answers: 13 words in a
            row. It takes about 0.2 ms for a different text of 1,000 characters.
        tokenizer: a folder with a tokenizer: which answers does a limit cut, and which pairs become
            the same? It needs the extra `score`, and nothing is fetched.
        max_length: that limit, of tokens of a prompt with its answer; None: 1,024, as TRL has it.
        roles, progress, reading: as in `prefmill.run`.

    Cost: one pass over texts in the engine, then numbers: about 100 bytes a row, which DuckDB
    spills beyond `memory_bytes`. Raises `PrefmillError`s for inputs that cannot be read.

    >>> import polars as pl
    >>> answers = {"chosen": [f"a longer answer {n}" for n in range(40)], "rejected": ["no"] * 40}
    >>> said = pl.DataFrame({"prompt": [f"p{n}" for n in range(40)], **answers})
    >>> done = report(said)
    >>> done.figures.kind, done.figures.pairs, done.found
    ('pairs', 40, ['shared answers', 'length'])
    """
    if type(pairs) is not int or pairs < 0:
        raise BadArgument(f"report: pairs is no number of pairs; got {pairs!r}.")
    asked: Any = {"plan": plan, "roles": roles, "shown": pairs, "near": near}
    asked["against"] = [against] if isinstance(against, str | Path) else list(against)
    asked["cutter"] = _cutter(tokenizer, max_length)
    figures = look(inputs, progress=progress, **asked, **reading)
    return Report(figures, warnings(figures))


def _cutter(tokenizer: str | Path | None, max_length: int | None) -> Cutter | None:
    if tokenizer is not None:
        return Cutter(tokenizer, MAX_LENGTH if max_length is None else max_length)
    if max_length is None:
        return None
    raise BadArgument(
        f"report: a limit is of tokens; got max_length={max_length!r} without a tokenizer.",
        hint="--tokenizer DIR (tokenizer=) names the folder of the model that is to be trained.",
    )
