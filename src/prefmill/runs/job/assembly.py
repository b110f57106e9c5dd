"""How slots become rows of output: their columns, and the texts of each.

A slot is one row of output as numbers: positions of its texts, scores, what orders it. Texts come
from whoever gathered them. An assembly is data, so that it travels to another process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import polars as pl

from prefmill.connection import quote
from prefmill.engines.steps import Column, Kept, Output, kept_columns, kept_names
from prefmill.errors import BadArgument, BadInput
from prefmill.runs.job.excluding import hits
from prefmill.shapes.cells import RECORD
from prefmill.shapes.source import Rowed
from prefmill.table.context import context_of, refuse_different
from prefmill.table.roles import OfRecords, Roles

if TYPE_CHECKING:
    from prefmill.runs.job.gather import Where

Take = Callable[[str, str], pl.Series]


@dataclass(frozen=True)
class Assembly:
    """The columns of the output of a run.

    keep    columns of the input that come along, in the order of `_keep0`, `_keep1` ...
    kept    what becomes of them, where rows are not whole
    renamed of whole rows: columns of the input that the output needs itself, by their new names
    key_is_prompt  slots have the prompt already, as `_grp`
    excluded  ids of pairs that do not come out (`excluding`)
    """

    output: Output
    roles: Roles
    dtypes: pl.Schema
    whole_rows: bool
    aggregated: bool
    labels: tuple[str, ...]
    keep: tuple[str, ...] = ()
    kept: tuple[Kept, ...] = ()
    renamed: Mapping[str, str] | None = None
    key_is_prompt: bool = False
    excluded: frozenset[str] = frozenset()

    # Columns

    def schema(self) -> pl.Schema:
        """Columns and dtypes of the output."""
        return pl.Schema(self._columns_out())

    def _columns_out(self) -> list[tuple[str, pl.DataType]]:
        if self.whole_rows:
            new = self.renamed or {}
            of_input = [(new.get(name, name), self.dtypes[name]) for name in self.keep]
            return [*of_input, *((name.removeprefix("_"), dtype) for name, dtype in self._added())]
        completion = self.dtypes[self.roles.completion]
        texts = [("prompt", self.dtypes[self.roles.prompt])]
        texts += [(name, completion) for name in self.output.texts]
        # Of rows that can be whole no layout has these columns: their names are still ours.
        ours = [
            (column.ours if self.output.added else column.name, _dtype(column))
            for column in self._values()
        ]
        return [*texts, *ours, *((each.name, self.dtypes[each.column]) for each in self.kept)]

    def _values(self) -> list[Column]:
        """The columns of slots that come out next to texts."""
        return [column for column in self.output.columns if not column.of_row]

    @property
    def unwritten(self) -> list[str]:
        """Columns of `schema()` that no trainer's layout has; whole rows have them all."""
        if self.whole_rows:
            return []
        return [column.ours for column in self.output.columns if column.whole_only]

    def _added(self) -> list[tuple[str, pl.DataType]]:
        """What whole rows have after their own columns: columns of slots, which begin with an
        underscore.
        """
        dtypes = {column.ours: _dtype(column) for column in self.output.columns}
        added = [(name, dtypes[name]) for name in self.output.added]
        return [*added, ("_aggregated_score", pl.Float64())] if self.aggregated else added

    def slot_columns(self) -> list[str]:
        """The columns of slots."""
        output = self.output
        columns = [*output.also, *output.texts.values()]
        columns += [column.ours for column in output.columns if not column.of_row]
        return [*columns, "_grp"] if self.key_is_prompt else columns

    def texts(self, relation: str, position: str) -> str:
        """The SELECT of `_pos`, `_prompt`, `_completion` and `_keep0` ... of the input's rows."""
        prompt, completion = quote(self.roles.prompt), quote(self.roles.completion)
        texts = [f"{position} AS _pos", f"{prompt} AS _prompt", f"{completion} AS _completion"]
        texts += [f"{quote(name)} AS _keep{place}" for place, name in enumerate(self.keep)]
        return f"SELECT {', '.join(texts)} FROM {relation}"

    def columns_read(self) -> list[str]:
        """The columns of `texts` that are gathered."""
        places = enumerate(self.keep)
        if self.whole_rows:
            return [f"_keep{place}" for place, name in places if not self._known(name)]
        columns = ["_completion", *(f"_keep{place}" for place, _ in places)]
        return columns if self.key_is_prompt else ["_prompt", *columns]

    def _known(self, name: str) -> bool:
        return self.key_is_prompt and name == self.roles.prompt

    # Rows

    def frame(
        self, slots: pl.DataFrame, rows: pl.DataFrame, where: Where
    ) -> tuple[pl.DataFrame, pl.Series | None]:
        """The rows of output for `slots`, and of pairs why a slot was left out.

        That is "" where both texts are one, the ids by which it is excluded, and null for a slot
        that has a row. `rows` are gathered, and `where` finds in them the row of a position.
        """
        places = {
            side: pl.Series(where(slots[side].to_numpy())) for side in self.output.texts.values()
        }

        def take(column: str, side: str) -> pl.Series:
            return rows[column].gather(places[side])

        make = self._whole if self.whole_rows else self._texts
        columns = make(slots, take)
        named = zip(columns, self.schema().items(), strict=True)
        frame = pl.DataFrame([column.alias(name).cast(dtype) for column, (name, dtype) in named])
        self._refuse_nulls(frame)
        return self._without_some(frame, take) if self.output.paired else (frame, None)

    def _whole(self, slots: pl.DataFrame, take: Take) -> list[pl.Series]:
        (side,) = self.output.texts.values()
        columns = [
            slots["_grp"] if self._known(name) else take(f"_keep{place}", side)
            for place, name in enumerate(self.keep)
        ]
        ours = [name for name, _ in self._added()]
        return columns + [slots["_score" if n == "_aggregated_score" else n] for n in ours]

    def _texts(self, slots: pl.DataFrame, take: Take) -> list[pl.Series]:
        sides = list(self.output.texts.values())
        prompt = slots["_grp"] if self.key_is_prompt else take("_prompt", sides[0])
        columns = [prompt, *(take("_completion", side) for side in sides)]
        columns += [slots[column.ours] for column in self._values()]
        for each in self.kept:
            side = sides[each.side == "rejected"]
            columns.append(take(f"_keep{self.keep.index(each.column)}", side))
        return columns

    def _without_some(
        self, frame: pl.DataFrame, take: Take
    ) -> tuple[pl.DataFrame, pl.Series | None]:
        """`frame` without pairs of one text and excluded ones; the two rows of others have the same
        context.
        """
        better, worse = self.output.texts
        same = frame[better] == frame[worse]
        why = pl.select(pl.when(same).then(pl.lit(""))).to_series()
        if self.excluded:
            why = why.fill_null(hits(frame, ("prompt", better, worse), self.excluded))
        gone = why.is_not_null()
        if gone.any():
            frame = frame.filter(~gone)
        for each in (each for each in self.kept if each.side == "both"):
            column = f"_keep{self.keep.index(each.column)}"
            other = take(column, self.output.texts[worse]).cast(frame.schema[each.name])
            prompt = self.dtypes[self.roles.prompt]
            refuse_different(each.name, frame[each.name], other.filter(~gone), prompt)
        return frame, why if gone.any() else None

    def _refuse_nulls(self, frame: pl.DataFrame) -> None:
        """A text that is null was not to be ranked: the statistics of a file say that its column
        has no nulls, and it has.
        """
        names: Sequence[str] = ("prompt", *self.output.texts)
        if self.whole_rows:
            names = (self.roles.prompt, self.roles.completion)
        for name in names:
            if frame[name].null_count():
                files = ", ".join(dict.fromkeys(self.labels))
                raise BadInput(
                    f"{files}: the statistics of a file say that no {name} is null, and some are.",
                    hint="write the file anew with another writer.",
                )


def assembly_of(
    output: Output,
    rowed: Rowed,
    roles: Roles,
    dtypes: pl.Schema,
    *,
    keep: Sequence[str],
    whole_rows: bool,
    trainer: bool,
    of_records: OfRecords,
    aggregated: bool,
    key_is_prompt: bool,
    excluded: frozenset[str] = frozenset(),
) -> Assembly:
    """Which columns of the input come along, and under which names.

    Raises `BadArgument` for a column that the output would have twice.
    """
    columns = _columns_kept(rowed, whole_rows)
    kept_names(keep, columns, where="run")  # whole rows have all of them, and no other
    plain = Assembly(
        output=output,
        roles=roles,
        dtypes=dtypes,
        whole_rows=whole_rows,
        aggregated=aggregated,
        labels=rowed.source.labels,
        key_is_prompt=key_is_prompt,
        excluded=excluded,
        # Whole rows are all columns kept; of the prompt and the completion there is no second copy.
        keep=tuple(columns) if whole_rows else (),
    )
    if whole_rows:
        # A column that is ours stands under its own name. One of the input that had it, an earlier
        # rank, say, gets another.
        ours = {name.removeprefix("_") for name, _ in plain._added()} - {roles.prompt}
        renamed = {name: f"{name}_in" for name in columns if name in ours}
        done = replace(plain, renamed=renamed)
    else:
        context: Mapping[str, str] = {}
        if trainer and output.layouts:
            context = context_of(dtypes, roles, () if output.paired else keep)
        names = [name for name, _ in plain._columns_out()]
        kept = kept_columns(
            output, keep, columns, names, where="run", context=context, of_records=of_records
        )
        places = tuple(dict.fromkeys(each.column for each in kept))
        done = replace(plain, keep=places, kept=tuple(kept))
    names_out = [name for name, _ in done._columns_out()]
    twice = sorted({name for name in names_out if names_out.count(name) > 1})
    if twice:
        raise BadArgument(
            f"run: the input has a column {twice[0]!r}, and the output would have it twice.",
            hint="rename it, or use --format prompt-completion"
            " and --keep the columns that you need.",
        )
    return done


def _columns_kept(rowed: Rowed, whole_rows: bool) -> list[str]:
    """The columns that whole rows have, and of which `keep` may name some."""
    shape, columns = rowed.shape, list(rowed.source.columns.names)
    if shape is None:
        return columns
    inner = {RECORD}
    if whole_rows:
        inner |= shape.consumed - set(shape.variants[0].cells)
    return [name for name in columns if name not in inner]


def _dtype(column: Column) -> pl.DataType:
    kind: pl.DataType = getattr(pl, column.dtype)()
    return kind
