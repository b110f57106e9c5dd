"""Roles: which column is the prompt, which the completion, which the score."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal, TypedDict

from prefmill.errors import BadArgument, ColumnMissing, nearest

#: Names used in the field for each role, the role's own name first. Matched without regard to case,
#: `-` and `_`.
ALIASES: Mapping[str, tuple[str, ...]] = {
    "prompt": (
        "prompt",
        "question",
        "instruction",
        "input",
        "query",
        "context",
        "user_prompt",
        "problem",
    ),
    "completion": (
        "completion",
        "answer",
        "response",
        "output",
        "generation",
        "reply",
        "model_output",
        "generated_text",
    ),
    "score": (
        "score",
        "feedback",
        "rating",
        "reward",
        "overall_score",
        "overall_rating",
        "preference_score",
        "grade",
        "stars",
    ),
}
REQUIRED = tuple(ALIASES)
#: TRL's name for the label of KTO: the score of a table that has no other.
LABEL = "label"
#: Whether a column can hold a role (role, column): yes, no, or None where nobody can tell yet.
Fits = Callable[[str, str], bool | None]
#: Where lower is better: what a hint proposes for the score has a minus then.
LOWER_IS_BETTER = ("rank", "ranking", "loss", "nll", "perplexity", "cost", "distance")


#: What functions read: files, globs, folders and URLs; a Polars, pandas or pyarrow table, a
#: LazyFrame, a DuckDB
#: relation, a `datasets` Dataset or IterableDataset, and whatever has `__arrow_c_stream__`. They
#: have no type in
#: common: what is something else is refused when it is read.
Inputs = object


#: A path into records, or several: as a list, or as one text with commas.
Paths = str | Sequence[str]


class FeedbackRoles(TypedDict, total=False):
    """The words of `[rows]` (`prefmill.Rows`): a path for each role that all plans over feedback
    read, and how records become rows.
    """

    prompt: Paths
    completion: Paths
    score: Paths | Sequence[float]
    id: Paths
    annotator: Paths
    aspect: Paths
    stage: Paths
    group: Paths
    source: Paths
    system: str
    history: str
    each: Paths
    winner: Paths
    wins: Paths | Sequence[Sequence[str]]
    ties: Paths
    values: str | Mapping[str, float | None]
    where: Paths | Mapping[str, object]
    join: Paths
    file_as: str
    disagree: Literal["flip", "drop", "keep"]
    repeats: Literal["keep", "drop"]


class RoleNames(FeedbackRoles, total=False):
    """Keyword form of `Roles`: a column name for each role."""

    weight: Paths
    logprob: Paths
    conclusion: Paths


class ValueNames(TypedDict, total=False):
    """The columns of transitions, or of a tree (`id`, `parent_id`); those not named have these
    names, where they are there.
    """

    state: str
    action: str
    next_state: str
    probability: str
    reward: str
    policy_probability: str
    score: str
    id: str
    parent_id: str


@dataclass(frozen=True, kw_only=True)
class Roles:
    """The column of each role.

    `score` may begin with a minus (`score="-rank"`): lower is better, and the negated number is the
    score. A column whose name itself begins with a minus wins over that reading.

    >>> Roles.resolve(["question", "answer", "feedback"])
    Roles(prompt='question', completion='answer', score='feedback')
    """

    prompt: str = "prompt"
    completion: str = "completion"
    score: str = "score"
    id: str | None = None
    annotator: str | None = None
    aspect: str | None = None
    stage: str | None = None
    weight: str | None = None
    logprob: str | None = None
    conclusion: str | None = None
    group: tuple[str, ...] = ()
    negate: bool = field(default=False)

    def __repr__(self) -> str:
        shown = (f"{f.name}={value!r}" for f in fields(self) if (value := getattr(self, f.name)))
        return f"Roles({', '.join(shown)})"

    @classmethod
    def unseen(
        cls,
        named: RoleNames,
        *,
        score_columns: Iterable[str] = (),
        needed: Iterable[str] = (),
        where: str = "roles",
    ) -> Roles:
        """The roles of a relation whose columns are not known yet: those of `named`, else each
        role's own name.
        """
        wide, needed = tuple(score_columns), tuple(needed)
        group = named.get("group") or ()
        columns = [
            c.removeprefix("-") if role == "score" else c
            for role, c in named.items()
            if isinstance(c, str)
        ]
        columns += [*([group] if isinstance(group, str) else group), *REQUIRED, *wide, *needed]
        return cls.resolve(
            list(dict.fromkeys(columns)), named, score_columns=wide, needed=needed, where=where
        )

    @classmethod
    def resolve(
        cls,
        columns: Sequence[str],
        named: RoleNames | None = None,
        *,
        required: Iterable[str] = REQUIRED,
        score_columns: Iterable[str] = (),
        needed: Iterable[str] = (),
        where: str = "roles",
        fits: Fits | None = None,
    ) -> Roles:
        """Find the column of every role among `columns`; `named` are those that the caller fixed.

        `required` are the roles without which the caller cannot work. The others of prompt,
        completion and score are not looked for: their column is `""`.

        A column that has a role's name in the field but cannot hold it, says `fits`
        (`prefmill.table.fits`), is passed over.

        `score_columns` are the keys of a plan's `weights` when each is a column of its own: then no
        score role is needed. `needed` are optional roles that the plan uses: without a name they
        are the column of their own name, if there is one. Raises `ColumnMissing` when a role has no
        column or several, `BadArgument` for duplicate column names.

        >>> Roles.resolve(["question", "rank"], required=("prompt",))
        Roles(prompt='question')
        """
        wanted: Mapping[str, str | Sequence[str]] = named or {}  # type: ignore[assignment]
        given = {role: column for role, column in wanted.items() if column}
        twice = sorted({name for name in columns if list(columns).count(name) > 1})
        if twice:
            raise BadArgument(
                f"{where}: duplicate column names {twice}; got {list(columns)}.",
                hint="rename one of them.",
            )
        unknown = sorted(set(given) - {f.name for f in fields(cls)})
        if unknown:
            raise BadArgument(
                f"{where}: no role {unknown[0]!r}; got {unknown}, expected names of"
                f" {sorted(RoleNames.__annotations__)}."
            )
        group = given.pop("group", ())
        groups = (group,) if isinstance(group, str) else tuple(group)
        found: dict[str, str] = {role: str(column) for role, column in given.items()}
        negate = False
        score = found.get("score")
        if score and score not in columns and score.startswith("-"):
            found["score"], negate = score[1:], True
        score_columns = tuple(score_columns)
        found |= {role: role for role in needed if role not in found and role in columns}
        for role, column in [
            *found.items(),
            *(("group", g) for g in groups),
            *(("score", s) for s in score_columns),
        ]:
            if column not in columns:
                fitting = [c for c in columns if (fits or _unknown)(role, c) is not False]
                raise ColumnMissing.for_role(where, role, column, columns, fitting)
        taken = {*found.values(), *groups, *score_columns}
        required = set(required)
        missing: dict[str, ColumnMissing] = {}
        for role in REQUIRED:
            if role not in required:
                found.setdefault(role, "")
            elif role not in found and not (role == "score" and score_columns):
                free = taken
                if role == "prompt" and not any(
                    _plain(c) in ALIASES[role] for c in columns if c not in taken
                ):
                    free = taken - set(
                        groups
                    )  # the prompt may group as well, with a system prompt say
                try:
                    found[role] = _by_alias(role, columns, free, where, fits or _unknown)
                except ColumnMissing as error:
                    missing[role] = error
        if missing:
            raise _of_all(missing, columns, taken, fits or _unknown)
        if score_columns:
            found.setdefault("score", score_columns[0])
        return cls(group=groups, negate=negate, **found)


@dataclass(frozen=True)
class Read:
    """What is read of rows: what the relations `numbered` and `judged` are made of.

    Args:
        roles: the column of each role.
        weights: columns of scores with their weights, when a score is their sum.
        merged: judgements of one completion are told apart by its text.
        last_stage: only rows of the largest stage count.
        policy: the column of a policy's weights, or of its log-probabilities.
        conclusion: the column of the answers that completions come to.
    """

    roles: Roles
    weights: Mapping[str, float] = field(default_factory=dict)
    merged: bool = False
    last_stage: bool = False
    policy: str | None = None
    conclusion: str | None = None

    @property
    def scores(self) -> list[str]:
        """The columns that a score is made of."""
        return list(self.weights) or [self.roles.score]

    @property
    def logs(self) -> bool:
        """Whether the policy is given as log-probabilities."""
        return self.policy is not None and self.policy == self.roles.logprob

    def columns(self) -> dict[str, str]:
        """Every column that is read, by our name for it."""
        roles = self.roles
        columns = {"_prompt": roles.prompt, "_completion": roles.completion}
        columns |= {f"_score{place}": name for place, name in enumerate(self.scores)}
        optional = {"_id": roles.id, "_annotator": roles.annotator, "_aspect": roles.aspect}
        optional |= {"_stage": roles.stage, "_weight": self.policy}
        optional["_conclusion"] = self.conclusion
        columns |= {ours: name for ours, name in optional.items() if name}
        return columns | {f"_group{place}": name for place, name in enumerate(roles.group)}


@dataclass(frozen=True)
class OfRecords:
    """What rows know of the records that they were made of.

    shared  columns that both sides of a pair have alike, since both are of one record
    parts   the two columns that the prompt was joined of
    """

    shared: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()

    def for_layout(self, parts: bool) -> OfRecords:
        """The same for a layout that has the parts of a prompt, or has not."""
        return self if parts else OfRecords(self.shared)


#: Of rows that are no records' rows.
NO_RECORDS = OfRecords()
#: The two columns that a prompt was joined of, on their way to a layout that has both.
PARTS_OUT = ("_instruction", "_input")


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


def _plain(name: str) -> str:
    return name.lower().replace("-", "_").replace(" ", "_")


def _unknown(role: str, column: str) -> bool | None:
    return None


def _by_alias(role: str, columns: Sequence[str], taken: set[str], where: str, fits: Fits) -> str:
    """The one column that a name of the field gives `role`; the role's own name wins over every
    other.
    """
    free = [c for c in columns if c not in taken]
    if role in free:
        return role
    called = [c for c in free if _plain(c) in ALIASES[role]]
    found = [c for c in called if fits(role, c) is not False]
    if not found and role == "score":
        found = [c for c in free if _plain(c) == LABEL and fits(role, c)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ColumnMissing(
            f"{where}: several columns could be the role {role!r}; got {found} among"
            f" {list(columns)}.",
            hint=_which(role, found),
        )
    near = _near(role, free, fits)
    hint = f"name the column: {role}=COLUMN (--{role} COLUMN)."
    if len(near) == 1:
        hint = f"did you mean {role}={near[0]!r}?"
    elif near:
        hint = f"which one is it? {_options(role, near)}."
    unfit = f"; {called[0]!r} has its name and holds {_UNFIT[role]}" if called else ""
    raise ColumnMissing(
        f"{where}: no column for the role {role!r}{unfit}; got {list(columns)}.", hint=hint
    )


def _near(role: str, free: Sequence[str], fits: Fits) -> list[str]:
    """Columns whose names are near those of the field for `role`."""
    # A column of ids is near to many names, and none of them.
    fitting = [c for c in free if fits(role, c) is not False and not _plain(c).endswith("_id")]
    if role == "score" and (lower := [c for c in fitting if _plain(c) in LOWER_IS_BETTER]):
        return [f"-{lower[0]}"]
    return list(dict.fromkeys(c for alias in ALIASES[role] for c in nearest(alias, fitting)))


def _of_all(
    missing: Mapping[str, ColumnMissing], columns: Sequence[str], taken: set[str], fits: Fits
) -> ColumnMissing:
    """The error of the first missing role; of several roles its hint has one line for all."""
    (first, *others) = missing.values()
    if not others:
        return first
    free = [c for c in columns if c not in taken]
    near = {role: _near(role, free, fits) for role in missing}
    alone = [found[0] for found in near.values() if len(found) == 1]
    # No column is proposed for two roles.
    words = []
    for role, found in near.items():
        sure = len(found) == 1 and alone.count(found[0]) == 1
        words.append(f"--{role} {_shell_word(found[0]) if sure else 'COLUMN'}")
    return ColumnMissing(
        first.message,
        hint=f"{first.hint} {', '.join(missing)} are all to be named: {' '.join(words)}",
    )


#: What a column holds that has a role's name and cannot be it.
_UNFIT = {"prompt": "no text", "completion": "no text", "score": "no numbers"}


def _which(role: str, found: Sequence[str]) -> str:
    """What to do about several columns for one role. Of a prompt in parts none is proposed alone:
    each alone loses the others.
    """
    if role != "prompt":
        return f"name the one that is meant: {_options(role, found)}."
    plain = {_plain(column): column for column in found}
    if set(plain) == {"instruction", "input"}:
        found = [plain["instruction"], plain["input"]]
    parts = ",".join(map(_in_list, found))
    return (
        f"if the prompt is all of them: --prompt {_shell_word(parts)} (prompt={list(found)});"
        " only if one of them is the whole prompt, name it: --prompt COLUMN (prompt=COLUMN)."
    )


def _options(role: str, columns: Sequence[str]) -> str:
    return " or ".join(f"--{role} {_shell_word(c)}" for c in columns) + f" ({role}=COLUMN)"


def _in_list(column: str) -> str:
    """`column` in a list of paths."""
    plain = not any(letter in column for letter in ',.[]"')
    return column if plain else '"' + column.replace('"', '""') + '"'


def _shell_word(column: str) -> str:
    """`column` as a shell reads it back as one word."""
    if column.replace("_", "").replace("-", "").replace(",", "").isalnum():
        return column
    return "'" + column.replace("'", "'\\''") + "'"
