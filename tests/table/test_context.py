"""System prompts, tools, images and template arguments: they reach the output, or a pair is
refused.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import duckdb
import polars as pl
import pyarrow.parquet as pq
import pytest

import prefmill as pm
from prefmill.errors import BadInput

TOOLS = '[{"type": "function", "function": {"name": "f"}}]'
SYSTEM = {"role": "system", "content": "Be brief."}


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def feedback(**columns: list) -> pl.DataFrame:
    rows = {
        "prompt": ["p", "p", "q", "q"],
        "completion": ["a", "b", "c", "d"],
        "score": [5, 1, 2, 5],
    }
    return pl.DataFrame(rows | columns)


def in_files(engine: str, ending: str) -> Callable:
    def run(frame: pl.DataFrame, plan, folder: Path, **more) -> list[dict]:
        frame.write_parquet(folder / "in.parquet")
        out = folder / f"out.{ending}"
        roles = {"group": more.pop("group")} if "group" in more else {}
        pm.run(plan, folder / "in.parquet", out, engine=engine, roles=roles, **more)
        read = pl.read_parquet if ending == "parquet" else pl.read_ndjson
        return read(out).to_dicts()

    return run


def lazily(engine: str) -> Callable:
    def run(frame: pl.DataFrame, plan, folder: Path, **roles) -> list[dict]:
        return plan.lazy(frame.lazy(), **roles).collect(engine=engine).to_dicts()

    return run


def in_datasets(streaming: bool, **more) -> Callable:
    def run(frame: pl.DataFrame, plan, folder: Path, **roles) -> list[dict]:
        import datasets

        import prefmill.datasets as pmd

        rows = datasets.Dataset.from_polars(frame)
        made = pmd.apply(plan, rows.to_iterable_dataset() if streaming else rows, **more, **roles)
        return [dict(row) for row in made]

    return run


def in_sql(frame: pl.DataFrame, plan, folder: Path, **roles) -> list[dict]:
    from prefmill.duckdb import install

    with duckdb.connect() as con:
        install(con)
        con.register("feedback", frame)
        return con.sql(plan.sql("feedback", **roles)).to_arrow_table().to_pylist()


def in_a_macro(frame: pl.DataFrame, plan, folder: Path) -> list[dict]:
    from prefmill.duckdb import install

    with duckdb.connect() as con:
        install(con)
        con.register("feedback", frame)
        macro = {"pairs": "preference_pairs", "unpaired": "unpaired"}[plan.kind]
        return con.sql(f"FROM {macro}('feedback')").to_arrow_table().to_pylist()


def in_the_shell(frame: pl.DataFrame, plan, folder: Path) -> list[dict]:
    """DuckDB 1.5, with nothing of ours but the files."""
    from duckdb_shell import ask

    frame.write_parquet(folder / "in.parquet")
    (folder / "out.parquet").unlink(missing_ok=True)
    macro = {"pairs": "preference_pairs", "unpaired": "unpaired"}[plan.kind]
    query = f"COPY (FROM {macro}('{folder}/in.parquet')) TO '{folder}/out.parquet';"
    said = ask([".read sql/prefmill.sql", query])
    if said:
        raise duckdb.Error(said)
    return pq.read_table(folder / "out.parquet").to_pylist()


HOSTS = {
    "run duckdb": in_files("duckdb", "parquet"),
    "run polars": in_files("polars", "jsonl"),
    "lazy": lazily("in-memory"),
    "lazy streaming": lazily("streaming"),
    "datasets": in_datasets(streaming=False),
    "datasets streaming": in_datasets(streaming=True),
    "datasets clustered": in_datasets(streaming=True, clustered=True),
    "plan.sql": in_sql,
    "macro": in_a_macro,
    "shell": in_the_shell,
}
hosts = pytest.mark.parametrize("host", HOSTS)


@hosts
def test_tools_and_template_arguments_come_along_under_their_own_names(host, tmp_path):
    kwargs = [{"enable_thinking": flag} for flag in (True, True, False, False)]
    frame = feedback(tools=[TOOLS, TOOLS, None, None], chat_template_kwargs=kwargs)
    rows = HOSTS[host](frame, pm.Pairs(), tmp_path)
    assert [(row["prompt"], row["chosen"]) for row in rows] == [("p", "a"), ("q", "d")]
    assert [row["tools"] for row in rows] == [TOOLS, None]
    assert [row["chat_template_kwargs"] for row in rows] == [kwargs[0], kwargs[2]]
    labels = HOSTS[host](frame, pm.Unpaired(), tmp_path, **again(host))
    assert sorted((row["completion"], row["tools"] is None) for row in labels) == [
        ("a", False),
        ("b", False),
        ("c", True),
        ("d", True),
    ]


def again(host: str) -> dict[str, bool]:
    return {"overwrite": True} if host.startswith("run") else {}


@hosts
def test_a_system_prompt_begins_the_conversation(host, tmp_path):
    frame = feedback(system=["Be brief.", "Be brief.", None, None])
    rows = HOSTS[host](frame, pm.Pairs(), tmp_path)
    assert [row["prompt"] for row in rows] == [
        [SYSTEM, message("user", "p")],
        [message("user", "q")],
    ]
    assert [row["chosen"] for row in rows] == [
        [message("assistant", "a")],
        [message("assistant", "d")],
    ]
    assert "system" not in rows[0]


@hosts
def test_a_prompt_of_messages_keeps_its_own_system_message(host, tmp_path):
    chat = [[message("user", "p")]] * 2 + [[message("system", "Own."), message("user", "q")]] * 2
    frame = feedback(prompt=chat, system=["Be brief."] * 4)
    rows = HOSTS[host](frame, pm.Pairs(), tmp_path)
    assert [row["prompt"] for row in rows] == [[SYSTEM, message("user", "p")], chat[2]]


@hosts
@pytest.mark.parametrize("column", ["system", "tools", "chat_template_kwargs"])
def test_answers_that_were_asked_in_different_ways_do_not_pair(host, column, tmp_path):
    values = ["x", "y", "z", "z"]
    if column == "chat_template_kwargs":
        values = [{"enable_thinking": value == "x"} for value in values]
    errors = (BadInput, duckdb.Error)
    with pytest.raises(errors, match=f"column '{column}' differs between the two answers"):
        HOSTS[host](feedback(**{column: values}), pm.Pairs(), tmp_path)


@pytest.mark.parametrize("host", [host for host in HOSTS if host not in ("macro", "shell")])
def test_the_line_of_the_hint_pairs_inside_a_system_prompt(host, tmp_path):
    frame = pl.DataFrame(
        {
            "prompt": ["p"] * 4,
            "completion": ["a", "b", "c", "d"],
            "score": [5, 1, 2, 5],
            "system": ["x", "x", "y", "y"],
        }
    )
    rows = HOSTS[host](frame, pm.Pairs(), tmp_path, group=["prompt", "system"])
    sides = [(row["prompt"][0]["content"], row["chosen"][0]["content"]) for row in rows]
    assert sides == [("x", "a"), ("y", "d")]


def test_the_command_takes_the_line_of_the_hint(tmp_path):
    from typer.testing import CliRunner

    from prefmill.cli.main import app

    feedback(prompt=["p"] * 4, system=["x", "y", "x", "y"]).write_ndjson(tmp_path / "in.jsonl")
    command = ["pairs", str(tmp_path / "in.jsonl"), "-o", str(tmp_path / "out.jsonl"), "--quiet"]
    done = CliRunner().invoke(app, [*command, "--group", "prompt", "--group", "system"])
    assert done.exit_code == 0, done.output
    rows = pl.read_ndjson(tmp_path / "out.jsonl")
    assert [prompt[0]["content"] for prompt in rows["prompt"].to_list()] == ["x", "y"]


@pytest.mark.parametrize("kept", [[], ["tools"], ["completion", "system"]])
def test_macros_keep_other_columns_too(kept):
    from prefmill.duckdb import install

    frame = feedback(system=["x"] * 4, tools=[TOOLS] * 4)
    with duckdb.connect() as con:
        install(con)
        con.register("feedback", frame)
        pairs = con.sql(f"FROM preference_pairs('feedback', keep := {kept})").columns
        assert pairs[5:] == ["tools", *(f"{s}_{n}" for s in ("chosen", "rejected") for n in kept)]
        labels = con.sql(
            f"FROM unpaired('feedback', keep := {[n for n in kept if n != 'completion']})"
        )
        assert labels.columns[4:] == ["tools", *(n for n in kept if n == "system")]
        lazily = pm.Pairs().lazy(frame, keep=kept).collect_schema().names()
        assert sorted(lazily) == sorted(pairs)
        assert lazily == con.sql(pm.Pairs().sql("feedback", keep=kept)).columns


@pytest.mark.parametrize("layout", ["trl-implicit", "openrlhf", "llama-factory", "kto"])
def test_every_layout_of_conversations_begins_with_the_system_prompt(layout, tmp_path):
    frame = feedback(system=["Be brief."] * 4, tools=[TOOLS] * 4)
    rows = HOSTS["run duckdb"](frame, pm.Pairs(), tmp_path, format=layout)
    begun = {"trl-implicit": "chosen", "llama-factory": "conversations"}.get(layout, "prompt")
    first = rows[0][begun][0]
    said = ("from", "value") if layout == "llama-factory" else ("role", "content")
    assert [first[key] for key in said] == ["system", "Be brief."]
    assert rows[0]["tools"] == TOOLS


@pytest.mark.parametrize("layout", ["prompt-completion", "messages"])
def test_sft_layouts_have_the_context(layout, tmp_path):
    frame = feedback(system=["Be brief."] * 4, tools=[TOOLS] * 4)
    wanted = message("system", "Be brief.")
    for host in ("run duckdb", "run polars"):
        (tmp_path / host).mkdir()
        rows = HOSTS[host](frame, pm.BestOf(), tmp_path / host, format=layout)
        assert rows[0]["tools"] == TOOLS
        assert rows[0]["messages" if layout == "messages" else "prompt"][0] == wanted
    for streaming in (False, True):
        made = in_datasets(streaming, format=layout)(frame, pm.BestOf(), tmp_path)
        assert made[0]["tools"] == TOOLS
        assert made[0]["messages" if layout == "messages" else "prompt"][0] == wanted


def test_whole_rows_and_statistics_stay_as_they_are(tmp_path):
    frame = feedback(system=["x", "y", "x", "y"], tools=[TOOLS] * 4)
    frame.write_parquet(tmp_path / "in.parquet")
    pm.run(pm.BestOf(), tmp_path / "in.parquet", tmp_path / "out.parquet")
    assert pq.read_schema(tmp_path / "out.parquet").names == [*frame.columns, "rank"]
    assert pm.BestOf().lazy(frame).collect().columns == ["prompt", "completion", "score", "rank"]


def test_images_in_bytes_come_along(tmp_path):
    image = [{"bytes": b"\x89PNG", "path": "a.png"}]
    frame = feedback(images=[image] * 4)
    frame.write_parquet(tmp_path / "in.parquet")
    for engine in ("duckdb", "polars"):
        pm.run(pm.Pairs(), tmp_path / "in.parquet", tmp_path / f"{engine}.parquet", engine=engine)
        assert pq.read_table(tmp_path / f"{engine}.parquet")["images"].to_pylist() == [image] * 2


def test_splits_go_by_the_prompt_without_its_system_prompt(tmp_path):
    """Else one question, asked in two ways, would be trained on and tested on."""
    n = 40
    rows = {
        "prompt": [f"p{i // 4}" for i in range(n)],
        "completion": [f"a{i}" for i in range(n)],
        "score": [5, 1] * (n // 2),
        "system": ["x", "x", "y", "y"] * (n // 4),
    }
    pl.DataFrame(rows).write_parquet(tmp_path / "in.parquet")
    report = pm.run(
        pm.Pairs(),
        tmp_path / "in.parquet",
        tmp_path / "out.jsonl",
        roles={"group": ["prompt", "system"]},
        split={"train": 0.5, "test": 0.5},
    )
    asked = {
        name: {prompt[-1]["content"] for prompt in pl.read_ndjson(path)["prompt"].to_list()}
        for name, path in report.output.items()
    }
    assert asked["train"].isdisjoint(asked["test"])
    assert len(asked["train"] | asked["test"]) == n // 4
