"""Plans over feedback: how rows become candidates, which all of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, Unpack, get_args

from prefmill.engines.steps import Output, Program, Step
from prefmill.errors import BadArgument, PlanError
from prefmill.plans.plan import Plan
from prefmill.shapes.words import Rows
from prefmill.table.fields import finite, key, one_of, whole
from prefmill.table.fields import seed as is_seed
from prefmill.table.roles import FeedbackRoles, Fits, Inputs, Read, RoleNames, Roles
from prefmill.table.thresholds import Scale, Scores
from prefmill.writers.formats import Format, formats_for

if TYPE_CHECKING:
    import polars as pl

    from prefmill.table.report import PairReport

Aggregate = Literal["none", "mean", "median", "max", "min", "majority"]
Normalize = Literal["none", "zscore", "rank"]
TieBreak = Literal["position", "id"]
OnInvalid = Literal["drop", "raise"]
#: The roles that all plans over feedback read.
COMMON_ROLES = tuple(FeedbackRoles.__annotations__)

_is_number = finite()


def _weights(value: object) -> None:
    """Anything: `problems` looks at each weight."""


def _rows(value: object) -> str | None:
    """Words of `[rows]`."""
    return None if value is None or isinstance(value, Rows) else "Rows(...)"


class FeedbackOptions(FeedbackRoles, total=False):
    """The fields of `FeedbackPlan`, the roles and `keep`, as keyword arguments."""

    rows: Rows | None
    keep: Sequence[str]
    aggregate: Aggregate
    normalize: Normalize
    weights: Mapping[str, float] | None
    min_votes: int
    tie_break: TieBreak
    on_invalid: OnInvalid
    seed: int


@dataclass(frozen=True, kw_only=True)
class FeedbackPlan(Plan, ABC):
    """A plan whose rows are judged completions of prompts."""

    #: The command that runs it, and the words of its help.
    command: ClassVar[str]
    usage: ClassVar[str]
    #: What the rows that come out are called: in a report, and on a dataset card.
    rows_are: ClassVar[str] = "rows"
    card: ClassVar[str]
    #: Whether thresholds can be left off, by one option.
    unbounded: ClassVar[bool] = False
    #: Every row comes out, so rows are read in their order, and may replace their one file.
    every_row: ClassVar[bool] = False
    #: The order of equal scores decides what comes out.
    ranks: ClassVar[bool] = True
    #: The roles that it takes, and the roles and fields that have no meaning for it.
    role_names: ClassVar[tuple[str, ...]] = COMMON_ROLES
    idle: ClassVar[frozenset[str]] = frozenset({"stage"})
    #: Why a candidate that the last step knows is in no row, where bounds alone decide that.
    passed_over: ClassVar[str] = ""

    aggregate: Aggregate = key(
        one_of(*get_args(Aggregate)),
        "none",
        help="Merge judgements of one completion: none, mean, median, max, min, majority.",
    )
    normalize: Normalize = key(
        one_of(*get_args(Normalize)), "none", help="Scale of annotators: none, zscore, rank."
    )
    weights: Mapping[str, float] | None = key(
        _weights,
        None,
        help="Weighted sum of score columns, or of aspects.",
        table=True,
    )
    min_votes: int = key(whole(1), 1, help="Judgements that a completion needs.")
    tie_break: TieBreak = key(
        one_of(*get_args(TieBreak)), "position", help="Order of equal scores: position or id."
    )
    on_invalid: OnInvalid = key(
        one_of(*get_args(OnInvalid)),
        "drop",
        help="Rows without a usable score: drop (and count) or raise.",
    )
    seed: int = key(is_seed, 0, help="Of everything drawn, and of splits.")
    rows: Rows | None = key(
        _rows, None, help="How raw records become rows.", later=True, own_table=True
    )

    def __post_init__(self) -> None:
        # A copy, so that nobody changes a plan through the mapping that it was made of.
        if self.weights is not None:
            object.__setattr__(self, "weights", dict(self.weights))
        if isinstance(self.rows, Mapping):
            object.__setattr__(self, "rows", Rows(**self.rows))
        super().__post_init__()
        if self.weights is not None:
            weights = {name: float(weight) for name, weight in self.weights.items()}
            object.__setattr__(self, "weights", weights)

    def problems(self) -> list[str]:
        """What is wrong with weights and votes."""
        problems = []
        if self.weights is not None and not self.weights:
            problems.append("weights must name at least one column or aspect; got none")
        for name, weight in (self.weights or {}).items():
            if expected := _is_number(weight):
                problems.append(f"weight {name!r} must be {expected}; got {weight!r}")
        if self.aggregate == "none" and type(self.min_votes) is int and self.min_votes > 1:
            votes = self.min_votes
            problems.append(f"min_votes {votes} needs aggregate: without it every row is one vote")
        return problems

    @abstractmethod
    def in_words(self) -> str:
        """The rule for people, without the fields that bound it."""

    @property
    def layout(self) -> Format:
        """The layout of the rows where none is asked for."""
        return formats_for(self.rows_are)[0]

    @property
    def thresholds(self) -> dict[str, Any]:
        """The thresholds by name, of a plan that has any."""
        return {}

    @property
    def quantiles(self) -> dict[str, float]:
        """The thresholds that are given as quantiles of the scores."""
        return {}

    @property
    def waits(self) -> bool:
        """Whether a threshold waits for the scores."""
        return False

    def settled(self, scores: Scores) -> Self:
        """This plan with numbers for thresholds that wait for the scores."""
        return self

    def notes(self, asked: FeedbackPlan, report: PairReport, scale: Scale) -> list[str]:
        """What people are told about numbers in units of the score; `asked` left some open."""
        return []

    @property
    def wide(self) -> str:
        """The setting that needs more than one prompt's rows, if there is one."""
        if self.rows is not None and self.rows.repeats == "drop":
            return "repeats 'drop'"
        return "" if self.normalize == "none" else f"normalize {self.normalize!r}"

    def needs(self) -> dict[str, str]:
        """The optional roles that the fields use, and which field uses each."""
        needs = {}
        if self.tie_break == "id":
            needs["id"] = "tie_break 'id'"
        if self.normalize != "none":
            needs["annotator"] = f"normalize {self.normalize!r}"
        return needs

    def role_problems(self, roles: Roles) -> list[str]:
        """What the plan misses in `roles`, or cannot use."""
        problems = [
            f"{user} needs the role {role} (a column)"
            for role, user in self.needs().items()
            if not getattr(roles, role)
        ]
        if roles.aspect and self.weights is None:
            problems.append("the role aspect needs weights: the weight of each aspect")
        if roles.aspect and self.aggregate == "none":
            problems.append(
                "the role aspect needs aggregate: it says how the judgements of one aspect are "
                "merged"
            )
        return problems

    def wide_scores(self, names: Mapping[str, Any]) -> tuple[str, ...]:
        """The columns of scores whose weighted sum is the score."""
        return tuple(self.weights) if self.weights and not names.get("aspect") else ()

    def roles(
        self,
        names: RoleNames,
        columns: Sequence[str] | None,
        *,
        where: str,
        fits: Fits | None = None,
    ) -> Roles:
        """The column of every role that is used.

        `columns` None: not known yet, so unnamed roles have their own names. `fits` says which
        columns can hold a role (`prefmill.table.fits`). Raises what `Roles.resolve` raises, and
        `PlanError` with every role that is needed and not there.
        """
        # With an aspect role the weights name aspects, else columns of scores.
        wide = self.wide_scores(names)
        needed = tuple(self.needs())
        if columns is None:
            roles = Roles.unseen(names, score_columns=wide, needed=needed, where=where)
        else:
            roles = Roles.resolve(
                columns, names, score_columns=wide, needed=needed, where=where, fits=fits
            )
        if problems := self.role_problems(roles):
            raise PlanError(where, problems)
        return roles

    def over_records(self, *, inside: bool, votes: bool, where: str) -> Self:
        """This plan for rows of records.

        Args:
            inside: only rows of one record compare.
            votes: an answer has a row for each of several judges.

        Raises `BadArgument` for votes that nobody says how to merge.
        """
        if votes and self.aggregate == "none":
            raise BadArgument(
                f"{where}: several judges say which answer is better, and aggregate does not say"
                " how they are merged; got aggregate 'none'.",
                hint="--aggregate majority (what most say) or --aggregate mean"
                " (aggregate='majority' or 'mean').",
            )
        return self._inside_records() if inside else self

    def _inside_records(self) -> Self:
        """This plan, where only rows of one record compare."""
        return self

    @property
    def in_units(self) -> bool:
        """Whether a number of the plan, other than a threshold, is in units of the score."""
        return False

    def reading(self, roles: Roles) -> Read:
        """How rows of the input are read."""
        weights = self.weights if self.weights and not roles.aspect else {}
        return Read(roles=roles, weights=weights, merged=self.aggregate != "none")

    def candidates(self, roles: Roles) -> tuple[Step, ...]:
        """The steps from judgements to candidates, which all plans over feedback share."""
        shared = {
            "weights": self.weights if roles.aspect else None,
            "tie_break": self.tie_break,
        }
        counted = {"normalize": self.normalize, **shared, "on_invalid": self.on_invalid}
        merged = {"aggregate": self.aggregate, "min_votes": self.min_votes, **shared}
        as_table = self.aggregate != "none"
        return (
            Step("counted", "rows.rows", ("judged",), counted),
            Step("candidates", "rows.candidates", ("counted",), merged, table=as_table),
        )

    @abstractmethod
    def steps(self, roles: Roles) -> tuple[Step, ...]:
        """The steps from candidates to the rows that come out."""

    @abstractmethod
    def output(self, roles: Roles) -> Output:
        """What becomes of the rows of the last step."""

    def program(self, roles: Roles) -> Program:
        """All that an engine is told.

        >>> from prefmill import Pairs
        >>> [step.rule for step in Pairs().program(Roles()).steps]
        ['rows.rows', 'rows.candidates', 'pairs.groups', 'pairs.pairs']
        """
        steps = (*self.candidates(roles), *self.steps(roles))
        return Program(self.reading(roles), steps, self.output(roles))

    def most_rows(self, prompts: int, answers: int) -> int | None:
        """How many rows come out at most, of so many answers to each prompt; None: unknown."""
        return prompts * answers

    def hint(self, dropped: Collection[str], low: float, high: float) -> str:
        """What to do where a bound of the scores leaves nothing; "" where none does.

        `dropped` are the reasons for which rows were dropped, `low` and `high` the smallest and the
        largest score seen.
        """
        return ""

    def advice(self) -> dict[str, str]:
        """What to do where nothing came out, by the reason that dropped most rows."""
        return {
            "single_completion": "every prompt has one answer only; "
            "is the right column the prompt (or --group)?",
            "tie": "all answers of a prompt have one score; "
            "--weights or --aggregate mean may separate them.",
            "identical_text": "the answers of a prompt are the same text; "
            "--aggregate mean merges them.",
        }

    def lazy(
        self, frame: Inputs, *, keep: Sequence[str] = (), **roles: Unpack[RoleNames]
    ) -> pl.LazyFrame:
        """This plan over a Polars frame, nothing collected, with the columns `keep`.

        More is in `prefmill.polars`.

        >>> import polars as pl
        >>> from prefmill import Pairs
        >>> feedback = {"prompt": ["p", "p"], "completion": ["a", "b"], "score": [5, 1]}
        >>> Pairs().lazy(pl.LazyFrame(feedback)).collect().rows()
        [('p', 'a', 'b', 5.0, 1.0)]
        """
        from prefmill.engines import frames

        return frames.apply(self, frame, keep=keep, **roles)

    def sql(
        self,
        table: str,
        *,
        keep: Sequence[str] = (),
        schema: object = None,
        **roles: Unpack[RoleNames],
    ) -> str:
        """This plan as one DuckDB query over `table`, with the columns `keep`.

        A table is also a view, a CTE, a file or a glob. The query calls the macros of `sql/`: load
        them once with `prefmill.duckdb.install(con)` or `.read prefmill.sql`. Where records
        become rows (`prefmill.Rows`), `schema` says what types the columns have: a Polars or
        pyarrow schema, or a DuckDB relation.
        """
        from prefmill.engines import sql

        return sql.query(self, table, keep=keep, schema=schema, **roles)
