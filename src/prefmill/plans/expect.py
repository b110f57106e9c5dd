"""What must hold of a run: a data contract, which a plan or a call carries and a run checks.

It decides no row, so it is no part of a plan's hash. A run looks at it after its last row and
before anything is published. What can be expected of which command is in `plans/bounds.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from prefmill.errors import BadArgument, ExpectationFailed, PlanError, nearest
from prefmill.plans.bounds import ALL, ANY, MALFORMED, PLAN, RECORDS, Bounds
from prefmill.table.fields import key, maybe, number, whole

if TYPE_CHECKING:
    from prefmill.table.report import PairReport

#: The column that says what gave a row, a model or a vendor.
SOURCE = "source"
#: How a source that is null is named.
NULL = "null"
_SHOWN = 5  # new sources that an error names

_share = number(0, 1)


def _shares(value: object) -> str | None:
    """A share, or one by reason: `problems` looks at each."""
    if value is None or isinstance(value, Mapping) or _share(value) is None:
        return None
    return "a share in 0..1, or one for each of some reasons"


def _sources(value: object) -> str | None:
    several = isinstance(value, list | tuple) and value
    fine = several and all(isinstance(each, str) and each for each in value)  # type: ignore[attr-defined]
    return None if value is None or fine else "a list of names, not empty"


@dataclass(frozen=True)
class Expectation:
    """One thing that must hold, what came of it, and whether it did."""

    name: str
    got: Any
    expected: Any
    holds: bool

    def __str__(self) -> str:
        return f"{self.name}: got {_told(self.got)}, expected {_told(self.expected)}"


@dataclass(frozen=True)
class Counted:
    """The figures of a run: its account, malformed rows, and the rows of each source if asked."""

    report: PairReport
    rejected: int = 0
    sources: Mapping[str, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Expect:
    """What must hold of a run; one that breaks it publishes nothing, and says the figures.

    A table `[expect]` of a plan in TOML, `expect=` of `prefmill.score`, `sample` and `votes`, and
    `--expect WORD=VALUE` of a command. Runs check it: `prefmill.run`, the commands, `prefmill
    check`. A query or a lazy frame publishes nothing, and checks nothing.

    Args:
        min_rows: least rows of output: pairs, labels, picks; of `score` rows with a score, of
            `sample` answers with a text.
        min_prompts: least prompts that have a row of output.
        max_dropped: largest share of the rows read that is dropped, 0 to 1; or a mapping of
            reasons to such shares. `all` are all reasons together, `malformed` are rows that
            could not be read (of all rows), `records` are records that became no row. Of `score`
            rows without a score, of `sample` answers that failed or are `empty`.
        min_true, max_true: smallest and largest share of labels that are true; of labels only.
        sources: the values that the column `source` may have, in any row that is read. A null is
            `null`.

    Raises `PlanError` with every problem at once.

    >>> Expect(min_rows=1000, max_dropped={"bad_score": 0.01}).named()
    {'min_rows': 1000, 'max_dropped': {'bad_score': 0.01}}
    >>> Expect(max_dropped={"bad_scores": 0})
    Traceback (most recent call last):
    ...
    prefmill.errors.PlanError: expect: max_dropped of 'bad_scores' is not of a known reason; \
did you mean 'bad_score'?
    """

    min_rows: int | None = key(maybe(whole(0)), None, help="Least rows of output.")
    min_prompts: int | None = key(maybe(whole(0)), None, help="Least prompts with a row.")
    max_dropped: float | Mapping[str, float] | None = key(
        _shares, None, help="Largest share of rows dropped, by reason.", table=True
    )
    min_true: float | None = key(maybe(_share), None, help="Smallest share of true labels.")
    max_true: float | None = key(maybe(_share), None, help="Largest share of true labels.")
    sources: Sequence[str] | None = key(_sources, None, help="Sources that rows may have.")

    def __post_init__(self) -> None:
        if isinstance(self.max_dropped, Mapping):
            object.__setattr__(self, "max_dropped", dict(self.max_dropped))
        if isinstance(self.sources, list):
            object.__setattr__(self, "sources", tuple(self.sources))
        problems = []
        for field in fields(self):
            value = getattr(self, field.name)
            if expected := field.metadata["check"](value):
                problems.append(f"{field.name} must be {expected}; got {value!r}")
        if problems := [*problems, *self._problems()]:
            raise PlanError("expect", problems)

    def _problems(self) -> list[str]:
        problems = []
        for reason, share in self.shares.items():
            if unknown := ANY.problem_of_reason(str(reason)):
                problems.append(unknown)
            elif expected := _share(share):
                problems.append(f"max_dropped of {reason!r} must be {expected}; got {share!r}")
        low, high = self.min_true, self.max_true
        if _share(low) is None and _share(high) is None and low > high:  # type: ignore[operator]
            problems.append(f"min_true {low:g} is above max_true {high:g}")
        return problems

    def of(self, bounds: Bounds) -> Expect:
        """The same; `PlanError` where a word or a reason is none of what `bounds` names.

        >>> from prefmill.plans.bounds import SCORE
        >>> Expect(min_rows=1, min_true=0.5).of(SCORE)
        Traceback (most recent call last):
        ...
        prefmill.errors.PlanError: expect: min_true is not of score; expected some of \
['min_rows', 'max_dropped']
        """
        problems = [bounds.problem_of(word) for word in self.named()]
        if bounds.problem_of("max_dropped") is None:
            problems += [bounds.problem_of_reason(reason) for reason in self.shares]
        if told := [each for each in problems if each]:
            raise PlanError("expect", told)
        return self

    @property
    def shares(self) -> Mapping[str, float]:
        """The largest share that may be dropped, by reason."""
        if isinstance(self.max_dropped, Mapping):
            return self.max_dropped
        return {} if self.max_dropped is None else {ALL: self.max_dropped}

    def named(self) -> dict[str, Any]:
        """The words that were given."""
        words = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in words.items() if value is not None}

    def looked_at(self, counted: Counted) -> list[Expectation]:
        """Everything that is expected, and what came of it.

        >>> from prefmill.table.report import PairReport
        >>> report = PairReport(10, 6, 0, {"tie": 4}, groups_in=5, groups_used=3, pairs_out=3)
        >>> for each in Expect(min_rows=5, max_dropped=0.5).looked_at(Counted(report)):
        ...     print(each.holds, each)
        False min_rows: got 3, expected >= 5
        True max_dropped.all: got 0.4, expected <= 0.5
        """
        report, found = counted.report, []
        for name, got, least in (
            ("min_rows", report.pairs_out, self.min_rows),
            ("min_prompts", report.groups_used, self.min_prompts),
        ):
            if least is not None:
                found.append(Expectation(name, got, f">= {least:,}", got >= least))
        for reason, most in self.shares.items():
            got_share = _dropped(counted, reason)
            name = f"max_dropped.{reason}"
            found.append(Expectation(name, got_share, f"<= {most:g}", got_share <= most))
        found += self._balance(report)
        if self.sources is not None:
            new = sorted(set(counted.sources or {}) - set(self.sources))
            shown: Any = new[:_SHOWN] + (["..."] if len(new) > _SHOWN else [])
            found.append(Expectation("sources", shown or "no new one", list(self.sources), not new))
        return found

    def _balance(self, report: PairReport) -> list[Expectation]:
        if self.min_true is None and self.max_true is None:
            return []
        labels = report.labels or {}
        count = sum(labels.values())
        # Without a label there is no balance, and a bound of it does not hold.
        got = labels.get("true", 0) / count if count else None
        found = []
        if (least := self.min_true) is not None:
            holds = got is not None and got >= least
            found.append(Expectation("min_true", got, f">= {least:g}", holds))
        if (most := self.max_true) is not None:
            holds = got is not None and got <= most
            found.append(Expectation("max_true", got, f"<= {most:g}", holds))
        return found

    def check(self, counted: Counted, *, where: str, resumes: bool = False) -> list[Expectation]:
        """Everything that is expected and holds; else `ExpectationFailed`, with all that does not.

        `resumes`: the same call goes on from what was done.

        >>> from prefmill.table.report import PairReport
        >>> Expect(min_rows=5).check(Counted(PairReport(1, 1, 0)), where="run")
        Traceback (most recent call last):
        ...
        prefmill.errors.ExpectationFailed: run: min_rows: got 0, expected >= 5.
        Hint: nothing was published, ...
        """
        found = self.looked_at(counted)
        broken = [each for each in found if not each.holds]
        if broken:
            held = [each for each in found if each.holds]
            raise ExpectationFailed(where, broken, held=held, resumes=resumes)
        return found


def is_expect(value: object) -> str | None:
    """The check of a field that holds words of `[expect]`."""
    return None if value is None or isinstance(value, Expect) else "Expect(...)"


def expect_in(texts: Iterable[str], bounds: Bounds = PLAN) -> dict[str, Any]:
    """The words of `--expect WORD=VALUE` options, of a command of which `bounds` can be expected.

    >>> expect_in(["min_rows=1000", "max_dropped.tie=0.5", "sources=web,app"])
    {'min_rows': 1000, 'max_dropped': {'tie': 0.5}, 'sources': ('web', 'app')}
    """
    words: dict[str, Any] = {}
    known = bounds.words
    for text in texts:
        word, equals, value = text.partition("=")
        word, _, reason = word.strip().replace("-", "_").partition(".")
        if not equals or word not in known or (reason and word != "max_dropped"):
            near = [f"did you mean {name}=...?" for name in nearest(word, known)[:1]]
            raise BadArgument(
                f"--expect: got {text!r}, expected WORD=VALUE with one of {list(known)}, or"
                " max_dropped.REASON=SHARE.",
                hint=near[0] if near else None,
            )
        if word == "sources":
            words[word] = tuple(part.strip() for part in value.split(",") if part.strip())
        elif word == "max_dropped":
            words.setdefault(word, {})[reason or ALL] = _number(text, value)
        else:
            words[word] = _number(text, value)
    return words


def _number(text: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        raise BadArgument(f"--expect: got {text!r}, expected a number after =.") from None
    return int(number) if number.is_integer() else number


def _dropped(counted: Counted, reason: str) -> float:
    """The share that was dropped, for one reason or for all."""
    report = counted.report
    part, whole = report.dropped.get(reason, 0), report.rows_in
    if reason == ALL:
        part = sum(report.dropped.values())
    elif reason == MALFORMED:
        part, whole = counted.rejected, report.rows_in + counted.rejected
    elif reason == RECORDS:
        records = report.records or {"in": report.rows_in, "dropped": {}}
        part, whole = sum(records["dropped"].values()), records["in"]
    return part / whole if whole else 0.0


def _told(value: object) -> str:
    """A figure for people."""
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def plain(found: Sequence[Expectation]) -> list[dict[str, Any]]:
    """Expectations as plain values, for reports."""
    return [asdict(each) for each in found]
