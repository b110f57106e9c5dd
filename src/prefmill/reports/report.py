"""`prefmill.report`: what preference data looks like before it costs GPU hours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from prefmill.errors import BadArgument
from prefmill.plans import Pairs
from prefmill.progress import Progress
from prefmill.reports.cut import MAX_LENGTH, Cutter
from prefmill.reports.faces import Faces
from prefmill.reports.found import Figures, Warned
from prefmill.reports.look import PAIRS_SHOWN, look
from prefmill.reports.parts import Section
from prefmill.reports.sections import sections
from prefmill.reports.warned import warnings
from prefmill.runs.job.opening import Reading
from prefmill.table.roles import Inputs, RoleNames
from prefmill.telemetry.watch import watched

if TYPE_CHECKING:
    from prefmill.reports.alike import Alikes


@dataclass(frozen=True)
class Report(Faces):
    """What was found of preference data: `figures`, and `warnings` in words.

    `str` is the report in lines, for a terminal; `save` writes it as a page; a notebook shows it.
    """

    figures: Figures
    warnings: Sequence[Warned]

    @cached_property
    def _parts(self) -> list[Section]:
        return sections(self.figures)

    @property
    def _title(self) -> str:
        return f"Report on {self.figures.name} ({self.figures.kind})"

    def as_json(self) -> dict[str, Any]:
        """Plain values only."""
        told = {"ok": self.ok, "warnings": [asdict(each) for each in self.warnings]}
        return {**told, **asdict(self.figures)}


@watched("report")
def report(
    inputs: Inputs,
    *,
    plan: Pairs | None = None,
    pairs: int = PAIRS_SHOWN,
    near: bool = False,
    alike: bool = False,
    encoder: str | Path | None = None,
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
        alike: look for prompts that mean nearly the same in other words, too: the vectors of an
            encoder, from a cosine of 0.8 on. It needs the extra `worth`, and takes about 10 ms a
            prompt; of more than 20,000, so many are drawn.
        encoder: that encoder, a folder or a hub id; None: all-MiniLM-L6-v2 from its package.
        against: benchmark files, whose texts are looked for in prompts and answers: 13 words in a
            row. It takes about 0.2 ms for a different text of 1,000 characters.
        tokenizer: a folder with a tokenizer: which answers does a limit cut, and which pairs become
            the same? It needs the extra `score`, and nothing is fetched.
        max_length: that limit, of tokens of a prompt with its answer; None: 1,024, as TRL has it.
        roles, progress, reading: as in `prefmill.run`.

    Cost: one pass over texts in the engine, then numbers: about 100 bytes a row, which DuckDB
    spills beyond `memory_bytes`; without it beyond 100 bytes a row, and 1.3 GB at least. Raises
    `PrefmillError`s for inputs that cannot be read.

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
    asked["alikes"] = _alikes(encoder, alike=alike)
    figures = look(inputs, progress=progress, **asked, **reading)
    return Report(figures, warnings(figures))


def _alikes(encoder: str | Path | None, *, alike: bool) -> Alikes | None:
    if alike:
        from prefmill.reports.alike import Alikes

        return Alikes(encoder)
    if encoder is None:
        return None
    raise BadArgument(
        f"report: an encoder reads what prompts mean; got encoder={str(encoder)!r} without alike.",
        hint="--alike (alike=True) looks for prompts that mean nearly the same.",
    )


def _cutter(tokenizer: str | Path | None, max_length: int | None) -> Cutter | None:
    if tokenizer is not None:
        return Cutter(tokenizer, MAX_LENGTH if max_length is None else max_length)
    if max_length is None:
        return None
    raise BadArgument(
        f"report: a limit is of tokens; got max_length={max_length!r} without a tokenizer.",
        hint="--tokenizer DIR (tokenizer=) names the folder of the model that is to be trained.",
    )
