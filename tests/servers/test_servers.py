"""Servers that refuse, cut, and tokenise otherwise: no row costs another, and what a server reads
is what we read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import serving

import prefmill as pm
from prefmill.errors import BadRow, RequestFailed
from prefmill.scoring import EndpointScorer

pytest.importorskip("transformers")

PROMPTS = pl.DataFrame({"prompt": ["a", "b", "c"]})


def sampled(tmp_path: Path, answer: Callable[[str], Any], **more: Any) -> pl.DataFrame:
    """The pool of three prompts from a server that answers by the prompt."""

    def serve(path: str, body: Any, headers: dict[str, str]) -> serving.Said:
        found = answer(body["messages"][0]["content"])
        return found if isinstance(found, tuple) else (200, {}, found)

    with serving.server(serve) as url:
        sampler = pm.EndpointSampler(url=url, model="m", retries=1, backoff=0.01)
        pm.sample(
            PROMPTS,
            tmp_path / "pool.parquet",
            sampler=sampler,
            n=1,
            temperatures=[1.0],
            overwrite=True,
            **more,
        )
    return pl.read_parquet(tmp_path / "pool.parquet")


# -- answers


@pytest.mark.parametrize("bad", ["null", "NaN", "-Infinity", "Infinity", "0.7", '"x"', "true"])
def test_a_log_probability_that_is_none(tmp_path: Path, bad: str) -> None:
    """The answer stays, its sum is untold; the others keep theirs."""

    def answer(prompt: str) -> bytes:
        told = [
            {"token": "x", "logprob": -0.5},
            {"token": "y", "logprob": "BAD" if prompt == "b" else -0.25},
        ]
        said = serving.chat("xy", logprobs={"content": told})
        del said["usage"]
        return json.dumps(said).replace('"BAD"', bad).encode()

    pool = sampled(tmp_path, answer)
    assert pool["completion"].to_list() == ["xy"] * 3
    assert pool["logprob"].to_list() == [-0.75, None, -0.75]
    assert pool["n_tokens"].to_list() == [2, 2, 2]


def test_a_judge_whose_tokens_tell_nothing(tmp_path: Path) -> None:
    """The number said stands where log-probabilities cannot be; an alternative of probability 0
    weighs nothing.
    """
    tops = {
        "a": [("8", math.log(0.5)), ("6", math.log(0.5))],
        "b": [("8", None)],
        "c": [("8", math.log(0.5)), ("4", -math.inf)],
    }

    def serve(path: str, body: Any, headers: dict[str, str]) -> serving.Said:
        likely = tops[body["messages"][0]["content"]]
        alternatives = [{"token": token, "logprob": value} for token, value in likely]
        return (
            200,
            {},
            serving.chat(
                "8", logprobs={"content": [{**alternatives[0], "top_logprobs": alternatives}]}
            ),
        )

    pool = pl.DataFrame({"prompt": ["", "", ""], "completion": ["a", "b", "c"]})
    with serving.server(serve) as url:
        judge = pm.JudgeScorer(
            sampler=pm.EndpointSampler(url=url, model="m", retries=0), rubric="{prompt}{completion}"
        )
        pm.score(pool, tmp_path / "out.parquet", scorer=judge)
    assert pl.read_parquet(tmp_path / "out.parquet")["score"].to_list() == pytest.approx(
        [7.0, 8.0, 8.0]
    )


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("ok \\ud83d", "ok \ufffd"),
        ("\\ude00 ok", "\ufffd ok"),
        ("\\ud83d\\ude00", "\U0001f600"),
        ("a\\ud83db", "a\ufffdb"),
    ],
)
def test_half_a_character(tmp_path: Path, text: str, wanted: str) -> None:
    """A server cut inside a character and sent half a surrogate pair: a traceback."""

    def answer(prompt: str) -> bytes:
        return json.dumps(serving.chat("TEXT")).replace("TEXT", text).encode()

    for suffix in ("parquet", "jsonl"):
        assert sampled(tmp_path, answer)["completion"].to_list() == [wanted] * 3, suffix


def test_half_a_character_of_a_judge(tmp_path: Path) -> None:
    def serve(path: str, body: Any, headers: dict[str, str]) -> serving.Said:
        return (
            200,
            {},
            json.dumps(serving.chat("TEXT")).replace("TEXT", "\\ud83d\\nRating: 7").encode(),
        )

    pool = pl.DataFrame({"prompt": ["p"], "completion": ["c"]})
    with serving.server(serve) as url:
        pm.score(
            pool,
            tmp_path / "out.parquet",
            scorer=pm.JudgeScorer(sampler=pm.EndpointSampler(url=url, model="m")),
        )
    assert pl.read_parquet(tmp_path / "out.parquet").select("score", "score_verdict").rows() == [
        (7.0, "\ufffd\nRating: 7")
    ]


@pytest.mark.parametrize(
    "broken",
    [
        {"choices": []},
        {"x": 1},
        b"<html>",
        {"choices": [{"message": {"content": 3}}]},
        b"[" * 200_000,
        json.dumps(serving.chat("x", reason=None)).encode(),
    ],
)
def test_an_answer_that_cannot_be_used(tmp_path: Path, broken: Any) -> None:
    """For one prompt, always: the run could never end."""
    with pytest.raises(BadRow, match=r"row 1 has no answer; .* broken answer"):
        sampled(tmp_path, lambda prompt: broken if prompt == "b" else serving.chat(prompt))
    pool = sampled(
        tmp_path,
        lambda prompt: broken if prompt == "b" else serving.chat(prompt),
        on_bad_row="null",
    )
    assert pool["completion"].to_list() == ["a", None, "c"]
    assert pool["finish_reason"].to_list() == ["stop", "bad_answer", "stop"]


def test_a_prompt_that_breaks_the_server(tmp_path: Path) -> None:
    """A 500 for one prompt, always, while others are answered: it is that prompt. A server that
    answers nothing is down.
    """

    def answer(prompt: str) -> Any:
        return (500, {}, {"error": "crashed"}) if prompt == "b" else serving.chat(prompt)

    with pytest.raises(
        BadRow, match=r"row 1 has no answer; .* asked 2 times; the last time 500 crashed"
    ):
        sampled(tmp_path, answer, chunk_rows=1)
    assert sampled(tmp_path, answer, chunk_rows=1, on_bad_row="null")["completion"].to_list() == [
        "a",
        None,
        "c",
    ]
    with pytest.raises(RequestFailed, match="is the server up"):
        sampled(
            tmp_path, lambda prompt: (500, {}, {"error": "down"}), chunk_rows=1, on_bad_row="null"
        )


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": "many", "completion_tokens": None},
        {"completion_tokens": 1e400},
        [],
        7,
        None,
    ],
)
def test_usage_that_is_none(tmp_path: Path, usage: Any) -> None:
    """What a server says of tokens is counted where it is a count."""
    pool = sampled(tmp_path, lambda prompt: {**serving.chat(prompt), "usage": usage})
    assert pool["completion"].to_list() == ["a", "b", "c"]
    assert pool["n_tokens"].to_list() == [None, None, None]


def test_seeds_fit_into_every_server(tmp_path: Path) -> None:
    """Servers whose seeds have 32 bits, signed or not, refused every request."""
    seeds: list[int] = []

    def serve(path: str, body: Any, headers: dict[str, str]) -> serving.Said:
        seeds.append(body["seed"])
        return (
            (200, {}, serving.chat("x"))
            if body["seed"] < 2**31
            else (400, {}, {"error": "seed: not an int32"})
        )

    with serving.server(serve) as url:
        pm.sample(
            PROMPTS, tmp_path / "pool.parquet", sampler=pm.EndpointSampler(url=url, model="m"), n=4
        )
    assert len(set(seeds)) == 12


# -- requests that are too large


@pytest.mark.parametrize(
    ("kind", "field"),
    [("tei-predict", "inputs"), ("vllm-score", "text_2"), ("tei-rerank", "texts")],
)
def test_a_request_that_is_too_large_is_halved(tmp_path: Path, kind: Any, field: str) -> None:
    """A server that takes 3 rows: all are scored, and after the first chunk no request is too
    large.
    """
    sizes: list[int] = []

    def serve(path: str, body: Any, headers: dict[str, str]) -> serving.Said:
        texts = [text[-1] if kind == "tei-predict" else text for text in body[field]]
        sizes.append(len(texts))
        if len(texts) > 3:
            return 413, {}, {"error": "payload too large"}
        values = [(i, float(len(text))) for i, text in enumerate(texts)]
        if kind == "tei-predict":
            return 200, {}, [[{"label": "LABEL_0", "score": value}] for _, value in values]
        return (
            200,
            {},
            {"data": [{"index": i, "score": value} for i, value in values]}
            if kind == "vllm-score"
            else [{"index": i, "score": value} for i, value in values],
        )

    pool = pl.DataFrame(
        {
            "prompt": [f"p{n // 20}" for n in range(40)],
            "completion": ["x" * (n + 1) for n in range(40)],
        }
    )
    with serving.server(serve) as url:
        done = pm.score(
            pool,
            tmp_path / "out.parquet",
            scorer=EndpointScorer(url=url, kind=kind, concurrency=1),
            chunk_rows=20,
        )
    assert pl.read_parquet(tmp_path / "out.parquet")["score"].to_list() == [
        float(n + 1) for n in range(40)
    ]
    assert (done.rows_scored, dict(done.null)) == (40, {})
    assert sum(size > 3 for size in sizes) <= 14, (
        "learned: the second chunk begins with smaller requests"
    )


# -- options


def options(*arguments: object) -> Any:
    """The scorer that a command describes."""
    from typer.testing import CliRunner

    import prefmill.runs.resumable.score
    from prefmill.cli.main import app

    made: list[Any] = []

    def instead(*_: Any, scorer: Any, **__: Any) -> Any:
        made.append(scorer)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefmill.runs.resumable.score, "score", instead)
        done = CliRunner().invoke(
            app, [str(each) for each in ("score", "in.parquet", "-o", "out.parquet", *arguments)]
        )
    if not made:
        assert done.exception is not None
        raise done.exception
    return made[0]


def test_zero_is_a_value() -> None:
    """0 == False: `--retries 0` and `--top-logprobs 0` were ignored, and `--beta 0` was 0.1."""
    judge = options(
        "--scorer",
        "judge",
        "--url",
        "http://h",
        "--model",
        "m",
        "--retries",
        0,
        "--top-logprobs",
        0,
        "--price-in",
        0,
    )
    assert (judge.top_logprobs, judge.sampler.retries, judge.price_in) == (0, 0, 0)
    with pytest.raises(ValueError, match=r"beta must be a finite number > 0; got 0"):
        options("--scorer", "implicit", "--model", "m", "--reference", "r", "--beta", 0)
    with pytest.raises(ValueError, match="--beta has no meaning for --scorer reward"):
        options("--model", "m", "--beta", 0)
    endpoint = options(
        "--scorer", "endpoint", "--url", "http://h", "--retries", 0, "--batch-rows", 4, "--label", 0
    )
    assert (endpoint.retries, endpoint.batch_rows, endpoint.label) == (0, 4, "0")


def test_what_was_python_only(tmp_path: Path) -> None:
    rubric = tmp_path / "rubric.txt"
    rubric.write_text("{prompt} {completion}: 0 to 100")
    judge = options(
        "--scorer",
        "judge",
        "--url",
        "http://h",
        "--model",
        "m",
        "--extra",
        '{"top_k": 1}',
        "--scale",
        "0-100",
        "--rubric",
        rubric,
    )
    assert (judge.sampler.extra, judge.scale) == ({"top_k": 1}, (0, 100))
    with pytest.raises(ValueError, match="--extra: not a JSON object"):
        options("--scorer", "judge", "--url", "http://h", "--model", "m", "--extra", "[1]")
    with pytest.raises(ValueError, match=r"scale must be two numbers, .* got 'five'"):
        options("--scorer", "judge", "--url", "http://h", "--model", "m", "--scale", "five")


def test_a_server_that_dies_is_no_fault_of_the_rows_that_are_left(tmp_path: Path) -> None:
    """It had answered before, so a 500 looked like the fault of each row that was left: all became
    null, exit 0.
    """
    left = [2]

    def answer(prompt: str) -> Any:
        left[0] -= 1
        return serving.chat(prompt) if left[0] >= 0 else (500, {}, {"error": "engine is dead"})

    with pytest.raises(RequestFailed, match="the last time 500 engine is dead"):
        sampled(tmp_path, answer, chunk_rows=1, on_bad_row="null")
    assert not (tmp_path / "pool.parquet").exists()
