"""Code in completions, run against tests: in one process with asserts, or a process for each input.

completion ──code_in──▶ code ──sandbox──▶ the share of its tests that pass, and why not all do
tests: asserts, a script, or inputs with outputs
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefmill.scoring.verify.checks import BadGold, Verdict, fenced
from prefmill.scoring.verify.sandbox import Bounds, Ended, run_code


@dataclass(frozen=True)
class Suite:
    """The tests of a row: `scripts` that run after the code, or `cases` of input and output."""

    scripts: tuple[str, ...] = ()
    cases: tuple[tuple[str, str], ...] = ()

    @classmethod
    def read(cls, value: Any, entry: str | None = None) -> Suite:
        """Tests as a column holds them. Raises `BadGold`.

        A text is a script, unless it is JSON; a list holds scripts, or {"input", "output"}; an
        object {"inputs": [...], "outputs": [...]} holds cases. With `entry`, the name of a
        function, a script that defines `check` is called with it.

        >>> Suite.read(["assert f(1) == 2", "assert f(2) == 3"]).scripts
        ('assert f(1) == 2', 'assert f(2) == 3')
        >>> Suite.read('[{"input": "1", "output": "2"}]').cases
        (('1', '2'),)
        """
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError:
                value = [value]
        if isinstance(value, Mapping):
            value = _cases_of(value)
        if not isinstance(value, list) or not (value := [each for each in value if each]):
            raise BadGold("it holds no tests")
        if all(isinstance(each, str) for each in value):
            return cls(scripts=_callable(value, entry))
        if all(isinstance(each, Mapping) and {"input", "output"} <= each.keys() for each in value):
            return cls(cases=tuple((_lines(e["input"]), _lines(e["output"])) for e in value))
        raise BadGold('tests are neither texts nor {"input", "output"}')


def _cases_of(value: Mapping[str, Any]) -> Any:
    if {"inputs", "outputs"} <= value.keys():
        inputs, outputs = value["inputs"], value["outputs"]
        if isinstance(inputs, list) and isinstance(outputs, list) and len(inputs) == len(outputs):
            return [{"input": i, "output": o} for i, o in zip(inputs, outputs, strict=True)]
        raise BadGold("inputs and outputs are not lists of one length")
    return [value]


def _lines(value: Any) -> str:
    if isinstance(value, list):
        return "\n".join(map(_lines, value))
    return value if isinstance(value, str) else json.dumps(value)


def _callable(scripts: Sequence[str], entry: str | None) -> tuple[str, ...]:
    """Scripts, those that only define `check` with a call of it."""
    if not entry:
        return tuple(scripts)
    if not entry.isidentifier():
        raise BadGold(f"the entry point is no name of a function; got {entry[:80]!r}")
    return tuple(
        f"{script}\n\ncheck({entry})\n" if "def check(" in script else script for script in scripts
    )


def code_in(text: str) -> str | None:
    r"""The code of a completion: its last fence, else all of it; None where there is none.

    >>> code_in("Here:\n```python\nx = 1\n```\nDone.")
    'x = 1\n'
    """
    fences = [part for part in fenced(text) if part.strip()]
    if fences:
        return fences[-1]
    if "```" in text:  # a fence that was cut off has no end
        text = text.rpartition("```")[2].partition("\n")[2]
    return text if text.strip() else None


def run_tests(code: str | None, tests: Suite, bounds: Bounds) -> Verdict:
    """The share of its tests that `code` passes, with the reason of the first that fails."""
    if code is None:
        return Verdict(0.0, None, "no_code")
    if "\0" in code:
        return Verdict(0.0, None, "does_not_compile: a null character")
    if tests.cases:
        return _over_cases(code, tests.cases, bounds)
    return _with_scripts(code, tests.scripts, bounds)


def _with_scripts(code: str, scripts: Sequence[str], bounds: Bounds) -> Verdict:
    ended = run_code(code, bounds, tests=scripts)
    said = ended.kinds()
    if "ready" not in said:
        return _lost(ended)
    if "count" not in said:  # before the code ran: the tests could not be read
        seen = _last_line(ended.error)
        raise BadGold(f"the tests do not compile; {seen}")
    if "failed" in said:
        return Verdict(0.0, None, said["failed"])
    count = int(said["count"])
    results = [text for kind, text in ended.said if kind.startswith("test-")][:count]
    passed = results.count("")
    if passed == count and "done" in said:
        return Verdict(1.0)
    reason = next(filter(None, results), None) or _how(ended)
    share = passed / max(count, 1)
    if count > 1:
        reason = (
            f"{reason} ({passed} of {count} passed)"
            if ": " in reason
            else (f"{reason}: {passed} of {count} passed")
        )
    return Verdict(share, None, reason)


def _how(ended: Ended) -> str:
    """Why a program came to no verdict of its own."""
    if ended.timed_out:
        return "timed_out"
    if ended.flooded:
        return "too_much_output"
    if ended.code < 0:
        return f"killed: signal {-ended.code}"
    if b"MemoryError" in ended.error:
        return "out_of_memory"
    return "exited"


def _lost(ended: Ended) -> Verdict:
    """The sandbox itself did not come up: nothing is known of the code."""
    seen = "timed out" if ended.timed_out else _last_line(ended.error) or f"exit code {ended.code}"
    return Verdict(None, None, f"check_failed: the sandbox did not start; {seen}")


def _last_line(error: bytes) -> str:
    lines = [line for line in error.decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1].strip()[:200] if lines else ""


def _over_cases(code: str, cases: Sequence[tuple[str, str]], bounds: Bounds) -> Verdict:
    passed, first = 0, ""
    for given, expected in cases:
        ended = run_code(code, bounds, given=given)
        if "ready" not in ended.kinds():
            return _lost(ended)
        reason = _of_case(ended, expected)
        passed += not reason
        first = first or reason
        if reason.partition(":")[0] in ("does_not_compile", "timed_out"):
            break  # it would be no other with the next input, and would cost as much again
    if passed == len(cases):
        return Verdict(1.0)
    if len(cases) > 1:
        first = (
            f"{first} ({passed} of {len(cases)} passed)"
            if ": " in first
            else (f"{first}: {passed} of {len(cases)} passed")
        )
    return Verdict(passed / len(cases), None, first)


def _of_case(ended: Ended, expected: str) -> str:
    """Why a program's output is not what is expected; "" where it is."""
    if ended.timed_out or ended.flooded or ended.code < 0:
        return _how(ended)
    if ended.code:
        seen = _last_line(ended.error)
        if "MemoryError" in seen:
            return "out_of_memory"
        if seen.startswith(("SyntaxError", "IndentationError", "TabError")):
            return f"does_not_compile: {seen}"
        if seen.startswith("PermissionError"):
            return f"not_permitted: {seen.partition(': ')[2]}"
        return f"raised: {seen}" if seen else f"exited: code {ended.code}"
    output = ended.output.decode("utf-8", "replace")
    if _tidy(output) == _tidy(expected):
        return ""
    return f"wrong_answer: expected {expected.strip()[:40]!r}, got {output.strip()[:40]!r}"


def _tidy(text: str) -> list[str]:
    """Lines without what nobody sees: spaces at their ends, empty lines at the end."""
    return [line.rstrip() for line in text.strip().splitlines()]
