"""SQL over files: one query, or a small shell. The engine behind `prefmill sql`; every macro of
`sql/` is there.

Files that are named become views: `pool=scored.parquet` the view `pool`, `scored.parquet` the view
`scored`. A query may name files itself, as DuckDB reads them.
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
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TextIO

import duckdb

from prefmill import ending
from prefmill.connection import connect, literal, quote
from prefmill.disk.hidden import temporary
from prefmill.disk.whole import Staging, check_free, check_name
from prefmill.duckdb import install, macro_texts
from prefmill.errors import BadArgument, BadInput, PrefmillError
from prefmill.readers import is_url, open_source
from prefmill.readers.find import is_same

if TYPE_CHECKING:
    from _duckdb import Statement

MB = 1 << 20
ARROW = "arrow"
#: How a file is written, by its ending: by DuckDB with these options, or as Arrow.
FORMATS = {
    ".parquet": "FORMAT parquet, COMPRESSION zstd",
    ".jsonl": "FORMAT json",
    ".ndjson": "FORMAT json",
    ".csv": "FORMAT csv, HEADER",
    ".tsv": "FORMAT csv, HEADER, DELIMITER '\t'",
    ".arrow": ARROW,
    ".feather": ARROW,
}
HELP = """Statements end with ; and may go over several lines. FROM best_of(pool, k := 4) LIMIT 5;
.tables   views and tables      .macros   the macros of prefmill
.help     this list             .quit     leave (or Ctrl-D)"""
_ASIDE = re.compile(
    r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|\$(\w*)\$.*?\$\1\$|--[^\n]*|/\*.*?\*/", re.DOTALL
)
_USAGE = (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException)


@contextmanager
def session(
    files: Sequence[str],
    *,
    encoding: str | None = None,
    delimiter: str | None = None,
    memory_bytes: int | None = None,
    threads: int | None = None,
    temp_dir: str | Path | None = None,
    outputs: Sequence[str] = (),
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection with the macros and a view of each of `files` (`NAME=PATH` or `PATH`); what it
    stages goes when the context ends.

    A path is whatever `prefmill.run` reads. Columns of a CSV that hold nothing but whole numbers,
    or nothing but numbers, are numbers; all other ones are text. Rows keep the order of their
    files. Raises `BadArgument` and `BadInput`.
    """
    named = [_named(given) for given in files]
    if twice := [
        name
        for i, (name, _) in enumerate(named)
        if name.lower() in {n.lower() for n, _ in named[:i]}
    ]:
        raise BadArgument(
            f"sql: two files would be the view {twice[0]!r}; got {list(files)}.",
            hint="name them: NAME=PATH.",
        )
    with contextlib.ExitStack() as left:
        home = left.enter_context(temporary(temp_dir))
        # About 300 MB are Python and its libraries.
        room = max(64 * MB, memory_bytes - 300 * MB) if memory_bytes else None
        con = connect(
            temp_dir=home,
            memory_bytes=room,
            threads=threads,
            remote=any(is_url(path) for _, path in named),
            ordered=True,  # positions are the order of rows
        )
        left.callback(con.close)
        install(con, persistent=True)
        for name, path in named:
            source = open_source(
                [path],
                temp_dir=home,
                encoding=encoding,
                delimiter=delimiter,
                memory_bytes=memory_bytes,
                threads=threads,
                without=outputs,
            )
            relation = source.relation
            texts = (
                [f.name for f in source.columns if str(f.type) in ("string", "large_string")]
                if _is_csv(path)
                else []
            )
            con.execute(
                f"CREATE VIEW {quote(name)} AS SELECT {_columns(con, relation, texts)} FROM {relation}"
            )
        yield con


def _is_csv(path: str) -> bool:
    return re.search(r"\.[ct]sv(\.(gz|zst))?$", path, re.IGNORECASE) is not None


def _columns(con: duckdb.DuckDBPyConnection, relation: str, texts: Sequence[str]) -> str:
    """The columns of a view: texts that are numbers, all of them, as numbers."""
    if not texts:
        return "*"
    looks = []
    for name in map(quote, texts):
        whole = f"TRY_CAST({name} AS BIGINT)::VARCHAR = {name}"
        number = (
            f"isfinite(TRY_CAST({name} AS DOUBLE)) AND NOT regexp_matches({name}, '^[+-]?0[0-9]')"
        )
        looks += [
            f"coalesce(bool_and(coalesce({test}, {name} IS NULL)) AND count({name}) > 0, false)"
            for test in (whole, number)
        ]
    (found,) = con.execute(f"SELECT {', '.join(looks)} FROM {relation}").fetchall()
    types = {
        name: "BIGINT" if found[2 * i] else "DOUBLE"
        for i, name in enumerate(texts)
        if found[2 * i] or found[2 * i + 1]
    }
    if not types:
        return "*"
    return (
        "* REPLACE ("
        + ", ".join(f"{quote(name)}::{kind} AS {quote(name)}" for name, kind in types.items())
        + ")"
    )


def _named(given: str) -> tuple[str, str]:
    """(view, path) of `NAME=PATH` or `PATH`."""
    name, equals, path = given.partition("=")
    if equals and re.fullmatch(r"\w+", name) and path and not os.path.exists(given):
        return name, path
    if given == "-":
        return "stdin", given
    stem = re.sub(
        r"(\.(parquet|jsonl?|ndjson|[ct]sv|arrow|feather|ipc|gz|zst))+$",
        "",
        Path(given.rstrip("/")).name,
        flags=re.IGNORECASE,
    )
    if not re.fullmatch(r"[\w.-]+", stem):
        raise BadArgument(f"sql: no name for a view in {given!r}.", hint=f"name it: pool={given}.")
    return stem, given


def looks_like_file(argument: str) -> bool:
    """Whether the first argument of the command is a file rather than a query: a query holds white
    space.

    >>> looks_like_file("pool=scored.parquet"), looks_like_file("FROM pool")
    (True, False)
    """
    return (
        not re.search(r"\s", argument.strip())
        or os.path.exists(argument)
        or os.path.exists(argument.partition("=")[2])
    )


@contextmanager
def told(con: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """DuckDB's errors as ours: one line, and a hint where DuckDB has one."""
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise BadInput(
            f"sql: out of memory: {_first(error)}",
            hint="raise --memory-limit, or free space in --temp-dir.",
        ) from None
    except duckdb.Error as error:
        text = str(error)
        if ours := re.search(r"prefmill: (.*)", text):
            raise BadArgument(ours[1]) from None
        near = re.search(
            r"(?:Did you mean|Candidate bindings:|Candidate functions:)[:\s]*(.*)", text
        )
        hint = f"did you mean {near[1].strip().rstrip('?')}?" if near and near[1].strip() else None
        if "Table with name" in text and not (
            near and _is_ours(con, near[1])
        ):  # DuckDB proposes its own system tables
            hint = "name a file after the query, NAME=FILE, or in it: FROM 'FILE'."
        kind = BadArgument if isinstance(error, _USAGE) else BadInput
        raise kind(f"sql: {_first(error)}", hint=hint) from None


def _is_ours(con: duckdb.DuckDBPyConnection, proposed: str) -> bool:
    """Whether a table that DuckDB proposes is a view or table of this session."""
    names = con.execute("SELECT table_name FROM information_schema.tables").fetchall()
    return proposed.strip().rstrip("?").strip("\"'") in {name for (name,) in names}


def _first(error: Exception) -> str:
    return re.sub(r"^[A-Za-z ]+ Error: ", "", str(error).strip().splitlines()[0])


def run(
    con: duckdb.DuckDBPyConnection, text: str, *, as_json: bool = False, out: TextIO | None = None
) -> None:
    """Run the statements of `text` and print the rows of each: as a table, or one JSON object a
    line.
    """
    out = out or sys.stdout
    with told(con):
        statements = con.extract_statements(text)
    for statement in statements:
        with told(con):
            _show(con, statement, as_json, out)


def _show(con: duckdb.DuckDBPyConnection, statement: Statement, as_json: bool, out: TextIO) -> None:
    kind = duckdb.StatementType
    if statement.type == kind.EXPLAIN:
        print(con.execute(statement).fetchall()[0][1], file=out)
    elif statement.type not in (kind.SELECT, kind.PRAGMA, kind.CALL, kind.RELATION):
        con.execute(statement)
    else:
        if as_json:
            rows = con.execute(
                f"SELECT to_json(_rows)::VARCHAR FROM ({_bare(statement.query)}\n) AS _rows"
            )
            while lines := rows.fetchmany(2048):
                out.writelines(f"{line}\n" for (line,) in lines)
        else:
            with contextlib.redirect_stdout(out):
                con.sql(_bare(statement.query)).show(
                    max_rows=40,
                    max_width=shutil.get_terminal_size((140, 24)).columns if out.isatty() else 140,
                )
    out.flush()


def _bare(query: str) -> str:
    """A statement without the semicolon and the comments behind it."""
    kept = _ASIDE.sub(lambda m: " " if m[0].startswith(("--", "/*")) else m[0], query)
    return kept.rstrip().rstrip(";").rstrip()


def write(
    con: duckdb.DuckDBPyConnection, text: str, output: str, *, overwrite: bool = False
) -> int:
    """Run the statements of `text` and write the rows of the last one to a file, whole or not at
    all; the number of rows.

    The ending says the format: .parquet .jsonl .csv .tsv .arrow. Raises `BadArgument` (another
    ending, no rows to write), `TargetExists`.
    """
    check_name(output, "sql")
    target = Path(output)
    options = FORMATS.get(target.suffix.lower())
    if options is None:
        raise BadArgument(
            f"sql: no format for {output!r}; expected an ending of {', '.join(FORMATS)}."
        )
    check_free(target, overwrite=overwrite, where="sql")
    target.parent.mkdir(parents=True, exist_ok=True)
    _refuse_read(text, target)
    with Staging([target], where="sql") as staging:
        with told(con):
            statements = con.extract_statements(text)
            if not statements or statements[-1].type != duckdb.StatementType.SELECT:
                raise BadArgument("sql: nothing to write; the last statement has to be a query.")
            last = statements[-1]
            for statement in statements[:-1]:
                con.execute(statement)
            path = staging.path(target)
            if options == ARROW:
                rows = _write_arrow(con, _bare(last.query), path)
            else:
                ((rows,),) = con.execute(
                    f"COPY ({_bare(last.query)}\n) TO {literal(str(path))} ({options})"
                ).fetchall()
        staging.publish(overwrite=overwrite)
        return int(rows)


def _write_arrow(con: duckdb.DuckDBPyConnection, query: str, path: Path) -> int:
    """The rows of `query` as an Arrow file; how many they are."""
    import pyarrow as pa

    reader = con.sql(query).to_arrow_reader(50_000)
    rows = 0
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows


def _refuse_read(query: str, target: Path) -> None:
    """Refuse to replace a file that the query itself names, also by a glob."""
    for one, other in re.findall(r"'((?:[^']|'')*)'|\"((?:[^\"]|\"\")*)\"", query):
        named = one.replace("''", "'") or other.replace('""', '"')
        if any(is_same(path, target) for path in glob.glob(named, recursive=True)):
            raise BadArgument(
                f"sql: the query reads {named!r}, and {str(target)!r} would be written; got one file as both.",
                hint="write to another name: the input would be destroyed.",
            )


def complete(text: str) -> bool:
    """Whether `text` ends a statement: its last character that is no comment is a semicolon outside
    quotes.

    >>> complete("SELECT 1;"), complete("SELECT ';"), complete("SELECT ';'; -- done")
    (True, False, True)
    """
    rest = _ASIDE.sub(" ", text)
    return rest.rstrip().endswith(";") and not re.search(r"['\"]|/\*|\$\w*\$", rest)


def interact(con: duckdb.DuckDBPyConnection, *, as_json: bool = False) -> None:
    """Read statements from the terminal until `.quit` or Ctrl-D, or from a pipe until its end;
    there the first error ends it.
    """
    if not sys.stdin.isatty():
        for text in _statements(sys.stdin):
            done = _command(con, text)
            if done == "leave":
                return
            if done == "none":
                run(con, text, as_json=as_json)
        return
    with _history():
        ending.at_prompt(True)
        print("Statements end with ; (.help for more).", file=sys.stderr)
        while True:
            try:
                asked = _ask()
            except KeyboardInterrupt:
                print(file=sys.stderr)
                continue
            if asked is None:
                print(file=sys.stderr)
                return
            try:
                done = _command(con, asked)
                if done == "leave":
                    return
                if done == "none":
                    run(con, asked, as_json=as_json)
            except PrefmillError as error:
                print(f"prefmill: {error}", file=sys.stderr)
            except (KeyboardInterrupt, duckdb.InterruptException, RuntimeError):
                print("stopped", file=sys.stderr)


def _ask() -> str | None:
    """One statement or dot command from the terminal; None at its end."""
    text = ""
    while not complete(text):
        try:
            line = input("prefmill> " if not text.strip() else "     ...> ")
        except EOFError:
            return None
        if not text.strip() and line.strip().startswith("."):
            return line.strip()
        text += f"{line}\n"
        if not text.strip():
            text = ""
    return text


def _statements(lines: TextIO) -> Iterator[str]:
    """Statements and dot commands of a stream; what stands behind the last semicolon counts too."""
    text = ""
    for line in lines:
        if not text.strip() and line.strip().startswith("."):
            yield line.strip()
            continue
        text += line
        if complete(text):
            yield text
            text = ""
    if _ASIDE.sub(" ", text).strip():
        yield text


def _command(con: duckdb.DuckDBPyConnection, text: str) -> Literal["none", "done", "leave"]:
    """Do a dot command, if `text` is one."""
    name = text.split()[0] if text.strip() else ""
    if not name.startswith("."):
        return "none"
    if name in (".quit", ".exit"):
        return "leave"
    if name == ".tables":
        rows = con.execute(
            "SELECT table_name FROM information_schema.tables ORDER BY table_name"
        ).fetchall()
        print("\n".join(row[0] for row in rows), flush=True)
    elif name == ".macros":
        print(
            "\n".join(name for name in sorted(macro_texts()) if not name.startswith("pref_")),
            flush=True,
        )
    elif name == ".help":
        print(HELP, flush=True)
    else:
        raise BadArgument(
            f"sql: unknown command {name}; expected .tables, .macros, .help or .quit."
        )
    return "done"


@contextmanager
def _history() -> Iterator[None]:
    """Line editing with a history that is kept, where there is readline."""
    try:
        import readline
    except ImportError:
        yield
        return
    folder = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "prefmill"
    kept = folder / "sql_history"
    with contextlib.suppress(OSError):
        readline.read_history_file(kept)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            readline.set_history_length(1000)
            readline.write_history_file(kept)
