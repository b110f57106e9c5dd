"""A sampler that says what it was asked."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from prefmill.runs.resumable.sampling import COLUMNS
from prefmill.sampling import Answer, Request

SCHEMA = {"prompt": pl.String(), **COLUMNS}


class Echo:
    """Answers that depend on the request alone; some are equal, some empty, some cut off."""

    def __init__(self, fails_after: int = 10**9, **fingerprint: str) -> None:
        self.fingerprint = {"sampler": "echo", **fingerprint}
        self.left = fails_after
        self.seen: list[Request] = []

    def sample(self, requests: Sequence[Request]) -> list[Answer]:
        if self.left < 1:
            raise KeyboardInterrupt
        self.left -= 1
        self.seen += requests
        return [self.answer(request) for request in requests]

    @staticmethod
    def answer(request: Request) -> Answer:
        number = request.seed % 5
        said = (
            request.prompt
            if isinstance(request.prompt, str)
            else "/".join(m["content"] for m in request.prompt)
        )
        return Answer(
            f"{said} {number}" if number else "",
            "length" if number == 1 else "stop",
            -float(number),
            number,
        )


def prompts(count: int = 40, seed: int = 0) -> pl.DataFrame:
    draw = random.Random(seed)
    texts = [
        "".join(draw.choice("abcdefgh ") for _ in range(draw.randint(1, 30))) + str(i)
        for i in range(count)
    ]
    return pl.DataFrame(
        {
            "prompt": texts,
            "id": [f"id-{i}" for i in range(count)],
            "topic": [i % 7 for i in range(count)],
        }
    )


def read(path: Path) -> pl.DataFrame:
    return pl.read_parquet(path)
