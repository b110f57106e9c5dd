"""Answers by a schema, where the server takes one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import batch_serving
import pyarrow as pa
import pytest
import serving
from judges import Fake, scored

import prefmill as pm
from prefmill.errors import BadArgument, BadInput

POOL = pa.table({"prompt": ["p", "p", "q"], "completion": ["a", "b", "c"]})
CRITERIA = [
    {"name": "right", "question": "Is it right?", "scale": "1-5"},
    {"name": 'a "b"', "question": "Is it rude?", "weight": -1},
]


class Server:
    """A server that answers by the schema: the first thing that it allows.

    `refuses` says of a schema whether it is too much for this server.
    """

    def __init__(self, refuses: Any = lambda schema: False, plain: str = '{"rating": 2}') -> None:
        self.refuses, self.plain = refuses, plain
        self.bodies: list[Any] = []

    def __call__(self, path: str, body: Any, headers: dict[str, str]) -> serving.Said:
        self.bodies.append(body)
        if "response_format" not in body:
            return 200, {}, serving.chat(self.plain)
        schema = serving.schema_in(body)
        if self.refuses(schema):
            return 400, {}, {"error": {"message": "response_format is not supported"}}
        return 200, {}, serving.chat(json.dumps(serving.first_by(schema)))

    @property
    def plain_ones(self) -> int:
        return sum("response_format" not in body for body in self.bodies)


def judged(server: Server, tmp_path: Path, **judge: Any) -> tuple[Any, dict[str, list[Any]]]:
    with serving.server(server) as url:
        sampler = pm.EndpointSampler(url=url, model="m", backoff=0.01)
        return scored(pm.JudgeScorer(sampler=sampler, **judge), tmp_path, POOL)


def test_off_sends_none(tmp_path: Path) -> None:
    server = Server()
    judged(server, tmp_path)
    assert server.plain_ones == 3


@pytest.mark.parametrize("structured", ["on", "auto"])
def test_a_schema_is_sent(structured: str, tmp_path: Path) -> None:
    server = Server()
    done, out = judged(server, tmp_path, structured=structured)
    assert (out["score"], server.plain_ones) == ([1.0] * 3, 0)
    schema = serving.schema_in(server.bodies[0])
    assert schema["properties"] == {"rating": {"enum": list(range(1, 11)), "type": "integer"}}
    asked = server.bodies[0]["messages"][0]["content"]
    assert asked.endswith('Reply with a JSON object: {"rating": <whole number from 1 to 10>}')
    assert done.retries == 0


@pytest.mark.parametrize(
    ("judge", "expected"),
    [
        ({"scale": "0-1"}, [{"rating": {"type": "number"}}]),
        ({"scale": "percent"}, [{"rating": {"type": "integer"}}]),
        (
            {"criteria": CRITERIA},
            [{"score": {"enum": [1, 2, 3, 4, 5], "type": "integer"}}, {"met": {"type": "boolean"}}],
        ),
        (
            {"criteria": CRITERIA, "ask": "together"},
            [
                {
                    "right": {"enum": [1, 2, 3, 4, 5], "type": "integer"},
                    'a "b"': {"type": "boolean"},
                }
            ],
        ),
    ],
)
def test_the_schema_is_that_of_the_question(
    judge: dict[str, Any], expected: list[Any], tmp_path: Path
) -> None:
    server = Server()
    done, out = judged(server, tmp_path, structured="on", **judge)
    schemas = [serving.schema_in(body)["properties"] for body in server.bodies]
    assert [schema for schema in expected if schema not in schemas] == []
    assert None not in out["score"]
    assert done.null == {}


def test_pairs_by_schema(tmp_path: Path) -> None:
    """This server prefers what stands first, so that both orders are a tie."""
    done, out = judged(Server(), tmp_path, structured="on", mode="pairwise")
    assert (out["score"], done.null) == ([0.5, 0.5, None], {"single_candidate": 1})


def test_a_server_that_refuses(tmp_path: Path) -> None:
    """With `on` the row is bad, and the way out is told; `auto` asks again, and counts that."""
    with pytest.raises(BadInput, match="response_format is not supported") as error:
        judged(Server(lambda _: True), tmp_path, structured="on")
    assert "--structured auto" in str(error.value.hint)
    server = Server(lambda _: True)
    done, out = judged(server, tmp_path, structured="auto")
    assert out["score"] == [2.0] * 3
    assert done.retried == {"schema": 3}
    assert (done.retries, done.requests) == (3, 6)


def test_a_schema_that_was_refused_is_not_sent_again(tmp_path: Path) -> None:
    """That of the object only: the other criteria keep theirs, in later chunks too."""
    server = Server(lambda schema: "met" in schema["properties"], plain="no")
    with serving.server(server) as url:
        sampler = pm.EndpointSampler(url=url, model="m", backoff=0.01)
        judge = pm.JudgeScorer(sampler=sampler, criteria=CRITERIA, structured="auto")
        done, out = scored(judge, tmp_path, POOL, chunk_rows=1)
    assert out["score_right"] == [1.0] * 3
    assert out['score_a "b"'] == [0.0] * 3
    refused = [b for b in server.bodies if "met" in json.dumps(b.get("response_format", ""))]
    assert len(refused) == done.retried["schema"] < 3
    assert server.plain_ones == 3


def test_a_row_that_is_refused_either_way(tmp_path: Path) -> None:
    """A prompt that is too long is not the schema's fault: asked twice, then as everywhere."""

    def answer(path: str, body: Any, headers: dict[str, str]) -> serving.Said:
        if "\nc\n" in body["messages"][0]["content"]:
            return 400, {}, {"error": {"message": "too long"}}
        return 200, {}, serving.chat('{"rating": 7}')

    with serving.server(answer) as url:
        sampler = pm.EndpointSampler(url=url, model="m", backoff=0.01)
        judge = pm.JudgeScorer(sampler=sampler, structured="auto")
        with pytest.raises(BadInput, match=r"judge: row 2 cannot be judged; .*too long"):
            scored(judge, tmp_path, POOL)
        done, out = scored(judge, tmp_path, POOL, on_bad_row="null")
    assert (out["score"], done.null) == ([7.0, 7.0, None], {"refused": 1})


def test_an_answer_that_cannot_be_used_is_no_score(tmp_path: Path) -> None:
    """With a schema and without: the row is bad, and nothing is left out unasked."""

    def answer(path: str, body: Any, headers: dict[str, str]) -> serving.Said:
        if "\nc\n" in body["messages"][0]["content"]:
            return 200, {}, {"choices": [{"message": {"content": "7"}, "finish_reason": None}]}
        return 200, {}, serving.chat('{"rating": 7}')

    with serving.server(answer) as url:
        sampler = pm.EndpointSampler(url=url, model="m", backoff=0.001, retries=1)
        judge = pm.JudgeScorer(sampler=sampler, structured="auto")
        with pytest.raises(BadInput, match="judge: row 2 cannot be judged"):
            scored(judge, tmp_path, POOL)
        done, out = scored(judge, tmp_path, POOL, on_bad_row="null")
    assert (out["score"], done.null) == ([7.0, 7.0, None], {"bad_answer": 1})


def test_what_takes_no_schema() -> None:
    """A model in this process has none: `auto` goes on without, `on` is refused."""
    local = pm.LocalSampler(model="m")
    judge = pm.JudgeScorer(sampler=local, structured="auto")
    batch = POOL.to_batches()[0]
    assert judge.prepare(batch).requests[0].schema is None
    with pytest.raises(BadArgument, match="structured needs a server"):
        pm.JudgeScorer(sampler=local, structured="on")
    server = pm.EndpointSampler(url="http://h", model="m")
    with pytest.raises(BadArgument, match="structured is not for a scale whose answers end"):
        pm.JudgeScorer(sampler=server, structured="auto", scale="mt-bench")
    with pytest.raises(BadArgument, match="structured is not one of"):
        pm.JudgeScorer(sampler=server, structured="json")


def test_it_is_in_the_fingerprint() -> None:
    fake = Fake(str)
    prints = [
        pm.JudgeScorer(sampler=fake, structured=each).fingerprint["structured"]
        for each in ("off", "auto")
    ]
    assert prints == ["off", "auto"]


def test_in_batches(tmp_path: Path) -> None:
    """The schema goes into the batch; what it is refused for is asked in another one."""
    asked = []

    def fate(body: Any) -> tuple[int, Any]:
        asked.append(body)
        if "response_format" not in body:
            return 200, batch_serving.chat_body("no")
        schema = serving.schema_in(body)
        if "met" in schema["properties"]:
            return 400, {"error": {"message": "no schema of this kind"}}
        return 200, batch_serving.chat_body(json.dumps(serving.first_by(schema)))

    state = batch_serving.BatchServer(fate)
    with batch_serving.serve(state) as url:
        sampler = pm.BatchSampler(url=url, model="m", poll=0.01)
        judge = pm.JudgeScorer(sampler=sampler, criteria=CRITERIA, structured="auto")
        _, out = scored(judge, tmp_path, POOL)
    assert out["score"] == [0.0] * 3
    assert out['score_a "b"'] == [0.0] * 3
    assert sum("response_format" not in body for body in asked) == 3
    assert len(asked) == 9
