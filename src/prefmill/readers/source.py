"""What reading gives: Parquet files that together are one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from prefmill.connection import literal
from prefmill.errors import BadInput
from prefmill.table.json_values import is_json
from prefmill.table.roles import Roles


@dataclass(frozen=True)
class Source:
    """Parquet files that together are one table.

    Hive partition columns are text, whatever they look like: read with
    `hive_types_autocast = false` in DuckDB, and without `hive_partitioning` where `hive` is false,
    since a folder may be named `a=b` by chance.
    """

    files: tuple[str, ...]  #: Parquet paths or URLs, in the order of positions
    columns: (
        pa.Schema
    )  #: of the union by name of all files, with hive partition columns; one of nulls only is text
    rows: int  #: in all files; rejected rows are not among them
    file_rows: tuple[int, ...]  #: rows of each file
    nulls: frozenset[str]  #: columns that may hold nulls
    rejected: int  #: malformed rows that went to the rejects file
    remote: bool  #: some file is a URL
    hive: bool  #: partition columns are read from the paths
    mixed: Mapping[str, str] = field(
        default_factory=dict
    )  #: columns of several kinds of values, and where each kind is
    notes: tuple[str, ...] = ()  #: what people should know of how the files were read
    labels: tuple[str, ...] = ()  #: how the caller would name the input of each file

    @property
    def relation(self) -> str:
        """The table as DuckDB reads it; its rows have the order of positions."""
        files = ", ".join(literal(file) for file in self.files)
        hive = "hive_partitioning = false"
        if self.hive:
            hive = "hive_partitioning = true, hive_types_autocast = false"
        return f"read_parquet([{files}], union_by_name = true, {hive})"

    def place_of(self, position: int, name: object = None, *, home: Path) -> str:
        """A row as its owner finds it: its place in its file, counted from 0, the file's name, and
        `name`, its id, where it has one.

        What lies in `home` is a file of ours that the owner has never seen.
        """
        for label, rows in zip(self.labels, self.file_rows, strict=True):
            if position < rows:
                file = "" if Path(label).is_relative_to(home) else f" of {label!r}"
                return f"row {position}{file}" + ("" if name is None else f" (id {name!r})")
            position -= rows
        raise IndexError(position)

    def refuse_mixed(self, roles: Roles, *, where: str) -> None:
        """Raise `BadInput` for a text role whose column holds values of several kinds, saying where
        they are.
        """
        for role in ("prompt", "completion", "id", "annotator", "aspect", "stage"):
            name = getattr(roles, role)
            if name and name in self.columns.names and is_json(self.columns.field(name).type):
                held = self.mixed.get(name, "objects, or lists, that no column type holds")
                raise BadInput(
                    f"{where}: the column {name!r} cannot be the role {role!r}; got {held}, expected values of one kind.",
                    hint=f"make them alike in the file, or name another column: {role}=COLUMN (--{role} COLUMN).",
                )
