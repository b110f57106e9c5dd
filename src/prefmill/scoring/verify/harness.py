"""What runs inside the cage: one program, or one piece of code with its tests.

Started as `python -S -P harness.py TASK VERDICTS`, two descriptors. A task, one JSON object, comes
on the first. What became of it goes to the second, each line after a secret of the task, so that
ending well is not enough to pass: the tests have to have run. The standard library only.

    {"secret": ..., "home": ..., "code": ..., "tests": [...] | null, ...}
      ──▶ SECRET ready "{}"       the cage is closed: what is open still, and why
          SECRET count "3"        so many tests
          SECRET test-0 ""        for each test: "", or a reason and what was seen
          SECRET done ""
"""

from __future__ import annotations

import ast
import builtins
import importlib
import json
import os
import signal
import sys
import types
from collections.abc import Callable
from typing import Any

SOLUTION = "<solution>"
#: characters of a message
_MOST = 200


def _read(end: int) -> dict[str, Any]:
    parts = []
    while part := os.read(end, 1 << 16):
        parts.append(part)
    os.close(end)
    task: dict[str, Any] = json.loads(b"".join(parts))
    return task


def _teller(end: int, secret: str) -> Callable[[str, str], None]:
    write, dumps = os.write, json.dumps

    def tell(kind: str, text: str) -> None:
        write(end, f"{secret} {kind} {dumps(text)}\n".encode())

    return tell


class _OwnEquality(AssertionError):
    """Two values are equal only because the code that is tested says so."""


class _Guarded(ast.NodeTransformer):
    """`a == b` in tests asks `_equal` whether it may be believed."""

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        if len(node.ops) != 1 or not isinstance(node.ops[0], ast.Eq | ast.NotEq):
            return node
        kind = "__prefmill_equal" if isinstance(node.ops[0], ast.Eq) else "__prefmill_unequal"
        call = ast.Call(ast.Name(kind, ast.Load()), [node.left, node.comparators[0]], [])
        return ast.copy_location(call, node)


def _guards(namespace: dict[str, Any]) -> dict[str, Callable[[Any, Any], Any]]:
    """The two comparisons of tests, for code whose globals are `namespace`."""
    function, isinst, kind = types.FunctionType, isinstance, type
    boxes = (list, tuple, set, frozenset)

    def own(value: Any, depth: int = 0) -> bool:
        """Whether a method that `namespace` defines decides what `value` is equal to."""
        decides = kind(value).__eq__
        if isinst(decides, function) and decides.__globals__ is namespace:
            return True
        if depth > 8:
            return False
        if isinst(value, dict):
            return any(own(each, depth + 1) for pair in value.items() for each in pair)
        if isinst(value, boxes):
            return any(own(each, depth + 1) for each in value)
        return False

    def believed(left: Any, right: Any) -> None:
        if own(left) != own(right):
            raise _OwnEquality("the code's own __eq__ compares itself with a plain value")

    def equal(left: Any, right: Any) -> Any:
        believed(left, right)
        return left == right

    def unequal(left: Any, right: Any) -> Any:
        believed(left, right)
        return left != right

    return {"__prefmill_equal": equal, "__prefmill_unequal": unequal}


def _said(error: BaseException) -> str:
    """A reason, and what was seen."""
    if isinstance(error, MemoryError):
        return "out_of_memory"
    if isinstance(error, _OwnEquality):
        return f"own_equality: {error}"
    text = " ".join(str(error).split())[:_MOST]
    if isinstance(error, AssertionError):
        return f"wrong_answer: {text}" if text else "wrong_answer"
    if isinstance(error, SystemExit):
        return "exited"
    if isinstance(error, PermissionError):
        return f"not_permitted: {text}"
    return f"raised: {type(error).__name__}: {text}"


def _attempt(run: Callable[[], object]) -> str:
    try:
        run()
    except BaseException as error:
        try:
            return _said(error)
        except BaseException:
            return "raised: an error that cannot be told"
    return ""


def _tests_of(script: str) -> list[Callable[[dict[str, Any]], object]]:
    """A test's text as tests: its asserts and its test functions, else the whole."""
    tree = ast.fix_missing_locations(_Guarded().visit(ast.parse(script)))
    body = list(tree.body)
    asserts = [i for i, node in enumerate(body) if isinstance(node, ast.Assert)]
    named = [
        node.name
        for node in body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test") and not node.args.args
    ]

    def ran(nodes: list[ast.stmt]) -> Callable[[dict[str, Any]], object]:
        module = ast.Module(nodes, [])
        return lambda names: exec(compile(module, "<tests>", "exec"), names)

    if len(asserts) > 1:
        first = 0
        parts = []
        for place in asserts:  # what stands before an assert is a part of its test
            parts.append(ran(body[first : place + 1]))
            first = place + 1
        return [*parts, *([ran(body[first:])] if body[first:] else [])]
    if named and not asserts:
        whole = ran(body)

        def called(name: str, first: bool) -> Callable[[dict[str, Any]], object]:
            def run(names: dict[str, Any]) -> object:
                if first:
                    whole(names)
                return names[name]()

            return run

        return [called(name, place == 0) for place, name in enumerate(named)]
    return [ran(body)]


def _run_tests(task: dict[str, Any], tell: Callable[[str, str], None]) -> None:
    secret_free = {"__name__": "solution", "__builtins__": builtins}
    module = types.ModuleType("solution")
    module.__dict__.update(secret_free)
    sys.modules["solution"] = module
    names = module.__dict__
    now = vars(builtins)
    as_they_were = dict(now)
    parsed = [_tests_of(test) for test in task["tests"]]
    tell("count", str(sum(map(len, parsed))))

    def solution() -> None:
        exec(compile(task.pop("code"), SOLUTION, "exec"), names)

    if problem := _attempt(solution):
        word = "does_not_compile" if problem.startswith("raised: SyntaxError") else ""
        tell("failed", f"{word}: {problem[8:]}" if word else problem)
        return
    number = 0
    guards = _guards(names)
    for tests in parsed:
        for test in tests:
            now.clear()  # what the code made of `all` and `len` is not for the tests
            now.update(as_they_were)
            names.update(guards)
            tell(f"test-{number}", _attempt(lambda test=test: test(names)))  # type: ignore[misc]
            number += 1
    tell("done", "")


def _run_script(task: dict[str, Any]) -> None:
    """The code as a program of its own, over standard input and output."""
    names = {"__name__": "__main__", "__builtins__": builtins}
    sys.argv = ["solution.py"]
    exec(compile(task["code"], SOLUTION, "exec"), names)


def main() -> None:
    """Close the cage, then run the task."""
    begin, verdicts = map(int, sys.argv[1:3])
    task = _read(begin)
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    cage = importlib.import_module("cage")
    del sys.path[0], sys.modules["cage"]
    sys.path.extend(task["packages"])
    tell = _teller(verdicts, task.pop("secret"))
    still_open = cage.lock(
        task["home"],
        memory_mib=task["memory_mib"],
        seconds=task["seconds"],
        read=[*task["packages"], *task.get("read", [])],
    )
    lacking = {name: why for name, why in still_open.items() if name != "namespaces"}
    if lacking and task["strict"]:
        tell("refused", json.dumps(lacking))
        return
    tell("ready", json.dumps(still_open))
    sys.setrecursionlimit(10_000)
    if task["tests"] is None:
        os.close(verdicts)
        _run_script(task)
        return
    _run_tests(task, tell)
    os._exit(0)  # threads of the code do not hold it up


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    main()
