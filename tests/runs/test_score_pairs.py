"""`prefmill.score` over pairs: both sides have a score, and every pair stays where it was."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from scored import length, pool

import prefmill as pm
from prefmill.errors import BadArgument, BadRow, ColumnMissing, RunDiffers
from prefmill.scoring.scorers import Scored

MADE = ["chosen_score", "rejected_score"]


def pairs(prompts: int = 40, seed: int = 0) -> pl.DataFrame:
    """Pairs whose prompts, and whose texts, come again in other pairs."""
    draw = random.Random(seed)
    texts = pool(prompts, seed).group_by("prompt", maintain_order=True).agg("completion")
    rows = []
    for prompt, answers in texts.iter_rows():
        for _ in range(draw.randint(1, 4)):
            rows.append((prompt, draw.choice(answers), draw.choice(answers), len(rows)))
    draw.shuffle(rows)
    return pl.DataFrame(rows, schema=["prompt", "chosen", "rejected", "number"], orient="row")


def expected(frame: pl.DataFrame, side: str) -> list[float]:
    prompts, texts = frame["prompt"].str.len_chars(), frame[side].str.len_chars()
    return (prompts * 1000.0 + texts).to_list()


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "csv"])
def test_both_sides_have_the_score_of_their_text(ending: str, tmp_path: Path) -> None:
    frame, file = pairs(), tmp_path / f"pairs.{ending}"
    {"parquet": frame.write_parquet, "jsonl": frame.write_ndjson, "csv": frame.write_csv}[ending](
        file
    )
    done = pm.score(file, tmp_path / "out.parquet", scorer=length, chunk_rows=7)
    out = pl.read_parquet(tmp_path / "out.parquet")
    assert out.columns == [*frame.columns, *MADE]
    assert out.select("prompt", "chosen", "rejected").rows() == frame.drop("number").rows()
    assert [out[f"{side}_score"].to_list() for side in ("chosen", "rejected")] == [
        expected(frame, side) for side in ("chosen", "rejected")
    ]
    assert (done.rows_in, done.rows_scored) == (2 * frame.height, 2 * frame.height)
    assert done.columns == tuple(MADE)
    assert done.notes[0].startswith(f"chosen and rejected of {frame.height} records are scored")


def test_a_prompt_reaches_the_scorer_whole(tmp_path: Path) -> None:
    """As of a pool: shared prefixes, and texts that come twice, are the scorer's to find."""
    seen: list[str] = []

    def scorer(batch: pa.RecordBatch) -> list[float]:
        assert batch.schema.names == ["prompt", "completion", "group", "number"]
        seen.extend(dict.fromkeys(batch["prompt"].to_pylist()))
        return length(batch)

    pm.score(pairs(), tmp_path / "out.parquet", scorer=scorer, chunk_rows=7)
    assert len(seen) == len(set(seen)) == pairs()["prompt"].n_unique()


def test_old_scores_stay_under_another_name(tmp_path: Path) -> None:
    frame = pairs(5).with_columns(chosen_score=pl.lit(5), rejected_score=pl.lit(1))
    done = pm.score(frame, tmp_path / "out.parquet", scorer=length)
    out = pl.read_parquet(tmp_path / "out.parquet")
    assert out.columns == [*pairs(5).columns, *(f"{name}_in" for name in MADE), *MADE]
    assert out["chosen_score_in"].unique().to_list() == [5]
    assert "'chosen_score' is 'chosen_score_in'" in " ".join(done.notes)
    with pytest.raises(BadArgument, match=r"already has the columns \['chosen_score_in'"):
        pm.score(out, tmp_path / "again.parquet", scorer=length)
    pm.score(out, tmp_path / "again.parquet", scorer=length, score_column="rm")
    assert pl.read_parquet(tmp_path / "again.parquet").columns[-2:] == ["chosen_rm", "rejected_rm"]


class Told:
    """A scorer of two numbers and a text."""

    columns, texts = ("score", "mean"), ("word",)
    fingerprint: ClassVar[dict[str, str]] = {"told": "1"}
    prepare = staticmethod(lambda batch: batch)

    def run(self, batch: pa.RecordBatch) -> Scored:
        words = batch["completion"].to_pylist()
        numbers = {"score": np.array(length(batch)), "mean": np.ones(batch.num_rows)}
        return Scored(numbers, texts={"word": words})


def test_several_columns_of_a_scorer_stand_side_by_side(tmp_path: Path) -> None:
    frame = pairs()
    pm.score(frame, tmp_path / "out.parquet", scorer=Told())
    out = pl.read_parquet(tmp_path / "out.parquet")
    sides = ("chosen", "rejected")
    made = [f"{side}_score{more}" for more in ("", "_mean", "_word") for side in sides]
    assert out.columns == [*frame.columns, *made]
    assert [out[f"{side}_score_word"].to_list() for side in sides] == [
        frame[side].to_list() for side in sides
    ]


def test_any_answers_side_by_side(tmp_path: Path) -> None:
    frame = pairs(5).rename({"chosen": "a", "rejected": "b"}).with_columns(c=pl.lit("xyz"))
    roles: Any = {"completion": "a,b,c"}
    pm.score(frame, tmp_path / "out.parquet", scorer=length, roles=roles)
    out = pl.read_parquet(tmp_path / "out.parquet")
    assert out.columns == [*frame.columns, "a_score", "b_score", "c_score"]
    assert out["b_score"].to_list() == expected(frame, "b")


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def said(batch: pa.RecordBatch) -> list[float]:
    """The turns of the prompt, and after the point those of the answer."""
    lengths = zip(*(batch[name].to_pylist() for name in ("prompt", "completion")), strict=True)
    return [len(prompt) + len(answer) / 10 for prompt, answer in lengths]


def test_whole_conversations_are_cut_where_they_part(tmp_path: Path) -> None:
    turns = [user("q"), assistant("a"), user("r")]
    rows = {
        "chosen": [[*turns, assistant("yes")], [user("q"), assistant("1")]],
        "rejected": [[*turns, assistant("no"), user("why")], [user("q"), assistant("2")]],
    }
    pm.score(pl.DataFrame(rows), tmp_path / "out.parquet", scorer=said)
    assert pl.read_parquet(tmp_path / "out.parquet").select(MADE).rows() == [(3.1, 3.2), (1.1, 1.1)]


def test_texts_of_hh_are_conversations(tmp_path: Path) -> None:
    start = "\n\nHuman: q\n\nAssistant: a\n\nHuman: r\n\nAssistant:"
    rows = {"chosen": [f"{start} yes"], "rejected": [f"{start} no\n\nHuman: why"]}
    common: Any = {"prompt": "common"}
    pm.score(pl.DataFrame(rows), tmp_path / "out.parquet", scorer=said, roles=common)
    assert pl.read_parquet(tmp_path / "out.parquet").rows() == [
        (rows["chosen"][0], rows["rejected"][0], 3.1, 3.2)
    ]


def test_nulls_and_bad_rows_are_named_by_pair_and_side(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    frame = pl.DataFrame(
        {"prompt": ["p", None, "q"], "chosen": ["a", "b", None], "rejected": ["c", "d", "bad"]}
    ).with_columns(id=pl.format("pair-{}", pl.int_range(pl.len())))
    frame.write_ndjson(file)

    def scorer(batch: pa.RecordBatch) -> list[float]:
        texts = batch["completion"].to_pylist()
        return [float("nan") if text == "bad" else 1.0 for text in texts]

    with pytest.raises(BadRow, match=r"row 2 of .*pairs.jsonl' \(id 'pair-2'\), rejected"):
        pm.score(file, tmp_path / "out.parquet", scorer=scorer)
    done = pm.score(file, tmp_path / "out.parquet", scorer=scorer, on_bad_row="null")
    assert done.null == {"null_prompt": 2, "null_completion": 1, "not_finite": 1}
    assert done.first_null == {"not_finite": f"row 2 of '{file}' (id 'pair-2'), rejected"}
    out = pl.read_parquet(tmp_path / "out.parquet").select(MADE)
    assert out.rows() == [(1.0, 1.0), (None, None), (None, None)]


@pytest.mark.parametrize("layout", ["llama-factory", "instruction", "openrlhf", "trl-implicit"])
def test_every_layout_of_pairs_stays_what_it_is(layout: str, tmp_path: Path) -> None:
    options: Any = {"format": layout, "chat": layout in ("llama-factory", "trl-implicit")}
    laid = tmp_path / "laid.parquet"
    pm.run(pm.Pairs(), _unequal(), laid, **options)
    frame = pl.read_parquet(laid)
    done = pm.score(laid, tmp_path / "out.parquet", scorer=_spelled)
    out = pl.read_parquet(tmp_path / "out.parquet")
    assert out.height == frame.height
    assert len(done.columns) == 2
    wanted = _unequal().select(pl.col("chosen", "rejected").str.len_chars().cast(pl.Float64))
    assert out.select(done.columns).rows() == wanted.rows()


def _unequal() -> pl.DataFrame:
    return pairs().filter(pl.col("chosen") != pl.col("rejected")).drop("number")


def _spelled(batch: pa.RecordBatch) -> list[float]:
    """Characters of the answer, as text or as one message."""
    texts = batch["completion"].to_pylist()
    return [float(len(text if isinstance(text, str) else text[0]["content"])) for text in texts]


def test_pairs_win_over_another_column_that_could_be_the_answer(tmp_path: Path) -> None:
    frame = pairs(5).with_columns(answer=pl.lit("gold"))
    done = pm.score(frame, tmp_path / "out.parquet", scorer=length)
    assert done.columns == tuple(MADE)
    named: Any = {"completion": "answer"}
    done = pm.score(frame, tmp_path / "named.parquet", scorer=length, roles=named)
    assert done.columns == ("score",)


def test_what_is_no_pair_is_said(tmp_path: Path) -> None:
    some: Any = {"where": "number=1"}
    with pytest.raises(BadArgument, match="records whose answers stand side by side stay as they"):
        pm.score(pairs(5), tmp_path / "out.parquet", scorer=length, roles=some)
    with pytest.raises(ColumnMissing, match="no column for the role 'prompt'"):
        pm.score(pairs(2).drop("prompt"), tmp_path / "out.parquet", scorer=length)
    with pytest.raises(ColumnMissing, match="no column 'nr'"):
        pm.score(pairs(2), tmp_path / "out.parquet", scorer=length, roles={"id": "nr"})


class Stops(Exception):
    """An interruption."""


def test_a_run_goes_on_and_another_input_is_refused(tmp_path: Path) -> None:
    frame, out, calls = pairs(), tmp_path / "out.parquet", [0]

    def scorer(batch: pa.RecordBatch) -> list[float]:
        calls[0] += 1
        if calls[0] == 4:
            raise Stops
        return length(batch)

    scorer.fingerprint = "length"  # type: ignore[attr-defined]
    with pytest.raises(Stops):
        pm.score(frame, out, scorer=scorer, chunk_rows=7)
    other = frame.with_columns(chosen=pl.col("rejected"), rejected=pl.col("chosen"))
    with pytest.raises(RunDiffers, match=r"another input.content"):
        pm.score(other, out, scorer=scorer, chunk_rows=7)
    done = pm.score(frame, out, scorer=scorer, chunk_rows=7)
    assert done.chunks_resumed == 3
    assert pl.read_parquet(out)["rejected_score"].to_list() == expected(frame, "rejected")


def test_killed_at_random_instants(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the extra prefmill[score]")
    import tiny_models

    model = tiny_models.save_reward_model("llama", tmp_path / "model")
    frame = pairs(100, seed=3)
    frame.write_parquet(tmp_path / "pairs.parquet")
    whole, out = tmp_path / "whole.parquet", tmp_path / "out.parquet"
    pm.score(frame, whole, scorer=pm.RewardModel(model=model), chunk_rows=6)
    runner = Path(__file__).parents[1] / "support" / "runners" / "kill_score.py"
    command = [sys.executable, runner, tmp_path / "pairs.parquet", out, model, "4", "7"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "killed 4" in done.stdout
    got, wanted = pl.read_parquet(out), pl.read_parquet(whole)
    assert got.select(frame.columns).rows() == frame.rows()
    for name in MADE:
        assert got[name].to_list() == pytest.approx(wanted[name].to_list(), abs=1e-5)
