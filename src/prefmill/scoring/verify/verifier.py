"""Verifiable rewards: a score that is a fact about the completion. `Verifier`."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np
import pyarrow as pa

from prefmill.errors import BAD_ROW, BadArgument, ColumnMissing, MissingPackage
from prefmill.models.described import Described, uncounted, unlike
from prefmill.progress import processors
from prefmill.scoring.scorers import Scored, Staged
from prefmill.scoring.verify.answers import WAYS, WAYS_WITH
from prefmill.scoring.verify.checks import (
    UNBOUNDED,
    BadGold,
    Settings,
    Verdict,
    schema_in,
    verdict,
)
from prefmill.scoring.verify.commands import commanded, content_of_command, words_of
from prefmill.scoring.verify.programs import Suite, code_in, run_tests
from prefmill.scoring.verify.sandbox import Bounds, Sandbox, what_holds
from prefmill.scoring.verify.workers import Workers
from prefmill.table.conversations import row_texts

Check = Literal["exact", "number", "math", "regex", "json-schema", "tests", "command"]
#: packages whose version decides verdicts
_PACKAGES = {
    "math": ("math-verify", "latex2sympy2_extended", "sympy"),
    "json-schema": ("jsonschema",),
}
#: those that have to be there, with the module of each
_MODULES = {"math": {"math-verify": "math_verify"}, "json-schema": {"jsonschema": "jsonschema"}}


@dataclass(frozen=True)
class Asked:
    """The rows of a batch: what was said, and what is true of it."""

    prompts: list[str]
    completions: list[str]
    golds: list[Any]
    entries: list[Any]
    rows: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Verifier(Described, Staged):
    r"""A score that can be checked: 1 where the completion is right, 0 where it is not.

    Args:
        check: what is asked of a completion:

            | check         | is 1 where                                                          |
            |---------------|---------------------------------------------------------------------|
            | `exact`       | its answer is the text of `answer`                                  |
            | `number`      | its answer is the number of `answer`                                |
            | `math`        | its answer is the expression of `answer` (package `math-verify`)     |
            | `regex`       | `pattern`, or the pattern in `answer`, matches                      |
            | `json-schema` | it is JSON that `schema`, or the schema in `answer`, accepts        |
            | `tests`       | its code passes all of `tests`; else the share that it passes       |
            | `command`     | `command`, given the row as JSON, ends with 0 (or writes a number)  |
        answer: the column of what is right: a value, or a list of which any will do.
        extract: where the answer stands in a completion (`answers.extracted`): `auto`, `boxed`,
            `hash`, `phrase`, `last-number`, `whole`, `tag:NAME` or `regex:PATTERN`.
        ignore_case: of exact and regex.
        tolerance: of number, relative to the truth.
        pattern, match: of regex; `search` anywhere, or `full`.
        schema: of json-schema: a file, or the text of a schema.
        tests: the column of the tests: asserts, a script, or inputs with outputs.
        entry_point: the column of the function's name that a script's `check` is called with.
        code: `fenced`: the last fence of a completion, else all of it; `continued`: the prompt with
            the completion after it.
        command: a program and its words. It is the user's own, and not in the sandbox.
        on_no_answer: a completion without an answer is 0 (`zero`), or has no score (`null`).
        timeout: seconds of one row; of tests that are inputs, of one input.
        memory_mib: of one program.
        sandbox: `strict`: code runs only where every lock of the sandbox holds; `weak`: with those
            that do (docs/verify.md).
        packages: the code may import the packages that are installed here.
        processes: rows at a time; 0: as many as there are processors, or CPUs of a worker.

    Columns: `score`. Texts: `answer`, what was found, in one spelling (for `pick="majority"`), and
    `reason`, why the score is not 1: a word, then what was seen. What is wrong with a completion
    makes its score 0. What is wrong with the truth, or with the check itself, makes it null:
    `bad_column`, `check_failed`. The report counts both by word.

    >>> batch = pa.record_batch(
    ...     {"prompt": ["6+6?", "6+6?"], "completion": ["It is 12.", "#### 13"], "gold": [12, 12]}
    ... )
    >>> Verifier(check="number", answer="gold")(batch)
    array([1., 0.])
    """

    columns: ClassVar[tuple[str, ...]] = ("score",)
    compares: ClassVar[bool] = False
    #: no model is to be named
    without_model: ClassVar[bool] = True

    check: Check = "exact"
    answer: str = "answer"
    extract: str = "auto"
    ignore_case: bool = False
    tolerance: float = 1e-6
    pattern: str | None = None
    match: Literal["search", "full"] = "search"
    schema: str | Path | None = None
    tests: str = "tests"
    entry_point: str | None = None
    code: Literal["fenced", "continued"] = "fenced"
    command: str | None = None
    on_no_answer: Literal["zero", "null"] = "zero"
    timeout: float = 10.0
    memory_mib: int = 1024
    sandbox: Sandbox = "strict"
    packages: bool = False
    processes: int = 0

    @classmethod
    def from_options(cls, model: str, options: Mapping[str, Any]) -> Self:
        """A check has no model."""
        if model:
            raise BadArgument(
                f"verify: --model has no meaning for --scorer verify; got {model!r}.",
                hint="leave it out.",
            )
        return cls(**options)

    def _problems(self) -> list[str]:
        problems = unlike(
            self,
            check=get_args(Check),
            match=("search", "full"),
            code=("fenced", "continued"),
            on_no_answer=("zero", "null"),
            sandbox=get_args(Sandbox),
        )
        problems += uncounted(self, "processes", least=0) + uncounted(self, "memory_mib", least=64)
        for name in ("timeout", "tolerance"):
            value = getattr(self, name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not 0 <= value < float("inf") or (name == "timeout" and not value):
                least = "> 0" if name == "timeout" else ">= 0"
                problems.append(f"{name} must be a number {least}; got {value!r}")
        return problems + self._problems_of_extract() + self._problems_of_check()

    def _problems_of_extract(self) -> list[str]:
        way, mark, word = self.extract.partition(":")
        if (self.extract in WAYS and not mark) or (way == "tag" and word):
            return []
        if way != "regex" or not word:
            ways = [*WAYS, *(f"{each}:WORD" for each in WAYS_WITH)]
            return [f"extract is not one of {ways}; got {self.extract!r}"]
        return _problems_of_pattern("extract", word)

    def _problems_of_check(self) -> list[str]:
        problems = []
        own = {"pattern": "regex", "schema": "json-schema", "command": "command"}
        own |= {"entry_point": "tests"}
        for name, check in own.items():
            if getattr(self, name) is not None and self.check != check:
                problems.append(f"{name} is of check {check!r}; got check {self.check!r}")
        if self.check in ("tests", "command", "json-schema") and self.extract != "auto":
            problems.append(
                f"extract has no meaning for check {self.check!r}; got {self.extract!r}"
            )
        if self.pattern is not None:
            problems += _problems_of_pattern("pattern", self.pattern)
        if self.schema is not None:
            try:
                schema_in(_schema_text(self.schema))
            except (BadGold, OSError) as error:
                problems.append(f"schema: {error}")
        if self.check == "command":
            if self.command is None:
                return [*problems, "check 'command' needs a command; got None"]
            try:
                words_of(self.command)
            except ValueError as error:
                problems.append(f"command cannot be run: {error}; got {self.command!r}")
        return problems

    # What a run asks

    @property
    def texts(self) -> tuple[str, ...]:
        """The answer, where there is one, and why the score is not 1."""
        if self.check in ("tests", "command"):
            return ("reason",)
        return ("answer", "reason")

    @property
    def reads(self) -> tuple[str, ...] | None:
        """The column of what is right; a command is shown all columns."""
        if self.check == "command":
            return None
        if self.check == "tests":
            return tuple(filter(None, (self.tests, self.entry_point)))
        if self.pattern is not None or self.schema is not None:
            return ()
        return (self.answer,)

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """The check, what it is told, and the versions of what it is made with."""
        parts = {"scorer": "verify", "check": self.check, "rules": "1"}
        parts |= {"reads": json.dumps(self.reads), "on_no_answer": self.on_no_answer}
        for package in _PACKAGES.get(self.check, ()):
            try:
                parts[package] = version(package)
            except PackageNotFoundError:
                parts[package] = ""
        if self.check == "tests":
            python = ".".join(map(str, sys.version_info[:3]))
            bounds = asdict(self._bounds)
            return parts | {"python": python, "code": self.code, "bounds": json.dumps(bounds)}
        if self.check == "command":
            limits = f"{self.timeout:g} s, {self.memory_mib} MiB"
            return parts | {"command": content_of_command(str(self.command)), "bounds": limits}
        own = {**asdict(self._settings), "pattern": self.pattern}
        if self.schema is not None:
            text = _schema_text(self.schema)
            own["schema"] = hashlib.sha256(text.encode()).hexdigest()[:16]
        return parts | {"settings": json.dumps(own, sort_keys=True)}

    @property
    def way(self) -> str:
        """What bounds code that is run."""
        if self.check != "tests":
            return ""
        open_still = what_holds(self._bounds)
        if not open_still:
            return "in a sandbox: no network, files, processes"
        told = "; ".join(f"{name}: {why}" for name, why in sorted(open_still.items()))
        return f"in a sandbox without {told}"

    @property
    def _settings(self) -> Settings:
        return Settings(
            check=self.check,
            extract=self.extract,
            match=self.match,
            ignore_case=self.ignore_case,
            tolerance=float(self.tolerance),
            seconds=float(self.timeout),
        )

    @property
    def _bounds(self) -> Bounds:
        return Bounds(
            seconds=float(self.timeout),
            memory_mib=self.memory_mib,
            sandbox=self.sandbox,
            packages=self.packages,
        )

    @property
    def _count(self) -> int:
        if self.processes:
            return self.processes
        return processors()

    def load(self) -> str:
        """See that the sandbox holds, and that a package is there, before anything is read."""
        if self.check == "tests":
            return self.way
        for package, module in _MODULES.get(self.check, {}).items():
            if find_spec(module) is None:
                raise MissingPackage.for_extra(f"--check {self.check}", package, "verify")
        return ""

    # Checking

    def prepare(self, batch: pa.RecordBatch) -> Asked:
        """Texts, and what is true of them."""
        prompts, completions = row_texts(
            "verify", batch["prompt"].to_pylist(), batch["completion"].to_pylist()
        )
        names = self.reads
        rows: list[dict[str, Any]] = []
        if names is None:
            names, rows = (), batch.to_pylist()
        told = [_column(batch, name, self.check).to_pylist() for name in names]
        nothing: list[Any] = [None] * batch.num_rows
        golds, entries = [*told, nothing, nothing][:2]
        fixed = self._fixed
        if fixed is not None:
            golds = [fixed] * batch.num_rows
        return Asked(prompts, completions, golds, entries, rows)

    @property
    def _fixed(self) -> Any:
        """What is true of every row alike; None: it stands in a column."""
        if self.schema is not None:
            return self._kept("schema", lambda: schema_in(_schema_text(self.schema)))
        return self.pattern

    def run(self, prepared: Asked) -> Scored:
        """Check the rows, several at a time."""
        verdicts = self._verdicts(prepared)
        scores = np.zeros(len(verdicts))
        null = np.zeros(len(verdicts), bool)
        reasons: list[str | None] = []
        for row, found in enumerate(verdicts):
            lacks = found.score is None or (found.word == "no_answer" and self._nulls_no_answer)
            null[row] = lacks
            reasons.append(_why(found) if lacks else None)
            if not lacks:
                scores[row] = found.score
        words = Counter(
            v.word for v, none in zip(verdicts, null, strict=True) if v.word and not none
        )
        texts: dict[str, Sequence[str | None]] = {
            "answer": [found.answer for found in verdicts],
            "reason": [found.reason for found in verdicts],
        }
        return Scored(
            {"score": scores},
            null,
            {f"reason:{word}": count for word, count in words.items()},
            {name: texts[name] for name in self.texts},
            reasons if null.any() else (),
        )

    @property
    def _nulls_no_answer(self) -> bool:
        return self.on_no_answer == "null"

    def _verdicts(self, asked: Asked) -> list[Verdict]:
        if self.check == "tests":
            return self._spread(self._test, asked, range(len(asked.golds)))
        if self.check == "command":
            return self._spread(self._command, asked, range(len(asked.rows)))
        settings = self._settings
        pairs = list(zip(asked.completions, asked.golds, strict=True))
        if self.check in UNBOUNDED or self.extract.startswith("regex:"):
            self.load()
            workers = self._kept("workers", lambda: Workers(settings, self._count))
            return workers.ask(pairs)
        return [verdict(settings, text, gold) for text, gold in pairs]

    def _spread(
        self, one: Callable[[Asked, int], Verdict], asked: Asked, rows: range
    ) -> list[Verdict]:
        with ThreadPoolExecutor(self._count, thread_name_prefix="prefmill-verify") as threads:
            return list(threads.map(lambda row: one(asked, row), rows))

    def _test(self, asked: Asked, row: int) -> Verdict:
        entry = asked.entries[row]
        code = code_in(asked.completions[row])
        if self.code == "continued":
            code = asked.prompts[row] + asked.completions[row]
        try:
            return run_tests(code, Suite.read(asked.golds[row], entry), self._bounds)
        except BadGold as error:
            return Verdict(None, None, f"bad_column: {error}")

    def _command(self, asked: Asked, row: int) -> Verdict:
        return commanded(str(self.command), asked.rows[row], self.timeout, self.memory_mib)


def _why(found: Verdict) -> str:
    return found.word if found.word in BAD_ROW else "left_out"


def _schema_text(schema: str | Path | None) -> str:
    """A schema that is a file, or the text of one."""
    if isinstance(schema, str) and schema.lstrip().startswith("{"):
        return schema
    return Path(str(schema)).read_text("utf-8")


def _problems_of_pattern(name: str, pattern: str) -> list[str]:
    try:
        re.compile(pattern)
    except re.error as error:
        return [f"{name}: no regular expression: {error}; got {pattern!r}"]
    return []


def _column(batch: pa.RecordBatch, name: str, check: str) -> pa.Array:
    """A column of the input; raises `ColumnMissing`."""
    if name in batch.schema.names:
        return batch[name]
    option = {"tests": "--tests"}.get(check, "--answer")
    columns = [each for each in batch.schema.names if each not in ("prompt", "completion", "group")]
    raise ColumnMissing(
        f"verify: no column {name!r}; got the further columns {columns}.",
        hint=f"{option} COLUMN names the column of what is right.",
    )
