"""Samplers, judges and reward models over real servers: `transformers serve`, and tiny models
behind the forms of vLLM, SGLang and TEI; then the same with faults in between."""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pools
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import serving
import tiny
from fault_proxy import FAULTS, FaultProxy

import prefmill as pm
from prefmill.errors import BadRow, RequestFailed
from prefmill.sampling import Request

torch = pytest.importorskip("torch", reason="needs the extra prefmill[score]")

transformers = pytest.importorskip("transformers", reason="needs the extra prefmill[score]")

pytest.importorskip("httpx2", reason="needs the extra prefmill[endpoint]")

from prefmill.scoring.endpoint import EndpointScorer  # noqa: E402

pytestmark = pytest.mark.score

pools.one_thread()

PROMPTS = pa.table({"prompt": [f"question {i}?" for i in range(8)]})

POOL = pa.table(
    {
        "prompt": [f"question {i // 4}?" for i in range(24)],
        "completion": [f"answer {i} {'x' * (i % 5)}" for i in range(24)],
    }
)


@pytest.fixture(scope="module")
def tiny_server(models: Path) -> Iterator[tuple[str, serving.TinyServer]]:
    model = serving.TinyServer(models / "causal", models / "reward")
    with serving.server(model) as url:
        yield url, model


@pytest.fixture(scope="module", autouse=True)
def starting(models: Path) -> Iterator[tuple[Any, str, Path]]:
    """`transformers serve` on the tiny model, as a user would start it; it takes its time, in which
    the other tests run.
    """
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    command = [
        Path(sys.executable).with_name("transformers"),
        "serve",
        models / "causal",
        "--host",
        "127.0.0.1",
        "--port",
        port,
    ]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    log = models / "serve.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*map(str, command), "--device", "cpu"], env=env, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        yield process, f"http://127.0.0.1:{port}", log
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@pytest.fixture(scope="module")
def serve(starting: tuple[Any, str, Path]) -> str:
    """Its URL, when it answers."""
    process, url, log = starting
    ends = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            return f"{url}/v1"
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < ends, log.read_text()
            time.sleep(0.2)


def rows(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


# -- faults between


def test_sampling_with_faults_between(tiny_server: Any, tmp_path: Path) -> None:
    """Every fault has struck, and the pool is that of a calm day: nothing lost, nothing twice,
    every answer that of its seed.
    """
    url, _ = tiny_server
    settings: dict[str, Any] = {
        "model": "tiny",
        "max_new_tokens": 8,
        "retries": 12,
        "backoff": 0.02,
        "concurrency": 6,
    }
    pm.sample(
        PROMPTS,
        tmp_path / "calm.parquet",
        sampler=pm.EndpointSampler(url=f"{url}/v1", **settings),
        n=4,
    )
    with FaultProxy(int(url.rsplit(":", 1)[1]), seed=0, slow=1.1) as proxy:
        sampler = pm.EndpointSampler(url=f"{proxy.url}/v1", timeout=0.9, **settings)
        done = pm.sample(PROMPTS, tmp_path / "stormy.parquet", sampler=sampler, n=4, chunk_rows=16)
    assert set(FAULTS) < set(proxy.done)
    assert rows(tmp_path / "stormy.parquet") == rows(tmp_path / "calm.parquet")
    assert done.answers == 32
    usage = sampler.usage
    assert {"429", "500", "timeout", "broken answer"} <= set(usage.retries)
    assert usage.requests == 32 + sum(usage.retries.values())
    assert (done.requests, done.retries, done.retried) == (
        usage.requests,
        usage.requests - 32,
        usage.retries,
    )
    answers = rows(tmp_path / "calm.parquet")
    assert all(row["logprob"] < 0 and row["n_tokens"] >= 1 for row in answers)


def test_judging_and_scoring_with_faults_between(tiny_server: Any, tmp_path: Path) -> None:
    url, _ = tiny_server
    digits = {str(tiny.tokenizer().convert_tokens_to_ids(str(n))): 30 for n in range(2, 10)}
    settings: dict[str, Any] = {"retries": 12, "backoff": 0.02, "concurrency": 6}
    with FaultProxy(int(url.rsplit(":", 1)[1]), seed=4, slow=1.1) as proxy:
        for name, where, more in (("calm", url, {}), ("stormy", proxy.url, {"timeout": 0.9})):
            sampler = pm.EndpointSampler(
                url=f"{where}/v1",
                model="m",
                max_new_tokens=1,
                extra={"logit_bias": digits},
                **settings,
                **more,
            )
            judge = pm.JudgeScorer(sampler=sampler, rubric="{prompt} {completion}")
            endpoint = EndpointScorer(url=where, kind="vllm-classify", **settings, **more)
            for kind, scorer in (("judge", judge), ("endpoint", endpoint)):
                done = pm.score(
                    POOL, tmp_path / f"{name}-{kind}.parquet", scorer=scorer, chunk_rows=8
                )
                assert done.rows_scored == 24
                assert done.requests == 24 + done.retries
                assert done.retries == sum(done.retried.values())
                assert (done.retries > 3) == (name == "stormy")
    for kind in ("judge", "endpoint"):
        assert rows(tmp_path / f"stormy-{kind}.parquet") == rows(tmp_path / f"calm-{kind}.parquet")


def test_a_server_that_dies_costs_a_chunk(tiny_server: Any, tmp_path: Path) -> None:
    """After all retries there is an error; what was done is kept, and asked for no more."""
    url, model = tiny_server
    left = [20]

    def mortal(path: str, body: Any, headers: dict[str, str]) -> serving.Said:
        left[0] -= 1
        return (
            model(path, body, headers) if left[0] >= 0 else (500, {}, {"detail": "engine is dead"})
        )

    settings: dict[str, Any] = {
        "model": "m",
        "max_new_tokens": 4,
        "retries": 1,
        "backoff": 0.01,
        "concurrency": 2,
    }
    with (
        serving.server(mortal) as dying,
        pytest.raises(
            RequestFailed, match="gave no answer, asked 2 times; the last time 500 engine is dead"
        ),
    ):
        pm.sample(
            PROMPTS,
            tmp_path / "out.parquet",
            sampler=pm.EndpointSampler(url=f"{dying}/v1", **settings),
            n=4,
            chunk_rows=4,
        )
    sampler = pm.EndpointSampler(url=f"{url}/v1", **settings)
    done = pm.sample(PROMPTS, tmp_path / "out.parquet", sampler=sampler, n=4, chunk_rows=4)
    assert done.chunks_resumed >= 4
    assert sampler.usage.requests <= 32 - 16
    pm.sample(PROMPTS, tmp_path / "whole.parquet", sampler=sampler, n=4)
    assert rows(tmp_path / "out.parquet") == rows(tmp_path / "whole.parquet")


# -- the judge's probabilities


def test_expected_rating_of_a_model(tiny_server: Any, models: Path, tmp_path: Path) -> None:
    """The score is the mean of the model's own distribution over the ratings, worked out here from
    its logits.
    """
    url, model = tiny_server
    ids = {n: tiny.tokenizer().convert_tokens_to_ids(str(n)) for n in range(2, 10)}
    sampler = pm.EndpointSampler(
        url=f"{url}/v1",
        model="m",
        max_new_tokens=1,
        extra={"logit_bias": {str(i): 30 for i in ids.values()}},
    )
    done = pm.score(
        POOL,
        tmp_path / "out.parquet",
        scorer=pm.JudgeScorer(sampler=sampler, rubric="{prompt} {completion}"),
    )
    assert done.rows_scored == 24
    for row in rows(tmp_path / "out.parquet"):
        talk = [{"role": "user", "content": f"{row['prompt']} {row['completion']}"}]
        tokens = model.tok.apply_chat_template(talk, add_generation_prompt=True, return_dict=False)
        with torch.inference_mode():
            weights = (
                model.causal(torch.tensor([tokens]))
                .logits[0, -1]
                .double()[list(ids.values())]
                .softmax(-1)
            )
        assert row["score"] == pytest.approx(
            sum(n * float(weight) for n, weight in zip(ids, weights, strict=True)), abs=1e-6
        )
        assert row["score_rating"] == list(ids)[int(weights.argmax())]


def test_local_judge(models: Path, tmp_path: Path) -> None:
    """A model in this process as a judge: numbers said, and nothing else."""
    judge = pm.JudgeScorer(
        sampler=pm.LocalSampler(model=models / "causal", max_new_tokens=3, device="cpu"),
        mode="pairwise",
    )
    done = pm.score(POOL.slice(0, 4), tmp_path / "out.parquet", scorer=judge)
    assert done.requests == 12
    assert done.rows_scored + sum(done.null.values()) == 4


# -- the command


def command(*arguments: object) -> Any:
    from typer.testing import CliRunner

    from prefmill.cli.main import app

    return CliRunner().invoke(app, ["score", *map(str, arguments)])


def test_sample_command(tiny_server: Any, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from prefmill.cli.main import app

    pq.write_table(PROMPTS, tmp_path / "prompts.parquet")
    options = [
        "--model",
        "m",
        "--url",
        f"{tiny_server[0]}/v1",
        "-n",
        "2",
        "--temperature",
        "0.9",
        "--max-new-tokens",
        "5",
        "--concurrency",
        "3",
    ]
    done = CliRunner().invoke(
        app,
        [
            "sample",
            str(tmp_path / "prompts.parquet"),
            "-o",
            str(tmp_path / "pool.parquet"),
            *options,
        ],
    )
    assert done.exit_code == 0, done.output
    sampler = pm.EndpointSampler(url=tiny_server[0], model="m", max_new_tokens=5)
    pm.sample(PROMPTS, tmp_path / "wanted.parquet", sampler=sampler, n=2, temperatures=(0.9,))
    assert rows(tmp_path / "pool.parquet") == rows(tmp_path / "wanted.parquet")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--scorer", "judge"), "no model named"),
        (("--scorer", "endpoint"), "no server named"),
        (("--model", "m", "--url", "http://h"), "--url has no meaning"),
        (("--scorer", "judge", "--model", "m", "--retries", "3"), "--retries needs a server"),
        (("--scorer", "judge", "--model", "m", "--label", "3"), "--label has no meaning"),
        (
            ("--scorer", "judge", "--model", "m", "--url", "http://h", "--device", "cpu"),
            "--device has no meaning with --url",
        ),
        (("--scorer", "endpoint", "--url", "http://h", "--kind", "openai"), "kind is not one of"),
        (("--scorer", "oracle"), "expected one of"),
    ],
)
def test_command_arguments(tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    done = command(tmp_path / "pool.parquet", "-o", tmp_path / "out.parquet", *options)
    assert words in str(done.exception)
    assert math.isclose(done.exit_code, 1)


# -- a real server


def test_serve_answers_as_the_model_here_does(serve: str, models: Path, tmp_path: Path) -> None:
    """Greedy, the server's answers are those of the model in this process; drawn, they are their
    seeds'.
    """
    served = pm.EndpointSampler(
        url=serve, model=str(models / "causal"), max_new_tokens=12, concurrency=1
    )
    here = pm.LocalSampler(model=models / "causal", max_new_tokens=12, device="cpu")
    for name, sampler in (("served", served), ("here", here)):
        pm.sample(PROMPTS, tmp_path / f"{name}.parquet", sampler=sampler, n=1, temperatures=(0.0,))
    mine, theirs = rows(tmp_path / "here.parquet"), rows(tmp_path / "served.parquet")
    told = ("prompt", "completion", "finish_reason", "n_tokens")
    assert [[row[name] for name in told] for row in theirs] == [
        [row[name] for name in told] for row in mine
    ]
    for name in ("once", "twice"):
        done = pm.sample(
            PROMPTS, tmp_path / f"{name}.parquet", sampler=served, n=2, temperatures=(0.9,), seed=5
        )
    assert done.answers == 16
    once, twice = rows(tmp_path / "once.parquet"), rows(tmp_path / "twice.parquet")
    assert once == twice
    assert len({row["completion"] for row in once}) > 8, "every answer has a seed of its own"


def test_serve_completions_and_stop(serve: str, models: Path) -> None:
    asked = [Request("abc", 0.9, seed) for seed in range(6)]
    settings = {
        "url": serve,
        "model": str(models / "causal"),
        "api": "completions",
        "max_new_tokens": 16,
        "concurrency": 1,
    }
    whole = pm.EndpointSampler(**settings).sample(asked)
    letter = next(letter for letter in "".join(answer.text for answer in whole) if letter.isalnum())
    cut = pm.EndpointSampler(**settings, stop=letter).sample(asked)
    assert [answer.text for answer in cut] == [answer.text.split(letter)[0] for answer in whole]


def test_serve_judges(serve: str, models: Path, tmp_path: Path) -> None:
    """A judge that talks nonsense: every row is read, none becomes a number that it is not."""
    judge = pm.JudgeScorer(
        sampler=pm.EndpointSampler(url=serve, model=str(models / "causal"), max_new_tokens=3),
        price_out=1.0,
    )
    done = pm.score(POOL.slice(0, 6), tmp_path / "judged.parquet", scorer=judge)
    assert done.rows_scored + sum(done.null.values()) == 6
    assert (done.requests, done.tokens_out > 6, done.tokens_in > 1000, done.cost is not None) == (
        6,
        True,
        True,
        True,
    )
    for row in rows(tmp_path / "judged.parquet"):
        assert isinstance(row["score_verdict"], str)
        assert (row["score"] is None) == (row["score_reason"] is not None)
        assert row["score"] is None or row["score"] in range(1, 11)


def test_serve_says_what_is_wrong(serve: str, models: Path) -> None:
    for more, words in (
        ({"model": "no/such"}, "got 400 Server is pinned to"),
        ({"url": serve.removesuffix("/v1")}, "is the URL complete"),
        ({"extra": {"colour": 1}}, "got 422 Unexpected fields in the request: {'colour'}"),
    ):
        sampler = pm.EndpointSampler(**{"url": serve, "model": str(models / "causal"), **more})
        with pytest.raises((RequestFailed, BadRow)) as caught:
            sampler.sample([Request("q", 0.0, 0)])
        assert words in str(caught.value)


def test_serve_with_faults_between(serve: str, models: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "model": str(models / "causal"),
        "max_new_tokens": 6,
        "retries": 12,
        "backoff": 0.02,
    }
    calm = pm.EndpointSampler(url=serve, **settings)
    pm.sample(PROMPTS, tmp_path / "calm.parquet", sampler=calm, n=1, temperatures=(0.0,))
    with FaultProxy(int(serve.split(":")[2].split("/")[0]), seed=1, spacing=2, slow=1.6) as proxy:
        stormy = pm.EndpointSampler(url=f"{proxy.url}/v1", timeout=1.3, concurrency=3, **settings)
        pm.sample(PROMPTS, tmp_path / "stormy.parquet", sampler=stormy, n=1, temperatures=(0.0,))
    assert rows(tmp_path / "stormy.parquet") == rows(tmp_path / "calm.parquet")
    assert sum(stormy.usage.retries.values()) >= len([fault for fault in proxy.done if fault])
