"""Reward models over HTTP: forms, parity, labels, rows that are too long."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pools
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import serving
import tiny_models

import prefmill as pm
from prefmill.errors import BadArgument, BadInput, ScoresDiffer

torch = pytest.importorskip("torch", reason="needs the extra prefmill[score]")

transformers = pytest.importorskip("transformers", reason="needs the extra prefmill[score]")

pytest.importorskip("httpx2", reason="needs the extra prefmill[endpoint]")

from prefmill.scoring.endpoint import EndpointScorer, Kind  # noqa: E402
from prefmill.scoring.parity import difference  # noqa: E402

pytestmark = pytest.mark.score

pools.one_thread()

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


def rows(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


def local(models: Path, template: str = "chat") -> np.ndarray:
    scorer = pm.RewardModel(model=models / "reward", template=template, device="cpu")
    return np.asarray(scorer(POOL.combine_chunks().to_batches()[0]))


# -- reward models behind servers

PAIRS = ("vllm-score", "tei-rerank")


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "vllm-score", "tokenizer": "dir"},
        {"kind": "tei-rerank", "tokenizer": "dir"},
        {"kind": "sglang-classify"},
        {"kind": "openai"},
        {"batch_rows": 0},
        {"parity_rows": 0},
        {"tolerance": 0},
        {"on_refused": "drop"},
        {"url": "here"},
    ],
)
def test_arguments(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadArgument, match="EndpointScorer"):
        EndpointScorer(**{"url": "http://h", **wrong})


def test_all_kinds_are_tested() -> None:
    assert set(get_args(Kind)) == {
        "vllm-classify",
        "vllm-pooling",
        "vllm-score",
        "sglang-classify",
        "tei-predict",
        "tei-rerank",
    }


@pytest.mark.parametrize(
    ("kind", "with_tokenizer"),
    [
        ("vllm-classify", True),
        ("vllm-classify", False),
        ("vllm-pooling", True),
        ("vllm-pooling", False),
        ("vllm-score", False),
        ("sglang-classify", True),
        ("tei-predict", True),
        ("tei-predict", False),
        ("tei-rerank", False),
    ],
)
def test_every_form_gives_the_scores_of_the_model(
    tiny_server: Any, models: Path, tmp_path: Path, kind: Any, with_tokenizer: bool
) -> None:
    """Raw scores, in the order of the rows, of the conversation (or pair) that the model reads
    here; with a probe that says so.
    """
    pair = kind in PAIRS or (kind == "tei-predict" and not with_tokenizer)
    parity = pm.RewardModel(
        model=models / "reward", template="pair" if pair else "chat", device="cpu"
    )
    scorer = EndpointScorer(
        url=f"{tiny_server[0]}/v1",
        kind=kind,
        tokenizer=models / "reward" if with_tokenizer else None,
        parity=parity,
        tolerance=1e-4,
        batch_rows=3,
    )
    shuffled = POOL.take(pa.array(np.random.default_rng(0).permutation(24)))
    done = pm.score(shuffled, tmp_path / "out.parquet", scorer=scorer)
    out = rows(tmp_path / "out.parquet")
    wanted = dict(
        zip(POOL["completion"].to_pylist(), local(models, "pair" if pair else "chat"), strict=True)
    )
    assert [row["score"] for row in out] == pytest.approx(
        [wanted[row["completion"]] for row in out], abs=1e-5
    )
    assert min(wanted.values()) < 0, "a score below 0 survives"
    assert done.rows_scored == 24


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"activation": True}, "they are the sigmoid of those scored here"),
        ({}, "another template"),
    ],
)
def test_parity(models: Path, tmp_path: Path, change: dict[str, Any], words: str) -> None:
    """A sigmoid that nobody asked for, and a model with other weights: nothing is written, and the
    error says what it looks like.
    """
    if not change:
        tiny_models.save_reward_model("llama", tmp_path / "other", seed=9)
    model = serving.TinyServer(
        models / "causal", models / "reward" if change else tmp_path / "other", **change
    )
    parity = pm.RewardModel(model=models / "reward", device="cpu")
    with serving.server(model) as url, pytest.raises(ScoresDiffer, match=words):
        pm.score(POOL, tmp_path / "out.parquet", scorer=EndpointScorer(url=url, parity=parity))
    assert not (tmp_path / "out.parquet").exists()


def test_what_a_difference_looks_like() -> None:
    here = np.array([-3.0, -0.5, 0.25, 2.0, 7.0])
    assert difference(here, here + 0.05, 0.02) is None
    assert difference(np.zeros(0), np.zeros(0), 0.02) is None
    for there, words in (
        (1 / (1 + np.exp(-here)), "the sigmoid"),
        (np.ones(5), "all 1"),
        (2 * here + 1, "2 times those scored here plus 1"),
        (here[::-1], "row 0 of the first 5 has 7 there and -3 here"),
    ):
        assert words in str(difference(here, there, 0.02))


def test_scores_that_look_squashed_are_told(models: Path) -> None:
    model = serving.TinyServer(models / "causal", models / "reward", activation=True)
    with (
        serving.server(model) as url,
        pytest.warns(UserWarning, match="does the server apply a sigmoid"),
    ):
        EndpointScorer(url=url)(POOL.combine_chunks().to_batches()[0])


@pytest.mark.parametrize("kind", ["vllm-classify", "tei-predict", "tei-rerank"])
def test_rows_that_are_too_long(models: Path, tmp_path: Path, kind: Any) -> None:
    """One long row spoils its request: with `null` the others are asked for alone, and it is null;
    else it is named.
    """
    model = serving.TinyServer(models / "causal", models / "reward", longest=60)
    pool = pa.table({"prompt": ["p"] * 5, "completion": ["a", "b", "c" * 80, "d", "e"]})
    with serving.server(model) as url:
        with pytest.raises(
            BadInput, match=r"row \d cannot be scored.*got 400 \d+ tokens are more than 60"
        ):
            pm.score(pool, tmp_path / "out.parquet", scorer=EndpointScorer(url=url, kind=kind))
        done = pm.score(
            pool,
            tmp_path / "out.parquet",
            scorer=EndpointScorer(url=url, kind=kind, on_refused="null"),
            overwrite=True,
        )
    assert done.null == {"refused": 1}
    assert [row["score"] is None for row in rows(tmp_path / "out.parquet")] == [
        False,
        False,
        True,
        False,
        False,
    ]


def test_labels() -> None:
    probs = [{"index": 0, "probs": [0.1, -2.0, 3.0]}]
    named = [[{"label": "bad", "score": -1.0}, {"label": "good", "score": 2.0}]]
    batch = pa.record_batch({"prompt": ["p"], "completion": ["c"]})

    def answer(path: str, body: Any, headers: dict[str, str]) -> serving.Said:
        return 200, {}, {"data": probs} if path == "/classify" else named

    with serving.server(answer) as url:
        assert EndpointScorer(url=url, label=2)(batch).tolist() == [3.0]
        assert EndpointScorer(url=url, kind="tei-predict", label="good")(batch).tolist() == [2.0]
        for scorer in (
            EndpointScorer(url=url),
            EndpointScorer(url=url, label=3),
            EndpointScorer(url=url, kind="tei-predict", label="nice"),
        ):
            with pytest.raises(BadInput, match="label"):
                scorer(batch)


def test_answers_for_too_few_rows_are_asked_for_again(tiny_server: Any, models: Path) -> None:
    _, model = tiny_server
    asked = []

    def answer(path: str, body: Any, headers: dict[str, str]) -> serving.Said:
        asked.append(path)
        status, more, said = model(path, body, headers)
        return status, more, said[:-1] if len(asked) == 1 else said

    with serving.server(answer) as url:
        scorer = EndpointScorer(url=url, kind="tei-predict", backoff=0.01)
        assert np.isfinite(scorer(POOL.combine_chunks().to_batches()[0])).all()
    assert scorer.usage.retries == {"broken answer": 1}


# -- the command


def command(*arguments: object) -> Any:
    from typer.testing import CliRunner

    from prefmill.cli.main import app

    return CliRunner().invoke(app, ["score", *map(str, arguments)])


def test_command(tiny_server: Any, models: Path, tmp_path: Path) -> None:
    url, _ = tiny_server
    pq.write_table(POOL, tmp_path / "pool.parquet")
    (tmp_path / "rubric.txt").write_text("{prompt} {a} {b}")
    server = (
        "--url",
        f"{url}/v1",
        "--concurrency",
        2,
        "--retries",
        1,
        "--timeout",
        30,
        "--rate-limit",
        "500/s",
    )
    done = command(
        tmp_path / "pool.parquet",
        "-o",
        tmp_path / "judged.parquet",
        "--scorer",
        "judge",
        "--model",
        "m",
        *server,
        "--mode",
        "pairwise",
        "--rubric",
        tmp_path / "rubric.txt",
        "--max-pairs",
        2,
        "--max-new-tokens",
        2,
        "--price-in",
        1,
        "--price-out",
        2,
        "--json",
    )
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["requests"] == 6 * 2 * 2
    assert report["cost"] == pytest.approx((report["tokens_in"] + 2 * report["tokens_out"]) / 1e6)
    assert "24 requests" in done.stderr
    assert "cost" in done.stderr
    done = command(
        tmp_path / "pool.parquet",
        "-o",
        tmp_path / "scored.parquet",
        "--scorer",
        "endpoint",
        *server,
        "--kind",
        "tei-predict",
        "--tokenizer",
        models / "reward",
        "--parity",
        models / "reward",
        "--tolerance",
        0.001,
        "--quiet",
    )
    assert done.exit_code == 0, done.output
    assert [row["score"] for row in rows(tmp_path / "scored.parquet")] == pytest.approx(
        local(models).tolist(), abs=1e-5
    )
