"""Files whose records become rows: a source over a SELECT, and the account of every record.

Nothing is copied: the rows are a view over the files. One narrow pass counts them, checks that
lists side by side have one length, and says why a record gives no row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa

from prefmill.arguments import refuse_unknown
from prefmill.connection import connect, literal, quote, share_of
from prefmill.errors import BadArgument, BadInput, ColumnMissing
from prefmill.readers import Source, open_source
from prefmill.shapes import recognise, sql
from prefmill.shapes.account import Account
from prefmill.shapes.cells import RECORD, UNEQUAL
from prefmill.shapes.making import shape_of
from prefmill.shapes.nulls import nullable
from prefmill.shapes.paths import base_of, is_path
from prefmill.shapes.shape import Join, Shape
from prefmill.shapes.words import SHAPING, WORDS, Rows, split
from prefmill.table.roles import OfRecords, RoleNames

_HEAD = 1000
_ALWAYS = (*SHAPING, "source", "system", "history")


@dataclass(frozen=True)
class Rowed:
    """A source of rows, the names of its roles, and how its records became rows (None: as is)."""

    source: Source
    names: RoleNames
    shape: Shape | None = None
    account: Account | None = None
    recognised: str = ""
    #: the rows again, with a look whether the lists of a record have one length
    checked: str = ""
    #: the records, the relations that are joined to them, and the length of the longest list
    records: Source | None = None
    joined: tuple[str, ...] = ()
    longest: int = 1

    @property
    def inside_records(self) -> bool:
        """Whether only rows of one record compare."""
        return self.shape is not None and self.shape.own_group

    @property
    def of_records(self) -> OfRecords | None:
        """What rows know of their records."""
        return self.shape.of_records if self.shape else None

    @property
    def lines(self) -> list[str]:
        """The account, for people."""
        return [self.account.line()] if self.account else []

    def report(self) -> dict[str, object] | None:
        """What became of records, for reports; None where rows are read as they are."""
        if self.shape is None or self.account is None:
            return None
        return {"read_as": self.shape.words.options(), **self.account.as_mapping()}


def words_in(rows: Rows | None, names: Mapping[str, Any]) -> Rows:
    """The words of a plan with those of a call on top; a name that is no word is refused."""
    refuse_unknown("roles", names, WORDS, thing="word")
    return Rows(**{**(rows.named() if rows else {}), **{k: v for k, v in names.items() if v}})


def is_plain(rows: Rows, columns: Sequence[str]) -> bool:
    """Whether the words only name a column for some roles, as tables in long form need.

    >>> is_plain(Rows(prompt="question"), ["question"]), is_plain(Rows(each="answers"), ["answers"])
    (True, False)
    """
    named = rows.named()
    if any(word in named for word in _ALWAYS):
        return False
    schema = pl.Schema(dict.fromkeys(columns, pl.String()))

    def plain(role: str, value: Any) -> bool:
        if role == "group":
            return all(text in columns or not is_path(text, schema) for text in _listed(value))
        if not isinstance(value, str):
            return False
        text = value.removeprefix("-") if role == "score" and value not in columns else value
        if text in columns:
            return True
        several = len(split(text)) > 1
        return not several and not is_path(text, schema)

    return all(plain(role, value) for role, value in named.items())


def columns_of(rows: Rows, columns: Sequence[str]) -> list[str]:
    """The columns of records that the words name; all where none of a role is named."""
    schema = pl.Schema(dict.fromkeys(columns, pl.String()))
    named = rows.named()
    if "completion" not in named and "each" not in named:
        return list(columns)
    found = [base for text in spelled(rows, columns) if (base := base_of(text, schema))]
    return list(dict.fromkeys(found)) or list(columns)


def spelled(rows: Rows, columns: Sequence[str] = ()) -> list[str]:
    """The paths that the words name; a text that is one of `columns` is that column.

    >>> spelled(Rows(each="answers", score="-answers.rank,margin"))
    ['answers.rank', 'margin', 'answers']
    """
    named = rows.named()
    texts: list[str] = []
    for word in named:
        if word in ("wins", "ties", "values", "join", "file_as"):
            continue
        for value in _listed(list(named[word]) if word == "where" else named[word]):
            texts += [value] if value in columns else split(value)
    return [text.removeprefix("-") for text in texts]


def plain_names(rows: Rows) -> RoleNames:
    """The words of a table in long form as the columns of roles."""
    names: dict[str, Any] = {}
    for role, value in rows.named().items():
        names[role] = tuple(_listed(value)) if role == "group" else value
    return names  # type: ignore[return-value]


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [str(each) for each in value]


def reshaped(
    source: Source,
    rows: Rows,
    *,
    home: Path,
    where: str,
    attempt: Callable[[RoleNames], object],
    score: bool = True,
    completion: bool = True,
    extra: Sequence[str] = (),
    system_in_prompt: bool = False,
    check_later: bool = False,
    renamed: bool = False,
    memory_bytes: int | None = None,
    threads: int | None = None,
) -> Rowed:
    """`source` as rows of roles.

    Args:
        attempt: resolves roles of a table in long form; where it raises `ColumnMissing`, common
            shapes are tried.
        score, completion: whether these roles are needed.
        extra: paths that become columns of their own text's name (weights, kept columns).
        system_in_prompt: the system prompt begins the prompt; else it is a column.
        check_later: the caller reads the `checked` rows in whole, in `record_told`: so that no
            pass over all lists is needed here.
        renamed: rows that are in long form have the names of roles as well.
    """
    schema = schema_of(source)
    recognised, plain = "", is_plain(rows, schema.names())

    def head() -> pl.DataFrame | None:
        return None if source.remote or rows.join else head_of(source, home)

    if plain:
        names = plain_names(rows)
        try:
            attempt(names)
        except ColumnMissing as problem:
            recognised, rows = recognise.settled(
                rows, schema, head, problem, where=where, score=score, completion=completion
            )
        else:
            if not renamed:
                return Rowed(source, names)
    # Records are counted before they are rows: that reads all of them.
    source = source.brought()
    joins, joined = _joins(rows, schema, home, where, memory_bytes, threads)
    wide = dict(schema)
    if rows.file_as:
        if rows.file_as in wide:
            raise BadArgument(
                f"{where}: file_as {rows.file_as!r} is a column of the files.",
                hint="name another one: --file-as NAME.",
            )
        wide[rows.file_as] = pl.String()
    for join in joins:
        wide |= join.schema
    if not plain:
        recognised, rows = recognise.completed(
            rows, pl.Schema(wide), head, where=where, score=score, completion=completion
        )
    shape = shape_of(
        rows,
        pl.Schema(wide),
        where=where,
        joins=joins,
        score=score,
        completion=completion,
        extra=extra,
        system_in_prompt=system_in_prompt,
    )
    records = sql.records(
        shape,
        source.relation,
        record=source.position,
        joined=[other.relation for other in joined],
        file_names=[stem(label) for label in source.labels],
    )
    remote = source.remote or any(other.remote for other in joined)
    share = share_of(memory_bytes) if memory_bytes else None
    beside = tuple(file for other in joined for file in other.reads)
    with connect(
        temp_dir=home,
        reads=(*source.reads, *beside),
        memory_bytes=share,
        threads=threads,
        remote=remote,
    ) as con:
        with record_told(source, shape, home, where):
            account = _account(con, shape, records, checked=not check_later)
        longest = max(1, account.longest)
        select = sql.rows(shape, records, longest=longest, position="narrow")
        columns = con.sql(f"SELECT * EXCLUDE ({sql.POSITION}) FROM ({select}) LIMIT 0")
        types = columns.to_arrow_table().schema
    done = replace(
        source,
        beside=beside,
        columns=pa.schema([(each.name, each.type) for each in types]),
        rows=account.rows,
        nulls=nullable(shape, source),
        remote=remote,
        select=select,
        width=longest * len(shape.variants),
    )
    names = dict(shape.roles)  # type: ignore[assignment]
    checked = sql.rows(shape, records, longest=longest, position="checked")
    return Rowed(
        done,
        names,
        shape,
        account,
        recognised,
        checked,
        records=source,
        joined=tuple(other.relation for other in joined),
        longest=longest,
    )


@contextmanager
def record_told(source: Source, shape: Shape | None, home: Path, where: str) -> Iterator[None]:
    """DuckDB's error about one record says in here which record of which file it is.

    `source` is that of the records, or of their rows.
    """
    try:
        yield
    except duckdb.Error as error:
        found = re.search(r"rows: ([^:]+): record (\d+)", str(error))
        if found is None or shape is None:
            raise
        place = replace(source, width=1).place_of(int(found[2]), home=home)
        lists = sorted({path.text for each in shape.variants for path in each.lists})
        raise BadInput(
            f"{where}: {place}: {found[1]}; got it by {shape.words.options()}.",
            hint=f"mend that record, or name other paths than {lists}."
            if lists
            else "mend that record, or name another path.",
        ) from None


def in_one_file(rowed: Rowed, home: Path, **limits: int | None) -> Source:
    """The rows in a file of their own, in order: for who reads them more than once."""
    source = rowed.source
    if rowed.shape is None:
        return source
    path = home / "rows.parquet"
    left = f"{sql.POSITION}, {RECORD}" if rowed.inside_records else sql.POSITION
    query = f"SELECT * EXCLUDE ({left}) FROM {source.relation}"
    if rowed.shape.joins:  # which have no order
        query += f" ORDER BY {sql.POSITION}"
    target = literal(str(path))
    connecting = connect(
        temp_dir=home, reads=source.reads, remote=source.remote, ordered=True, **limits
    )
    with connecting as con, record_told(source, rowed.shape, home, "rows"):
        con.execute(f"COPY ({query}) TO {target} (FORMAT parquet, COMPRESSION zstd)")
        columns = con.sql(f"FROM read_parquet({target}) LIMIT 0").to_arrow_table().schema
    label = source.labels[0] if len(source.inputs) == 1 else f"{len(source.inputs)} files"
    return replace(
        source,
        files=(str(path),),
        columns=pa.schema([(each.name, each.type) for each in columns]),
        file_rows=(source.rows,),
        nulls=frozenset(columns.names),
        labels=(f"rows of {label}",),
        inputs=((f"rows of {label}", source.rows),),
        notes=(*source.notes, f"read as: {rowed.shape.words.options()}", *rowed.lines),
        remote=False,
        hive=False,
        select="",
        width=1,
        beside=(),
    )


def schema_of(source: Source) -> pl.Schema:
    """The columns of a source, as Polars has them."""
    return pl.DataFrame(pa.Table.from_batches([], schema=source.columns)).schema


def head_of(source: Source, home: Path) -> pl.DataFrame:
    """The first rows of a source."""
    with connect(temp_dir=home, reads=source.reads, remote=source.remote) as con:
        return pl.DataFrame(con.sql(f"FROM {source.relation} LIMIT {_HEAD}").to_arrow_table())


def stem(label: str) -> str:
    """The name of a file without its folder and endings.

    >>> stem("answers/gpt-4.1.jsonl.gz")
    'gpt-4.1'
    """
    name = Path(label).name
    for ending in (".gz", ".zst"):
        name = name.removesuffix(ending)
    return Path(name).stem


def _account(
    con: duckdb.DuckDBPyConnection, shape: Shape, records: str, *, checked: bool
) -> Account:
    total = rows = lost = against = 0
    longest, dropped, unequal = 1, {}, []
    query = sql.account(shape, records, checked=checked)
    for reason, count, made, most, record, votes, contradicted in con.execute(query).fetchall():
        total += count
        if reason is not None:
            dropped[reason] = count
            if reason != "no_answers":
                continue
        unequal += [] if record is None else [record]
        rows, lost, longest = rows + made, lost + votes, max(longest, most)
        against += contradicted
    if unequal:
        raise duckdb.InvalidInputException(f"{UNEQUAL}{min(unequal)}")
    dropped = dict(sorted(dropped.items()))
    return Account(total, rows, dropped, lost, longest, shape.told_of_scores(against))


# Joins


def _joins(
    rows: Rows,
    schema: pl.Schema,
    home: Path,
    where: str,
    memory_bytes: int | None,
    threads: int | None,
) -> tuple[tuple[Join, ...], list[Source]]:
    joins: list[Join] = []
    sources: list[Source] = []
    taken = dict(schema)
    for text in rows.join or ():
        name, file, keys = parsed_join(text, where)
        other = open_source([file], temp_dir=home, memory_bytes=memory_bytes, threads=threads)
        join = join_of(name, file, keys, schema_of(other), taken, where)
        _refuse_twice(join, other, home, where)
        taken |= join.schema
        joins.append(join)
        sources.append(other)
    return tuple(joins), sources


def parsed_join(text: str, where: str) -> tuple[str, str, tuple[tuple[str, str], ...]]:
    """(name, file, keys) of `[NAME=]FILE:KEY[,KEY=ITS_KEY]`.

    >>> parsed_join("a=answers.jsonl:question_id,model=model_id", "rows")
    ('a', 'answers.jsonl', (('question_id', 'question_id'), ('model', 'model_id')))
    """
    head, colon, listed = text.rpartition(":")
    if not colon or not head or not listed:
        raise BadArgument(
            f"{where}: join {text!r} is not FILE:KEY.",
            hint="for example --join questions.jsonl:question_id.",
        )
    name, equals, file = head.partition("=")
    if not equals or not name.isidentifier():
        name, file = "", head
    pairs = (part.partition("=") for part in split(listed))
    return name, file, tuple((ours, own or ours) for ours, _, own in pairs)


def join_of(
    name: str,
    file: str,
    keys: tuple[tuple[str, str], ...],
    other: pl.Schema,
    taken: Mapping[str, Any],
    where: str,
) -> Join:
    """A join whose keys are there; its columns are those that records do not have."""
    for ours, own in keys:
        for key, columns, label in ((ours, taken, "the records"), (own, other, file)):
            if key not in columns:
                raise ColumnMissing(
                    f"{where}: join: no column {key!r} in {label}; got {list(columns)}.",
                    hint="name both keys: --join FILE:KEY=ITS_KEY.",
                )
    if name:
        return Join(file, keys, pl.Schema({name: pl.Struct(dict(other))}), name, tuple(other))
    return Join(file, keys, pl.Schema({n: t for n, t in other.items() if n not in taken}))


def _refuse_twice(join: Join, other: Source, home: Path, where: str) -> None:
    """A key that the other file has twice would make rows of nothing."""
    keys = ", ".join(quote(own) for _, own in join.keys)
    with connect(temp_dir=home, reads=other.reads, remote=other.remote) as con:
        query = (
            f"SELECT {keys}, min({other.position}), max({other.position}) FROM {other.relation}"
            f" WHERE {' AND '.join(f'{quote(own)} IS NOT NULL' for _, own in join.keys)}"
            f" GROUP BY {keys} HAVING count(*) > 1 ORDER BY min({other.position}) LIMIT 1"
        )
        twice = con.execute(query).fetchall()
    if twice:
        *values, first, last = twice[0]
        places = [other.place_of(place, home=home) for place in (first, last)]
        raise BadInput(
            f"{where}: join: the key {values} is twice in {join.file};"
            f" {places[0]} and {places[1]}.",
            hint="name more keys: --join FILE:KEY,KEY.",
        )
