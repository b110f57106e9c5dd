"""One bad row is named, counted, and can be left out: in score, sample, judge, endpoint and
training, and a failed run goes on.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import pyarrow as pa
import pytest
import serving
import tiny
import tiny_models

import prefmill as pm
from prefmill.errors import BAD_ROW, BadArgument, BadRow, RunDiffers, refuse
from prefmill.sampling import Answer, Request

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model whose template refuses an answer that says "tool", and a causal model."""
    folder = tmp_path_factory.mktemp("bad-rows")
    tok = tiny.tokenizer()
    refuses = (
        "{% for m in messages %}{% if 'tool' in m['content'] %}{{ raise_exception('no "
        "tools') }}{% endif %}{% endfor %}"
    )
    tok.chat_template = refuses + tok.chat_template
    tiny_models.save_reward_model("llama", folder / "reward", tok=tok)
    tiny_models.save_causal_model("llama", folder / "causal", tok=tok)
    return folder


def pool_file(folder: Path, completions: Sequence[str | None]) -> Path:
    path = folder / "pool.jsonl"
    rows = pl.DataFrame(
        {"prompt": [f"p{i // 2}" for i in range(len(completions))], "completion": completions}
    )
    rows.with_columns(id=pl.format("c{}", pl.int_range(pl.len()))).write_ndjson(path)
    return path


def scores(path: Path) -> list[float | None]:
    return pl.read_parquet(path)["score"].to_list()


def lengths(batch: pa.RecordBatch) -> list[int]:
    return [len(text) for text in batch["completion"].to_pylist()]


# -- score

BAD: dict[str, tuple[str, str]] = {
    "template_failed": ("a tool", "is refused by the chat template; TemplateError: no tools"),
    "too_long": ("x" * 1100, r"is too long; got 1,1\d\d tokens, expected at most 1,024"),
}


@pytest.mark.parametrize("reason", ["template_failed", "too_long"])
def test_score_names_the_row_and_goes_on_without_it(
    models: Path, tmp_path: Path, reason: str
) -> None:
    """The message names file, row, id and the option; with it the run goes on where it was, and no
    other row is lost.
    """
    bad, words = BAD[reason]
    pool = pool_file(tmp_path, ["a", "b", "c", bad, "e", bad, "g", "h"])
    out = tmp_path / "out.parquet"
    model = pm.RewardModel(model=models / "reward")
    with pytest.raises(BadRow, match=words) as caught:
        pm.score(pool, out, scorer=model, roles={"id": "id"}, chunk_rows=2)
    assert f"score: row 3 of '{pool}' (id 'c3') " in str(caught.value)
    assert "--on-bad-row null" in str(caught.value)
    assert (caught.value.reason, caught.value.exit_code) == (reason, 1)
    done = pm.score(pool, out, scorer=model, roles={"id": "id"}, chunk_rows=2, on_bad_row="null")
    assert done.chunks_resumed == 1, "what was done before the bad row is kept"
    assert done.null == {reason: 2}
    assert done.first_null == {reason: f"row 3 of '{pool}' (id 'c3')"}
    assert (done.rows_in, done.rows_scored) == (8, 6)
    good = pm.score(
        pool_file(tmp_path, ["a", "b", "c", "d", "e", "f", "g", "h"]),
        tmp_path / "good.parquet",
        scorer=model,
    )
    assert good.rows_scored == 8
    wanted: list[float | None] = list(scores(tmp_path / "good.parquet"))
    wanted[3] = wanted[5] = None
    assert scores(out) == pytest.approx(wanted, abs=1e-6)


def test_a_run_with_nulls_does_not_become_one_without(tmp_path: Path) -> None:
    """From error to null a run may go, not back: its nulls would pass for rows that cannot have
    been bad.
    """

    def none(batch: pa.RecordBatch) -> list[float]:
        return [float("nan") if n > 1 else float(n) for n in lengths(batch)]

    none.fingerprint = "none"
    pool = pool_file(tmp_path, ["a", "bb"])
    pm.score(pool, tmp_path / "out.parquet", scorer=none, on_bad_row="null")
    with pytest.raises(RunDiffers, match="another on_bad_row; got error, expected null"):
        pm.score(pool, tmp_path / "out.parquet", scorer=none)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_no_number(tmp_path: Path, value: float) -> None:
    def strange(batch: pa.RecordBatch) -> list[float]:
        return [value if text == "bad" else 1.0 for text in batch["completion"].to_pylist()]

    pool = pool_file(tmp_path, ["a", "bad", "c", "bad", "e"])
    with pytest.raises(BadRow, match=r"row 1 of .*got -?(nan|inf) as its score \(2 such rows"):
        pm.score(pool, tmp_path / "out.parquet", scorer=strange)
    done = pm.score(pool, tmp_path / "out.parquet", scorer=strange, on_bad_row="null")
    assert (done.null, scores(tmp_path / "out.parquet")) == (
        {"not_finite": 2},
        [1.0, None, 1.0, None, 1.0],
    )


@pytest.mark.parametrize("half", ["prepare", "run"])
def test_a_scorer_of_ones_own_raises_bad_rows(tmp_path: Path, half: str) -> None:
    """Whatever half raises, and however many rows at once: the others are scored as if alone."""

    class Picky:
        columns = ("score",)
        fingerprint: ClassVar[dict[str, str]] = {"scorer": "picky"}

        def prepare(self, batch: pa.RecordBatch) -> list[str]:
            return self.check(batch["completion"].to_pylist(), "prepare")

        def check(self, texts: list[str], at: str) -> list[str]:
            if half == at:
                refuse(
                    [
                        BadRow("picky", "is odd.", row=i, reason="no_tokens")
                        for i, text in enumerate(texts)
                        if text == "odd"
                    ]
                )
                refuse(
                    [
                        BadRow("picky", "is even.", row=i, reason="bad_message")
                        for i, text in enumerate(texts)
                        if text == "even"
                    ][:1]
                )
            return texts

        def run(self, texts: list[str]) -> Any:
            import numpy as np

            from prefmill.scoring.scorers import Scored

            return Scored(
                {"score": np.array([float(len(text)) for text in self.check(texts, "run")])}
            )

    pool = pool_file(tmp_path, ["odd", "aaaa", "even", "odd", "bb", "even", "even"])
    done = pm.score(pool, tmp_path / "out.parquet", scorer=Picky(), on_bad_row="null")
    assert done.null == {"no_tokens": 2, "bad_message": 3}
    assert scores(tmp_path / "out.parquet") == [None, 4.0, None, None, 2.0, None, None]
    with pytest.raises(BadRow, match="picky: row 0 of"):
        pm.score(pool, tmp_path / "other.parquet", scorer=Picky())


def test_all_rows_bad(models: Path, tmp_path: Path) -> None:
    pool = pool_file(tmp_path, ["tool", "tool"])
    done = pm.score(
        pool,
        tmp_path / "out.parquet",
        scorer=pm.RewardModel(model=models / "reward"),
        on_bad_row="null",
    )
    assert (done.null, scores(tmp_path / "out.parquet")) == ({"template_failed": 2}, [None, None])


def test_two_begins_name_the_row(tmp_path: Path) -> None:
    tok = tiny.tokenizer()
    tok.chat_template = "{{ bos_token }}" + tok.chat_template.replace(
        "<|{{ message['role'] }}|>", ""
    )
    folder = tiny_models.save_reward_model("llama", tmp_path / "model", tok=tok)
    pool = tmp_path / "pool.jsonl"
    pl.DataFrame({"prompt": ["a", "<bos>b", "c"], "completion": ["x", "y", "z"]}).write_ndjson(pool)
    with pytest.raises(BadRow, match=r"row 1 of .*pool.jsonl' begins with two BOS"):
        pm.score(pool, tmp_path / "out.parquet", scorer=pm.RewardModel(model=folder))
    done = pm.score(
        pool, tmp_path / "out.parquet", scorer=pm.RewardModel(model=folder), on_bad_row="null"
    )
    assert done.null == {"double_bos": 1}


def test_stream(models: Path) -> None:
    rows = pa.table({"prompt": ["p", "p", "q"], "completion": ["a", "tool", "c"]})
    model = pm.RewardModel(model=models / "reward")
    with pytest.raises(BadRow, match="row 1 is refused by the chat template"):
        pm.score_stream(rows, model).read_all()
    out = pm.score_stream(rows, model, on_bad_row="null").read_all()["score"].to_pylist()
    assert [score is None for score in out] == [False, True, False]


def test_ensembles_count_a_row_once(models: Path, tmp_path: Path) -> None:
    both = pm.Ensemble(
        scorers={"model": pm.RewardModel(model=models / "reward"), "length": lengths}
    )
    pool = pool_file(tmp_path, ["a", "x" * 1100, "a tool", "d"])
    done = pm.score(pool, tmp_path / "out.parquet", scorer=both, on_bad_row="null")
    assert done.null == {"too_long": 1, "template_failed": 1}
    assert pl.read_parquet(tmp_path / "out.parquet")["score_length"].to_list() == [
        1.0,
        None,
        None,
        1.0,
    ]


def test_the_place_is_that_in_its_own_file(tmp_path: Path) -> None:
    for name, texts in (("a", ["x", "y"]), ("b", ["z", "bad"])):
        pl.DataFrame({"prompt": ["p", "q"], "completion": texts}).write_csv(
            tmp_path / f"{name}.csv"
        )

    def strange(batch: pa.RecordBatch) -> list[float]:
        return [float("nan") if text == "bad" else 1.0 for text in batch["completion"].to_pylist()]

    with pytest.raises(BadRow, match=r"score: row 1 of '.*b\.csv' got nan"):
        pm.score(
            [str(tmp_path / "a.csv"), str(tmp_path / "b.csv")],
            tmp_path / "out.parquet",
            scorer=strange,
        )


def test_the_command(models: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from prefmill.cli.main import app

    pool = pool_file(tmp_path, ["a", "a tool"])
    arguments = [
        "score",
        str(pool),
        "-o",
        str(tmp_path / "out.parquet"),
        "--model",
        str(models / "reward"),
    ]
    failed = CliRunner().invoke(app, arguments)
    assert isinstance(failed.exception, BadRow)
    done = CliRunner().invoke(app, [*arguments, "--on-bad-row", "null"])
    assert done.exit_code == 0, done.output
    assert "no score: template_failed" in done.stderr
    assert "row 1 of" in done.stderr


# -- sample


def prompt_file(folder: Path, prompts: Sequence[str]) -> Path:
    path = folder / "prompts.jsonl"
    pl.DataFrame({"id": [f"q{i}" for i in range(len(prompts))], "prompt": prompts}).write_ndjson(
        path
    )
    return path


def test_sample_from_a_server_that_refuses_a_prompt(tmp_path: Path) -> None:
    """One 400 ended the run, and without that prompt the input was another input."""

    def answer(path: str, body: Any, headers: dict[str, str]) -> serving.Said:
        text = body["messages"][0]["content"]
        if "long" in text:
            return 400, {}, {"error": {"message": "maximum context length is 10 tokens"}}
        return 200, {}, serving.chat(f"to {text}")

    prompts = prompt_file(tmp_path, ["a", "b", "long", "d"])
    out = tmp_path / "pool.parquet"
    with serving.server(answer) as url:
        sampler = pm.EndpointSampler(url=url, model="m", concurrency=1)
        options: dict[str, Any] = {
            "sampler": sampler,
            "n": 1,
            "temperatures": [1.0],
            "id": "id",
            "chunk_rows": 1,
        }
        with pytest.raises(BadRow, match="400 maximum context length") as caught:
            pm.sample(prompts, out, **options)
        assert f"sample: row 2 of '{prompts}' (id 'q2') has no answer" in str(caught.value)
        done = pm.sample(prompts, out, on_bad_row="null", **options)
    assert (done.chunks_resumed, done.requests) == (2, 2), "what was answered before is kept"
    assert done.finish_reasons == {"stop": 3, "refused": 1}
    assert done.null == {"refused": 1}
    pool = pl.read_parquet(out)
    assert pool["completion"].to_list() == ["to a", "to b", None, "to d"]
    assert pool["finish_reason"].to_list() == ["stop", "stop", "refused", "stop"]


def test_sample_from_a_model_whose_template_refuses_a_prompt(models: Path, tmp_path: Path) -> None:
    prompts = prompt_file(tmp_path, ["a", "a tool", "x" * 1100, "b"])
    sampler = pm.LocalSampler(model=models / "causal", max_new_tokens=4)
    options: dict[str, Any] = {"sampler": sampler, "n": 2, "temperatures": [1.0]}
    with pytest.raises(BadRow, match=r"sample: row 1 of .* is refused by the chat template"):
        pm.sample(prompts, tmp_path / "pool.parquet", **options)
    done = pm.sample(prompts, tmp_path / "pool.parquet", on_bad_row="null", **options)
    assert done.null == {"template_failed": 2, "too_long": 2}
    pm.sample(prompt_file(tmp_path, ["a", "b"]), tmp_path / "good.parquet", **options)
    pool, good = (
        pl.read_parquet(tmp_path / f"{name}.parquet").drop_nulls("completion")
        for name in ("pool", "good")
    )
    assert pool.equals(good), "an answer depends on its own prompt only"


def test_sample_from_a_sampler_of_ones_own(tmp_path: Path) -> None:
    class Shy:
        fingerprint: ClassVar[dict[str, str]] = {"sampler": "shy"}

        def sample(self, requests: Sequence[Request]) -> list[Answer]:
            for row, request in enumerate(requests):
                if request.prompt == "bad":
                    raise BadRow("shy", "is not to be answered.", row=row, reason="bad_answer")
            return [Answer(str(request.prompt), "stop", None, None) for request in requests]

    prompts = prompt_file(tmp_path, ["a", "bad", "c"])
    done = pm.sample(
        prompts,
        tmp_path / "pool.parquet",
        sampler=Shy(),
        n=3,
        temperatures=[1.0],
        on_bad_row="null",
    )
    assert done.null == {"bad_answer": 3}
    assert (
        pl.read_parquet(tmp_path / "pool.parquet")["completion"].to_list()
        == ["a"] * 3 + [None] * 3 + ["c"] * 3
    )


# -- judge and endpoint


def test_a_judge_on_a_server(tmp_path: Path) -> None:
    def answer(path: str, body: Any, headers: dict[str, str]) -> serving.Said:
        refused = "bad" in body["messages"][0]["content"]
        return (400, {}, {"error": "filtered"}) if refused else (200, {}, serving.chat("7"))

    pool = pool_file(tmp_path, ["a", "bad", "c"])
    with serving.server(answer) as url:
        judge = pm.JudgeScorer(sampler=pm.EndpointSampler(url=url, model="m", concurrency=1))
        with pytest.raises(
            BadRow, match=r"judge: row 1 of .* cannot be judged; .* got 400 filtered"
        ):
            pm.score(pool, tmp_path / "out.parquet", scorer=judge)
        done = pm.score(pool, tmp_path / "out.parquet", scorer=judge, on_bad_row="null")
    assert (done.null, scores(tmp_path / "out.parquet")) == ({"refused": 1}, [7.0, None, 7.0])


def test_a_judge_in_this_process(models: Path, tmp_path: Path) -> None:
    """All rows that ask the refused question are bad, equal ones too."""
    judge = pm.JudgeScorer(
        sampler=pm.LocalSampler(model=models / "causal", max_new_tokens=3),
        rubric="{prompt}{completion}",
    )
    pool = tmp_path / "pool.jsonl"
    pl.DataFrame(
        {"prompt": ["p", "p", "p", "q"], "completion": ["a", "tool", "tool", "x" * 1100]}
    ).write_ndjson(pool)
    with pytest.raises(BadRow, match=r"judge: row 1 of"):
        pm.score(pool, tmp_path / "out.parquet", scorer=judge)
    done = pm.score(pool, tmp_path / "out.parquet", scorer=judge, on_bad_row="null")
    assert (done.null["template_failed"], done.null["too_long"]) == (2, 1)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_an_endpoint_names_the_very_row(tmp_path: Path, status: int) -> None:
    """Of the rows of one request: halves of it are asked for, so that the row is named, and the
    others are scored.
    """

    def answer(path: str, body: Any, headers: dict[str, str]) -> serving.Said:
        texts = [row[1] for row in body["inputs"]]
        if "bad" in texts:
            return status, {}, {"error": "no"}
        return 200, {}, [[{"label": "score", "score": float(len(text))}] for text in texts]

    pool = pool_file(tmp_path, ["a", "bb", "ccc", "dddd", "bad", "ffffff", "g"])
    with serving.server(answer) as url:
        scorer = pm.EndpointScorer(url=url, kind="tei-predict", concurrency=1)
        with pytest.raises(
            BadRow, match=rf"endpoint: row 4 of .* cannot be scored; .* got {status} no"
        ):
            pm.score(pool, tmp_path / "out.parquet", scorer=scorer)
        done = pm.score(pool, tmp_path / "out.parquet", scorer=scorer, on_bad_row="null")
    assert (done.null, scores(tmp_path / "out.parquet")) == (
        {"refused": 1},
        [1.0, 2.0, 3.0, 4.0, None, 6.0, 1.0],
    )


# -- training


def test_training_names_and_leaves_out(models: Path, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    pairs = tmp_path / "pairs.jsonl"
    chosen = ["good", "a tool", "same", "fine", "x" * 1100, "well"]
    rejected = ["bad", "b", "same", "a tool", "b", "no"]
    pl.DataFrame(
        {"prompt": [f"p{i}" for i in range(6)], "chosen": chosen, "rejected": rejected}
    ).write_ndjson(pairs)
    options: dict[str, Any] = {
        "model": models / "causal",
        "steps": 1,
        "holdout": 0,
        "batch_size": 2,
    }
    with pytest.raises(
        BadRow, match=r"train_reward: row 1 of .*pairs.jsonl' is refused by the chat template"
    ):
        pm.train_reward(pairs, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    report = pm.train_reward(pairs, tmp_path / "out", on_bad_row="null", **options)
    assert report.dropped == {"same_text": 1, "template_failed": 2, "too_long": 1}
    assert (report.rows_in, report.rows_used) == (6, 2)
    policy = pm.train_policy(
        pairs,
        tmp_path / "policy",
        method="dpo",
        on_bad_row="null",
        **{k: v for k, v in options.items() if k != "holdout"},
    )
    assert policy.dropped == report.dropped


# -- the error itself


def test_the_list_is_closed() -> None:
    with pytest.raises(BadArgument, match="no such reason; got 'ugly'"):
        BadRow("x", "is ugly.", row=0, reason="ugly")
    with pytest.raises(BadArgument, match="on_bad_row is not one of"):
        pm.score(
            pa.table({"prompt": ["p"], "completion": ["c"]}),
            "out.parquet",
            scorer=lengths,
            on_bad_row="drop",
        )
    assert all(reason.isidentifier() for reason in BAD_ROW)


def test_it_goes_to_another_process() -> None:
    error = BadRow("score", "is bad.", row=3, reason="too_long", hint="cut it.").named(
        "row 3 of 'x'"
    )
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.row, again.reason, again.hint) == (
        str(error),
        3,
        "too_long",
        error.hint,
    )
