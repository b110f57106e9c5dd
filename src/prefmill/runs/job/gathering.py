"""The rows of output of ranked slots: their texts are fetched, and frames are assembled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa

from prefmill.connection import MB, lower_limit, release, share_of
from prefmill.progress import Progress, machine_bytes
from prefmill.runs.job.assembly import Assembly
from prefmill.runs.job.bound import BoundPlan
from prefmill.runs.job.gather import Fetch
from prefmill.runs.job.tables import in_order

_FRAME_ROWS = 50_000
# Texts held at a time without a memory limit; what is more than this is spilled.
_PART_BYTES = min(3072 * MB, machine_bytes() // 8)


class Gathering:
    """The output of the table `slots`, and which slots have no row.

    Attributes:
        done: all frames were taken.
        same_text: slots of pairs whose two texts are one.
        excluded: slots of pairs that a file of ids left out.
        ids_met: the ids by which they were.
    """

    def __init__(
        self,
        con: duckdb.DuckDBPyConnection,
        bound: BoundPlan,
        assembly: Assembly,
        *,
        home: Path,
        tell: Progress,
        memory_bytes: int | None,
    ) -> None:
        self._con, self._bound, self._assembly = con, bound, assembly
        self._home, self._tell, self._memory_bytes = home, tell, memory_bytes
        # Picks are few and ranked over many: small parts and frames keep a run of them within half
        # a gigabyte, and cost it nothing.
        self._part_bytes, self._frame_rows = _PART_BYTES, _FRAME_ROWS
        if bound.output.few:
            self._part_bytes = min(_PART_BYTES, 16 * MB)
            self._frame_rows = max(1, _FRAME_ROWS // 3)
        if memory_bytes:
            self._part_bytes = min(self._part_bytes, (memory_bytes - 300 * MB) // 8)
        shape = bound.rowed.shape
        self._checked = not (shape and any(len(each.lists) > 1 for each in shape.variants))
        self.done = False
        self.same_text: list[int] = []
        self.excluded: list[int] = []
        self.ids_met: set[str] = set()

    def frames_and_slots(self) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
        """The output, in order, as frames of the assembly's schema, each with its slots."""
        yield from self._frames()
        self.check_lists()
        self.done = True

    def _frames(self) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
        ((slots,),) = self._con.execute("SELECT count(*) FROM slots").fetchall()
        sides = tuple(self._bound.output.texts.values())
        fetch = Fetch(
            con=self._con.cursor(),
            source="texts",
            columns=self._assembly.columns_read(),
            wanted="slots",
            sides=sides,
            slots=slots,
            rows=self._bound.source.positions,
            text_bytes=slots * len(sides) * self.row_bytes(),
            part_bytes=self._part_bytes,
            spill=self._home / "texts.arrow",
            of_records=self._bound.rowed.shape is not None,
        )
        done = 0
        for first, last, rows, where in fetch.parts():
            if not done and self._memory_bytes:
                # The encoder, and parts of text, need what ranking had.
                lower_limit(self._con, share_of(self._memory_bytes))
            for numbers in self._slots(first, last):
                frame, why = self._assembly.frame(numbers, rows, where)
                height = numbers.height
                if why is not None:
                    self._left_out(numbers["slot"], why)
                    numbers = numbers.filter(why.is_null())
                yield frame, numbers
                done += height
                self._tell("writing", done / slots)
        if slots:
            self._checked = True

    def _slots(self, first: int, last: int) -> Iterator[pl.DataFrame]:
        """Slots `first` to `last` (exclusive), in order, as the table keeps them, some at a
        time.
        """
        with in_order(self._con):
            query = f"SELECT * FROM slots WHERE slot >= {first} AND slot < {last}"
            for batch in self._con.cursor().sql(query).to_arrow_reader(self._frame_rows):
                yield pl.DataFrame(pa.Table.from_batches([batch]))

    def _left_out(self, slots: pl.Series, why: pl.Series) -> None:
        """Remember the pairs that have no row, and `why` (`Assembly.frame`)."""
        self.same_text += slots.filter(why == "").to_list()
        excluded = why.fill_null("") != ""
        self.excluded += slots.filter(excluded).to_list()
        self.ids_met.update(*(ids.split() for ids in why.filter(excluded)))

    def check_lists(self) -> None:
        """Look whether lists have equal lengths, if texts were not read: that is a look."""
        if self._checked:
            return
        self._checked = True
        self._con.execute("SELECT count(_pos) FROM texts").fetchall()

    # Sizes

    def row_bytes(self) -> int:
        """The mean size of a row's texts that are gathered, from the first 20,000 rows."""
        return self._mean_bytes("texts", self._assembly.columns_read())

    def narrow_bytes(self) -> int:
        """The mean size of what is kept of a row to rank it, from the first 20,000 rows."""
        read = self._bound.program.read
        columns = list(read.columns())
        if not read.merged:
            columns.remove("_completion")
        return self._mean_bytes("numbered", columns)

    def _mean_bytes(self, view: str, columns: Sequence[str]) -> int:
        sizes = ", ".join(f"coalesce(strlen({column}::VARCHAR), 0)" for column in columns)
        ((width,),) = self._con.execute(
            f"SELECT avg(list_sum([{sizes}]::BIGINT[])) FROM (SELECT * FROM {view} LIMIT 20000)"
        ).fetchall()
        self.hand_back()
        return int(width or 0) + 32

    def hand_back(self) -> None:
        """Rows of records are made of whole records, again by each query: that takes much, and
        DuckDB keeps what it has freed.
        """
        if self._bound.rowed.shape is not None:
            release(self._con)
