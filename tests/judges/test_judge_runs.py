"""A judge over a server, in a run, and killed in the middle."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import serving
from judges import POOL, Fake, scored

import prefmill as pm
from prefmill.errors import BadArgument, BadInput


def test_over_a_server(tmp_path: Path) -> None:
    """The expected rating where the server tells tokens, else the number; tokens, requests, retries
    and cost in the report.
    """
    weights = {"8": 0.5, "6": 0.25, "4": 0.25}
    told = {
        "content": [
            {
                "token": "8",
                "logprob": math.log(0.5),
                "top_logprobs": [
                    {"token": text, "logprob": math.log(weight)} for text, weight in weights.items()
                ],
            }
        ]
    }
    asked: list[Any] = []

    def answer(path: str, body: Any, headers: dict[str, str]) -> serving.Said:
        asked.append(body)
        if len(asked) == 1:
            return 503, {}, {"detail": "loading"}
        return (
            200,
            {},
            serving.chat(
                "8", logprobs=told if "cccc" not in body["messages"][0]["content"] else None
            ),
        )

    with serving.server(answer) as url:
        sampler = pm.EndpointSampler(url=url, model="m", backoff=0.01)
        done, out = scored(
            pm.JudgeScorer(sampler=sampler, price_in=1.0, price_out=10.0), tmp_path, chunk_rows=1
        )
    assert out["score"] == pytest.approx([6.5, 6.5, None, 6.5, 8.0, 6.5, None])
    assert out["score_rating"] == [8.0, 8.0, None, 8.0, 8.0, 8.0, None]
    assert asked[0]["top_logprobs"] == 20
    assert (done.requests, done.retries, done.tokens_in, done.tokens_out) == (5, 1, 40, 4)
    assert done.retried == {"503": 1}
    assert done.cost == pytest.approx(80 / 1e6)
    again = pm.score(
        POOL, tmp_path / "out.parquet", scorer=pm.JudgeScorer(sampler=sampler, price_in=2.0)
    )
    assert (again.chunks_resumed, again.retries, again.cost) == (2, 1, pytest.approx(80 / 1e6)), (
        "prices decide no score"
    )


def test_refused_rows(tmp_path: Path) -> None:
    def answer(path: str, body: Any, headers: dict[str, str]) -> serving.Said:
        return (
            (400, {}, {"error": {"message": "filtered"}})
            if "cccc" in body["messages"][0]["content"]
            else (200, {}, serving.chat("4"))
        )

    with serving.server(answer) as url:
        sampler = pm.EndpointSampler(url=url, model="m", backoff=0.01)
        with pytest.raises(BadInput, match=r"judge: row 4 cannot be judged; .* got 400 filtered"):
            scored(pm.JudgeScorer(sampler=sampler), tmp_path)
        done, out = scored(pm.JudgeScorer(sampler=sampler, on_refused="null"), tmp_path)
    assert out["score"] == [4.0, 4.0, None, 4.0, None, 4.0, None]
    assert out["score_reason"][4] == "refused"
    assert "filtered" in out["score_verdict"][4]
    assert done.null["refused"] == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "both"},
        {"schedule": "some"},
        {"max_pairs": 0, "mode": "pairwise"},
        {"max_pairs": 3},
        {"schedule": "baseline"},
        {"top_logprobs": -1},
        {"price_in": -1},
        {"on_refused": "ignore"},
        {"sampler": object()},
    ],
)
def test_arguments(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadArgument, match="JudgeScorer"):
        pm.JudgeScorer(**{"sampler": Fake(str), **wrong})


def test_another_rubric_is_another_run(tmp_path: Path) -> None:
    first = pm.JudgeScorer(sampler=Fake(lambda text: "3"))
    scored(first, tmp_path)
    with pytest.raises(Exception, match=r"another scorer\.rubric"):
        pm.score(
            POOL,
            tmp_path / "out.parquet",
            scorer=pm.JudgeScorer(sampler=Fake(lambda text: "3"), rubric=first.rubric.text + "!"),
        )
    other = Fake(lambda text: "3", fingerprint={"sampler": "other"})
    with pytest.raises(Exception, match=r"another scorer\.sampler\.sampler"):
        pm.score(POOL, tmp_path / "out.parquet", scorer=pm.JudgeScorer(sampler=other))


def test_devices() -> None:
    """A local judge moves to the device; a server has its own."""
    here = pm.JudgeScorer(sampler=pm.LocalSampler(model="m"))
    assert here.on_device("cuda:1").sampler.device == "cuda:1"
    there = pm.JudgeScorer(sampler=pm.EndpointSampler(url="http://h", model="m"))
    assert there.on_device("cuda:1") is there


def test_spoken() -> None:
    """What a judge reads of messages: roles by their names of the field, parts as their texts,
    calls as JSON.
    """
    from prefmill.table.conversations import messages_of, spoken

    def said(value: object) -> str:
        return spoken(messages_of(value, "user"))

    assert said("a") == "a"
    assert said([{"from": "human", "value": "a"}]) == "a"
    assert (
        said([{"role": "system", "content": "s"}, {"role": "user", "content": ""}])
        == "system: s\n\nuser: "
    )
    call = {"function": {"name": "f", "arguments": {"x": 1, "y": None}}}
    assert (
        said([{"role": "assistant", "content": None, "tool_calls": [call]}])
        == 'tool_call: {"name": "f", "arguments": {"x": 1}}'
    )


def test_killed(tmp_path: Path) -> None:
    """SIGKILL and Ctrl-C in the middle of a run over a server: the same command goes on, and asks
    for no row of a finished chunk again.
    """
    pool = pa.table({"prompt": [f"p{i}" for i in range(24)], "completion": ["c"] * 24})
    pq.write_table(pool, tmp_path / "pool.parquet")
    asked: Counter[str] = Counter()

    def answer(path: str, body: Any, headers: dict[str, str]) -> serving.Said:
        text = body["messages"][0]["content"]
        asked[text] += 1
        time.sleep(0.05)
        return 200, {}, serving.chat(str(1 + int(text.split("p")[1].split("/")[0]) % 10))

    (tmp_path / "rubric.txt").write_text("{prompt}/{completion}")
    with serving.server(answer) as url:
        command = [
            sys.executable,
            "-m",
            "prefmill",
            "score",
            "pool.parquet",
            "-o",
            "out.parquet",
            "--scorer",
            "judge",
            "--model",
            "m",
            "--url",
            url,
            "--rubric",
            "rubric.txt",
            "--chunk-rows",
            "4",
            "--concurrency",
            "2",
            "--quiet",
        ]
        for kill, after in ((signal.SIGKILL, 7), (signal.SIGINT, 17)):
            child = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
            while asked.total() < after:
                assert child.poll() is None
                time.sleep(0.01)
            child.send_signal(kill)
            said = child.communicate(timeout=30)[1]
            assert child.returncode == (-9 if kill == signal.SIGKILL else 130)
            assert ("what is scored is kept" in said) == (kill == signal.SIGINT)
        assert subprocess.run(command, cwd=tmp_path, timeout=60).returncode == 0
    out = pq.read_table(tmp_path / "out.parquet").to_pydict()
    assert out["score"] == [1 + i % 10 for i in range(24)]
    assert max(asked.values()) <= 3
    assert asked.total() <= 24 + 2 * 6, (
        "at most a chunk, and what was under way, is asked for again after each"
    )
