"""Plans as DuckDB SQL. The rules are the macros in `sql/`; this module names the columns and
strings the macros together.

    judged ──pref_rows──▶ counted ──pref_candidates──▶ candidates ──pref_groups──▶ groups
    ──pref_pairs──▶ pairs
                                                                  ──pref_pools──▶ pools
                                                                  ──pref_picks──▶ picks
                                                                  ──pref_advantages──▶ advantages

Only `judged` knows the user's columns, and only the last join touches texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from prefmill.connection import literal, quote
from prefmill.errors import BadArgument
from prefmill.plans import (
    Advantage,
    BestOf,
    Pairs,
    Plan,
    Unpaired,
    kept_columns,
    output_columns,
    roles_of,
)
from prefmill.plans.thresholds import unsettled
from prefmill.table.context import CARRIED
from prefmill.table.report import PairReport
from prefmill.table.roles import RoleNames, Roles

if TYPE_CHECKING:
    import duckdb


def install(con: duckdb.DuckDBPyConnection, *, persistent: bool = False) -> None:
    """Make the macros of `sql/` known to `con`: for this connection, or with `persistent` in its
    database.

    No setting of the connection is changed. Cost: milliseconds.

    >>> import duckdb
    >>> con = duckdb.connect()
    >>> install(con)
    >>> con.execute("SELECT pref_number(' 4.5 '), pref_number('four')").fetchall()
    [(4.5, None)]
    """
    kind = "MACRO" if persistent else "TEMP MACRO"
    con.execute("".join(macro_texts().values()).replace(_MAKE, f"CREATE OR REPLACE {kind} "))


def install_used(con: duckdb.DuckDBPyConnection, queries: Iterable[str]) -> None:
    """Make the macros that `queries` call, and those that these call, in the database of `con`: all
    of them take 0.1 s.
    """
    texts = macro_texts()
    file_of = {
        part.partition("(")[0]: name
        for name, text in texts.items()
        for part in text.split(_MAKE)[1:]
    }
    wanted: set[str] = set()
    found = {file_of[call] for query in queries for call in _CALL.findall(query) if call in file_of}
    while found:
        wanted |= found
        found = {
            file_of[call]
            for name in found
            for call in _CALL.findall(texts[name])
            if call in file_of
        } - wanted
    con.execute("".join(text for name, text in texts.items() if name in wanted))


_MAKE = "CREATE OR REPLACE MACRO "
_CALL = re.compile(r"(\w+)\(")


@cache
def macro_texts() -> dict[str, str]:
    """The SQL of every macro by its name, in the order in which they load."""
    # A checkout keeps the folder at its top.
    packaged = Path(str(resources.files("prefmill"))) / "sql"
    folder = packaged if packaged.is_dir() else Path(__file__).parents[2] / "sql"
    lines = (folder / "prefmill.sql").read_text().splitlines()
    files = [line.removeprefix(".read sql/") for line in lines if line.startswith(".read ")]
    return {Path(file).stem: (folder / file).read_text() for file in files}


def query(plan: Plan, table: str, *, keep: Sequence[str] = (), **names: Unpack[RoleNames]) -> str:
    """`plan` over `table` as one SELECT; `Plan.sql` is this function.

    The columns `keep` come along: of pairs `chosen_NAME` and `rejected_NAME`, of the others `NAME`.

    `table` is the name of a table, view, CTE or registered frame, or a path or glob, as
    `query_table` reads it: quote a name that holds dots or quotes (`'"a.b"'`). Positions are the
    row order that the connection gives (`preserve_insertion_order`, on by default). Texts are
    joined to the ranked positions at the end.

    >>> print(query(Pairs(), "feedback", completion="answer").splitlines()[0])
    WITH numbered AS NOT MATERIALIZED (
    """
    roles = roles_of(plan, names, None, where="sql")
    kept = kept_columns(plan, keep, None, output_columns(plan, roles), where="sql")
    # `_keep0` of the row, or of the chosen one, `_other0` of the rejected one
    places = {name: place for place, name in enumerate(dict.fromkeys(each.column for each in kept))}
    ours = {
        each.name: f"{'_other' if each.side == 'rejected' else '_keep'}{places[each.column]}"
        for each in kept
    }
    carried = "".join(f", {name} AS {quote(out)}" for out, name in ours.items())
    of_row = "".join(f", row.{name} AS {quote(out)}" for out, name in ours.items())
    for_trainer = isinstance(plan, Pairs | Unpaired)
    relation = (
        f"pref_with_context({literal(table)})" if for_trainer else f"query_table({literal(table)})"
    )
    rows = numbered(plan, roles, relation, keep=list(places), context=for_trainer)
    ctes = [("numbered", rows), *stages(plan, roles)]
    # What the rows have besides what every plan reads: _context, _own_NAME, and the kept columns.
    known = ", ".join(_columns(plan, roles))
    taken = keep if isinstance(plan, Unpaired) else ()
    own = "|".join(name for name in ("_mark", *CARRIED) if name not in taken)
    carried = f", COLUMNS('^_own_({own})$') AS \"\\1\"{carried}"
    if isinstance(plan, Unpaired):
        told = (
            "SELECT row._prompt AS _prompt, row._completion AS _chosen_text, row._completion AS _rejected_text,\n"
            f"         labels.*, row.* EXCLUDE ({known})\n"
            "  FROM labels JOIN numbered AS row ON row._pos = labels._pos WHERE labels._label IS NOT NULL"
        )
        ctes.append(("told", told))
        select = (
            "SELECT * EXCLUDE (_mark, _turn, _first) FROM (\n"
            f"  SELECT _prompt AS prompt, _chosen_text AS completion, _label AS label, _score AS score{carried}, _turn, _first\n"
            "  FROM pref_conversations('told'))\nORDER BY _turn, _first"
        )
    elif isinstance(plan, BestOf):
        more = ", picks._adjusted_score AS adjusted_score" if plan.length_control else ""
        more += ", row._stage AS stage" if roles.stage else ""
        select = (
            f"SELECT row._prompt AS prompt, row._completion AS completion, picks._score AS score, picks._rank AS rank{more}{of_row}\n"
            "FROM picks JOIN numbered AS row ON row._pos = picks._pos\n"
            "ORDER BY picks._first, picks._rank"
        )
    elif isinstance(plan, Advantage):
        select = (
            "SELECT row._prompt AS prompt, row._completion AS completion, found._score AS score,"
            f" found._advantage AS advantage{of_row}\n"
            "FROM advantages AS found JOIN numbered AS row ON row._pos = found._pos\n"
            "WHERE found._reason IS NULL ORDER BY found._pos"
        )
    else:
        sides = "".join(f", worse._keep{place} AS _other{place}" for place in places.values())
        sides = f", better.* EXCLUDE ({known}), worse._context AS _other{sides}"
        ctes.append(("told", _TOLD.replace("\n  FROM pairs", f"{sides}\n  FROM pairs")))
        select = (
            "SELECT * EXCLUDE (_mark, _first, _c, _r) FROM (\n"
            "  SELECT _prompt AS prompt, _chosen_text AS chosen, _rejected_text AS rejected,\n"
            f"         _chosen_score AS chosen_score, _rejected_score AS rejected_score{carried}, _first, _c, _r\n"
            "  FROM pref_conversations('told') WHERE CASE WHEN _same_text THEN false ELSE pref_one_context(_context, _other) END)\n"
            "ORDER BY _first, _c DESC, _r"
        )
    return _with(ctes) + select


_TOLD = (
    "SELECT pairs.*, better._prompt AS _prompt, better._completion AS _chosen_text, worse._completion AS _rejected_text,\n"
    "         pref_same_text(better._completion, worse._completion) AS _same_text\n"
    "  FROM pairs JOIN numbered AS better ON better._pos = pairs._chosen JOIN numbered AS worse ON worse._pos = pairs._rejected"
)


_NO_WEIGHT = "pref_weight_refusal(pref_number(_weight), {logs})"
_LAST_STAGE = (
    "pref_stage_refusal(pref_stage(_stage), (SELECT max(pref_stage(_stage)) FROM numbered))"
)


def report(
    plan: Plan, con: duckdb.DuckDBPyConnection, table: str, **names: Unpack[RoleNames]
) -> PairReport:
    """What `plan` uses of `table` and why it drops the rest: a second query with the same
    arguments.

    `con` needs the macros (`install`). Raises `AccountingError` should the rows not add up.
    """
    (row,) = con.execute(report_query(plan, table, **names)).fetchall()
    told = PairReport.of_row(row)
    if isinstance(plan, BestOf) and plan.length_control:
        return replace(told, length=length_fit(con, _with(_report_steps(plan, table, names))))
    return told


def report_query(plan: Plan, table: str, **names: Unpack[RoleNames]) -> str:
    """The account of `plan` over `table` as one SELECT of one row: what `report` runs, for a shell
    or another client.

    >>> report_query(Pairs(), "feedback").splitlines()[-1].startswith("FROM pref_report(")
    True
    """
    steps = _report_steps(plan, table, names)
    return (
        _with(steps) + f"FROM {report_call(plan, 'picks' if isinstance(plan, BestOf) else 'told')}"
    )


def _report_steps(plan: Plan, table: str, names: RoleNames) -> list[tuple[str, str]]:
    roles = roles_of(plan, names, None, where="report")
    steps = [
        ("numbered", numbered(plan, roles, f"query_table({literal(table)})")),
        *stages(plan, roles),
    ]
    return [*steps, ("told", _TOLD)] if isinstance(plan, Pairs) else steps


def length_fit(con: duckdb.DuckDBPyConnection, ctes: str = "") -> dict[str, float | None]:
    """The one row of the step `fit`, by name; `ctes` are those that make it, unless it is there."""
    (row,) = con.execute(f"{ctes}SELECT slope, correlation, mean FROM fit").fetchall()
    return dict(zip(("slope", "correlation", "mean"), row, strict=True))


def report_call(plan: Plan, out: str) -> str:
    """The call of the macro that accounts for every row, over the stages of `plan`; `out` names its
    pairs or picks.
    """
    if isinstance(plan, Unpaired):
        return "pref_label_report('counted', 'candidates', 'labels')"
    if isinstance(plan, Advantage):
        return "pref_advantage_report('counted', 'candidates', 'advantages')"
    if isinstance(plan, BestOf):
        how = f"scope := {sql(plan.scope)}, min_score := {sql(plan.min_score)}, aggregate := {sql(plan.aggregate)}"
        return f"pref_best_report('counted', 'candidates', 'pools', {literal(out)}, {how})"
    limits = f"{_limits(plan)}, min_margin := {sql(plan.min_margin)}"
    once = plan.strategy in ("best_worst", "best_random")
    how = f"aggregate := {sql(plan.aggregate)}, once := {sql(once)}"
    return f"pref_report('counted', 'candidates', 'groups', {literal(out)}, {limits}, {how})"


def stages(plan: Plan, roles: Roles) -> list[tuple[str, str]]:
    """(name, query) of each step from `numbered` to the pairs, labels, picks or advantages, each
    over the one before.
    """
    tie = f"tie_break := {sql(plan.tie_break)}"
    by_aspect = plan.weights if roles.aspect else None
    weights = f"weights := {sql(by_aspect)}"
    steps = [
        ("judged", judged(plan, roles)),
        (
            "counted",
            f"FROM pref_rows('judged', normalize := {sql(plan.normalize)}, {tie}, {weights}, on_invalid := {sql(plan.on_invalid)})",
        ),
        (
            "candidates",
            f"FROM pref_candidates('counted', aggregate := {sql(plan.aggregate)}, min_votes := {plan.min_votes}, {weights}, {tie})",
        ),
    ]
    if isinstance(plan, BestOf):
        return [*steps, *_picking(plan, tie)]
    if isinstance(plan, Advantage):
        logs = sql(roles.logprob is not None)
        acting = f"SELECT candidates.*, NULL::DOUBLE AS _weight, {logs} AS _log FROM candidates"
        if roles.weight or roles.logprob:
            acting = (
                f"SELECT candidates.*, pref_number(row._weight) AS _weight, {logs} AS _log\n"
                "  FROM candidates JOIN numbered AS row ON row._pos = candidates._pos"
            )
        plain = plan.aggregate == "none" and not (roles.weight or roles.logprob)
        how = f"kind := {sql(plan.method)}, epsilon := {sql(float(plan.epsilon))}, plain := {sql(plain)}"
        return [
            *steps,
            ("acting", acting),
            ("advantages", f"FROM pref_advantages('acting', {how})"),
        ]
    limits = _limits(plan)
    if unsettled(plan):
        thresholds = (
            f"chosen_min := {sql(plan.chosen_min)}, rejected_below := {sql(plan.rejected_below)}"
        )
        steps.append(
            ("limits", f"FROM pref_limits('candidates', {literal(plan.kind)}, {thresholds})")
        )
    if isinstance(plan, Unpaired):
        one_vote = sql(plan.aggregate == "none")
        return [
            *steps,
            ("labels", f"FROM pref_labels('candidates', {limits}, plain := {one_vote})"),
        ]
    caps = ", ".join(
        f"{name} := {sql(getattr(plan, name))}"
        for name in ("max_pairs_per_prompt", "top_k", "bottom_k")
    )
    margin = f"min_margin := {sql(plan.min_margin)}"
    return [
        *steps,
        (
            "groups",
            f"FROM pref_groups('candidates', {tie}, ends_only := {sql(plan.strategy == 'best_worst')})",
        ),
        (
            "pairs",
            f"FROM pref_pairs('groups', strategy := {sql(plan.strategy)}, {limits}, {margin}, {caps}, seed := {plan.seed})",
        ),
    ]


def _limits(plan: Pairs | Unpaired) -> str:
    """The thresholds as arguments of a macro: numbers, or what the step `limits` found."""
    if unsettled(plan):
        return "chosen_min := (SELECT _chosen_min FROM limits), rejected_below := (SELECT _rejected_below FROM limits)"
    return f"chosen_min := {sql(plan.chosen_min)}, rejected_below := {sql(plan.rejected_below)}"


def _picking(plan: BestOf, tie: str) -> list[tuple[str, str]]:
    """The steps from `candidates` to `picks`; with length control the ranks are those of
    `adjusted`, and `picks` has _adjusted_score.
    """
    pick = f"k := {plan.k}, pick := {sql(plan.pick)}, scope := {sql(plan.scope)}"
    low, draw = sql(plan.min_score), f"FROM pref_picks('pools', {pick}, seed := {plan.seed})"
    if plan.pick == "rso":
        draw = f"FROM pref_rso('pools', k := {plan.k}, seed := {plan.seed}, beta := {sql(float(plan.beta))})"
    if not plan.length_control:
        return [
            ("pools", f"FROM pref_pools('candidates', {pick}, min_score := {low}, {tie})"),
            ("picks", draw),
        ]
    return [
        ("measured", "FROM pref_measured('candidates', 'numbered')"),
        ("fit", "FROM pref_length_fit('measured')"),
        ("adjusted", f"FROM pref_adjusted('measured', 'fit', min_score := {low})"),
        (
            "pools",
            f"FROM pref_pools('adjusted', {pick}, min_score := pref_adjusted_min({low}), {tie})",
        ),
        ("ranked", draw),
        ("picks", "FROM pref_given('ranked', 'candidates')"),
    ]


def numbered(
    plan: Plan,
    roles: Roles,
    relation: str,
    position: str = "row_number() OVER () - 1",
    scalars: Mapping[str, str] | None = None,
    keep: Sequence[str] = (),
    context: bool = False,
) -> str:
    """The role columns of `relation` under our own names, and the position of each row; `scalars`
    are expressions of score columns.

    The columns `keep` are `_keep0`, `_keep1` ...; with `context` those that `pref_with_context`
    adds to `relation` stay.
    """
    columns = _columns(plan, roles, position, scalars)
    columns |= {f"_keep{i}": quote(name) for i, name in enumerate(keep)}
    more = ", _context, COLUMNS('^_own_.*$')" if context else ""
    return (
        "SELECT "
        + ", ".join(f"{expression} AS {name}" for name, expression in columns.items())
        + f"{more} FROM {relation}"
    )


def _columns(
    plan: Plan, roles: Roles, position: str = "", scalars: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The expression of every column that each plan reads, by our name for it."""
    columns = {
        "_pos": position,
        "_prompt": quote(roles.prompt),
        "_completion": quote(roles.completion),
    }
    if scalars is None:  # of columns that nobody has looked at
        columns |= {
            f"_{role}": f"pref_no_json({quote(getattr(roles, role))}, '{role}')"
            for role in ("prompt", "completion")
        }
    scores = score_columns(plan, roles)
    columns |= {
        f"_score{i}": (scalars or {}).get(name, quote(name)) for i, name in enumerate(scores)
    }
    for role in ("id", "annotator", "aspect", "stage"):
        if name := getattr(roles, role):
            columns[f"_{role}"] = quote(name)
    if isinstance(plan, Advantage) and (policy := roles.weight or roles.logprob):
        columns["_weight"] = quote(policy)
    columns |= {f"_group{i}": quote(name) for i, name in enumerate(roles.group)}
    return columns


def score_columns(plan: Plan, roles: Roles) -> list[str]:
    """The columns that a row's score is made of."""
    return list(plan.weights) if plan.weights and not roles.aspect else [roles.score]


def judged(plan: Plan, roles: Roles, never_null: frozenset[str] = frozenset()) -> str:
    """The narrow relation that the macros start from, over `numbered`.

    Columns in `never_null` are not tested for nulls: testing one means decoding all its texts.
    """

    def present(role: str, name: str) -> str:
        return "true" if name in never_null else f"{role} IS NOT NULL"

    scores = (
        list(plan.weights.items()) if plan.weights and not roles.aspect else [(roles.score, 1.0)]
    )
    null_score = " OR ".join(f"_score{i} IS NULL" for i in range(len(scores)))
    if plan.weights and not roles.aspect:
        value = (
            "pref_round("
            + " + ".join(
                f"{sql(float(w))} * pref_scored(_score{i})" for i, (_, w) in enumerate(scores)
            )
            + ")"
        )
    else:
        value = (
            "-" if roles.negate else ""
        ) + "pref_scored(_score0) + 0"  # adding 0 makes -0.0 a plain zero
    has_prompt = " AND ".join(
        [
            present("_prompt", roles.prompt),
            *(present(f"_group{i}", name) for i, name in enumerate(roles.group)),
        ]
    )
    key = (
        "["
        + ", ".join(f"pref_plain(_group{i}, 'group')::VARCHAR" for i in range(len(roles.group)))
        + "]"
        if roles.group
        else "_prompt"
    )
    refusal = _LAST_STAGE if isinstance(plan, BestOf) and plan.stages == "last" else "NULL"
    if isinstance(plan, Advantage) and (roles.weight or roles.logprob):
        refusal = _NO_WEIGHT.format(logs=sql(roles.logprob is not None))
    columns = {
        "_pos": "_pos",
        "_grp": key,
        "_text": "_completion" if plan.aggregate != "none" else "NULL",
        # A text literal beside it makes text of an ENUM, whose order would be that of its
        # declaration, and leaves other types.
        "_id": "CASE WHEN false THEN '1' ELSE pref_plain(_id, 'id') END" if roles.id else "NULL",
        "_annotator": "pref_plain(_annotator, 'annotator')" if roles.annotator else "NULL",
        "_aspect": "pref_plain(_aspect, 'aspect')" if roles.aspect else "NULL",
        "_refusal": refusal,
        "_has_prompt": has_prompt,
        "_has_completion": present("_completion", roles.completion),
        "_null_score": null_score,
        "_value": value,
    }
    return (
        "SELECT "
        + ", ".join(e if e == name else f"{e} AS {name}" for name, e in columns.items())
        + " FROM numbered"
    )


def sql(value: object) -> str:
    """A plan's value as SQL."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return literal(value)
    if isinstance(value, dict):
        return (
            "MAP {"
            + ", ".join(f"{literal(str(key))}: {sql(float(v))}" for key, v in value.items())
            + "}"
        )
    if isinstance(value, int | float):
        return f"{float(value)!r}::DOUBLE" if isinstance(value, float) else repr(value)
    raise BadArgument(f"sql: no SQL form for {value!r}.")


def _with(ctes: list[tuple[str, str]]) -> str:
    # The limits are one row that several steps use.
    kept = {name: "" if name == "limits" else "NOT " for name, _ in ctes}
    return (
        "WITH "
        + ",\n".join(f"{name} AS {kept[name]}MATERIALIZED (\n  {text})" for name, text in ctes)
        + "\n"
    )
