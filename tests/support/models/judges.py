"""A judge whose answers are written down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import prefmill as pm
from prefmill.sampling import Answer, Request

POOL = pa.table(
    {
        "prompt": ["p {completion}", "q", None, "p {completion}", "q", "q", "p {completion}"],
        "completion": ["a", "bb", "x", "a {prompt} {0} %s \\1", "cccc", "bb", None],
    }
)


@dataclass
class Fake:
    """A sampler that answers by a function of the text that it is asked."""

    says: Callable[[str], str]
    reason: str = "stop"
    asked: list[str] = field(default_factory=list)
    fingerprint: Any = field(default_factory=lambda: {"sampler": "fake"})

    def sample(self, requests: Sequence[Request]) -> list[Answer]:
        texts = [request.prompt[0]["content"] for request in requests]
        assert all(request.temperature == 0 for request in requests)
        self.asked += texts
        return [Answer(self.says(text), self.reason, None, 3) for text in texts]


def scored(
    judge: pm.JudgeScorer, tmp_path: Path, pool: Any = POOL, **more: Any
) -> tuple[Any, dict[str, list[Any]]]:
    done = pm.score(pool, tmp_path / "out.parquet", scorer=judge, overwrite=True, **more)
    return done, pq.read_table(tmp_path / "out.parquet").select(list(done.columns)).to_pydict()


def judge(says: Callable[[str], str], **more: Any) -> pm.JudgeScorer:
    return pm.JudgeScorer(sampler=Fake(says), mode="pairwise", rubric="{prompt}|{a}|{b}", **more)
