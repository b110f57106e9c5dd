"""Plans: frozen descriptions of *what* is wanted. What each field means exactly is in
`docs/semantics.md`.

A plan checks itself when it is made (every problem at once), has a content hash, reads and writes
TOML, and runs nowhere by itself: `plan.lazy(frame)` gives a Polars LazyFrame, `plan.sql("table")`
DuckDB SQL, `prefmill.run` files.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar, Unpack, cast, get_args

from prefmill.errors import BadArgument, PlanError, nearest
from prefmill.table.roles import Fits, Inputs, RoleNames, Roles, ValueNames

if TYPE_CHECKING:
    import polars as pl

Strategy = Literal["best_worst", "best_random", "best_rest", "adjacent", "all", "threshold"]
Aggregate = Literal["none", "mean", "median", "max", "min", "majority"]
Normalize = Literal["none", "zscore", "rank"]
TieBreak = Literal["position", "id"]
OnInvalid = Literal["drop", "raise"]
Pick = Literal["best", "median", "worst", "random", "rso"]
Scope = Literal["prompt", "pool"]
StagesUsed = Literal["all", "last"]
Method = Literal["centered", "grpo", "rloo", "rank"]
Policy = Literal["uniform", "given", "softmax", "optimal"]
#: A number in units of the score, None for no bound, or what suits the scores
#: (`prefmill.plans.thresholds`).
Threshold = float | Literal["auto"] | None

_D = TypeVar("_D")

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "strategy": get_args(Strategy),
    "aggregate": get_args(Aggregate),
    "normalize": get_args(Normalize),
    "tie_break": get_args(TieBreak),
    "on_invalid": get_args(OnInvalid),
    "pick": get_args(Pick),
    "scope": get_args(Scope),
    "stages": get_args(StagesUsed),
    "method": get_args(Method),
}
_BOUNDS = ("chosen_min", "rejected_below", "min_score")
_COUNTS = ("min_votes", "max_pairs_per_prompt", "top_k", "bottom_k", "k")
_OPTIONAL = (
    "chosen_min",
    "rejected_below",
    "min_score",
    "max_pairs_per_prompt",
    "top_k",
    "bottom_k",
)
#: Fields that plans did not always have: at their default they are not hashed, so that older plans
#: keep their hash.
_LATER = ("beta", "length_control")


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What every plan can do: be hashed, and be written and read as TOML."""

    kind: ClassVar[str]

    def __hash__(self) -> int:
        return hash(self.hash())

    def hash(self) -> str:
        """16 hexadecimal digits of the plan's content: equal plans, and only they, have equal
        hashes.

        >>> Pairs(chosen_min=4).hash() == Pairs(chosen_min=4.0).hash() != Pairs().hash()
        True
        """
        held = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in _LATER or getattr(self, f.name) != f.default
        }
        content = json.dumps(
            [self.kind, {name: _canonical(value) for name, value in held.items()}], sort_keys=True
        )
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def to_toml(self) -> str:
        """The plan as a TOML table of its kind, every field written out.

        >>> print(Unpaired(rejected_below=3).to_toml().splitlines()[0])
        [unpaired]
        """
        lines = [f"[{self.kind}]"]
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name == "weights":
                if value:
                    inner = ", ".join(
                        f"{_toml(key)} = {float(weight)!r}" for key, weight in value.items()
                    )
                    lines.append(f"weights = {{ {inner} }}")
            elif value is None:
                lines.append(f'{f.name} = "none"')
            else:
                lines.append(f"{f.name} = {_toml(value)}")
        return "\n".join(lines) + "\n"

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """The plan that the TOML `text` describes; keys that are absent keep their defaults,
        unknown keys are errors.

        >>> Pairs.from_toml('[pairs]\\nchosen_min = "none"').chosen_min is None
        True
        """
        import tomllib  # few plans are read

        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise BadArgument(f"plan: not TOML; {error}.") from None
        if cls.kind not in table or not isinstance(table[cls.kind], dict):
            raise BadArgument(
                f"plan: no table [{cls.kind}]; got {sorted(table)}.",
                hint=f"begin it with [{cls.kind}].",
            )
        return cls.from_mapping(table[cls.kind])

    @classmethod
    def from_mapping(cls, values: Mapping[str, object]) -> Self:
        """The plan with these fields; `"none"` stands for None where a field can be None."""
        known = [f.name for f in fields(cls)]
        unknown = [key for key in values if key not in known]
        if unknown:
            near = [f"; did you mean {n!r}?" for n in nearest(unknown[0], known)[:1]]
            raise PlanError(
                cls.__name__,
                [f"no field {key!r}; expected some of {known}{''.join(near)}" for key in unknown],
            )
        return cls(**{k: None if k in _OPTIONAL and v == "none" else v for k, v in values.items()})


@dataclass(frozen=True, kw_only=True)
class _Judging(_Plan):
    """How rows become candidates; the part that all plans over feedback share (fields only)."""

    aggregate: Aggregate = "none"
    normalize: Normalize = "none"
    weights: Mapping[str, float] | None = None
    min_votes: int = 1
    tie_break: TieBreak = "position"
    on_invalid: OnInvalid = "drop"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.weights is not None:
            object.__setattr__(self, "weights", dict(self.weights))
        problems = _problems(self)
        if problems:
            raise PlanError(type(self).__name__, problems)
        if self.weights is not None:
            object.__setattr__(
                self, "weights", {key: float(weight) for key, weight in self.weights.items()}
            )

    def lazy(
        self, frame: Inputs, *, keep: Sequence[str] = (), **roles: Unpack[RoleNames]
    ) -> pl.LazyFrame:
        """This plan over a Polars frame, nothing collected, with the columns `keep`; see
        `prefmill.polars`.

        >>> import polars as pl
        >>> feedback = pl.LazyFrame({"prompt": ["p", "p"], "completion": ["a", "b"], "score": [5, 1]})
        >>> Pairs().lazy(feedback).collect().rows()
        [('p', 'a', 'b', 5.0, 1.0)]
        """
        from prefmill import polars

        return polars.apply(cast(Plan, self), frame, keep=keep, **roles)

    def sql(self, table: str, *, keep: Sequence[str] = (), **roles: Unpack[RoleNames]) -> str:
        """This plan as one DuckDB query over `table` (a table, view, CTE, file or glob), with the
        columns `keep`; see `prefmill.duckdb`.

        The query calls the macros of `sql/`: load them once with `prefmill.duckdb.install(con)` or
        `.read sql/prefmill.sql`.
        """
        from prefmill import duckdb

        return duckdb.query(cast(Plan, self), table, keep=keep, **roles)

    def dataset(
        self,
        ds: _D,
        *,
        clustered: bool = False,
        keep: Sequence[str] = (),
        **roles: Unpack[RoleNames],
    ) -> _D:
        """This plan over a `Dataset`, `IterableDataset` or a dictionary of them; what comes back is
        of the same kind.

        More options, and the details, are in `prefmill.datasets.apply`.
        """
        from prefmill import datasets

        return datasets.apply(cast(Plan, self), ds, clustered=clustered, keep=keep, **roles)


@dataclass(frozen=True, kw_only=True)
class Pairs(_Judging):
    """Preference pairs: per prompt, completions with a high score against completions with a low
    one.

    | prompt | completion | score |      | prompt | chosen | rejected | chosen_score | rejected_score |
    |   p    |     a      |   5   |  ->  |   p    |   a    |    b     |      5       |       1        |
    |   p    |     b      |   1   |

    Args:
        strategy: which ranks are paired: `best_worst`, `best_random`, `best_rest`, `adjacent`,
            `all`, `threshold`.
        chosen_min: smallest score of a chosen completion, in units of the score; None is no bound.
            `"auto"` is 4, and where all scores are one of two whole numbers the larger of these;
            scores that this does not divide raise `ThresholdsUnfit`.
        rejected_below: a rejected score is smaller than this; None and `"auto"` as for
            `chosen_min`.
        min_margin: smallest `chosen_score - rejected_score` (>= 0; equal scores never pair).
        max_pairs_per_prompt: at most this many pairs of a prompt, drawn by `seed`.
        top_k, bottom_k: choose only from the k best, reject only from the k worst of a prompt.
        aggregate, min_votes: merge repeated judgements of one completion, and ask for a number of
            them.
        normalize: put annotators on one scale first: `zscore` or `rank`.
        weights: weighted sum of several score columns, or of the aspects in the `aspect` role.
        tie_break: `position` (later row wins among equal scores) or `id`.
        on_invalid: `drop` and count rows without a usable score, or `raise`.
        seed: of everything that is drawn.

    Raises `PlanError` with every problem at once.

    >>> Pairs(strategy="best", min_margin=-1)
    Traceback (most recent call last):
    ...
    prefmill.errors.PlanError: Pairs: strategy is not one of ('best_worst', ...); got 'best'; did you mean 'best_rest'?
    Pairs: min_margin must be a finite number >= 0; got -1
    """

    kind: ClassVar[str] = "pairs"

    chosen_min: Threshold = "auto"
    rejected_below: Threshold = "auto"
    strategy: Strategy = "best_worst"
    min_margin: float = 0
    max_pairs_per_prompt: int | None = None
    top_k: int | None = None
    bottom_k: int | None = None

    __hash__ = _Judging.__hash__


@dataclass(frozen=True, kw_only=True)
class Unpaired(_Judging):
    """Single completions with a label, for KTO: true at or above `chosen_min`, false below
    `rejected_below`.

    Thresholds that are not given are 4 and 4. Booleans, and scores that are one of two whole
    numbers, are labels: the larger is true.

    | prompt | completion | score |      | prompt | completion | label | score |
    |   p    |     a      |   5   |  ->  |   p    |     a      | true  |   5   |
    |   p    |     b      |   1   |      |   p    |     b      | false |   1   |

    Between the two thresholds a row has no label and is dropped and counted. Fields as in `Pairs`.
    """

    kind: ClassVar[str] = "unpaired"

    chosen_min: Threshold = "auto"
    rejected_below: Threshold = "auto"

    __hash__ = _Judging.__hash__


@dataclass(frozen=True, kw_only=True)
class BestOf(_Judging):
    """The k best completions of every prompt, for SFT on best-of-K; or the controls beside them,
    chosen by rank as well.

    | prompt | completion | score |      | prompt | completion | score | rank |
    |   p    |     a      |  0.2  |  ->  |   p    |     b      |  0.9  |  1   |
    |   p    |     b      |  0.9  |

    Args:
        k: so many of a prompt; a prompt with fewer gives all it has.
        pick: `best`, `worst`, `median` (the middle ones; k=1 of an even number: the lower),
            `random` (drawn by `seed`), or `rso`: statistical rejection sampling (Liu et al. 2024,
            arXiv:2309.06657), which accepts a completion with probability exp((score - best score
            left) / beta), and none twice.
        scope: `prompt`, or `pool`: k of the whole table.
        min_score: smaller scores are left out before anything is picked; None is no bound.
        stages: `all`, or `last`: only rows of the largest stage in the input (the role `stage`).
        beta: of `rso`, in units of the score (> 0): small picks the best, large at random.
        length_control: pick by what is left of the scores when what completion length explains of
            them is taken out: the residual of a least-squares line with one slope for all prompts
                and an intercept for each. The output has it as `adjusted_score`.

    The other fields are those of `Pairs`; `aggregate="max"` merges a text that several stages
    repeat. Raises `PlanError` with every problem at once.

    >>> BestOf(k=2).hash() != BestOf(k=2, pick="random").hash()
    True
    """

    kind: ClassVar[str] = "best_of"

    k: int = 1
    pick: Pick = "best"
    scope: Scope = "prompt"
    min_score: float | None = None
    stages: StagesUsed = "all"
    beta: float = 0.5
    length_control: bool = False

    __hash__ = _Judging.__hash__


@dataclass(frozen=True, kw_only=True)
class Advantage(_Judging):
    """How much better than its prompt's other completions each one is: the number that policy
    gradients are weighted by.

    | prompt | completion | score |      | prompt | completion | score | advantage |
    |   p    |     a      |   1   |  ->  |   p    |     a      |   1   |    -1     |
    |   p    |     b      |   3   |      |   p    |     b      |   3   |     1     |

    Args:
        method: `centered` (score - mean), `grpo` (that over the sample deviation + epsilon), `rloo`
            (score - mean of the others), `rank` (average rank scaled to -1..1).
        epsilon: what `grpo` adds to the deviation (> 0).

    With the role `weight` (a probability or any weight >= 0) or `logprob`, means are those under
    that policy. Scores without spread give 0, and so does a single completion. Fields not named
    here as in `Pairs`. Raises `PlanError` with every problem at once.

    >>> Advantage(method="grpo").epsilon
    0.0001
    """

    kind: ClassVar[str] = "advantages"

    method: Method = "centered"
    epsilon: float = 1e-4

    __hash__ = _Judging.__hash__


@dataclass(frozen=True, kw_only=True)
class Values(_Plan):
    """Values of states and actions: V(s) = sum of pi(a|s) q(s, a), q(s, a) = r(s, a) + gamma sum of
    P(s'|s, a) V(s').

    Args:
        gamma: the discount, from 0 to 1.
        policy: `uniform` over a state's actions, `given` (their probabilities), `softmax` (of their
            scores), or `optimal` (the best).
        temperature: of `softmax` (> 0).
        tolerance: of states on cycles, relative to values above 1 (> 0); all others are exact.
        max_sweeps: with gamma 1 on cycles: so many, then an error.

    `prefmill.values` runs it over transitions or over a tree. Raises `PlanError` with every problem
    at once.

    >>> Values(gamma=1.5)
    Traceback (most recent call last):
    ...
    prefmill.errors.PlanError: Values: gamma must be a number in 0..1; got 1.5
    """

    kind: ClassVar[str] = "values"

    gamma: float = 1
    policy: Policy = "uniform"
    temperature: float = 1
    tolerance: float = 1e-12
    max_sweeps: int = 10_000

    def __post_init__(self) -> None:
        if problems := _value_problems(self):
            raise PlanError("Values", problems)

    __hash__ = _Plan.__hash__

    def sql(self, table: str, **columns: Unpack[ValueNames]) -> str:
        """This plan as one DuckDB query over `table`: transitions, or with `parent_id` a tree; the
        macros have to be installed.

        >>> print(Values(gamma=0.9).sql("steps", parent_id="parent"))
        FROM tree_values('steps', id := "id", parent_id := "parent", policy := 'uniform', temperature := 1.0::DOUBLE, gamma := 0.9::DOUBLE)
        """
        from prefmill.rules import values as bellman

        return bellman.query(self, table, **columns)


Plan = Pairs | Unpaired | BestOf | Advantage
PlanKind = type[Pairs] | type[Unpaired] | type[BestOf] | type[Advantage]
KINDS: tuple[PlanKind, ...] = (Pairs, Unpaired, BestOf, Advantage)


def read_plan(text: str) -> Plan:
    """The one plan that a TOML text holds.

    >>> read_plan("[unpaired]").kind
    'unpaired'
    """
    for kind in KINDS:
        if f"[{kind.kind}]" in text:
            return kind.from_toml(text)
    raise BadArgument(
        f"plan: no table of a plan in the TOML text; expected one of {[f'[{kind.kind}]' for kind in KINDS]}."
    )


def plan_and_roles(
    kind: type[Pairs] | type[Unpaired] | type[BestOf], given: Mapping[str, Any]
) -> tuple[Plan, RoleNames]:
    """The plan of `kind` and the roles among the arguments of a function that takes both; other
    arguments are passed over.

    >>> plan_and_roles(Unpaired, {"chosen_min": 5, "rejected_below": 2, "score": "rating", "prompt": None})[1]
    {'score': 'rating'}
    """
    names = {f.name for f in fields(kind)}
    roles: RoleNames = {name: given[name] for name in RoleNames.__annotations__ if given.get(name)}  # type: ignore[assignment]
    return kind(**{name: value for name, value in given.items() if name in names}), roles


def named(roles: Roles) -> RoleNames:
    """`roles` as the keyword arguments that give them.

    >>> named(Roles(score="rank", negate=True))["score"]
    '-rank'
    """
    columns: RoleNames = {
        role: value for role, value in vars(roles).items() if value and role != "negate"
    }  # type: ignore[assignment]
    if roles.negate:
        columns["score"] = f"-{roles.score}"
    return columns


_OUTPUT = {
    "pairs": ("prompt", "chosen", "rejected", "chosen_score", "rejected_score"),
    "unpaired": ("prompt", "completion", "label", "score"),
    "best_of": ("prompt", "completion", "score", "rank"),
    "advantages": ("prompt", "completion", "score", "advantage"),
}


def output_columns(plan: Plan, roles: Roles) -> list[str]:
    """The columns of a lazy frame or a query of `plan`, but for those that are kept.

    >>> output_columns(BestOf(length_control=True), Roles(stage="round"))
    ['prompt', 'completion', 'score', 'rank', 'adjusted_score', 'stage']
    """
    picks = isinstance(plan, BestOf)
    adjusted = ["adjusted_score"] if isinstance(plan, BestOf) and plan.length_control else []
    return [*_OUTPUT[plan.kind], *adjusted, *(["stage"] if picks and roles.stage else [])]


@dataclass(frozen=True)
class Kept:
    """One column of output that `keep` asks for: its name, the column of the input, and which row
    of a pair it is from.

    `both` is a column of the prompt's context, which has to be the same in both rows.
    """

    name: str
    column: str
    side: Literal["chosen", "rejected", "row", "both"]


def kept_columns(
    plan: Plan,
    keep: Sequence[str],
    columns: Sequence[str] | None,
    output: Sequence[str],
    *,
    where: str,
    context: Mapping[str, str] | None = None,
) -> list[Kept]:
    """The columns that `keep` adds to the output of `plan`, which has the columns `output` itself;
    the names are given here alone.

    `columns` are those of the input, or None where they are not known. `context` are columns of the
    prompt by the name that they get (`prefmill.table.context`); they come first. Raises
    `BadArgument`.

    >>> [kept.name for kept in kept_columns(Pairs(), ["model"], ["model"], ["prompt"], where="lazy")]
    ['chosen_model', 'rejected_model']
    """
    names = kept_names(keep, columns, where=where)
    sides: tuple[Literal["chosen", "rejected", "row"], ...] = (
        ("chosen", "rejected") if isinstance(plan, Pairs) else ("row",)
    )
    kept = [
        Kept(name, column, "both" if isinstance(plan, Pairs) else "row")
        for name, column in (context or {}).items()
    ]
    kept += [
        Kept(name if side == "row" else f"{side}_{name}", name, side)
        for name in names
        for side in sides
    ]
    taken = [*output, *(each.name for each in kept)]
    twice = sorted({name for name in taken if taken.count(name) > 1})
    if twice:
        raise BadArgument(
            f"{where}: keep {names} would write {twice[0]!r} twice: the output has it anyway.",
            hint="leave it out, or rename it.",
        )
    return kept


def kept_names(keep: Sequence[str], columns: Sequence[str] | None, *, where: str) -> list[str]:
    """The names in `keep`, each once. Raises `BadArgument` for one that the input, of these
    `columns`, does not have.
    """
    if isinstance(keep, str):
        raise BadArgument(
            f"{where}: keep is a list of columns; got the text {keep!r}.", hint=f"keep=[{keep!r}]."
        )
    names = list(dict.fromkeys(keep))
    missing = [] if columns is None else [name for name in names if name not in columns]
    if missing:
        raise BadArgument(
            f"{where}: keep names no column of the input; got {missing}, expected some of {list(columns or ())}."
        )
    return names


def roles_of(
    plan: Plan,
    named: RoleNames,
    columns: Sequence[str] | None,
    *,
    where: str,
    fits: Fits | None = None,
) -> Roles:
    """The column of every role that `plan` uses; `columns` None: not known yet, so unnamed roles
    have their own names.

    `fits` says which columns can hold a role (`prefmill.table.fits`).

    Raises what `Roles.resolve` raises, and `PlanError` with every role that the plan needs and that
    is not there.
    """
    wide = tuple(plan.weights) if plan.weights and not named.get("aspect") else ()
    last_stage = isinstance(plan, BestOf) and plan.stages == "last"
    uses = {
        "id": plan.tie_break == "id",
        "annotator": plan.normalize != "none",
        "stage": last_stage,
    }
    needed = [role for role, used in uses.items() if used]
    if columns is None:
        roles = Roles.unseen(named, score_columns=wide, needed=needed, where=where)
    else:
        roles = Roles.resolve(
            columns, named, score_columns=wide, needed=needed, where=where, fits=fits
        )
    users = {
        "id": "tie_break 'id'",
        "annotator": f"normalize {plan.normalize!r}",
        "stage": "stages 'last'",
    }
    said = [
        f"{users[role]} needs the role {role} (a column)"
        for role in needed
        if not getattr(roles, role)
    ]
    if roles.aspect and plan.weights is None:
        said.append("the role aspect needs weights: the weight of each aspect")
    if roles.aspect and plan.aggregate == "none":
        said.append(
            "the role aspect needs aggregate: it says how the judgements of one aspect are merged"
        )
    if isinstance(plan, Advantage):
        said += _policy_problems(plan, roles)
    if said:
        raise PlanError(where, said)
    return roles


def used_columns(plan: Plan, roles: Roles) -> list[str]:
    """The columns that `plan` reads, each once."""
    scores = list(plan.weights) if plan.weights and not roles.aspect else [roles.score]
    others = [
        name
        for role in ("id", "annotator", "aspect", "stage", "weight", "logprob")
        if (name := getattr(roles, role))
    ]
    return list(dict.fromkeys([roles.prompt, roles.completion, *scores, *others, *roles.group]))


def _policy_problems(plan: Advantage, roles: Roles) -> list[str]:
    if roles.weight and roles.logprob:
        return [
            f"one policy is asked for: weight or logprob; got weight={roles.weight!r} and logprob={roles.logprob!r}"
        ]
    if plan.method == "rank" and (named := roles.weight or roles.logprob):
        return [
            f"method 'rank' compares ranks and knows no policy; got the column {named!r} for one"
        ]
    return []


def _toml(value: object) -> str:
    """A string or number as TOML: as JSON, but that TOML knows no surrogate pairs and wants DEL
    escaped.
    """
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _canonical(value: object) -> object:
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, Mapping):
        return {key: _canonical(value[key]) for key in sorted(value)}
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _problems(plan: _Judging) -> list[str]:
    """Everything that is wrong with `plan`, in words."""
    said: list[str] = []
    values = {f.name: getattr(plan, f.name) for f in fields(plan)}
    for name, choices in _CHOICES.items():
        if name in values and values[name] not in choices:
            near = nearest(str(values[name]).replace("-", "_"), choices)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            said.append(f"{name} is not one of {choices}; got {values[name]!r}{meant}")
    for name in _BOUNDS:
        value = values.get(name)
        automatic = value == "auto" and name != "min_score"
        if value is not None and not automatic and not _is_number(value):
            also = "" if name == "min_score" else " or 'auto'"
            said.append(f"{name} must be a finite number or None{also}; got {value!r}")
    margin = values.get("min_margin", 0)
    if not _is_number(margin) or margin < 0:
        said.append(f"min_margin must be a finite number >= 0; got {margin!r}")
    for name in _COUNTS:
        value = values.get(name)
        optional = name in _OPTIONAL
        if (
            not (optional and value is None)
            and name in values
            and (type(value) is not int or value < 1)
        ):
            said.append(
                f"{name} must be a whole number >= 1{' or None' if optional else ''}; got {value!r}"
            )
    if type(plan.seed) is not int or not 0 <= plan.seed < 2**63:
        said.append(f"seed must be a whole number in 0..2**63-1; got {plan.seed!r}")
    if plan.weights is not None:
        if not plan.weights:
            said.append("weights must name at least one column or aspect; got none")
        said += [
            f"weight {key!r} must be a finite number; got {w!r}"
            for key, w in plan.weights.items()
            if not _is_number(w)
        ]
    if plan.aggregate == "none" and type(plan.min_votes) is int and plan.min_votes > 1:
        said.append(f"min_votes {plan.min_votes} needs aggregate: without it every row is one vote")
    if isinstance(plan, Advantage) and not (_is_number(plan.epsilon) and plan.epsilon > 0):
        said.append(f"epsilon must be a finite number > 0; got {plan.epsilon!r}")
    if isinstance(plan, BestOf):
        said += _pick_problems(plan)
    if isinstance(plan, Pairs | Unpaired):
        said += _threshold_problems(plan)
    return said


def _pick_problems(plan: BestOf) -> list[str]:
    said = []
    if not (_is_number(plan.beta) and plan.beta > 0):
        said.append(f"beta must be a finite number > 0; got {plan.beta!r}")
    if plan.pick == "rso" and plan.scope == "pool":
        said.append("pick 'rso' accepts inside a prompt; got scope 'pool', expected 'prompt'")
    if type(plan.length_control) is not bool:
        said.append(f"length_control must be true or false; got {plan.length_control!r}")
    return said


def _value_problems(plan: Values) -> list[str]:
    said = []
    if not (_is_number(plan.gamma) and 0 <= plan.gamma <= 1):
        said.append(f"gamma must be a number in 0..1; got {plan.gamma!r}")
    if plan.policy not in get_args(Policy):
        said.append(f"policy is not one of {get_args(Policy)}; got {plan.policy!r}")
    for name in ("temperature", "tolerance"):
        value = getattr(plan, name)
        if not (_is_number(value) and value > 0):
            said.append(f"{name} must be a finite number > 0; got {value!r}")
    if type(plan.max_sweeps) is not int or plan.max_sweeps < 1:
        said.append(f"max_sweeps must be a whole number >= 1; got {plan.max_sweeps!r}")
    return said


def _threshold_problems(plan: Pairs | Unpaired) -> list[str]:
    both = plan.chosen_min is not None and plan.rejected_below is not None
    if isinstance(plan, Pairs):
        return (
            ["strategy 'threshold' needs both chosen_min and rejected_below"]
            if plan.strategy == "threshold" and not both
            else []
        )
    if not both:
        return ["labels need both chosen_min and rejected_below"]
    # What is not given is 4 unless the scores are two-valued.
    high, low = (
        4 if value == "auto" else value for value in (plan.chosen_min, plan.rejected_below)
    )
    if _is_number(high) and _is_number(low) and low > high:  # type: ignore[operator]
        return [
            f"rejected_below must not exceed chosen_min; got {low} > {high}: a score between would be both"
        ]
    return []
