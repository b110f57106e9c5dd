"""Answers in batches: the same as one request at a time gives, every request asked once, and what a
batch can come to."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import batch_serving
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import serving
from batch_serving import BatchServer, chat_body
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import prefmill as pm
from prefmill.errors import BadRow, BatchesUnderWay, RequestFailed, RunDiffers
from prefmill.sampling.samplers import Request

pytest.importorskip("httpx2", reason="needs the extra prefmill[endpoint]")

POOL = pa.table(
    {
        "prompt": [f"question {i // 3}?" for i in range(24)],
        "completion": [f"answer {'x' * (i % 7)}" for i in range(24)],
    }
)
PROMPTS = pa.table({"prompt": [f"question {i}?" for i in range(5)]})


def rating(body: Any) -> tuple[int, Any]:
    """A judge that likes long texts; a sampler that says its seed."""
    text = body["messages"][-1]["content"]
    if "answer" not in text:
        return 200, chat_body(f"seed {body['seed']} at {body['temperature']}")
    return 200, chat_body(str(len(text) % 10 + 1))


def judge_of(url: str, **options: Any) -> Any:
    sampler = pm.BatchSampler(
        **{"url": url, "model": "m", "poll": 0.01, "backoff": 0.01, "batch_requests": 7, **options}
    )
    return pm.JudgeScorer(sampler=sampler, rubric="{prompt} {completion}")


def rows(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


def each_once(state: BatchServer) -> bool:
    return set(state.asked.values()) == {1}


@pytest.fixture
def live(tmp_path: Path) -> list[dict[str, Any]]:
    """The rows that a judge gives that asks one request at a time."""
    with serving.server(lambda path, body, headers: (200, {}, rating(body)[1])) as url:
        sampler = pm.EndpointSampler(url=f"{url}/v1", model="m")
        judge = pm.JudgeScorer(sampler=sampler, rubric="{prompt} {completion}")
        pm.score(POOL, tmp_path / "live.parquet", scorer=judge)
    return rows(tmp_path / "live.parquet")


# -- the same answers


@pytest.mark.parametrize("chunk_rows", [1, 9, 512])
def test_batches_give_the_rows_of_single_requests(
    live: list[dict[str, Any]], chunk_rows: int, tmp_path: Path
) -> None:
    state = BatchServer(rating, looks=2)
    with batch_serving.serve(state) as url:
        out = tmp_path / "out.parquet"
        done = pm.score(POOL, out, scorer=judge_of(url), chunk_rows=chunk_rows)
    assert rows(out) == live
    assert each_once(state)
    # Equal texts of a prompt are one request, and files hold seven at most.
    assert done.requests == sum(state.asked.values()) == 24
    assert [len(content.splitlines()) for content in list(state.files.values())[:4]] == [7, 7, 7, 3]
    assert done.tokens_out == sum(len(row["score_verdict"]) for row in live)
    assert any("asked in 4 batches" in note for note in done.notes)
    folder = tmp_path / ".out.parquet.prefmill"
    assert sorted(path.name for path in folder.iterdir()) == ["ledger.json", "manifest.json"]


def test_a_pool_is_that_of_single_requests(tmp_path: Path) -> None:
    with serving.server(lambda path, body, headers: (200, {}, rating(body)[1])) as url:
        sampler = pm.EndpointSampler(url=f"{url}/v1", model="m")
        pm.sample(PROMPTS, tmp_path / "live.parquet", sampler=sampler, n=4)
    state = BatchServer(rating)
    with batch_serving.serve(state) as url:
        sampler = pm.BatchSampler(url=url, model="m", poll=0.01, batch_requests=6)
        done = pm.sample(PROMPTS, tmp_path / "out.parquet", sampler=sampler, n=4, chunk_rows=8)
    assert rows(tmp_path / "out.parquet") == rows(tmp_path / "live.parquet")
    assert each_once(state)
    assert done.requests == 20


def test_comparisons_and_ensembles_are_gathered_too(tmp_path: Path) -> None:
    """Two judges, a function between them: each judge has its batches, the function is not asked
    twice."""
    called = []

    def length(batch: Any) -> list[int]:
        called.append(batch.num_rows)
        return [len(text) for text in batch["completion"].to_pylist()]

    def verdict(body: Any) -> tuple[int, Any]:
        text = body["messages"][-1]["content"]
        if body["model"] == "rates":
            return rating(body)
        a, b = re.findall(r"<(.*?)>", text)
        return 200, chat_body("A" if len(a) > len(b) else "B" if len(b) > len(a) else "C")

    state = BatchServer(verdict)
    with batch_serving.serve(state) as url:
        rates = judge_of(url, model="rates")
        compares = pm.JudgeScorer(
            sampler=judge_of(url, model="compares").sampler,
            mode="pairwise",
            rubric="{prompt} <{a}> <{b}>",
        )
        panel = pm.Ensemble(scorers={"rates": rates, "length": length, "compares": compares})
        pm.score(POOL, tmp_path / "out.parquet", scorer=panel)
    assert each_once(state)
    assert called == [24]
    models = {each["model"] for each in map(json.loads, state.asked)}
    assert models == {"rates", "compares"}
    table = pq.read_table(tmp_path / "out.parquet")
    best = {}
    for row in table.to_pylist():
        best.setdefault(row["prompt"], []).append((row["score_compares"], len(row["completion"])))
    for of_prompt in best.values():
        assert max(of_prompt)[1] == max(length for _, length in of_prompt)


def test_equal_requests_are_asked_once(tmp_path: Path) -> None:
    state = BatchServer(rating)
    with batch_serving.serve(state) as url:
        sampler = pm.BatchSampler(url=url, model="m", poll=0.01)
        sampler.keep_in(tmp_path / "asked.sqlite")
        requests = [Request("p", 0.0, 0), Request("q", 0.0, 0), Request("p", 0.0, 0)]
        texts = [answer.text for answer in sampler.sample(requests)]
        again = [answer.text for answer in sampler.sample(requests)]
    assert texts == again == ["seed 0 at 0.0"] * 3
    assert each_once(state)
    assert len(state.asked) == 2


# -- what a request, and a batch, can come to


def fated(fates: dict[str, list[Any]]) -> Any:
    """A server that deals out each text's fates in turn, then answers."""
    lock = threading.Lock()

    def answer(body: Any) -> Any:
        text = body["messages"][-1]["content"]
        with lock:
            for part, left in fates.items():
                if part in text and left:
                    return left.pop(0)
        return rating(body)

    return answer


BUSY = (500, {"error": {"message": "overloaded"}})
LIMIT = (429, {"error": {"message": "slow down"}})


def test_what_failed_or_expired_is_asked_again(live: list[dict[str, Any]], tmp_path: Path) -> None:
    fates = {"question 1?": ["expire", BUSY], "question 4?": [LIMIT], "question 6?": ["forget"]}
    state = BatchServer(fated(fates))
    with batch_serving.serve(state) as url:
        pm.score(POOL, tmp_path / "out.parquet", scorer=judge_of(url))
    assert rows(tmp_path / "out.parquet") == live
    assert not any(fates.values())
    # Nothing that was answered was asked again: 24, and the two that got a 429 or a 500.
    assert sum(state.asked.values()) == 26


def test_a_request_that_always_expires_ends_the_run_and_the_rest_is_kept(tmp_path: Path) -> None:
    state = BatchServer(fated({"question 2?": ["expire"] * 9}))
    out = tmp_path / "out.parquet"
    with batch_serving.serve(state) as url:
        with pytest.raises(RequestFailed, match="3 requests had no answer in 3 batches") as caught:
            pm.score(POOL, out, scorer=judge_of(url))
        assert "could not be executed" in str(caught.value)
        assert not out.exists()
        before = sum(state.asked.values())
        assert before == 21
        pm.score(POOL, out, scorer=judge_of(url))
    assert sum(state.asked.values()) == 24
    assert each_once(state)


@pytest.mark.parametrize(
    ("fate", "reason"),
    [
        ((400, {"error": {"message": "too long"}}), "refused"),
        ((200, {"choices": []}), "bad_answer"),
        ((200, "<html>"), "bad_answer"),
        ((200, chat_body("no idea")), "unparseable"),
    ],
)
def test_a_bad_row_is_null_with_its_reason_or_names_itself(
    fate: Any, reason: str, tmp_path: Path
) -> None:
    def answer(body: Any) -> Any:
        return fate if "question 2?" in body["messages"][-1]["content"] else rating(body)

    state, out = BatchServer(answer), tmp_path / "out.parquet"
    with batch_serving.serve(state) as url:
        if reason != "unparseable":
            with pytest.raises(BadRow) as caught:
                pm.score(POOL, out, scorer=judge_of(url))
            assert (caught.value.reason, caught.value.name[:5]) == (reason, "row 6")
        done = pm.score(POOL, out, scorer=judge_of(url), on_bad_row="null")
    assert done.null == {reason: 3}
    assert {row["score_reason"] for row in rows(out)} == {None, reason}
    # The run that stopped had paid for all: nothing was asked again.
    assert each_once(state)


def test_a_wrong_key_or_model_is_told_at_once_and_not_kept(tmp_path: Path) -> None:
    missing = (404, {"error": {"message": "no model m"}})
    state, out = BatchServer(lambda body: missing), tmp_path / "out.parquet"
    with batch_serving.serve(state) as url:
        with pytest.raises(RequestFailed, match="404 no model m"):
            pm.score(POOL, out, scorer=judge_of(url, batch_requests=100))
        assert len(state.batches) == 1
        state.answer = rating
        assert pm.score(POOL, out, scorer=judge_of(url)).rows_scored == 24


def test_a_batch_that_somebody_cancels_is_not_sent_again_by_itself(tmp_path: Path) -> None:
    state, out = BatchServer(rating, looks=10**9), tmp_path / "out.parquet"
    with batch_serving.serve(state) as url:
        with pytest.raises(BatchesUnderWay) as waiting:
            pm.score(POOL, out, scorer=judge_of(url, no_wait=True))
        assert len(waiting.value.batches) == 4
        first = waiting.value.batches[0]
        state.batches[first]["status"] = "cancelled"
        with pytest.raises(RequestFailed, match=f"{first} was cancelled; 7 of its 7 requests"):
            pm.score(POOL, out, scorer=judge_of(url))
        assert len(state.batches) == 4
        state.looks = 1
        pm.score(POOL, out, scorer=judge_of(url))
        assert len(state.batches) == 5
    assert each_once(state)


def test_a_batch_that_the_server_fails_says_why_and_is_sent_again_by_the_next_call(
    tmp_path: Path,
) -> None:
    state, out = BatchServer(rating), tmp_path / "out.parquet"

    def spoil(place: int, when: str, path: str) -> None:
        if path == "batches" and when == "before":
            name = next(reversed(state.files))
            state.files[name] = b"{half a line\n"

    state.faults = spoil
    with batch_serving.serve(state) as url:
        with pytest.raises(RequestFailed, match="failed; the server says not JSON"):
            pm.score(POOL, out, scorer=judge_of(url))
        state.faults = lambda *_: None
        pm.score(POOL, out, scorer=judge_of(url))
    assert each_once(state)


@pytest.mark.parametrize("limit", [{"most": 8}, {"most": 3}, {"largest": 2500}])
def test_a_server_that_takes_less_gets_less_at_a_time(
    limit: dict[str, int], live: list[dict[str, Any]], tmp_path: Path
) -> None:
    state = BatchServer(rating, **limit)
    with batch_serving.serve(state) as url:
        pm.score(POOL, tmp_path / "out.parquet", scorer=judge_of(url, batch_requests=24))
    assert rows(tmp_path / "out.parquet") == live
    assert each_once(state)


def test_what_a_judge_asks_again_is_gathered_too(tmp_path: Path) -> None:
    """The server takes no schema: all rows are asked again in one more round, not by chunks."""

    def answer(body: Any) -> tuple[int, Any]:
        if "response_format" in body:
            return 400, {"error": {"message": "no response_format"}}
        return rating(body)

    state = BatchServer(answer)
    with batch_serving.serve(state) as url:
        sampler = judge_of(url, batch_requests=100).sampler
        judge = pm.JudgeScorer(sampler=sampler, rubric="{prompt} {completion}", structured="auto")
        done = pm.score(POOL, tmp_path / "out.parquet", scorer=judge, chunk_rows=6)
    assert done.rows_scored == 24
    assert len(state.batches) == 2
    assert each_once(state)


@pytest.mark.parametrize("said", [{"no": "id"}, ["id"], b"<html>"])
def test_strange_answers_of_the_server_are_told(said: Any, tmp_path: Path) -> None:
    state = BatchServer(rating)
    state.handle = lambda *_: (200, said)  # type: ignore[method-assign]
    with batch_serving.serve(state) as url, pytest.raises(RequestFailed, match="broken answer"):
        pm.score(POOL, tmp_path / "out.parquet", scorer=judge_of(url, retries=1))


# -- not waiting, and going on


def test_no_wait_ends_and_the_same_call_goes_on(live: list[dict[str, Any]], tmp_path: Path) -> None:
    state, out = BatchServer(rating, looks=2), tmp_path / "out.parquet"
    with batch_serving.serve(state) as url:
        for _ in range(2):
            with pytest.raises(BatchesUnderWay, match="the same command goes on") as waiting:
                pm.score(POOL, out, scorer=judge_of(url, no_wait=True))
            assert waiting.value.exit_code == 75
            assert set(waiting.value.batches) == set(state.batches)
            assert not out.exists()
        pm.score(POOL, out, scorer=judge_of(url, no_wait=True))
        assert len(state.batches) == 4
    assert rows(out) == live
    assert each_once(state)


def test_a_run_may_go_on_with_single_requests_and_the_other_way_round(tmp_path: Path) -> None:
    """What decides an answer is the same, so the ledger has no objection."""
    out, state = tmp_path / "out.parquet", BatchServer(rating, looks=10**9)
    with batch_serving.serve(state) as url, pytest.raises(BatchesUnderWay):
        pm.score(POOL, out, scorer=judge_of(url, no_wait=True))
    with serving.server(lambda path, body, headers: (200, {}, rating(body)[1])) as url:
        sampler = pm.EndpointSampler(url=f"{url}/v1", model="m")
        judge = pm.JudgeScorer(sampler=sampler, rubric="{prompt} {completion}")
        assert pm.score(POOL, out, scorer=judge).rows_scored == 24
    assert sorted(path.name for path in (tmp_path / ".out.parquet.prefmill").iterdir()) == [
        "ledger.json",
        "manifest.json",
    ]


def test_batches_under_way_bind_the_run_until_it_is_begun_anew(tmp_path: Path) -> None:
    state, out = BatchServer(rating, looks=10**9), tmp_path / "out.parquet"
    with batch_serving.serve(state) as url:
        with pytest.raises(BatchesUnderWay):
            pm.score(POOL, out, scorer=judge_of(url, no_wait=True))
        with pytest.raises(RunDiffers, match="another scorer"):
            pm.score(POOL, out, scorer=judge_of(url, model="other", no_wait=True))
        state.looks = 1
        pm.score(POOL, out, scorer=judge_of(url), overwrite=True)
    statuses = Counter(each["status"] for each in state.batches.values())
    assert statuses == {"cancelled": 4, "completed": 4}
    assert each_once(state)


def test_a_bad_row_of_ours_is_told_before_anything_is_sent(tmp_path: Path) -> None:
    state = BatchServer(rating)
    pool = pa.table({"prompt": [[{"role": "user"}]], "completion": ["answer"]})
    with batch_serving.serve(state) as url, pytest.raises(BadRow, match="row 0"):
        pm.score(pool, tmp_path / "out.parquet", scorer=judge_of(url))
    assert state.calls == []


@pytest.mark.parametrize(
    "pool", [POOL.slice(0, 0), pa.table({"prompt": ["p"], "completion": [None]})]
)
def test_nothing_to_ask_is_nothing_sent(pool: pa.Table, tmp_path: Path) -> None:
    pool = pool.cast(pa.schema({"prompt": pa.string(), "completion": pa.string()}))
    state = BatchServer(rating)
    with batch_serving.serve(state) as url:
        done = pm.score(pool, tmp_path / "out.parquet", scorer=judge_of(url))
    assert (done.rows_scored, state.calls) == (0, [])


# -- files for a program


def run_batch(folder: Path, *, half: bool = False) -> None:
    """What `vllm run-batch -i ... -o ...` does, in plain words."""
    for path in folder.glob("*.requests.jsonl"):
        answers = []
        for line in map(json.loads, path.read_text().splitlines()):
            assert line["url"] == "/v1/chat/completions"
            status, body = rating(line["body"])
            response = {"status_code": status, "request_id": "r", "body": body}
            answers.append(
                {"id": "x", "custom_id": line["custom_id"], "response": response, "error": None}
            )
        text = "\n".join(map(json.dumps, answers))
        if half:
            text = text[: len(text) // 2]
        path.with_name(path.name.replace("requests", "answers")).write_text(text)


def test_files_for_a_batch_runner(live: list[dict[str, Any]], tmp_path: Path) -> None:
    folder, out = tmp_path / "files", tmp_path / "out.parquet"
    sampler = pm.BatchSampler(model="m", batch_files=folder, batch_requests=10)
    judge = pm.JudgeScorer(sampler=sampler, rubric="{prompt} {completion}")
    for half in (True, False):
        with pytest.raises(BatchesUnderWay, match="vllm run-batch -i"):
            pm.score(POOL, out, scorer=judge)
        assert len(list(folder.glob("*.requests.jsonl"))) == 3
        run_batch(folder, half=half)
    pm.score(POOL, out, scorer=judge)
    assert rows(out) == live


# -- any order of events


FATES = st.sampled_from(["ok", "expire", "forget", BUSY, LIMIT])


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    fates=st.lists(st.lists(FATES, max_size=2), min_size=8, max_size=8),
    lost=st.sets(st.integers(1, 12), max_size=4),
    size=st.integers(5, 9),
)
def test_whatever_happens_every_row_has_its_own_answer_and_none_is_paid_twice(
    fates: list[list[Any]], lost: set[int], size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Requests fail and expire, the connection is cut after the server has done what was asked."""
    folder = tmp_path_factory.mktemp("any")
    left = {f"question {i}?": [f for f in some if f != "ok"] for i, some in enumerate(fates)}
    state = BatchServer(fated(left))

    def cut(place: int, when: str, path: str) -> None:
        if place in lost and when == "after":
            raise ConnectionError

    state.faults = cut
    failing = sum(f in (BUSY, LIMIT) for some in left.values() for f in some)
    with batch_serving.serve(state) as url:
        pm.score(POOL, folder / "out.parquet", scorer=judge_of(url, batch_requests=size))
    expected = [len(f"{p} {c}") % 10 + 1 for p, c in zip(*POOL.to_pydict().values(), strict=True)]
    assert [row["score"] for row in rows(folder / "out.parquet")] == expected
    used = failing - sum(f in (BUSY, LIMIT) for some in left.values() for f in some)
    assert sum(state.asked.values()) == 24 + used
