"""What people type for a table: `delta:PATH`, `iceberg:CATALOG.NAMESPACE.TABLE`, ... Nothing opens
here.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Literal

from prefmill.errors import BadArgument
from prefmill.objects import refuse_unknown, scheme_of, url_of

Kind = Literal["delta", "iceberg", "lance", "duckdb", "sqlite", "postgres"]
#: How each kind is spelled, for messages.
SPELLED: dict[Kind, str] = {
    "delta": "delta:PATH_OR_URL",
    "iceberg": "iceberg:CATALOG.NAMESPACE.TABLE",
    "lance": "lance:PATH_OR_URL",
    "duckdb": "duckdb:FILE#TABLE",
    "sqlite": "sqlite:FILE#TABLE",
    "postgres": "postgresql://HOST/DATABASE#TABLE",
}
TABLES = list(SPELLED.values())
_KINDS: dict[str, Kind] = {kind: kind for kind in SPELLED} | {"postgresql": "postgres"}
#: Of a connection string what may be shown.
_SHOWN = re.compile(r"(?<!\S)(?:host|port|dbname|service)=(?:'[^']*'|\S+)")
#: User and password, then host, port and database, then more words.
_URL = re.compile(
    r"postgresql://(?:[^@/?#]*@)?((?:[\w.%~-]|\[[\da-fA-F:.]+\]|:\d*(?![^/,?])|,)*(?:/[^/?@]*)?)"
    r"(?:\?[^@]*)?$"
)
#: A database that is known by its name alone, as psql takes it.
_DATABASE = re.compile(r"[\w.-]+$")


@dataclass(frozen=True)
class Address:
    """Where a table is: in a file, a folder, a catalog or a database (`place`), and its `name`
    there.
    """

    kind: Kind
    place: str
    name: tuple[str, ...] = ()

    @classmethod
    def of(cls, text: object) -> Address | None:
        """The address that a target or an input names; None of anything else.

        Raises `BadArgument` for one that is not whole. A local file of such a name is `./delta:x`.

        >>> Address.of("duckdb:out/pairs.duckdb#main.pairs")
        Address(kind='duckdb', place='out/pairs.duckdb', name=('main', 'pairs'))
        >>> Address.of("delta:s3://bucket/pairs").place, Address.of("./delta:x")
        ('s3://bucket/pairs', None)
        """
        word, mark, rest = str(text).partition(":")
        kind = _KINDS.get(word.lower())
        if not mark or kind is None:
            return None
        address = _PARSERS[kind](kind, rest)
        if address is None:
            got = _shown_of(_as_url(rest)) if kind == "postgres" else str(text)
            raise BadArgument(
                f"table: cannot tell which one is meant; got {got!r}, expected {SPELLED[kind]}."
            )
        address._check_place()
        return address

    def _check_place(self) -> None:
        """Raise `BadArgument` for a place that such a table cannot have."""
        if self.kind in ("delta", "lance"):
            refuse_unknown(self.place, "table")
        elif self.kind == "postgres" and "://" in self.place and not _URL.match(self.place):
            raise BadArgument(
                f"table: cannot tell user and password from the rest; got {self.shown!r}.",
                hint="in them @ is %40, / is %2F, : is %3A and ? is %3F; better leave the password"
                " to PGPASSWORD or ~/.pgpass.",
            )
        elif self.kind in ("duckdb", "sqlite") and scheme_of(self.place) is not None:
            raise BadArgument(
                f"table: a database is a file on this machine; got {self.shown!r}.",
                hint="tables in an object store are delta:URL or lance:URL.",
            )

    @property
    def shown(self) -> str:
        """The address as its owner would know it, without secrets.

        >>> Address.of("postgresql://me:secret@db.host:5433/shop?password=x#pairs").shown
        'postgresql://db.host:5433/shop#pairs'
        """
        name = ".".join(self.name)
        if self.kind == "iceberg":
            return f"iceberg:{self.place}.{name}"
        if self.kind == "postgres":
            return f"{_shown_of(self.place)}#{name}"
        return f"{self.kind}:{self.place}" + (f"#{name}" if name else "")


def _shown_of(place: str) -> str:
    """Host, port and database of a connection string; nothing of what could be a secret."""
    if place.startswith("postgresql://"):
        found = _URL.match(place)
        return f"postgresql://{found[1] if found else '...'}"
    if _DATABASE.match(place):
        return f"postgres:{place}"
    return f"postgres:{' '.join(_SHOWN.findall(place))}"


def _folder(kind: Kind, rest: str) -> Address | None:
    # As `delta://out` it would be a folder at the root of the disk.
    if not rest or rest.startswith("//"):
        return None
    return Address(kind, url_of(rest))


def _file(kind: Kind, rest: str) -> Address | None:
    file, mark, table = rest.rpartition("#")
    if not mark or not file or not table or file.startswith("//"):
        return None
    name = tuple(table.split(".", 1)) if kind == "duckdb" else (table,)
    return Address(kind, file, name) if all(name) else None


def _catalog(kind: Kind, rest: str) -> Address | None:
    catalog, *name = rest.split(".")
    return Address(kind, catalog, tuple(name)) if catalog and len(name) > 1 and all(name) else None


def _database(kind: Kind, rest: str) -> Address | None:
    place, mark, table = rest.rpartition("#")
    name = tuple(table.split(".", 1))
    if not mark or not place or not all(name):
        return None
    return Address(kind, _as_url(place), name)


def _as_url(place: str) -> str:
    place = re.sub(r"^postgres(ql)?:(?=/)", "", place)
    if not place.startswith("/"):
        return place
    if place.startswith("///"):  # no host: the one of this machine, or of PGHOST
        return f"postgresql:{place}"
    # `Path` takes one slash of a URL away.
    return f"postgresql://{place.lstrip('/')}"


_PARSERS = {
    "delta": _folder,
    "lance": _folder,
    "iceberg": _catalog,
    "duckdb": _file,
    "sqlite": _file,
    "postgres": _database,
}


def version_of(file: str) -> str:
    """Size and time of a database's file and of its log."""
    states = [
        os.stat(path) for path in (file, f"{file}.wal", f"{file}-wal") if os.path.exists(path)
    ]
    return " ".join(f"{state.st_size}@{state.st_mtime_ns}" for state in states)
