"""A run in batches is killed at every word that it says to the server, and goes on: nothing is
lost, nothing is asked twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import batch_serving
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from batch_serving import BatchServer, chat_body

pytest.importorskip("httpx2", reason="needs the extra prefmill[endpoint]")

POOL = pa.table(
    {
        "prompt": [f"question {i // 2}?" for i in range(10)],
        "completion": [f"answer {'x' * i}" for i in range(10)],
    }
)
RUN = """
import sys
import prefmill as pm
sampler = pm.BatchSampler(
    url=sys.argv[1], model="m", poll=0.01, backoff=0.01, batch_requests=5, retries=2
)
judge = pm.JudgeScorer(sampler=sampler, rubric="{prompt} {completion}")
print("ready", flush=True)
pm.score(sys.argv[2], sys.argv[3], scorer=judge)
"""


def rating(body: Any) -> tuple[int, Any]:
    return 200, chat_body(str(len(body["messages"][-1]["content"]) % 10 + 1))


class Killer:
    """Kills the client at one word to the server, before or after the server has done it."""

    def __init__(self, state: BatchServer, pool: Path, out: Path, url: str) -> None:
        self.state, self.arguments = state, [url, str(pool), str(out)]
        self.at: tuple[int, str] | None = None
        self.process: subprocess.Popen[str] | None = None
        state.faults = self.fault

    def fault(self, place: int, when: str, path: str) -> None:
        if (place, when) == self.at and self.process is not None:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()
            raise ConnectionError

    def run(self, at: tuple[int, str] | None) -> int:
        """The exit code: -9 where it was killed."""
        self.at = at
        self.state.calls.clear()
        self.process = subprocess.Popen([sys.executable, "-c", RUN, *self.arguments])
        return self.process.wait(120)


def scores(path: Path) -> list[float]:
    return pq.read_table(path)["score"].to_pylist()


TEXTS = [f"{row['prompt']} {row['completion']}" for row in POOL.to_pylist()]
EXPECTED = [float(len(text) % 10 + 1) for text in TEXTS]


def killed_at(places: list[tuple[int, str]], folder: Path, **server: Any) -> BatchServer:
    """Each life is killed at one of `places`; the last one is left in peace."""
    state = BatchServer(rating, **server)
    pool, out = folder / "pool.parquet", folder / "out.parquet"
    pq.write_table(POOL, pool)
    with batch_serving.serve(state) as url:
        killer = Killer(state, pool, out, url)
        for place in places:
            code = killer.run(place)
            assert code in (0, -signal.SIGKILL)
            assert out.exists() == (code == 0)
        assert killer.run(None) == 0
    assert scores(out) == EXPECTED
    return state


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_while_it_asks_for_the_batch(when: str, tmp_path: Path) -> None:
    """The second word is the batch itself: the next life finds out whether the server has it."""
    state = killed_at([(2, when)], tmp_path)
    assert set(state.asked.values()) == {1}
    assert len(state.batches) == 2


def test_a_server_that_cannot_say_what_it_has_is_asked_again(tmp_path: Path) -> None:
    """What cannot be excluded, as the documentation says: five requests were sent twice."""
    state = killed_at([(2, "after")], tmp_path, lists=False)
    assert len(state.batches) == 3


@pytest.mark.torture
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_every_word(when: str, tmp_path: Path) -> None:
    for place in range(1, 13):
        folder = tmp_path / str(place)
        folder.mkdir()
        state = killed_at([(place, when)], folder)
        assert set(state.asked.values()) == {1}, place


@pytest.mark.torture
def test_killed_at_every_word_of_one_run(tmp_path: Path) -> None:
    """Life after life, each a word further than the one before."""
    places = [(place, when) for place in range(1, 10) for when in ("before", "after")]
    state = killed_at(places, tmp_path, looks=3)
    assert set(state.asked.values()) == {1}
