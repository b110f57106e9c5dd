"""The cache of scores: a grown pool runs its new rows only."""

from __future__ import annotations

import functools
import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pools
import pyarrow as pa
import pytest

from prefmill.errors import BadInput
from prefmill.scoring.cache import ScoreCache, content_key
from prefmill.scoring.scorers import as_scorer

torch = pytest.importorskip("torch", reason="needs the extra prefmill[score]")

transformers = pytest.importorskip("transformers", reason="needs the extra prefmill[score]")

from prefmill.scoring import LogProb, RewardModel  # noqa: E402

pytestmark = pytest.mark.score

pools.one_thread()

BATCH = pa.record_batch(
    {"prompt": ["p", "p", "q"], "completion": ["a", "bcd", "ef"], "group": [0, 0, 1]}
)


def run(scorer: Any, batch: pa.RecordBatch = BATCH) -> Any:
    staged = as_scorer(scorer)
    return staged.run(staged.prepare(batch))


# -- the cache


def cached(folder: Path, rows: list[pools.Row], model: str = "llama", **options: Any) -> Any:
    return run(
        RewardModel(model=pools.reward(model), device="cpu", cache=folder, **options),
        pools.batch(rows),
    )


def test_a_grown_pool_runs_its_new_rows_only(tmp_path: Path) -> None:
    first = cached(tmp_path, pools.POOL[:8])
    assert first.counts["cached"] == 0
    again = cached(tmp_path, pools.POOL[:8])
    assert again.counts["cached"] == 8
    assert again.counts["tokens_run"] == 0
    assert (again.columns["score"] == first.columns["score"]).all()
    grown = cached(tmp_path, pools.POOL[::-1])
    assert grown.counts["cached"] == 8
    assert 0 < grown.counts["tokens_run"] < grown.counts["tokens"]
    assert (grown.columns["score"][::-1][:8] == first.columns["score"]).all(), (
        "bitwise as first written"
    )
    pools.assert_close(
        grown.columns["score"][::-1], pools.oracle(pools.reward("llama"), pools.POOL)
    )


def test_the_group_and_the_place_of_a_row_do_not_matter(tmp_path: Path) -> None:
    cached(tmp_path, pools.POOL)
    scorer = RewardModel(model=pools.reward("llama"), device="cpu", cache=tmp_path)
    alone = scorer.run(scorer.prepare(pools.batch(pools.POOL[5:6], prompts_are_groups=False)))
    assert alone.counts["cached"] == 1


def test_another_way_of_scoring_has_a_file_of_its_own(tmp_path: Path) -> None:
    template = tmp_path / "t.jinja"
    template.write_text("{% for m in messages %}{{ m['content'] }}|{% endfor %}")
    cache = tmp_path / "cache"
    ways = [
        {},
        {"dtype": "bfloat16"},
        {"template": "concat"},
        {"template": str(template)},
        {"pooling": "last"},
        {"max_length": 200},
        {"on_too_long": "truncate"},
        {"model": "mistral"},
        {"label": 0},
    ]
    for number, way in enumerate(ways, 1):
        assert cached(cache, pools.POOL[:4], **way).counts["cached"] == 0, way
        assert len(list(cache.glob("*.sqlite"))) == number
    for way in ways:
        assert cached(cache, pools.POOL[:4], **way).counts["cached"] == 4, way
    template.write_text("{% for m in messages %}{{ m['content'] }}#{% endfor %}")
    assert cached(cache, pools.POOL[:4], template=str(template)).counts["cached"] == 0


def test_settings_that_move_the_last_bit_only_share_a_file(tmp_path: Path) -> None:
    first = cached(tmp_path, pools.POOL)
    other = cached(tmp_path, pools.POOL, share_prefix="off", batch_tokens=64)
    assert other.counts["cached"] == len(pools.POOL)
    assert (other.columns["score"] == first.columns["score"]).all()
    # A row that is too long has no score, whether it is an error or null: no other row has another
    # one for it.
    assert cached(tmp_path, pools.POOL, on_too_long="null").counts["cached"] == len(pools.POOL)


def test_another_model_under_the_same_name(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(pools.reward("llama"), folder)
    options = {"device": "cpu", "cache": tmp_path / "cache"}
    first = run(RewardModel(model=folder, **options), pools.batch(pools.POOL))
    shutil.copy(pools.reward("llama", 7) / "model.safetensors", folder)
    second = run(RewardModel(model=folder, **options), pools.batch(pools.POOL))
    assert second.counts["cached"] == 0
    assert (first.columns["score"] != second.columns["score"]).all()
    (folder / "README.md").write_text("a note changes nothing")
    assert run(RewardModel(model=folder, **options), pools.batch(pools.POOL)).counts[
        "cached"
    ] == len(pools.POOL)


def test_log_probabilities_keep_both_columns(tmp_path: Path) -> None:
    scorer = {"model": pools.causal("llama"), "device": "cpu", "cache": tmp_path}
    first, second = (run(LogProb(**scorer), pools.batch(pools.POOL)) for _ in range(2))
    assert second.counts["cached"] == len(pools.POOL)
    for name in ("score", "mean"):
        assert (first.columns[name] == second.columns[name]).all()


def test_rows_that_are_too_long_or_broken_are_not_kept(tmp_path: Path) -> None:
    rows = [("Hi", "short"), ("Hi", "long " * 30), ("Ho", "fits")]
    for known in (0, 2):
        done = cached(tmp_path, rows, max_length=40, on_too_long="null")
        assert done.counts["cached"] == known
        assert done.null.tolist() == [False, True, False]
    model, tok = pools.plain(pools.reward("llama"))
    broken = type(model)(model.config)
    broken.load_state_dict(model.state_dict())
    with torch.no_grad():
        broken.get_input_embeddings().weight[tok.convert_tokens_to_ids("f")] = float("nan")
    broken.save_pretrained(tmp_path / "broken")
    tok.save_pretrained(tmp_path / "broken")
    for known in (0, 2):
        scorer = RewardModel(model=tmp_path / "broken", device="cpu", cache=tmp_path / "cache")
        done = run(scorer, pools.batch([("a", "b"), ("a", "f"), ("c", "d")]))
        assert np.isnan(done.columns["score"]).tolist() == [False, True, False]
        assert done.counts["cached"] == known


def test_values_stay_as_first_written(tmp_path: Path) -> None:
    """Two runs that score a row at once agree up to rounding: the bits of the first stay."""
    key = content_key(b"row")
    first, second = (ScoreCache(tmp_path, {"a": "b"}) for _ in range(2))
    assert not second.get([key], 2)[0].any()
    first.put([key], np.array([[0.1, -0.0]]))
    second.put([key, content_key(b"other")], np.array([[0.1 + 1e-12, 0.0], [5e-324, 1e308]]))
    for cache in (first, second):
        known, values = cache.get([key, content_key(b"third"), content_key(b"other")], 2)
        assert known.tolist() == [True, False, True]
        assert values[[0, 2]].tobytes() == np.array([[0.1, -0.0], [5e-324, 1e308]]).tobytes()
        cache.close()


def test_many_keys(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path, {})
    keys = [content_key(str(i).encode()) for i in range(1201)]
    cache.put(keys[::2], np.arange(0, 1201, 2, dtype=np.float64)[:, None])
    known, values = cache.get(keys, 1)
    assert known.tolist() == [i % 2 == 0 for i in range(1201)]
    assert values[::2, 0].tolist() == list(range(0, 1201, 2))
    cache.close()


WRITER = """
import sys, numpy as np
from pathlib import Path
from prefmill.scoring.cache import ScoreCache, content_key
cache, me = ScoreCache(Path(sys.argv[1]), {"scorer": "test"}), float(sys.argv[2])
for i in range(60):
    keys = [content_key(f"{i} {j}".encode()) for j in range(20)]
    known, values = cache.get(keys, 1)
    new = np.flatnonzero(~known)
    cache.put([keys[k] for k in new], np.full((len(new), 1), i + me / 8))
cache.close()
"""


def test_two_processes_at_once(tmp_path: Path) -> None:
    """Each chunk is whole, nothing is lost, nobody fails on a lock."""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(me)], stderr=subprocess.PIPE
        )
        for me in (1, 2)
    ]
    for writer in writers:
        _, said = writer.communicate(timeout=60)
        assert writer.returncode == 0, said.decode()
    cache = ScoreCache(tmp_path, {"scorer": "test"})
    for i in range(60):
        known, values = cache.get([content_key(f"{i} {j}".encode()) for j in range(20)], 1)
        assert known.all()
        assert set(values[:, 0].tolist()) in ({i + 0.125}, {i + 0.25})
    cache.close()


def test_a_new_cache_that_another_process_is_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When two make a write-ahead log of one new file, SQLite tells one at once that it is locked,
    whatever its timeout: we wait.
    """
    refusals = iter(range(3))

    class Busy(sqlite3.Connection):
        def execute(self, sql: str, *more: Any) -> sqlite3.Cursor:
            if "journal_mode" in sql and next(refusals, None) is not None:
                raise sqlite3.OperationalError("database is locked")
            return super().execute(sql, *more)

    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Busy))
    cache = ScoreCache(tmp_path, {})
    assert next(refusals, None) is None, "it was refused three times"
    cache.put([content_key(b"row")], np.ones((1, 1)))
    assert cache.get([content_key(b"row")], 1)[0].all()
    cache.close()


def test_a_cache_that_cannot_be_used(tmp_path: Path) -> None:
    cached(tmp_path / "cache", pools.POOL[:2])
    [file] = (tmp_path / "cache").glob("*.sqlite")
    for more in tmp_path.glob("cache/*-wal"):
        more.unlink()
    file.write_bytes(b"no database " * 1000)
    with pytest.raises(
        BadInput, match=r"score: the cache in .* cannot be used; .*\nHint: name another folder"
    ):
        cached(tmp_path / "cache", pools.POOL[:2])
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        BadInput, match=r"score: the cache in .* cannot be used; .*\nHint: name another folder"
    ):
        cached(tmp_path / "file", pools.POOL[:2])


def test_the_cache_tells_what_it_holds(tmp_path: Path) -> None:
    cached(tmp_path, pools.POOL[:2])
    [file] = tmp_path.glob("*.sqlite")
    with sqlite3.connect(file) as con:
        [(told,)] = con.execute("SELECT fingerprint FROM about").fetchall()
    con.close()
    assert json.loads(told)["dtype"] == "float32"
