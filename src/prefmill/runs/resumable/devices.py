"""Chunks of a pool on one device, in threads; on several devices, in a process each.

pool ──chunks (own thread)──▶ tokens (own thread) ──▶ scorer ──▶ commit (own thread)
"""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from prefmill.disk.ledger import chunk_name, write_chunk
from prefmill.disk.stores import Store
from prefmill.errors import BadRow, ScorerDied
from prefmill.isolation import portable
from prefmill.pools.pool import Chunk, Pool
from prefmill.pools.stream import ahead
from prefmill.runs.resumable.chunks import FIRST
from prefmill.scoring.bad_rows import RowGuard
from prefmill.scoring.scorers import Scored
from prefmill.scoring.stream import score_arrays

Commit = Callable[[int, Mapping[str, pa.Array], Mapping[str, int]], None]
#: Called after every chunk, with its rows and its tokens.
Done = Callable[[int, int], None]


def score_chunks(
    pool: Pool,
    guard: RowGuard,
    numbers: Sequence[int],
    home: Path,
    commit: Commit,
    done: Done | None = None,
) -> float:
    """Score the chunks `numbers` and commit each; seconds inside the scorer.

    Reading and tokenising run ahead. Scores leave the device and go to the disk while the next
    chunk runs.
    """
    guard.scorer.load()  # an error of loading comes before anything is read
    waiting: deque[tuple[Chunk, Future[int]]] = deque()

    def settle(most: int) -> None:
        """Wait until at most so many chunks are on their way."""
        while len(waiting) > most:
            chunk, delivery = waiting.popleft()
            with naming_rows(pool, chunk, home):
                tokens = delivery.result()
            if done is not None:
                done(len(chunk.positions), tokens)

    inside = 0.0
    prepared = ahead(_prepared(pool, guard, numbers, home), name="prefmill-tokenise")
    with ThreadPoolExecutor(1, thread_name_prefix="prefmill-commit") as committer:
        for chunk, work in prepared:
            began = time.perf_counter()
            settle(1)
            with naming_rows(pool, chunk, home):
                fetch = guard.start(work)
            inside += time.perf_counter() - began
            waiting.append((chunk, committer.submit(_deliver, chunk, fetch, commit)))
        began = time.perf_counter()
        settle(0)
        inside += time.perf_counter() - began
    return inside


def _prepared(
    pool: Pool, guard: RowGuard, numbers: Sequence[int], home: Path
) -> Iterator[tuple[Chunk, Any]]:
    for chunk in ahead(pool.chunks(numbers, home), name="prefmill-read"):
        with naming_rows(pool, chunk, home):
            work = guard.prepare(chunk.batch)
        yield chunk, work


@contextmanager
def naming_rows(pool: Pool, chunk: Chunk, home: Path) -> Iterator[None]:
    """A bad row of the chunk, as its owner knows it."""
    try:
        yield
    except BadRow as error:
        raise error.named(pool.name_of(int(chunk.positions[error.row]), home)) from error


def _deliver(chunk: Chunk, fetch: Callable[[], Scored], commit: Commit) -> int:
    """Commit a chunk; its tokens."""
    columns, counts = columns_of(chunk, fetch())
    commit(chunk.number, columns, counts)
    return counts.get("tokens", 0)


def columns_of(chunk: Chunk, scored: Scored) -> tuple[dict[str, pa.Array], dict[str, int]]:
    """A chunk's columns as the ledger keeps them, and what was counted in it."""
    counts = dict(scored.counts)
    for row, reason in enumerate(scored.reasons):
        if reason is not None:
            counts[f"null:{reason}"] = counts.get(f"null:{reason}", 0) + 1
            at = int(chunk.positions[row])
            counts[FIRST + reason] = min(counts.get(FIRST + reason, at), at)
    rows = len(chunk.positions)
    arrays = score_arrays(scored, np.arange(rows), rows)
    names = (*scored.columns, *scored.lists, *scored.texts)
    return dict(zip(names, arrays, strict=True)), counts


def score_on_devices(
    pool: Pool,
    guards: Sequence[tuple[str, RowGuard]],
    numbers: Sequence[int],
    home: Path,
    store: Store,
    done: Done,
) -> dict[str, None]:
    """Score the chunks `numbers` on several devices, one process each; how they ran.

    Chunks are dealt out in turn, so that a device's chunks lie all over the input. The first error
    ends the others: what they have committed to `store` is kept.
    """
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    messages = context.SimpleQueue()
    workers: dict[str, Any] = {}
    for place, (device, guard) in enumerate(guards):
        mine = list(numbers[place :: len(guards)])
        arguments = (pool, guard, mine, home, store, messages)
        workers[f"{place}: {device}"] = context.Process(
            target=_on_one_device, args=arguments, name=device
        )
    ways: dict[str, None] = {}
    left = set(numbers)
    try:
        for worker in workers.values():
            worker.start()
        while workers:
            wait([worker.sentinel for worker in workers.values()], timeout=0.5)
            ended = [name for name, worker in workers.items() if worker.exitcode is not None]
            while not messages.empty():
                message = messages.get()
                if isinstance(message, BaseException):
                    raise message
                ways[message] = None
            for name in ended:
                _refuse_death(workers.pop(name))
            there = set(store.names())
            committed = {number for number in left if chunk_name(number) in there}
            left -= committed
            for number in sorted(committed):
                done(int(pool.sizes[number]), 0)
    finally:
        _end([worker for worker in workers.values() if worker.pid is not None])
    return ways


def guards_on(devices: Sequence[str], guard: RowGuard) -> list[tuple[str, RowGuard]]:
    """The same scorer on each device."""
    return [(device, replace(guard, scorer=guard.scorer.on_device(device))) for device in devices]


def _refuse_death(worker: Any) -> None:
    if worker.exitcode:
        raise ScorerDied(
            f"score: the process on {worker.name} died; got exit code {worker.exitcode}.",
            hint="out of memory, often; the same command goes on where it was.",
        )


def _end(workers: Sequence[Any]) -> None:
    """End processes that nobody waits for: a chunk is committed whole or not at all."""
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join(5)
        if worker.exitcode is None:
            worker.kill()
            worker.join()


def _on_one_device(
    pool: Pool, guard: RowGuard, numbers: list[int], home: Path, store: Store, messages: Any
) -> None:
    """A worker's whole life: its chunks, written where the ledger looks for them.

    `messages` gets how they ran, or the error.
    """
    parent = os.getppid()

    def commit(number: int, columns: Mapping[str, pa.Array], counts: Mapping[str, int]) -> None:
        write_chunk(store, number, columns, counts)
        if os.getppid() != parent:  # it was killed: nobody will use what comes
            os._exit(1)

    scratch = home / f"device-{os.getpid()}"
    scratch.mkdir()
    try:
        score_chunks(pool, guard, numbers, scratch, commit)
        messages.put(guard.scorer.load())
    except BaseException as error:
        # A traceback does not go to another process.
        error.add_note("".join(traceback.format_exception(error)))
        messages.put(portable(error))
        raise SystemExit(1) from None
