"""An output in parts: one file for each part of the rows, written by workers, all seen at once.

    pairs/part-*.parquet  ->  pairs/part-00000.parquet, part-00001.parquet, ... and prefmill.json

The names have the order of the rows. Until all parts are there they lie in the ledger's folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from prefmill.disk.folders import MARK, check_folder, whole_folder
from prefmill.disk.records import sha256_of
from prefmill.disk.targets import is_object
from prefmill.disk.whole import linked
from prefmill.errors import BadArgument
from prefmill.runs.cluster.pieces import Done, Piece
from prefmill.runs.cluster.texts import Part, Parts, frames_of
from prefmill.runs.cluster.work import Work
from prefmill.writers import write as writers
from prefmill.writers.place import Place

_STAR = "*"


@dataclass(frozen=True)
class PartsOut:
    """A folder, and what its files are called; the star is the number of the part."""

    folder: Path
    name: str

    @classmethod
    def of(cls, output: str | Path) -> PartsOut | None:
        """The parts that `output` names, if its last part has a star.

        >>> PartsOut.of("pairs/part-*.parquet").named(7)
        'part-00007.parquet'
        >>> PartsOut.of("pairs.parquet") is None
        True
        """
        path = Path(output)
        if _STAR not in path.name:
            return None
        if path.name.count(_STAR) > 1 or _STAR in str(path.parent) or not path.parent.name:
            raise BadArgument(
                f"run: parts have one star in the name of their files; got {str(output)!r},"
                " expected a name like 'pairs/part-*.parquet'."
            )
        if is_object(path):
            raise BadArgument(
                f"run: parts are written to a folder; got {str(output)!r}.",
                hint="name one object, or a folder that all workers see.",
            )
        return cls(path.parent, path.name)

    def named(self, number: int) -> str:
        """The name of a part's file."""
        return self.name.replace(_STAR, f"{number:05d}")

    def files(self, staged: Path, numbers: Sequence[int], split: str = "") -> list[Path]:
        """The files of parts where they were made; all, or those of a split."""
        named = [self.named(number) for number in numbers]
        if split:
            return [Place.of(staged / each).path_of(split) for each in named]
        return [path for each in named for path in sorted(staged.glob(_of_part(each)))]

    def check(self, *, overwrite: bool, spreadsheet_safe: bool = False) -> None:
        """Raise what writing would raise about the names, before hours of work."""
        first = self.folder / self.named(0)
        writers.check_target(first, overwrite=True, spreadsheet_safe=spreadsheet_safe)
        check_folder(self.folder, overwrite=overwrite, where="run")

    def publish(self, staged: Path, numbers: Sequence[int], *, overwrite: bool) -> None:
        """Let all files appear at once; those of other runs that stood there are gone then."""
        with whole_folder(self.folder, overwrite=overwrite, where="run") as folder:
            # What a kill interrupts here is still in the ledger's folder.
            for path in self.files(staged, numbers):
                linked(path, folder / path.name)
            told = {"name": self.name, "parts": len(numbers)}
            (folder / MARK).write_text(json.dumps(told), encoding="utf-8")


def _of_part(name: str) -> str:
    """What the files of a part are called, of all splits."""
    stem, dot, ending = name.partition(".")
    return f"{stem}*{dot}{ending}"


@dataclass(frozen=True)
class Writing:
    """How frames become files: the arguments of `prefmill.writers.write`."""

    staged: str
    out: PartsOut
    schema: pl.Schema
    unwritten: tuple[str, ...]
    options: Mapping[str, Any]


def write_part(
    work: Work, number: int, *, parts: Parts, listed: Sequence[Part], writing: Writing
) -> Done:
    """Part `number` of the output as a file; of pairs of one text its pieces, by bucket."""
    same: list[Piece] = []

    def frames() -> Iterator[pl.DataFrame]:
        for frame in frames_of(work, parts, listed[number], same):
            yield frame.drop(writing.unwritten)

    target = Path(writing.staged) / writing.out.named(number)
    target.parent.mkdir(parents=True, exist_ok=True)
    written = writers.write(frames(), writing.schema, target, overwrite=True, **writing.options)
    files = {Path(path).name: sha256_of(Path(path)) for path in written.paths.values()}
    return Done(same, {"rows": written.rows, "marked": written.marked, "sha256": files})
