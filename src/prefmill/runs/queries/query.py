"""SQL over files: what `prefmill sql` runs. Every macro of `sql/` is there.

Files that are named become views: `pool=scored.parquet` the view `pool`, `scored.parquet` the view
`scored`. A query may name files itself, as DuckDB reads them; other ones it cannot open, see
`prefmill.runs.queries.fence`.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from prefmill.connection import connect, literal, quote
from prefmill.disk.hidden import temporary
from prefmill.disk.targets import shown
from prefmill.engines.macros import install_all
from prefmill.errors import BadArgument, BadInput, PrefmillError
from prefmill.readers import is_url, open_source
from prefmill.readers.find import is_same
from prefmill.runs.queries.fence import ASIDE, fence_query, refuse_acts, texts_of
from prefmill.shown import in_json
from prefmill.writers.place import KINDS, Place
from prefmill.writers.spreadsheets import FORMULA, MARK, refuse_other_kinds, safe_name

if TYPE_CHECKING:
    from _duckdb import Statement

MB = 1 << 20
#: How DuckDB writes a kind of file; Arrow's it does not.
_COPY = {
    "parquet": "FORMAT parquet, COMPRESSION zstd",
    "jsonl": "FORMAT json",
    "csv": "FORMAT csv, HEADER",
    "tsv": "FORMAT csv, HEADER, DELIMITER '\t'",
}
_ENDINGS = re.compile(
    r"(\.(parquet|jsonl?|ndjson|[ct]sv|xlsx|arrow|feather|ipc|gz|zst))+(#[^#]*)?$",
    re.IGNORECASE,
)
_CSV = re.compile(r"\.[ct]sv(\.(gz|zst))?$", re.IGNORECASE)
_NEAR = re.compile(r"(?:Did you mean|Candidate bindings:|Candidate functions:)[:\s]*(.*)")
#: What DuckDB says behind its fence.
_SHUT = re.compile(
    r'Cannot access (?:file|directory) "([^\n]*?)" - file system operations are disabled'
    r"|Loading external extensions is disabled|requires the extension"
)
_USAGE = (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException)


@dataclass(frozen=True)
class Session:
    """A connection with the macros and the views of files.

    home      its temporary folder
    reads     the files that the views read
    remote    some of them are URLs: DuckDB has to reach out, and is not fenced
    external  a query may do all that DuckDB can
    """

    con: duckdb.DuckDBPyConnection
    home: Path
    reads: tuple[str, ...]
    remote: bool
    external: bool

    def statements(self, text: str) -> list[Statement]:
        """The statements of a text. Raises `BadArgument` for one that reaches out."""
        with _as_ours(self.con):
            statements = self.con.extract_statements(text)
        if not self.external:
            for statement in statements:
                refuse_acts(statement)
        return statements

    def close_in(self, text: str, *more: str) -> None:
        """From here on only what the session, `text` and `more` name can be opened."""
        if self.external or self.remote:
            return
        fence_query(self.con, text, files=[*self.reads, *more], folder=self.home)


@contextmanager
def session(
    files: Sequence[str],
    *,
    encoding: str | None = None,
    delimiter: str | None = None,
    memory_bytes: int | None = None,
    threads: int | None = None,
    temp_dir: str | Path | None = None,
    temp_bytes: int | None = None,
    outputs: Sequence[str] = (),
    allow_external: bool = False,
) -> Iterator[Session]:
    """A connection with the macros and a view of each of `files` (`NAME=PATH` or `PATH`).

    What it stages goes when the context ends. A path is whatever `prefmill.run` reads. Columns of a
    CSV that hold nothing but whole numbers, or nothing but numbers, are numbers; all other ones are
    text. Rows keep the order of their files. Raises `BadArgument` and `BadInput`.
    """
    views = [named(given) for given in files]
    names = [name.lower() for name, _ in views]
    for at, (name, _) in enumerate(views):
        if name.lower() in names[:at]:
            raise BadArgument(
                f"sql: two files would be the view {name!r}; got {list(files)}.",
                hint="name them: NAME=PATH.",
            )
    with contextlib.ExitStack() as stack:
        home = stack.enter_context(temporary(temp_dir, temp_bytes))
        room = memory_bytes
        # About 300 MB are Python and its libraries.
        if room:
            room = max(64 * MB, room - 300 * MB)
        remote = allow_external or any(is_url(path) for _, path in views)
        con = connect(
            temp_dir=home,
            # The fence comes with the query, which may name files.
            reads=None,
            memory_bytes=room,
            threads=threads,
            remote=remote,
            # Positions are the order of rows.
            ordered=True,
        )
        stack.callback(con.close)
        install_all(con, persistent=True)
        reads: list[str] = []
        for name, path in views:
            source = open_source(
                [path],
                temp_dir=home,
                encoding=encoding,
                delimiter=delimiter,
                memory_bytes=memory_bytes,
                threads=threads,
                without=outputs,
            )
            columns = "*"
            if _CSV.search(path):
                kinds = ("string", "large_string")
                texts = [field.name for field in source.columns if str(field.type) in kinds]
                columns = _columns(con, source.relation, texts)
            view = f"CREATE VIEW {quote(name)} AS SELECT {columns} FROM {source.relation}"
            con.execute(view)
            reads += source.reads
        yield Session(con, home, tuple(reads), remote, allow_external)


def _columns(con: duckdb.DuckDBPyConnection, relation: str, texts: Sequence[str]) -> str:
    """The columns of a view: texts that are numbers, all of them, as numbers."""
    if not texts:
        return "*"
    looks = []
    for name in map(quote, texts):
        whole = f"TRY_CAST({name} AS BIGINT)::VARCHAR = {name}"
        finite = f"isfinite(TRY_CAST({name} AS DOUBLE))"
        number = f"{finite} AND NOT regexp_matches({name}, '^[+-]?0[0-9]')"
        for test in (whole, number):
            holds = f"bool_and(coalesce({test}, {name} IS NULL)) AND count({name}) > 0"
            looks.append(f"coalesce({holds}, false)")
    (answers,) = con.execute(f"SELECT {', '.join(looks)} FROM {relation}").fetchall()
    casts = []
    for name, is_whole, is_number in zip(texts, answers[::2], answers[1::2], strict=True):
        if is_whole or is_number:
            kind = "BIGINT" if is_whole else "DOUBLE"
            casts.append(f"{quote(name)}::{kind} AS {quote(name)}")
    return f"* REPLACE ({', '.join(casts)})" if casts else "*"


def named(given: str) -> tuple[str, str]:
    """(view, path) of `NAME=PATH` or `PATH`."""
    name, equals, path = given.partition("=")
    if equals and re.fullmatch(r"\w+", name) and path and not os.path.exists(given):
        return name, path
    if given == "-":
        return "stdin", given
    stem = _ENDINGS.sub("", Path(given.rstrip("/")).name)
    if not re.fullmatch(r"[\w.-]+", stem):
        raise BadArgument(f"sql: no name for a view in {given!r}.", hint=f"name it: pool={given}.")
    return stem, given


def statements_of(query: str) -> str:
    """The SQL that the first argument of the command is: itself, a file of it, or stdin.

    Raises `BadArgument` for a file of data, which is not a query.

    >>> statements_of("FROM pool")
    'FROM pool'
    """
    if query == "-":
        return sys.stdin.read()
    if query.lower().endswith(".sql") and os.path.isfile(query):
        return Path(query).read_text(encoding="utf-8")
    is_file = os.path.exists(query) or os.path.exists(query.partition("=")[2])
    if is_file or not re.search(r"\s", query.strip()):
        raise BadArgument(
            f"sql: the first argument is a query; got {query!r}.",
            hint='prefmill sql "FROM pool" pool=scored.parquet, or a file of statements, or - for'
            " stdin. A shell is DuckDB's own, after prefmill sql --macros > prefmill.sql and .read"
            " prefmill.sql.",
        )
    return query


@contextmanager
def _as_ours(con: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """DuckDB's errors as ours: one line, and a hint where DuckDB has one."""
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise BadInput(
            f"sql: out of memory: {_first(error)}",
            hint="raise --memory-limit, or free space in --temp-dir.",
        ) from None
    except (duckdb.Error, UnicodeDecodeError) as error:  # a message may be cut in a character
        text = str(error)
        if refused := _behind_fence(text):
            raise refused from None
        # What a macro of `sql/` refuses is our own error.
        if ours := re.search(r"prefmill: (.*)", text):
            raise BadArgument(ours[1]) from None
        proposed, hint = "", None
        if near := _NEAR.search(text):
            proposed = near[1].strip().rstrip("?")
        if proposed:
            hint = f"did you mean {proposed}?"
        # For a table that is not there DuckDB proposes its own system tables.
        if "Table with name" in text and not _is_here(con, proposed):
            hint = "name a file after the query, NAME=FILE, or in it: FROM 'FILE'."
        kind = BadArgument if isinstance(error, _USAGE) else BadInput
        raise kind(f"sql: {_first(error)}", hint=hint) from None


def _behind_fence(text: str) -> PrefmillError | None:
    """What is said where DuckDB met its fence; None for all other errors of it."""
    if "configuration has been locked" in text:
        return BadArgument(
            "sql: DuckDB's settings are locked.",
            hint="--threads, --memory-limit and --temp-dir are options; --allow-external opens"
            " the settings.",
        )
    shut = _SHUT.search(text)
    if shut is None:
        return None
    # Of a file that is not there DuckDB asks whether it is a folder.
    path = re.sub(r"/\*\*/[^/]*$", "", shut[1] or "")
    if path != shut[1] and shut[1] and not os.path.exists(path):
        return BadInput(f"sql: {path}: no file matches.")
    what = f"the file {path!r}" if shut[1] else "what needs an extension of DuckDB"
    return BadArgument(
        f"sql: the query would open {what}; expected only files that are named.",
        hint="name a file of data in the query (FROM 'rows.parquet'), or after it: NAME=FILE;"
        " --allow-external opens everything.",
    )


def _is_here(con: duckdb.DuckDBPyConnection, table: str) -> bool:
    """Whether this session has a view or table of that name."""
    names = con.execute("SELECT table_name FROM information_schema.tables").fetchall()
    return (table.strip("\"'"),) in names


def _first(error: Exception) -> str:
    """DuckDB's message without the name of the kind of error."""
    return re.sub(r"^[A-Za-z ]+ Error: ", "", str(error).strip().splitlines()[0])


def run(session: Session, text: str, *, as_json: bool = False, out: TextIO | None = None) -> None:
    """Run the statements of `text` and print the rows of each: a table, or a JSON object a line."""
    out = out or sys.stdout
    statements = session.statements(text)
    session.close_in(text)
    for statement in statements:
        with _as_ours(session.con):
            _show(session.con, statement, as_json, out)


def ask(text: str, files: Sequence[str], *, as_json: bool = False, **reading: Any) -> None:
    """Run the statements of `text` over `files` and print their rows; arguments of `session`."""
    with session(files, **reading) as asked:
        run(asked, text, as_json=as_json)


def _show(con: duckdb.DuckDBPyConnection, statement: Statement, as_json: bool, out: TextIO) -> None:
    kind = duckdb.StatementType
    query = _bare(statement.query)
    if statement.type == kind.EXPLAIN:
        print(con.execute(statement).fetchall()[0][1], file=out)
    elif statement.type not in (kind.SELECT, kind.PRAGMA, kind.CALL, kind.RELATION):
        con.execute(statement)
    elif as_json:
        rows = con.execute(f"SELECT to_json(_rows)::VARCHAR FROM ({query}\n) AS _rows")
        while lines := rows.fetchmany(2048):
            out.writelines(f"{in_json(line)}\n" for (line,) in lines)
    else:
        width = 140
        if out.isatty():
            width = shutil.get_terminal_size((width, 24)).columns
        with contextlib.redirect_stdout(out):
            con.sql(query).show(max_rows=40, max_width=width)
    out.flush()


def _bare(query: str) -> str:
    """A statement without comments and the semicolon after it."""
    kept = ASIDE.sub(lambda m: " " if m[0].startswith(("--", "/*")) else m[0], query)
    return kept.rstrip().rstrip(";").rstrip()


def write(
    session: Session, text: str, target: Path, path: Path, *, spreadsheet_safe: bool = False
) -> tuple[int, pa.Schema]:
    """Run the statements of `text` and write the rows of the last one to `path`: how many they are,
    and their columns.

    The ending of `target`, which `check_target` looked at, says the kind of file.
    `spreadsheet_safe` as `prefmill.run` takes it. Raises `BadArgument` where there are no rows to
    write.
    """
    con, statements = session.con, session.statements(text)
    session.close_in(text, str(path))
    with _as_ours(con):
        if not statements or statements[-1].type != duckdb.StatementType.SELECT:
            raise BadArgument("sql: nothing to write; the last statement has to be a query.")
        for statement in statements[:-1]:
            con.execute(statement)
        query, kind = _bare(statements[-1].query), KINDS[target.suffix.lower()]
        if spreadsheet_safe:
            query = _safe(con, query)
        if kind == "arrow":
            return _write_arrow(con, query, path)
        copy = f"COPY ({query}\n) TO {literal(str(path))} ({_COPY[kind]})"
        ((rows,),) = con.execute(copy).fetchall()
        if kind == "parquet":
            return int(rows), pq.read_schema(path)
        return int(rows), con.sql(f"FROM ({query}\n) LIMIT 0").to_arrow_table().schema


def check_target(text: str, target: Path, *, spreadsheet_safe: bool = False) -> None:
    """Raise `BadArgument` for a target of an unknown ending, or one that the query reads."""
    if target.suffix.lower() not in KINDS:
        raise BadArgument(
            f"sql: no format for {shown(target)!r}; expected an ending of {', '.join(KINDS)}."
        )
    if spreadsheet_safe:
        refuse_other_kinds(Place.of(target))
    _refuse_read(text, target)


def _safe(con: duckdb.DuckDBPyConnection, query: str) -> str:
    """`query` with an apostrophe in front of what a spreadsheet would compute."""
    rows = con.sql(query)
    columns = []
    for place, (name, kind) in enumerate(zip(rows.columns, rows.types, strict=True)):
        # By place: two columns may have one name.
        column = f"c{place}"
        if str(kind) in ("VARCHAR", "JSON") or kind.id == "enum":
            text = f"{column}::VARCHAR"
            risky = f"regexp_matches({text}, {literal(FORMULA)})"
            if str(kind) == "JSON":
                risky += f" AND TRY_CAST({text} AS DOUBLE) IS NULL"
            column = f"CASE WHEN {risky} THEN {literal(MARK)} || {text} ELSE {text} END"
        columns.append(f"{column} AS {quote(safe_name(name))}")
    places = ", ".join(f"c{place}" for place in range(len(columns)))
    return f"SELECT {', '.join(columns)} FROM ({query}\n) AS t({places})"


def _write_arrow(con: duckdb.DuckDBPyConnection, query: str, path: Path) -> tuple[int, pa.Schema]:
    """The rows of `query` as an Arrow file; how many they are, and their columns."""
    reader = con.sql(query).to_arrow_reader(50_000)
    rows = 0
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows, reader.schema


def _refuse_read(query: str, target: Path) -> None:
    """Refuse to replace a file that the query itself names, also by a glob."""
    for named in texts_of(query):
        if any(is_same(path, target) for path in glob.glob(named, recursive=True)):
            raise BadArgument(
                f"sql: the query reads {named!r}, and {str(target)!r} would be written;"
                " got one file as both.",
                hint="write to another name: the input would be destroyed.",
            )
