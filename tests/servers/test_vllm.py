"""vLLM in this process, by a stand-in with its signatures: the same ids, seeds, ends and numbers as
Transformers here. No vLLM was at hand."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_vllm
import numpy as np
import pools
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
import tiny_models
from typer.testing import CliRunner

import prefmill as pm
from prefmill.errors import BadArgument, BadInput, BadRow, MissingPackage, ScoresDiffer
from prefmill.sampling.samplers import Request

torch = pytest.importorskip("torch", reason="needs the extra prefmill[score]")

pytest.importorskip("transformers", reason="needs the extra prefmill[score]")

pytestmark = pytest.mark.score

pools.one_thread()

PROMPTS = ["question 1?", "another question?", "q", "tell me a story of a fox"]
POOL = pa.table(
    {
        "prompt": [f"question {i // 4}?" for i in range(20)],
        "completion": [f"answer {i % 7} {'x' * (i % 5)}" for i in range(20)],
    }
)


@pytest.fixture
def vllm() -> Iterator[Any]:
    with fake_vllm.installed() as engine:
        yield engine


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_models.save_causal_model("llama", folder / "causal")
    tiny_models.save_reward_model("llama", folder / "reward", seed=3)
    names = {"0": "helpful", "1": "honest", "2": "harmless"}
    tiny_models.save_reward_model("llama", folder / "classes", seed=4, num_labels=3, id2label=names)
    return folder


def requests(temperature: float, count: int = 3) -> list[Request]:
    return [
        Request(prompt, temperature, 2**62 + 7 * seed)
        for prompt in PROMPTS
        for seed in range(count)
    ]


# -- sampling


@pytest.mark.parametrize("stop", [(), ("e",), ("<eos>",)])
def test_greedy_answers_are_those_of_transformers(
    folders: Path, stop: tuple[str, ...], vllm: Any
) -> None:
    options: dict[str, Any] = {
        "model": folders / "causal",
        "max_new_tokens": 12,
        "stop": stop,
    }
    here = pm.LocalSampler(**options, device="cpu").sample(requests(0.0, 1))
    there = pm.VllmSampler(**options).sample(requests(0.0, 1))
    assert [a.text for a in there] == [a.text for a in here]
    assert [a.finish_reason for a in there] == [a.finish_reason for a in here]
    assert [a.n_tokens for a in there] == [a.n_tokens for a in here]
    assert [a.logprob for a in there] == pytest.approx([a.logprob for a in here], abs=1e-4)


def test_ids_seeds_and_settings_arrive(folders: Path, vllm: Any) -> None:
    sampler = pm.VllmSampler(
        model=folders / "causal",
        top_p=0.9,
        max_new_tokens=5,
        engine_args={"tensor_parallel_size": 2},
    )
    asked = requests(0.8)
    sampler.sample(asked)
    (engine,) = vllm.made
    assert engine.arguments == {
        "tensor_parallel_size": 2,
        "dtype": "auto",
        "logprobs_mode": "raw_logprobs",
    }
    ((count, params),) = engine.calls
    assert count == len(asked)
    assert [each.seed for each in params] == [request.seed for request in asked]
    assert {(each.temperature, each.top_p, each.max_tokens) for each in params} == {(0.8, 0.9, 5)}
    eos = sampler.encoder.tokenizer.eos_token_id
    assert all(eos in each.stop_token_ids and not each.detokenize for each in params)


def test_an_answer_depends_on_its_own_request_alone(folders: Path, vllm: Any) -> None:
    sampler = pm.VllmSampler(model=folders / "causal", max_new_tokens=8)
    asked = requests(0.9)
    together = sampler.sample(asked)
    alone = [sampler.sample([request])[0] for request in asked[::-1]][::-1]
    assert together == alone
    assert len({answer.text for answer in together}) > len(PROMPTS)


def test_a_judge_reads_the_tokens_of_vllm(folders: Path, vllm: Any) -> None:
    """The alternatives of a token are told, by their texts."""
    sampler = pm.VllmSampler(model=folders / "causal", max_new_tokens=3)
    (reply,) = sampler.replies([Request("rate it", 0.0, 0)], top=5)
    assert reply.tokens is not None
    assert len(reply.tokens) == reply.answer.n_tokens
    first = reply.tokens[0]
    assert max(first.top.values()) == pytest.approx(first.logprob)
    assert "".join(token.text for token in reply.tokens).strip() == reply.answer.text.strip()


def test_a_pool_by_vllm_goes_on_and_has_its_columns(
    folders: Path, tmp_path: Path, vllm: Any
) -> None:
    out, prompts = tmp_path / "pool.parquet", pa.table({"prompt": PROMPTS})
    sampler = pm.VllmSampler(model=folders / "causal", max_new_tokens=4)
    done = pm.sample(prompts, out, sampler=sampler, n=2, chunk_rows=4)
    assert (done.answers, done.way, done.chunks) == (8, "vllm", 2)
    assert set(pq.read_table(out)["source"].to_pylist()) == {"causal"}
    again = pm.sample(prompts, out, sampler=sampler, n=2, chunk_rows=4)
    assert again.chunks_resumed == 2


def test_a_prompt_without_room_is_a_bad_row(folders: Path, vllm: Any) -> None:
    """The engine may take less than the model: then that is the limit."""
    options: dict[str, Any] = {
        "model": folders / "causal",
        "max_new_tokens": 4,
        "engine_args": {"max_model_len": 24},
    }
    asked = [Request("q", 0.0, 0), Request("many words " * 20, 0.0, 0)]
    with pytest.raises(BadRow, match="too long") as caught:
        pm.VllmSampler(**options).sample(asked)
    assert caught.value.row == 1
    short, long = pm.VllmSampler(**options, on_too_long="null").sample(asked)
    assert (short.n_tokens, long.finish_reason) == (4, "too_long")


# -- reward models


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("reward", {}),
        ("reward", {"pooling": "last"}),
        ("classes", {"label": "honest"}),
        ("classes", {"label": 2}),
        ("classes", {"weights": {"helpful": 0.7, "harmless": 0.3}}),
    ],
)
def test_scores_are_those_of_transformers(
    model: str, options: dict[str, Any], folders: Path, tmp_path: Path, vllm: Any
) -> None:
    here = pm.RewardModel(model=folders / model, device="cpu", **options)
    pm.score(POOL, tmp_path / "here.parquet", scorer=here)
    there = pm.VllmReward(model=folders / model, **options)
    done = pm.score(POOL, tmp_path / "there.parquet", scorer=there)
    here_table = pq.read_table(tmp_path / "here.parquet")
    there_table = pq.read_table(tmp_path / "there.parquet")
    assert here_table.column_names == there_table.column_names
    for name in here_table.column_names[2:]:
        np.testing.assert_allclose(there_table[name], here_table[name], atol=1e-5)
    assert (done.way, done.duplicates) == (
        "vllm",
        POOL.num_rows - len(set(map(str, POOL.to_pylist()))),
    )
    assert done.tokens >= done.tokens_run > 0


def test_the_token_that_is_scored_is_the_rule_s(folders: Path, tmp_path: Path, vllm: Any) -> None:
    """Rows that end in the pad token: `hf` scores the last that is none, `last` the pad."""
    folder = tmp_path / "padded"
    tok = tiny.tokenizer()
    tok.pad_token = tok.eos_token
    tiny_models.save_reward_model("llama", folder, tok=tok, seed=3, pad_token_id=tok.pad_token_id)
    batch = POOL.slice(0, 4).combine_chunks().to_batches()[0]
    scores = {}
    for pooling in ("hf", "last"):
        options: dict[str, Any] = {"model": folder, "pooling": pooling, "template": "concat"}
        with pytest.warns(UserWarning, match="pad token"):
            here = pm.RewardModel(**options, device="cpu")(batch)
        scores[pooling] = pm.VllmReward(**options)(batch)
        np.testing.assert_allclose(scores[pooling], here, atol=1e-5)
    assert np.abs(scores["hf"] - scores["last"]).max() > 1e-3


def test_parity_finds_a_sigmoid_and_lets_the_same_scores_pass(
    folders: Path, tmp_path: Path, vllm: Any
) -> None:
    out = tmp_path / "out.parquet"
    other = pm.RewardModel(model=folders / "reward")
    scorer = pm.VllmReward(model=folders / "reward", parity=other)
    vllm.activation = True
    with pytest.raises(ScoresDiffer, match="sigmoid"):
        pm.score(POOL, out, scorer=scorer)
    assert not out.exists()
    vllm.activation = None
    again = pm.VllmReward(model=folders / "reward", parity=other)
    assert pm.score(POOL, out, scorer=again).rows_scored == 20


def test_rows_that_are_too_long_are_known_before_vllm_sees_them(
    folders: Path, tmp_path: Path, vllm: Any
) -> None:
    pool = pa.table({"prompt": ["p", "p", "p"], "completion": ["short", "word " * 60, "other"]})
    scorer = pm.VllmReward(model=folders / "reward", engine_args={"max_model_len": 30})
    with pytest.raises(BadRow, match="row 1"):
        pm.score(pool, tmp_path / "a.parquet", scorer=scorer)
    done = pm.score(pool, tmp_path / "b.parquet", scorer=scorer, on_bad_row="null")
    assert (done.rows_scored, done.null) == (2, {"too_long": 1})


def test_the_cache_keeps_what_vllm_gave(folders: Path, tmp_path: Path, vllm: Any) -> None:
    scorer = pm.VllmReward(model=folders / "reward", cache=tmp_path / "cache")
    pm.score(POOL.slice(0, 12), tmp_path / "a.parquet", scorer=scorer)
    done = pm.score(POOL, tmp_path / "b.parquet", scorer=scorer)
    assert done.cached == 12


# -- what decides the result, what cannot be meant


def test_fingerprints_differ_from_transformers_and_with_the_engine(folders: Path) -> None:
    prints = {
        json.dumps(dict(part.fingerprint), sort_keys=True)
        for part in (
            pm.RewardModel(model=folders / "reward", device="cpu"),
            pm.VllmReward(model=folders / "reward"),
            pm.VllmReward(model=folders / "reward", dtype="float16"),
            pm.VllmReward(model=folders / "reward", engine_args={"quantization": "fp8"}),
            pm.LocalSampler(model=folders / "causal", device="cpu"),
            pm.VllmSampler(model=folders / "causal"),
            pm.VllmSampler(model=folders / "causal", engine_args={"quantization": "fp8"}),
        )
    }
    assert len(prints) == 7


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"engine_args": {"model": "other"}}, "engine_args cannot have 'model'"),
        ({"engine_args": {"a": object()}}, "what JSON can hold"),
        ({"engine_args": [1]}, "must be names and values"),
        ({"device": "cuda"}, "device is vLLM's own business"),
    ],
)
@pytest.mark.parametrize("kind", [pm.VllmSampler, pm.VllmReward])
def test_what_cannot_be_meant(kind: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(BadArgument, match=says):
        kind(model="m", **options)


def test_what_vllm_refuses_is_told_in_its_words(folders: Path, vllm: Any) -> None:
    longer = pm.VllmSampler(model=folders / "causal", engine_args={"max_model_len": 10**6})
    with pytest.raises(BadInput, match="greater than"):
        longer.load()
    unknown = pm.VllmReward(model=folders / "reward", engine_args={"no_such": 1})
    with pytest.raises(BadArgument, match="no_such"):
        unknown.load()


def test_pairs_of_texts_are_refused(tmp_path: Path, vllm: Any) -> None:
    """Ids alone do not say which text a token is of."""
    tiny_models.save_reward_model("bert", tmp_path / "bert")
    scorer = pm.VllmReward(model=tmp_path / "bert", template="pair")
    with pytest.raises(BadArgument, match="template 'pair'"):
        scorer(POOL.slice(0, 1).combine_chunks().to_batches()[0])


def test_without_the_package_the_extra_is_named(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    for part in (
        pm.VllmSampler(model=folders / "causal"),
        pm.VllmReward(model=folders / "reward"),
    ):
        with pytest.raises(MissingPackage, match=r"\[vllm\]"):
            part.load()


def test_the_command_line(folders: Path, tmp_path: Path, vllm: Any) -> None:
    from prefmill.cli.main import app

    pool = tmp_path / "pool.parquet"
    pq.write_table(POOL, pool)
    model, engine = str(folders / "reward"), '{"tensor_parallel_size": 2}'
    out = tmp_path / "out.parquet"
    common = [str(pool), "-o", str(out), "--backend", "vllm", "--engine-args", engine, "--json"]
    done = CliRunner().invoke(app, ["score", *common, "--model", model, "--parity", model])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["way"] == "vllm"
    assert vllm.made[-1].arguments["tensor_parallel_size"] == 2

    common[2] = str(tmp_path / "sampled.parquet")
    sampled = [*common, "--model", str(folders / "causal"), "-n", "2", "--max-new-tokens", "3"]
    done = CliRunner().invoke(app, ["sample", *sampled])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["answers"] == 10

    common[2] = str(tmp_path / "judged.parquet")
    judged = ["--scorer", "judge", "--model", str(folders / "causal"), "--max-new-tokens", "3"]
    done = CliRunner().invoke(app, ["score", *common, *judged])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["rows_in"] == 20
    assert [each.runner for each in vllm.made] == ["pooling", "generate", "generate"]
