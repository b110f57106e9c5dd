"""The sandbox holds: each of these programs gets a verdict, and harms nobody."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prefmill.errors import BadArgument
from prefmill.scoring.verify import sandbox
from prefmill.scoring.verify.programs import Suite, code_in, run_tests
from prefmill.scoring.verify.sandbox import Bounds, run_code, what_holds

BOUNDS = Bounds(seconds=3.0, memory_mib=512)
CAGE = Path(sandbox.__file__).with_name("cage.py")


@pytest.fixture(scope="module", autouse=True)
def _holds() -> None:
    try:
        what_holds(BOUNDS)
    except BadArgument as error:
        pytest.skip(f"no sandbox on this machine: {error}")


def seen(code: str, *tests: str, bounds: Bounds = BOUNDS) -> tuple[float | None, str]:
    found = run_tests(code, Suite(scripts=tests or ("assert True",)), bounds)
    return found.score, found.reason or ""


HOSTILE = {
    "endless loop": ("while True: pass", "timed_out"),
    "sleep": ("import time; time.sleep(1000)", "timed_out"),
    "fork bomb": ("import os\nwhile True: os.fork()", "not_permitted"),
    "fork bomb that goes on": (
        "import os\nwhile True:\n try: os.fork()\n except OSError: pass",
        "timed_out",
    ),
    "10 GB": ("x = bytearray(10 * 2**30)", "out_of_memory"),
    "memory bit by bit": ("x = []\nwhile True: x.append(bytearray(1 << 20))", "out_of_memory"),
    "network": ("import socket; socket.create_connection(('127.0.0.1', 9))", "not_permitted"),
    "name of a host": ("import socket; socket.getaddrinfo('example.com', 80)", "raised"),
    "file of the system": ("open('/etc/passwd').read()", "not_permitted"),
    "folder": ("import os; os.listdir('/home')", "not_permitted"),
    "processes": ("open('/proc/1/environ').read()", "not_permitted"),
    "write": ("open('/tmp/prefmill-was-here', 'w')", "not_permitted"),
    "rights of a file": ("import os; os.chmod('/tmp', 0)", "not_permitted"),
    "link": ("import os; os.symlink('/etc/passwd', 'x'); open('x').read()", "not_permitted"),
    "program": ("import subprocess; subprocess.run(['ls'])", "not_permitted"),
    "shell": ("import os\nassert os.system('true') == 0", "wrong_answer"),
    "grandchild": (
        "import subprocess; subprocess.Popen(['sleep', '1000'], start_new_session=True)",
        "not_permitted",
    ),
    "multiprocessing": (
        "import multiprocessing as m\np = m.Process(target=print)\np.start()",
        "not_permitted",
    ),
    "kills itself": ("import os; os.kill(os.getpid(), 9)", "killed"),
    "kills its parent": ("import os; os.kill(os.getppid(), 9)", "not_permitted"),
    "kills all": ("import os; os.kill(-1, 9)", "not_permitted"),
    "crash": ("import ctypes; ctypes.string_at(0)", "killed"),
    "stack": ("def f(): f()\nf()", "raised"),
    "limits": (
        "import resource as r; r.setrlimit(r.RLIMIT_CPU, (99, 99))",
        "raised",
    ),
    "output": ("while True: print('x' * 10**6)", "too_much_output"),
    "errors": ("import sys\nfor i in range(99): print('x' * 10**6, file=sys.stderr)", ""),
    "big file": ("f = open('f', 'wb')\nfor i in range(99): f.write(bytes(1 << 20))", "raised"),
    "many files": (
        "for i in range(99):\n with open(f'f{i}', 'wb') as f: f.write(bytes(8 << 20))",
        "raised",
    ),
    "exit": ("import sys; sys.exit(0)", "exited"),
    "exit at once": ("import os; os._exit(0)", "exited"),
    "no descriptors": ("import os; os.closerange(0, 1 << 16)", "exited"),
    "what is no Python": ("def f(:", "does_not_compile"),
    "null": ("x = '\0'", "does_not_compile"),
    "input": ("input()", "raised"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_is_a_score_with_a_reason(name: str) -> None:
    if name == "many files" and "namespaces" in what_holds(BOUNDS):
        pytest.skip("without user namespaces the home is a folder, whose files are bounded each")
    code, reason = HOSTILE[name]
    began = time.monotonic()
    score, told = seen(code, "assert 1 == 1", "assert True")
    assert told.partition(":")[0] == reason
    assert score == (0.0 if reason else 1.0)
    assert time.monotonic() - began < 30
    assert not Path("/tmp/prefmill-was-here").exists()


CHEATS = {
    "equal to everything": "class E:\n def __eq__(s, o): return True\ndef f(x): return E()",
    "unequal to nothing": (
        "class E(int):\n def __eq__(s, o): return True\n def __ne__(s, o): return False\n"
        "def f(x): return E(0)"
    ),
    "inside of a list": (
        "class E:\n def __eq__(s, o): return True\ndef f(x): return [E()] if x == 9 else E()"
    ),
    "another all": "import builtins\nbuiltins.all = lambda x: True\ndef f(x): return 0",
    "another error": "import builtins\nbuiltins.AssertionError = KeyError\ndef f(x): return 0",
    "leaves in a test": "import os\ndef f(x): os._exit(0)",
    "raises exit in a test": "def f(x): raise SystemExit(0)",
    "prints what it guesses": "import os\nfor d in range(3, 20):\n"
    " try: os.write(d, b'0' * 32 + b' done \"\"\\n')\n except OSError: pass\ndef f(x): return 0",
}


@pytest.mark.parametrize("name", CHEATS)
def test_ending_well_is_not_passing(name: str) -> None:
    score, reason = seen(CHEATS[name], "assert f(1) == 2", "assert all([f(9) == [3]])")
    assert (score, bool(reason)) == (0.0, True)


def test_code_that_is_right_passes_and_a_part_is_a_share() -> None:
    right = "def f(x):\n    print('working')\n    return x + 1"
    assert seen(right, "assert f(1) == 2", "assert f(2) == 3") == (1.0, "")
    assert seen(right, "assert f(1) == 2\nassert f(2) == 4\ny = f(3)\nassert y != 5") == (
        pytest.approx(2 / 3),
        "wrong_answer: 2 of 3 passed",
    )
    named = "def test_a():\n    assert f(1) == 2\ndef test_b():\n    assert f(1) == 3, 'no'\n"
    assert seen(right, named) == (0.5, "wrong_answer: no (1 of 2 passed)")
    whole = "def check(g):\n    assert g(1) == 2\n    assert g(2) == 3\n"
    tests = Suite.read(whole, "f")
    assert run_tests(right, tests, BOUNDS).score == 1.0
    assert run_tests("def f(x): return 2", tests, BOUNDS).score == 0.0


def test_what_honest_code_needs_is_there() -> None:
    honest = """
        import asyncio, collections, dataclasses, datetime, decimal, functools, heapq, itertools
        import json, math, random, re, statistics, string, tempfile, threading, typing, zoneinfo
        @dataclasses.dataclass
        class P:
            x: int
        def f():
            thread = threading.Thread(target=print)
            thread.start(); thread.join()
            asyncio.run(asyncio.sleep(0))
            with tempfile.TemporaryDirectory() as folder:
                open(folder + "/a", "w").write("b")
            return collections.Counter("aab")
    """
    code = "\n".join(line[8:] for line in honest.splitlines())
    tests = ("assert f() == {'a': 2, 'b': 1}", "assert P(1) == P(1)", "assert P(1) != P(2)")
    assert seen(code, *tests, bounds=Bounds(seconds=20.0)) == (1.0, "")


def test_installed_packages_only_where_asked() -> None:
    code = "import numpy as np\ndef f(): return np.arange(3)"
    assert seen(code, "assert f().sum() == 3")[1].startswith("raised: ModuleNotFoundError")
    wide = Bounds(seconds=30.0, memory_mib=4096, packages=True)
    assert seen(code, "assert f().sum() == 3", bounds=wide) == (1.0, "")


def test_sets_have_one_order() -> None:
    code = "print(sorted({'a', 'b', 'c'}) and list({'apple', 'pear', 'fig', 'plum'}))"
    outputs = {run_code(code, BOUNDS, given="").output for _ in range(3)}
    assert len(outputs) == 1


def test_inputs_and_outputs_are_compared_outside() -> None:
    cases = Suite.read([{"input": "1\n", "output": "2\n"}, {"input": "4", "output": "8\n\n"}])
    assert run_tests("print(int(input()) * 2)", cases, BOUNDS).score == 1.0
    half = run_tests("print(2)", cases, BOUNDS)
    assert (half.score, half.word) == (0.5, "wrong_answer")
    for code, word in {
        "import os; os._exit(0)": "wrong_answer",
        "raise SystemExit(3)": "exited",
        "print(1/0)": "raised",
        "print(": "does_not_compile",
        "while True: pass": "timed_out",
        "while True: print('y' * 10**6)": "too_much_output",
        "open('/etc/passwd')": "not_permitted",
        "x = bytearray(10**10)": "out_of_memory",
    }.items():
        found = run_tests(code, cases, BOUNDS)
        assert (found.score, found.word) == (0.0, word), code


def test_apps_style_and_json_tests_are_read() -> None:
    apps = {"inputs": ["1", ["2", "3"]], "outputs": ["1", 5]}
    assert Suite.read(apps).cases == (("1", "1"), ("2\n3", "5"))
    assert Suite.read('["assert 1"]').scripts == ("assert 1",)
    assert code_in("```\nx\n```\n```python\ny\n```") == "y\n"
    assert code_in("```python\ny = 1\n") == "y = 1\n"
    assert code_in("  ") is None


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    code = "open('left', 'w').write('x')\nimport os\nassert os.getcwd() == os.environ['HOME']"
    before = set(Path("/tmp").glob("prefmill-sandbox-*"))
    assert seen(code)[0] == 1.0
    assert set(Path("/tmp").glob("prefmill-sandbox-*")) <= before


def test_the_environment_does_not_come_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "1")
    assert seen("import os\nassert 'SECRET_KEY' not in os.environ")[0] == 1.0


ALONE = """
import importlib.util, os
spec = importlib.util.spec_from_file_location("cage", {cage!r})
cage = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cage)
cage.powerless(); cage.walled({home!r}, []); cage.filtered()
def refused(run):
    try: run()
    except OSError: return True
    return False
import socket
print(refused(lambda: open("/etc/passwd")), refused(socket.socket), refused(os.fork),
      refused(lambda: os.kill(os.getppid(), 0)), refused(lambda: os.listdir("/")),
      refused(lambda: open({home!r} + "/x", "w")))
"""


def test_landlock_and_seccomp_hold_without_namespaces(tmp_path: Path) -> None:
    program = ALONE.format(cage=str(CAGE), home=str(tmp_path))
    words = [sys.executable, "-S", "-P", "-B", "-c", program]
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert told.split() == ["True"] * 5 + ["False"]


def test_a_container_without_user_namespaces_holds_it_too(tmp_path: Path) -> None:
    program = """
from prefmill.scoring.verify.sandbox import Bounds, run_code, what_holds
bounds = Bounds(seconds=5.0)
print(*what_holds(bounds))
for code in ("import os; os.fork()", "open('/etc/passwd')", "open('x', 'w')"):
    print(run_code(code, bounds, tests=["assert True"]).said[-1])
"""
    forbids = "echo 0 > /proc/sys/user/max_user_namespaces"
    words = ["unshare", "--user", "--map-root-user", "bash", "-c"]
    if (
        not shutil.which("unshare")
        or subprocess.run([*words, forbids], capture_output=True).returncode
    ):
        pytest.skip("this machine gives no user namespace to forbid further ones in")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    run = f"{forbids}; {shlex.quote(sys.executable)} -c {shlex.quote(program)}"
    told = subprocess.run([*words, run], capture_output=True, text=True, check=True, env=env)
    holds, fork, read, write = told.stdout.splitlines()
    assert holds == "namespaces"
    assert "not_permitted" in fork
    assert "not_permitted" in read
    assert write == "('done', '')"


def test_a_machine_that_cannot_hold_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sandbox, "_believed", lambda ended, secret: sandbox._refuse({"seccomp": "-"})
    )
    with pytest.raises(BadArgument, match="cannot close the sandbox; got seccomp: -"):
        run_code("", Bounds(seconds=1.0), tests=[])
