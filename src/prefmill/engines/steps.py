"""Steps: what a plan asks of an engine, as data.

    plan   = fields + steps(roles) + output        knows no engine
    step   = a rule by name over earlier steps     sql/pref_<rule>.sql  =  rules/<file>.<rule>
    engine = prints or runs steps                  knows no plan

The standard library only: plans are made without an engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self

from prefmill.errors import BadArgument
from prefmill.shapes.words import Rows
from prefmill.table.roles import NO_RECORDS, PARTS_OUT, Fits, OfRecords, Read, RoleNames, Roles


@dataclass(frozen=True)
class Step:
    """One rule over the relations of earlier steps.

    Args:
        name: of the relation that the step makes.
        rule: `FILE.NAME`: the function NAME of `rules/FILE.py`, and the macro `pref_NAME`.
        over: the relations that the rule takes, in its order.
        args: flat arguments, the same for the function and the macro.
        sql: further arguments that only the macro has, and those that it is told otherwise.
        table: a run keeps the relation as a table, because more than one step reads it.
        once: a query makes the relation once, because a step reads it twice.
        spare: columns that nothing reads once it is known which rows come out.
        drawn: a later step draws by the key of a group, so it reads the spare columns.
        release: memory goes back to the system when the table stands.
    """

    name: str
    rule: str
    over: tuple[str, ...]
    args: Mapping[str, object] = field(default_factory=dict)
    sql: Mapping[str, object] = field(default_factory=dict)
    table: bool = False
    once: bool = False
    spare: tuple[str, ...] = ()
    drawn: bool = False
    release: bool = False

    @property
    def function(self) -> tuple[str, str]:
        """The module in `prefmill.rules` and the function in it."""
        module, _, name = self.rule.partition(".")
        return module, name


@dataclass(frozen=True)
class Cell:
    """The value of one column of a step that gives one row, as an argument of a macro."""

    step: Step
    column: str


@dataclass(frozen=True)
class Column:
    """A column of output: its name, the column of the last step that it is, and its type.

    `of_row`: it is a column of `numbered`. `whole_only`: no trainer's layout has it.
    """

    name: str
    ours: str
    dtype: Literal["Float64", "Int64", "Boolean"] = "Float64"
    of_row: bool = False
    whole_only: bool = False


RankPick = Literal["best", "worst", "median"]


@dataclass(frozen=True)
class ByRank:
    """The `k` rows of each pool at one end of its ranks, or in the middle; no score below
    `min_score` is in a pool.
    """

    k: int
    pick: RankPick
    min_score: float | None = None


Side = Literal["chosen", "rejected", "row", "both"]


@dataclass(frozen=True)
class Output:
    """What becomes of the rows of the last step.

    Args:
        step: the name of the step whose rows come out.
        texts: the text columns, each with the column of `step` that has its position.
        columns: the other columns, in order.
        order: columns of `step` that order the rows; a minus before one is descending.
        report: the step that accounts for every row. Over `told` it reads the pairs with texts.
        present: rows where this column is null do not come out.
        also: further columns that the report reads of the rows that come out.
        added: columns that whole rows have after their own.
        for_trainer: the rows are a trainer's: the prompt's context comes along, in one form.
        layouts: rows can be written in a trainer's layout; else only as whole rows.
        keyed: the group key of a row is its prompt, unless the plan groups by other columns.
        few: rows are few and picked of many, so small parts hold memory down.
        by_rank: what is picked of each prompt by rank, where nothing else decides that.
        length: the step that says what length explains of the scores.
        scale: the step that says the smallest and the largest score, where thresholds wait.
        quantiles: the step that says which scores quantiles are, where thresholds are given so.
        proposals: the step that says how many rows are proposed, where these can be too many.
    """

    step: str
    texts: Mapping[str, str]
    columns: tuple[Column, ...]
    order: tuple[str, ...]
    report: Step
    present: str = ""
    also: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    for_trainer: bool = False
    layouts: bool = True
    keyed: bool = True
    few: bool = False
    by_rank: ByRank | None = None
    length: str = ""
    scale: Step | None = None
    quantiles: Step | None = None
    proposals: Step | None = None

    @property
    def paired(self) -> bool:
        """Whether a row is two completions."""
        return len(self.texts) == 2

    @property
    def names(self) -> list[str]:
        """The columns of a query or a lazy frame, without those that are kept."""
        return ["prompt", *self.texts, *(column.name for column in self.columns)]

    @property
    def sides(self) -> tuple[Side, ...]:
        """Which rows a kept column comes from."""
        return ("chosen", "rejected") if self.paired else ("row",)


@dataclass(frozen=True)
class Program:
    """All that an engine is told: how rows are read, the steps, and what comes out."""

    read: Read
    steps: tuple[Step, ...]
    output: Output


class Asks(Protocol):
    """What an engine needs of a plan; `prefmill.plans` has them."""

    @property
    def waits(self) -> bool:
        """Whether a threshold waits for the scores."""
        ...

    @property
    def rows(self) -> Rows | None:
        """How records become rows."""
        ...

    def over_records(self, *, inside: bool, votes: bool, where: str) -> Self:
        """The plan for rows of records."""
        ...

    def wide_scores(self, names: Mapping[str, Any]) -> tuple[str, ...]:
        """The columns of scores whose weighted sum is the score."""
        ...

    def roles(
        self,
        names: RoleNames,
        columns: Sequence[str] | None,
        *,
        where: str,
        fits: Fits | None = None,
    ) -> Roles:
        """The column of every role that is used."""
        ...

    def program(self, roles: Roles) -> Program:
        """What the plan asks of an engine."""
        ...


@dataclass(frozen=True)
class Kept:
    """One column of output that `keep` asks for: its name, its column of the input, and its side.

    `both` is a column of the prompt's context, which has to be the same in both rows.
    """

    name: str
    column: str
    side: Side


def kept_columns(
    output: Output,
    keep: Sequence[str],
    columns: Sequence[str] | None,
    names: Sequence[str],
    *,
    where: str,
    context: Mapping[str, str] | None = None,
    of_records: OfRecords = NO_RECORDS,
) -> list[Kept]:
    """The columns that `keep` adds to an output that has the columns `names` itself.

    `columns` are those of the input, or None where they are not known. `context` are columns of
    the prompt by the name that they get (`prefmill.table.context`); they come first, and then
    the parts of a prompt. A column that both sides of a pair have alike (`OfRecords.shared`) comes
    once, under its own name. Raises `BadArgument`.
    """
    wanted = kept_names(keep, columns, where=where)
    kept = [
        Kept(name, column, "both" if output.paired else "row")
        for name, column in (context or {}).items()
    ]
    if output.paired:
        # Of the chosen row: parts may differ, where records of one prompt meet.
        parts = zip(PARTS_OUT, of_records.parts, strict=False)
        kept += [Kept(name, part, "chosen") for name, part in parts]
    for name in wanted:
        sides = {side: name if side == "row" else f"{side}_{name}" for side in output.sides}
        if output.paired and name in of_records.shared:
            sides = {"chosen": name}
        kept += [Kept(new, name, side) for side, new in sides.items()]
    taken = [*names, *(each.name for each in kept)]
    twice = sorted({name for name in taken if taken.count(name) > 1})
    if twice:
        raise BadArgument(
            f"{where}: keep {wanted} would write {twice[0]!r} twice: the output has it anyway.",
            hint="leave it out, or rename it.",
        )
    return kept


def kept_names(keep: Sequence[str], columns: Sequence[str] | None, *, where: str) -> list[str]:
    """The names in `keep`, each once.

    Raises `BadArgument` for one that the input, of these `columns`, does not have.
    """
    if isinstance(keep, str):
        raise BadArgument(
            f"{where}: keep is a list of columns; got the text {keep!r}.", hint=f"keep=[{keep!r}]."
        )
    names = list(dict.fromkeys(keep))
    missing = [] if columns is None else [name for name in names if name not in columns]
    if missing:
        raise BadArgument(
            f"{where}: keep names no column of the input; got {missing}, "
            f"expected some of {list(columns or ())}."
        )
    return names
