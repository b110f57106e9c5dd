"""Every error that prefmill raises on purpose.

    PrefmillError (ValueError)
    ├── BadArgument              a value that no plan, role or option can have (exit code 2)
    │   └── PlanError            every problem of a plan at once
    ├── ColumnMissing (KeyError) a role without a column, or with several
    ├── BadInput                 a file that is not what it claims to be (exit code 1)
    │   ├── BadScore             rows that `on_invalid="raise"` refuses
    │   └── BadRow               one row that cannot be used: its place, a reason of a closed list
    ├── ThresholdsUnfit          thresholds that wait do not divide the scores (exit code 1)
    ├── ExpectationFailed        what is expected of a run does not hold (exit code 1)
    ├── TargetExists             an output that is already there, without `overwrite`
    ├── RunDiffers               an interrupted run on this output had another model, template,
    │                            dtype or input (exit code 2)
    ├── RunBusy                  another process writes this output (exit code 75)
    ├── BatchesUnderWay          requests wait in batches, and nobody waits for them (exit code 75)
    ├── RequestFailed            a server refused a request, or gave no answer after all retries
    ├── StoreFailed              an object store refused a request, or gave no answer after retries
    ├── OutOfDeviceMemory        one row alone, or the model, does not fit into a device's memory
    ├── ScorerDied               the process on one of several devices ended without a word
    ├── WorkerDied               a task of a cluster ended without a word, on several workers
    ├── RunDied                  a call in a process of its own was ended by a signal (exit code 1)
    ├── ScoresDiffer             packed scores differ from those of single rows (exit code 70)
    ├── MissingPackage           an optional package is not installed
    └── AccountingError          our own bug: rows in and rows accounted for differ (exit code 70)

Messages read `where: what is wrong; got X, expected Y.` and end with `Hint: one thing to do.`
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from prefmill.redact import without_secrets

#: The exit code of what may do later: "temporary failure" of sysexits.h.
TRY_LATER = 75


class PrefmillError(ValueError):
    """Base of all errors raised on purpose; `except ValueError` catches it too."""

    exit_code = 1

    @property
    def retryable(self) -> bool:
        """Whether the same call may do later, without a change: what schedulers ask."""
        return self.exit_code == TRY_LATER

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        # An error travels far: to logs, to trackers, to whoever reads a terminal.
        self.message = message = without_secrets(message)
        self.hint = hint = without_secrets(hint) if hint else hint
        super().__init__(f"{message}\nHint: {hint}" if hint else message)

    def __reduce__(self) -> Any:  # on the way to another process: constructors differ
        return _again, (type(self), self.args), self.__dict__

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0])


def _again(kind: type[PrefmillError], args: tuple[Any, ...]) -> PrefmillError:
    """An error that was pickled; what else it has comes after."""
    base: Any = kind
    while base.__module__ != "builtins":  # of several bases the one that lays out the object
        base = base.__base__
    error: PrefmillError = base.__new__(kind)
    error.args = args
    return error


class BadArgument(PrefmillError):
    """A value that cannot be meant."""

    exit_code = 2


class PlanError(BadArgument):
    """All problems of one plan, one a line."""

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(f"{where}: {problem}" for problem in problems))


class ColumnMissing(PrefmillError, KeyError):
    """A role has no column, or could be several."""

    exit_code = 2

    @classmethod
    def for_role(
        cls,
        where: str,
        role: str,
        wanted: str,
        columns: Iterable[str],
        fitting: Iterable[str] | None = None,
    ) -> ColumnMissing:
        """The error for a `role` whose column `wanted` is not among `columns`, of which `fitting`
        (default all) could hold it.
        """
        columns = list(columns)
        near = nearest(wanted, columns if fitting is None else fitting)
        hint = (
            f"did you mean {role}={near[0]!r}?"
            if near
            else f"name the column: {role}=COLUMN (--{role} COLUMN)."
        )
        return cls(
            f"{where}: no column {wanted!r} for the role {role!r}; got {columns}.", hint=hint
        )


class BadInput(PrefmillError):
    """A file that cannot be read as what it claims to be."""


class BadScore(BadInput):
    """Rows that `on_invalid="raise"` refuses."""


#: Why one row cannot be scored, sampled, judged or trained on. Reports count rows under these names
#: and no others.
BAD_ROW = {
    "null_prompt": "the prompt is null",
    "null_completion": "the completion is null",
    "bad_message": "a message without a role or content, or of a shape that is unknown",
    "template_failed": "the chat template refused the conversation",
    "double_bos": "the template's text begins with two BOS tokens",
    "too_long": "more tokens than the model takes",
    "unknown_token": "a token that the model's embedding does not have",
    "model_failed": "the model itself failed on this row",
    "no_tokens": "the completion has no token that could be scored",
    "no_steps": "the completion has no step, or the end of no step is in the row",
    "not_finite": "the score came out as NaN or infinite",
    "refused": "the server refused the request of this row",
    "bad_answer": "the server's answer for this row cannot be used",
    "unparseable": "the judge's answer holds no verdict",
    "contradictory": "the judge's answer holds several verdicts that differ",
    "cut_off": "the judge's answer was cut off before its verdict",
    "bad_column": "a column that the scorer reads is null, or holds what cannot be used",
    "single_candidate": "a comparing judge saw one candidate only",
    "not_compared": "no comparison with this candidate was decided",
    "same_text": "both sides of a training pair are the same text",
    "no_answer": "the completion holds no answer that could be checked",
    "check_failed": "the check itself came to no end: time, memory, or its program",
    "left_out": "the scorer gave no score, without a reason",
}


class BadRow(BadInput):
    """One row that cannot be used.

    row     its place among the rows that were handed over
    reason  one of `BAD_ROW`
    found   all bad rows that came to light at once, this one first (`refuse`): whoever goes on
            without them removes them together

    Whoever knows where those rows come from says so with `named`: file, position and id.
    """

    HINT = (
        "--on-bad-row null (on_bad_row='null') goes on without such rows and counts them by reason."
    )

    def __init__(
        self,
        where: str,
        what: str,
        *,
        row: int,
        reason: str,
        name: str | None = None,
        hint: str | None = None,
        found: Sequence[BadRow] = (),
    ) -> None:
        if reason not in BAD_ROW:
            raise BadArgument(
                f"BadRow: no such reason; got {reason!r}, expected one of {list(BAD_ROW)}."
            )
        self.where, self.what, self.row, self.reason = where, what, row, reason
        self.name, self.own_hint = name, hint
        self.found: tuple[BadRow, ...] = (self, *found[1:])
        super().__init__(
            f"{where}: {name or f'row {row}'} {what}",
            hint=f"{hint} Or {self.HINT}" if hint else self.HINT,
        )

    def _again(self, **changes: Any) -> BadRow:
        own: dict[str, Any] = {
            "where": self.where,
            "what": self.what,
            "row": self.row,
            "reason": self.reason,
            "hint": self.own_hint,
        }
        return BadRow(**{**own, **changes})

    def named(self, name: str) -> BadRow:
        """The same error with its row told as `name`: `row 12 of pool.jsonl (id 'x')`."""
        return self._again(name=name)

    def at(self, row: int, *, where: str | None = None) -> BadRow:
        """The same error about the row with another place, or said by another command."""
        return self._again(row=row, where=where or self.where)

    def among(self, found: Sequence[BadRow]) -> BadRow:
        """The same error, the first of those that came to light at once."""
        return self._again(name=self.name, found=found)


def refuse(bad: Sequence[BadRow]) -> None:
    """Raise the first of the rows `bad`, all of them in its `found`; without any do nothing."""
    if bad:
        raise bad[0].among(bad)


class ThresholdsUnfit(PrefmillError):
    """Thresholds that wait for the scores do not divide these."""


class ExpectationFailed(PrefmillError):
    """What is expected of a run does not hold: nothing was published.

    broken   what does not hold, each with `name`, `got` and `expected`
    held     what does
    resumes  whether the same call goes on from what was done
    """

    def __init__(
        self,
        where: str,
        broken: Sequence[Any],
        *,
        held: Sequence[Any] = (),
        resumes: bool = False,
    ) -> None:
        self.broken, self.held, self.resumes = tuple(broken), tuple(held), resumes
        kept = ""
        if resumes:
            kept = " What was done is kept: the same call goes on from it, without --overwrite."
        super().__init__(
            "\n".join(f"{where}: {each}." for each in broken),
            hint="nothing was published, and what stood at the output is as it was; mend the data,"
            f" or expect something else: [expect] of the plan, --expect (expect=).{kept}",
        )


class TargetExists(PrefmillError, FileExistsError):
    """The output is already there."""

    exit_code = 2


class RunDiffers(PrefmillError):
    """The output belongs to another run: another model, template, dtype or input."""

    exit_code = 2


class RunBusy(PrefmillError):
    """Another process works on this output."""

    exit_code = TRY_LATER


class RequestFailed(PrefmillError):
    """A server refused a request, or gave no answer.

    index   the place of the request among those sent
    status  that of HTTP
    reason  one of `BAD_ROW` where the request itself is at fault, so that others may go on without
            it; None where the server is
    again   whether the same call may do later (exit code 75): there was no answer
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        index: int = 0,
        status: int | None = None,
        reason: str | None = None,
        again: bool = False,
    ) -> None:
        self.index, self.status, self.reason = index, status, reason
        if again:
            self.exit_code = TRY_LATER
        super().__init__(message, hint=hint)

    def about(self, what: str) -> RequestFailed:
        """The same error, with what the request was about."""
        return RequestFailed(
            f"{self.message} {what}",
            hint=self.hint,
            index=self.index,
            status=self.status,
            reason=self.reason,
            again=self.retryable,
        )


class StoreFailed(PrefmillError):
    """An object store refused a request, or gave no answer after all retries.

    again  whether the same call may do later (exit code 75): there was no answer, or an object
           changed under the reader
    """

    def __init__(self, message: str, *, hint: str | None = None, again: bool = False) -> None:
        if again:
            self.exit_code = TRY_LATER
        super().__init__(message, hint=hint)


class BatchesUnderWay(PrefmillError):
    """Requests lie in batches that are not done, and the call was not to wait for them.

    batches  the names of those on the server, or of the files that are to be answered
    """

    exit_code = TRY_LATER

    def __init__(self, message: str, *, hint: str | None = None, batches: Sequence[str]) -> None:
        self.batches = tuple(batches)
        super().__init__(message, hint=hint)


class OutOfDeviceMemory(PrefmillError):
    """One row alone, or the model, does not fit."""


class ScorerDied(PrefmillError):
    """The process that scores on one of several devices ended without a word."""


class WorkerDied(PrefmillError):
    """A task of a cluster ended without a word, on one worker after another."""


class RunDied(PrefmillError):
    """A call in a process of its own (`prefmill.isolated`) ended without an answer.

    signal  the number of the signal that ended it, or None
    """

    def __init__(self, message: str, *, hint: str | None = None, signal: int | None = None) -> None:
        self.signal = signal
        super().__init__(message, hint=hint)


class ScoresDiffer(PrefmillError):
    """Packed scores differ from those of one row at a time: nothing is written from such a
    model.
    """

    exit_code = 70


class MissingPackage(PrefmillError, ImportError):
    """An optional package is not installed."""

    exit_code = 2

    @classmethod
    def for_extra(cls, where: str, package: str, extra: str) -> MissingPackage:
        """The error for `package`, which the extra `extra` installs."""
        return cls(
            f"{where}: the package {package!r} is not installed.",
            hint=installing(extra),
        )


def installing(extra: str) -> str:
    """What installs an extra: prefmill is on no index yet, so it is a checkout or a wheel.

    >>> installing("worth")
    "in a checkout of prefmill: pip install '.[worth]'; with a wheel: pip install 'FILE.whl[worth]'"
    """
    return (
        f"in a checkout of prefmill: pip install '.[{extra}]'; with a wheel:"
        f" pip install 'FILE.whl[{extra}]'"
    )


class AccountingError(PrefmillError):
    """Rows in and rows accounted for differ: a bug of ours, never of the data."""

    exit_code = 70


def nearest(wanted: str, names: Iterable[str]) -> list[str]:
    """Up to three of `names` that look most like `wanted`, best first."""
    by_lower = {name.lower(): name for name in names}
    import difflib  # where there is no error, nobody needs it

    return [
        by_lower[n] for n in difflib.get_close_matches(wanted.lower(), by_lower, n=3, cutoff=0.6)
    ]


def near_file(path: str) -> str | None:
    """A hint at the file that is most likely meant by a path at which there is none.

    Names in its folder are compared; where there is no such folder, the name of a folder that is
    near, or the file of this name in the current folder.
    """
    import os

    folder, name = os.path.split(path)
    if os.path.isdir(folder or "."):
        near = [os.path.join(folder, each) for each in nearest(name, os.listdir(folder or "."))]
    else:
        above, last = os.path.split(folder)
        inside = os.listdir(above or ".") if os.path.isdir(above or ".") else ()
        others = [os.path.join(above, each, name) for each in nearest(last, inside)]
        near = [each for each in (*others, name) if os.path.exists(each)]
    if not near:
        return None if os.path.isdir(folder or ".") else f"there is no folder {folder}."
    return f"did you mean {near[0]}?"


def either(words: Iterable[str]) -> str:
    """Words of which one is to be given, as people read them.

    >>> either(["append", "merge", "replace"])
    "'append', 'merge' or 'replace'"
    """
    *others, last = map(repr, words)
    return f"{', '.join(others)} or {last}" if others else last
