"""Steps as DuckDB SQL: one query, or a relation at a time for a run.

    numbered ──▶ judged ──▶ the steps, each a call of its macro ──join──▶ texts

Only `numbered` and `judged` know the columns of the input, and only the last join touches texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, Unpack

from prefmill.connection import literal, quote
from prefmill.engines.steps import Asks, Cell, Output, Program, Step, kept_columns
from prefmill.errors import BadArgument
from prefmill.shapes.select import ROWS, select_of
from prefmill.shapes.source import plain_names, words_in
from prefmill.table.context import CARRIED
from prefmill.table.report import PairReport
from prefmill.table.roles import NO_RECORDS, OfRecords, Read, RoleNames

if TYPE_CHECKING:
    import duckdb

_LAST_STAGE = "pref_stage_refusal(pref_stage(_stage), {largest})"
_LARGEST = "(SELECT max(pref_stage(_stage)) FROM numbered)"
_NO_WEIGHT = "pref_weight_refusal(pref_number(_weight), {logs})"
#: One row that several steps use.
_LIMITS = frozenset({"limits"})
#: The completions of a row of `told`, by their place among the texts of an output.
_TEXTS = ("_chosen_text", "_rejected_text")


def value(argument: object) -> str:
    """An argument as SQL."""
    if argument is None:
        return "NULL"
    if isinstance(argument, Cell):
        return f"(SELECT {argument.column} FROM {argument.step.name})"
    if isinstance(argument, bool):
        return str(argument).lower()
    if isinstance(argument, str):
        return literal(argument)
    if isinstance(argument, Mapping):
        entries = (f"{literal(str(key))}: {value(float(v))}" for key, v in argument.items())
        return f"MAP {{{', '.join(entries)}}}"
    if isinstance(argument, float):
        return f"{argument!r}::DOUBLE"
    if isinstance(argument, int):
        return repr(argument)
    raise BadArgument(f"sql: no SQL form for {argument!r}.")


def call(step: Step, relations: Mapping[str, str] | None = None) -> str:
    """The macro of a step over its relations, of which `relations` gives some another name."""
    names = relations or {}
    over = [literal(names.get(name, name)) for name in step.over]
    args = {**step.args, **step.sql}
    told = [f"{name} := {value(argument)}" for name, argument in args.items()]
    return f"FROM pref_{step.function[1]}({', '.join([*over, *told])})"


def with_cells(steps: Iterable[Step]) -> list[Step]:
    """`steps`, before each the steps that its arguments are cells of."""
    ordered: list[Step] = []
    for step in steps:
        args = (*step.args.values(), *step.sql.values())
        for each in [*(arg.step for arg in args if isinstance(arg, Cell)), step]:
            if each not in ordered:
                ordered.append(each)
    return ordered


def numbered(
    rows: Read,
    relation: str,
    position: str = "row_number() OVER () - 1",
    scalars: Mapping[str, str] | None = None,
    keep: Sequence[str] = (),
    context: bool = False,
) -> str:
    """What `rows` reads of `relation` under our own names, and the position of each row.

    `scalars` are expressions of score columns; None: nobody has looked at the columns. The columns
    `keep` are `_keep0`, `_keep1` ...; with `context` those that `pref_with_context` adds stay.
    """
    columns = {"_pos": position}
    for ours, name in rows.columns().items():
        columns[ours] = quote(name)
        if scalars is None and ours in ("_prompt", "_completion"):
            columns[ours] = f"pref_no_json({quote(name)}, '{ours.removeprefix('_')}')"
        if scalars and ours.startswith("_score"):
            columns[ours] = scalars.get(name, quote(name))
    columns |= {f"_keep{place}": quote(name) for place, name in enumerate(keep)}
    listed = ", ".join(f"{expression} AS {ours}" for ours, expression in columns.items())
    if context:
        listed += ", _context, COLUMNS('^_own_.*$')"
    return f"SELECT {listed} FROM {relation}"


def judged(
    rows: Read, never_null: frozenset[str] = frozenset(), last_stage: int | None = None
) -> str:
    """The narrow relation that `pref_rows` takes, over `numbered`.

    Columns in `never_null` are not tested for nulls: testing one means decoding all its texts.
    `last_stage`: the largest stage, where `numbered` does not have all rows.
    """
    roles, scores = rows.roles, [f"_score{place}" for place in range(len(rows.scores))]

    def present(ours: str, name: str) -> str:
        return "true" if name in never_null else f"{ours} IS NOT NULL"

    def plain(role: str) -> str:
        return f"pref_plain(_{role}, '{role}')"

    number = "pref_scored(_score0) + 0"  # + 0: -0.0 is a plain zero
    if roles.negate:
        number = f"-{number}"
    if rows.weights:
        weights = zip(scores, rows.weights.values(), strict=True)
        terms = (f"{value(float(weight))} * pref_scored({score})" for score, weight in weights)
        number = f"pref_round({' + '.join(terms)})"
    key, there = "_prompt", [present("_prompt", roles.prompt)]
    if roles.group:
        groups = [f"_group{place}" for place in range(len(roles.group))]
        texts = ", ".join(f"pref_plain({group}, 'group')::VARCHAR" for group in groups)
        key = f"[{texts}]"
        there += map(present, groups, roles.group)
    # What a plan does not use is NULL: the macro has one form of its input.
    used: dict[str, str] = {}
    if rows.merged:
        used["_text"] = "_completion"
    if roles.id:
        # A text literal next to it makes text of an ENUM, whose order would be that of its
        # declaration, and leaves other types.
        used["_id"] = f"CASE WHEN false THEN '1' ELSE {plain('id')} END"
    used |= {f"_{role}": plain(role) for role in ("annotator", "aspect") if getattr(roles, role)}
    largest = _LARGEST if last_stage is None else f"{last_stage}::HUGEINT"
    refusals = [_LAST_STAGE.format(largest=largest)] if rows.last_stage else []
    if rows.conclusion:
        refusals.append(f"pref_conclusion_refusal({plain('conclusion')})")
    if refusals:
        used["_refusal"] = f"coalesce({', '.join(refusals)})"
    if rows.policy:
        used["_refusal"] = _NO_WEIGHT.format(logs=value(rows.logs))
    optional = ("_text", "_id", "_annotator", "_aspect", "_refusal")
    columns = {
        "_grp": key,
        **{name: used.get(name, "NULL") for name in optional},
        "_has_prompt": " AND ".join(there),
        "_has_completion": present("_completion", roles.completion),
        "_null_score": " OR ".join(f"{score} IS NULL" for score in scores),
        "_value": number,
    }
    listed = ", ".join(f"{expression} AS {name}" for name, expression in columns.items())
    return f"SELECT _pos, {listed} FROM numbered"


def relations(
    program: Program, never_null: frozenset[str] = frozenset(), last_stage: int | None = None
) -> list[tuple[Step | None, str, str]]:
    """(step, name, query) of each relation from `judged` on, each over earlier ones."""
    first = (None, "judged", judged(program.read, never_null, last_stage))
    return [first, *((step, step.name, call(step)) for step in with_cells(program.steps))]


def query(
    plan: Asks,
    table: str,
    *,
    keep: Sequence[str] = (),
    schema: object = None,
    **names: Unpack[RoleNames],
) -> str:
    """`plan` over `table` as one SELECT.

    The columns `keep` come along: of pairs `chosen_NAME` and `rejected_NAME`, of the others `NAME`.

    `table` is the name of a table, view, CTE or registered frame, or a path or glob, as
    `query_table` reads it: quote a name that holds dots or quotes (`'"a.b"'`). Positions are the
    row order that the connection gives (`preserve_insertion_order`, on by default). Texts are
    joined to the ranked positions at the end.

    Words that make rows of records need the types of the table's columns: `schema` is a Polars or
    pyarrow schema, or a DuckDB relation (`con.table("feedback")`).
    """
    more = [*plan.wide_scores(names), *keep]
    rowed = _in_rows(plan, table, names, schema, more, "sql")
    plan, table = rowed.plan, rowed.table
    program = plan.program(plan.roles(rowed.names, None, where="sql"))
    output = program.output
    kept = kept_columns(output, keep, None, output.names, where="sql", of_records=rowed.of_records)
    columns = list(dict.fromkeys(each.column for each in kept))
    # `_keep0` of the row, or of the chosen one, `_other0` of the rejected one
    sides = {"rejected": "_other"}
    ours = {
        each.name: f"{sides.get(each.side, '_keep')}{columns.index(each.column)}" for each in kept
    }
    relation = f"query_table({literal(table)})"
    if output.for_trainer:
        relation = f"pref_with_context({literal(table)})"
    rows = numbered(program.read, relation, keep=columns, context=output.for_trainer)
    steps = [*rowed.steps, ("numbered", rows)]
    steps += [(name, text) for _, name, text in relations(program)]
    if not output.for_trainer:
        return _with(steps, program) + _whole_rows(output, ours)
    steps.append(("told", _told_for_trainer(program, len(columns))))
    return _with(steps, program) + _rows_for_trainer(output, ours)


class _Rowed(NamedTuple):
    """A plan over a table of rows, and where records become rows the query for that.

    `of_records` is what the rows know of their records.
    """

    plan: Asks
    table: str
    names: RoleNames
    steps: list[tuple[str, str]]
    of_records: OfRecords = NO_RECORDS


def _in_rows(
    plan: Asks,
    table: str,
    names: RoleNames,
    schema: object,
    extra: Sequence[str],
    where: str,
) -> _Rowed:
    """The plan, its table and roles, once records have become rows."""
    words = words_in(plan.rows, names)
    no_score = bool(plan.wide_scores(names))
    rowed = select_of(table, words, schema, where=where, extra=extra, score=not no_score)
    if rowed is None:
        return _Rowed(plan, table, plain_names(words), [])
    select, shape = rowed
    plan = plan.over_records(inside=shape.own_group, votes=shape.votes, where=where)
    roles: RoleNames = dict(shape.roles)  # type: ignore[assignment]
    return _Rowed(plan, ROWS, roles, [(ROWS, select)], shape.of_records.for_layout(parts=False))


def _order(output: Output, prefix: str = "") -> str:
    down = (
        f"{prefix}{name[1:]} DESC" if name[0] == "-" else prefix + name for name in output.order
    )
    return ", ".join(down)


def _whole_rows(output: Output, kept: Mapping[str, str]) -> str:
    """The SELECT that joins texts to the rows of the last step, and nothing else."""
    step = output.step
    (text, position), *_ = output.texts.items()
    columns = ["row._prompt AS prompt", f"row._completion AS {text}"]
    columns += [f"{'row' if c.of_row else step}.{c.ours} AS {c.name}" for c in output.columns]
    columns += [f"row.{ours} AS {quote(name)}" for name, ours in kept.items()]
    return (
        f"SELECT {', '.join(columns)}\n"
        f"FROM {step} JOIN numbered AS row ON row._pos = {step}.{position}{_present(output)}\n"
        f"ORDER BY {_order(output, f'{step}.')}"
    )


def _present(output: Output) -> str:
    """The condition on rows that come out."""
    return output.present and f" WHERE {output.step}.{output.present} IS NOT NULL"


def _told_for_trainer(program: Program, kept: int) -> str:
    """The rows of the last step with their texts, and what else comes along: `_context`, the
    `_own_NAME` of `pref_with_context`, and the kept columns.
    """
    output = program.output
    known = ", ".join(["_pos", *program.read.columns()])
    if not output.paired:
        (position,) = output.texts.values()
        return (
            "SELECT row._prompt AS _prompt, row._completion AS _chosen_text,"
            " row._completion AS _rejected_text,\n"
            f"         {output.step}.*, row.* EXCLUDE ({known})\n"
            f"  FROM {output.step} JOIN numbered AS row"
            f" ON row._pos = {output.step}.{position}{_present(output)}"
        )
    others = "".join(f", worse._keep{place} AS _other{place}" for place in range(kept))
    more = f", better.* EXCLUDE ({known}), worse._context AS _other{others}"
    return _told(output, more)


def _told(output: Output, more: str = "") -> str:
    """Pairs with their texts, and whether the two completions are one."""
    better, worse = output.texts.values()
    step = output.step
    return (
        f"SELECT {step}.*, better._prompt AS _prompt,"
        " better._completion AS _chosen_text, worse._completion AS _rejected_text,\n"
        f"         pref_same_text(better._completion, worse._completion) AS _same_text{more}\n"
        f"  FROM {step} JOIN numbered AS better ON better._pos = {step}.{better}"
        f" JOIN numbered AS worse ON worse._pos = {step}.{worse}"
    )


def _rows_for_trainer(output: Output, kept: Mapping[str, str]) -> str:
    """The SELECT over `told` whose rows are conversations, or text, all in one form."""
    columns = ["_prompt AS prompt"]
    columns += [f"{ours} AS {name}" for name, ours in zip(output.texts, _TEXTS, strict=False)]
    columns += [f"{column.ours} AS {column.name}" for column in output.columns]
    # A column that is kept under its own name is there once.
    own = "|".join(name for name in ("_mark", *CARRIED) if name not in kept)
    columns.append(f"COLUMNS('^_own_({own})$')" + ' AS "\\1"')
    columns += [f"{ours} AS {quote(name)}" for name, ours in kept.items()]
    ordering = [name.removeprefix("-") for name in output.order]
    different = ""
    if output.paired:
        one = "pref_one_context(_context, _other)"
        different = f" WHERE CASE WHEN _same_text THEN false ELSE {one} END"
    return (
        f"SELECT * EXCLUDE ({', '.join(['_mark', *ordering])}) FROM (\n"
        f"  SELECT {', '.join([*columns, *ordering])}\n"
        f"  FROM pref_conversations('told'){different})\n"
        f"ORDER BY {_order(output)}"
    )


def report(
    plan: Asks,
    con: duckdb.DuckDBPyConnection,
    table: str,
    *,
    schema: object = None,
    **names: Unpack[RoleNames],
) -> PairReport:
    """What `plan` uses of `table` and why it drops the rest: a second query, the same arguments.

    `con` needs the macros. Raises `AccountingError` should the rows not add up.
    """
    program, steps = _report_steps(plan, table, names, schema)
    (row,) = con.execute(_with(steps, program) + call(program.output.report)).fetchall()
    account = PairReport.of_row(row)
    if not program.output.length:
        return account
    return replace(account, length=length_fit(con, program, steps))


def report_query(
    plan: Asks, table: str, *, schema: object = None, **names: Unpack[RoleNames]
) -> str:
    """The account of `plan` over `table` as one SELECT of one row: what `report` runs, for a shell
    or another client.
    """
    program, steps = _report_steps(plan, table, names, schema)
    return _with(steps, program) + call(program.output.report)


def _report_steps(
    plan: Asks, table: str, names: RoleNames, schema: object
) -> tuple[Program, list[tuple[str, str]]]:
    more = plan.wide_scores(names)
    rowed = _in_rows(plan, table, names, schema, more, "report")
    program = rowed.plan.program(rowed.plan.roles(rowed.names, None, where="report"))
    rows = numbered(program.read, f"query_table({literal(rowed.table)})")
    steps = [
        *rowed.steps,
        ("numbered", rows),
        *((name, text) for _, name, text in relations(program)),
    ]
    if program.output.paired:
        steps.append(("told", _told(program.output)))
    return program, steps


def length_fit(
    con: duckdb.DuckDBPyConnection, program: Program, steps: Sequence[tuple[str, str]] = ()
) -> dict[str, float | None]:
    """The one row that says what length explains, by name; `steps` make it, unless it is there."""
    names = ("slope", "correlation", "mean")
    select = f"SELECT {', '.join(names)} FROM {program.output.length}"
    (row,) = con.execute(_with(steps) + select).fetchall()
    return dict(zip(names, row, strict=True))


def _with(steps: Sequence[tuple[str, str]], program: Program | None = None) -> str:
    """`steps` before a query; a copy is made of what the steps of `program` read twice."""
    if not steps:
        return ""
    once = _LIMITS.union(step.name for step in program.steps if step.once) if program else _LIMITS
    ctes = ",\n".join(
        f"{name} AS {'' if name in once else 'NOT '}MATERIALIZED (\n  {text})"
        for name, text in steps
    )
    return f"WITH {ctes}\n"
