"""What a reader finds at an output, while it is written and after: a process of its own.

The process that forks lives must not use an engine, so another one reads, and is asked by lines of
JSON.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import sqlite3
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kill_cases
import loop_fakes
import warehouses

from prefmill.runs.records import kept

ABSENT, BUSY = "-", "busy"
#: Where the S3 server listens: set before the reader is forked.
PORT: list[int] = []


def _digest(rows: object) -> str:
    return hashlib.sha256(json.dumps(rows, default=str).encode()).hexdigest()[:16]


def _of_file(name: str, data: bytes) -> object:
    """The rows of one file, in order; of a text its bytes."""
    import polars as pl
    import pyarrow as pa

    if name.endswith(".parquet"):
        frame = pl.read_parquet(io.BytesIO(data))
        if "change" in frame.columns:  # changes have no order
            frame = frame.sort("pair_id", "change")
        return [[f"{c} {t}" for c, t in frame.schema.items()], frame.rows()]
    if name.endswith(".arrow"):
        opened = pa.ipc.open_stream if data[:4] == b"\xff" * 4 else pa.ipc.open_file
        return opened(io.BytesIO(data)).read_all().to_pylist()
    if name.endswith(".gz"):
        import gzip

        data = gzip.decompress(data)
    return hashlib.sha256(data).hexdigest()


def _of_folder(path: Path) -> object:
    """The files of one version of a folder: it is read through a handle, as it may be exchanged."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        here = Path(f"/proc/self/fd/{handle}")
        parts = sorted(here.rglob("*.parquet"))
        if parts:  # one table in parts: how it is cut into them is free
            tables = [_of_file(part.name, part.read_bytes()) for part in parts]
            return [tables[0][0], [row for table in tables for row in table[1]]]  # type: ignore[index]
        files = [each for each in sorted(here.rglob("*")) if each.is_file()]
        return [
            [str(each.relative_to(here)), _of_file(each.name, each.read_bytes())] for each in files
        ]
    finally:
        os.close(handle)


def _client() -> Any:
    from s3_serving import S3

    return S3(PORT[0], kill_cases.BUCKET)


def _of_object(key: str) -> object:
    """An object; one of a set where the set's manifest says that it is to be read."""
    server = _client()
    place = ""
    while True:
        before, place = place, key
        names = server.keys()
        for name in names:
            if name.endswith("/outputs.json"):
                place = json.loads(server.get(name))["objects"].get(key, place)
        try:
            return _of_file(key, server.get(place))
        except server.client().exceptions.NoSuchKey:
            if place in (key, before):  # else it was of an old set
                raise FileNotFoundError(key) from None


def _sqlite(where: Any) -> list[Any]:
    with contextlib.closing(sqlite3.connect(where.place)) as con:
        return con.execute(f'SELECT * FROM "{where.name[0]}"').fetchall()


def _of_table(address: str) -> object:
    from deltalake.exceptions import TableNotFoundError
    from pyiceberg.exceptions import NoSuchTableError
    from sqlalchemy.exc import OperationalError

    from prefmill.warehouse.address import Address

    kind = address.partition(":")[0]
    where = Address.of(address)
    if kind in ("duckdb", "sqlite") and not Path(where.place).exists():
        raise FileNotFoundError(where.place)
    try:
        rows = _sqlite(where) if kind == "sqlite" else warehouses._READERS[kind](where)
    except (TableNotFoundError, NoSuchTableError):
        raise FileNotFoundError(address) from None
    except (sqlite3.OperationalError, OperationalError) as error:
        if "locked" in str(error):
            return BUSY
        if "no such table" in str(error):
            raise FileNotFoundError(address) from None
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        if kind == "duckdb" and "lock on file" in said:
            return BUSY
        if ("does not exist" in said or "was not found" in said) and kind in ("duckdb", "lance"):
            raise FileNotFoundError(address) from None
        raise
    return sorted(json.dumps(row, default=str, sort_keys=True) for row in rows)


def look(out: Path, part: str) -> str:
    """A digest of what a part holds, or that it is not there."""
    try:
        if part.startswith("s3://"):
            rows = _of_object(part.split("/", 3)[3])
        elif ":" in part:
            rows = _of_table(part.format(out=out))
        elif part.endswith("/"):
            rows = _of_folder(out / part)
        else:
            rows = _of_file(part, (out / part).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return ABSENT
    return BUSY if rows == BUSY else _digest(rows)


class Answers:
    """What the reader is asked."""

    def __init__(self, folder: Path) -> None:
        self.place = kill_cases.Place(folder)

    def content(self, name: str) -> list[str]:
        """The digests of all parts, in order."""
        case = kill_cases.CASES[name]
        if not case.parts:
            target = self.place.out / "out"
            if not target.exists():
                return [ABSENT]
            told = loop_fakes.content(target, stages=1)
            return [_digest(told)]
        return [look(self.place.out, part) for part in case.parts]

    def _temps(self) -> list[Path]:
        return [*self.place.temps, self.place.folder / "temp-system"]

    def clear(self, name: str) -> None:
        """Nothing is there."""
        for path in (self.place.out, self.place.folder / "source", *self._temps()):
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
        if kill_cases.CASES[name].group == "objects":
            server = _client()
            keys = server.keys()
            for key in keys:
                server.client().delete_object(Bucket=server.bucket, Key=key)

    def left(self, name: str) -> list[str]:
        """What a dead life left, or a run that ended: it should be nothing."""
        found = [str(path) for temp in self._temps() for path in temp.iterdir()]
        found += kept.clean(self.place.out, dry_run=True)
        found += [str(path) for path in self.place.out.rglob("*.tmp")]
        if kill_cases.CASES[name].group == "objects":
            wanted = {part.rpartition("/")[2] for part in kill_cases.CASES[name].parts}
            wanted |= {"manifest.json", "ledger.json", "outputs.json"}
            keys = _client().keys()
            found += [key for key in keys if key.rpartition("/")[2] not in wanted]
        return sorted({*found})

    def differs(self, name: str) -> list[str]:
        """What in the output is not as its record says."""
        problems, done = [], 0
        for found in kept.found_in(self.place.out):
            if found.state != "done":
                problems.append(f"{found.output}: {found.state}")
            elif "outputs" in found.document:
                problems += kept.verify(found.output)
                done += 1
        case = kill_cases.CASES[name]
        if case.recorded and done != 1:
            problems.append(f"{done} records")
        return problems


class Reader:
    """The process that reads; `ask` waits for its answer, `send` and `take` do not."""

    def __init__(self, folder: Path) -> None:
        (theirs, self._out), (self._in, ours) = os.pipe(), os.pipe()
        self.number = os.fork()
        if not self.number:
            os.close(self._out)
            os.close(self._in)
            _serve(Answers(folder), theirs, ours)
        os.close(theirs)
        os.close(ours)
        self._lines = os.fdopen(self._in)

    @property
    def handle(self) -> int:
        return self._in

    def send(self, what: str, name: str) -> None:
        os.write(self._out, json.dumps([what, name]).encode() + b"\n")

    def take(self) -> Any:
        line = self._lines.readline()
        if not line:
            sys.exit("the reader died")
        told = json.loads(line)
        if "error" in told:
            raise AssertionError(f"the reader cannot read: {told['error']}")
        return told["answer"]

    def ask(self, what: str, name: str) -> Any:
        self.send(what, name)
        return self.take()


def _serve(answers: Answers, asked: int, said: int) -> None:
    import warnings

    warnings.simplefilter("ignore")
    for line in os.fdopen(asked):
        what, name = json.loads(line)
        method: Callable[[str], object] = getattr(answers, what)
        try:
            told = {"answer": method(name)}
        except BaseException:
            told = {"error": f"{what} of {name}: {traceback.format_exc()}"}
        os.write(said, json.dumps(told).encode() + b"\n")
    os._exit(0)
