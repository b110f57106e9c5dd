"""No command over files imports pandas, which takes half a second, though it is installed."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from workbooks import workbook

ROWS = [
    {"prompt": f"p{n // 4}", "completion": f"a{n}", "score": n % 4 + 2, "model": f"m{n % 2}"}
    for n in range(20)
]
FILES = {
    "a.json": json.dumps(ROWS),
    "pretty.json": json.dumps(ROWS, indent=2),
    "inside.json": json.dumps({"n": 1, "data": ROWS}),
    "map.json": json.dumps({f"q{n}": row for n, row in enumerate(ROWS)}),
    "a.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
    "lists.jsonl": json.dumps({"prompt": "p", "responses": ["a", "b"], "scores": [1, 5]}) + "\n",
    "mixed.jsonl": "".join(json.dumps({**row, "x": [1, "a", {}]}) + "\n" for row in ROWS),
    "a.csv": "prompt,completion,score\n" + "".join(f"p{n // 4},a{n},{n % 5}\n" for n in range(20)),
    "tree.jsonl": '{"id":1,"parent_id":null,"reward":0,"text":"q"}\n'
    '{"id":2,"parent_id":1,"reward":1,"text":"a"}\n',
    "steps.jsonl": '{"prompt":"p","steps":["a","b"],"labels":[true,false]}\n',
    "ab.jsonl": '{"prompt":"p","a":"x","b":"y","winner":"a"}\n' * 3,
}
COMMANDS = [
    *([command, name] for command in ("check", "pairs") for name in FILES if name[0] != "t"),
    *(["rows", name, "-o", "rows.jsonl"] for name in ("inside.json", "map.json", "lists.jsonl")),
    ["check", "a.xlsx"],
    ["pairs", "a.xlsx", "-o", "x.csv"],
    ["unpair", "a.json", "-o", "u.jsonl"],
    ["best", "inside.json", "-o", "b.arrow"],
    ["advantages", "map.json", "-o", "adv.parquet"],
    ["curve", "a.json"],
    ["sql", "SELECT count(*) FROM a", "a.json"],
    ["values", "tree.jsonl", "-o", "v.jsonl", "--parent-id", "parent_id", "--reward", "reward"],
]
CODE = """
import contextlib, io, json, sys
from prefmill.cli.main import app
from prefmill.errors import PrefmillError
for arguments in json.loads(sys.argv[1]):
    heard = io.StringIO()
    with contextlib.redirect_stdout(heard), contextlib.redirect_stderr(heard):
        try:
            app(arguments, standalone_mode=False)
            end = "done"
        except (PrefmillError, SystemExit) as error:
            end = f"{type(error).__name__}: {error}"
    print(json.dumps([arguments, end, "pandas" in sys.modules]))
"""


@pytest.mark.skipif(importlib.util.find_spec("pandas") is None, reason="pandas is not installed")
def test_no_command_imports_pandas(tmp_path: Path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    sheet = [list(ROWS[0]), *(list(row.values()) for row in ROWS)]
    (tmp_path / "a.xlsx").write_bytes(workbook({"Sheet1": sheet}))
    commands = [
        [*each, "-o", f"{number}.jsonl"] if each[0] == "pairs" and len(each) == 2 else each
        for number, each in enumerate(COMMANDS)
    ]
    done = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps(commands)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    ends = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(ends) == len(commands)
    assert [each for each in ends if each[2]] == []
    # A command that ends in an error has not shown much.
    finished = [each for each in ends if each[1] == "done"]
    assert len(finished) >= len(commands) - 6, [each for each in ends if each[1] != "done"]
