"""The traps of rows: order, duplicates, empties, code that is not asked for."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pools
import pytest

torch = pytest.importorskip("torch", reason="needs the extra prefmill[score]")

transformers = pytest.importorskip("transformers", reason="needs the extra prefmill[score]")

from prefmill.errors import BadInput  # noqa: E402
from prefmill.scoring import RewardModel, attention  # noqa: E402
from prefmill.scoring.engine import ScoresDiffer  # noqa: E402

pytestmark = pytest.mark.score

pools.one_thread()


def fresh(family: str, **options: Any) -> RewardModel:
    """A scorer that no other test sees, so that its engine may be broken."""
    scorer = RewardModel(model=pools.reward(family), device="cpu", **options)
    scorer.load()
    return scorer


# -- 19: code of strangers, and the check of the first chunk


def test_trap_19_code_in_the_folder_is_not_run_unasked(tmp_path: Path) -> None:
    folder = shutil.copytree(pools.reward("llama"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "strange"
    config["auto_map"] = {
        "AutoConfig": "strange.StrangeConfig",
        "AutoModelForSequenceClassification": "strange.StrangeModel",
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "strange.py").write_text("raise SystemExit('code of a stranger was run')\n")
    for use in (lambda s: s.load(), lambda s: s(pools.batch(pools.POOL))):
        with pytest.raises(BadInput, match=r"(?s)custom code.*Hint: --trust-remote-code"):
            use(RewardModel(model=folder, device="cpu"))


@pytest.mark.parametrize("share", ["auto", "off"])
def test_trap_19_the_first_chunk_is_checked(share: str) -> None:
    """Attention that goes wrong only for longer rows than the probe's: nothing comes out of it."""
    scorer = fresh("llama", share_prefix=share)

    def broken(module: Any, query: Any, key: Any, value: Any, mask: Any, **more: Any) -> Any:
        out, _ = attention.segments(module, query, key, value, mask, **more)
        out[:, 60:] *= 1.05
        return out, None

    transformers.AttentionInterface.register("prefmill_broken", broken)
    scorer.engines[0].streams.form = "prefmill_broken"
    with pytest.raises(
        ScoresDiffer,
        match=r"packed and single scores differ; got .* expected the same but for "
        r"rounding\.\nHint: ",
    ):
        scorer(pools.batch(pools.POOL))
    with pytest.raises(ScoresDiffer):
        scorer(pools.batch(pools.POOL))
    scorer.engines[0].streams.form = attention.SEGMENTS
    pools.assert_close(
        scorer(pools.batch(pools.POOL)), pools.oracle(pools.reward("llama"), pools.POOL)
    )


# -- 20: order, fan-out, empties, long rows


@pytest.mark.parametrize("family", ["llama", "bert", "dynamic-rope"])
def test_trap_20_order_duplicates_and_empties(family: str) -> None:
    folder = pools.reward(family)
    rows = [*pools.POOL, *pools.POOL[::-1], *pools.POOL[:5]]
    scorer = pools.scorer(folder)
    done = scorer.run(scorer.prepare(pools.batch(rows)))
    got = done.columns["score"]
    assert (got[:12] == got[12:24][::-1]).all()
    assert (got[:5] == got[24:]).all()
    distinct = len(set(pools.POOL))
    assert done.counts["duplicates"] == len(rows) - distinct
    assert done.counts["tokens_run"] <= sum(
        len(pools.ids_of(scorer.encoder.tokenizer, *row)) for row in set(pools.POOL)
    )
    shuffled = np.random.default_rng(0).permutation(len(rows))
    pools.assert_close(scorer(pools.batch([rows[i] for i in shuffled])), got[shuffled])


def test_trap_20_no_rows_at_all() -> None:
    scorer = pools.scorer(pools.reward("llama"))
    done = scorer.run(scorer.prepare(pools.batch([])))
    assert done.columns["score"].shape == (0,)
    assert done.null is None


def test_trap_20_null_text_is_an_error_with_its_row() -> None:
    import pyarrow as pa

    scorer = pools.scorer(pools.reward("llama"))
    for prompt, completion, row, column in (
        (["a", None], ["b", "c"], 1, "prompt"),
        (["a"], pa.array([None], pa.string()), 0, "completion"),
    ):
        with pytest.raises(BadInput, match=f"row {row} has no {column}"):
            scorer.prepare(pa.record_batch({"prompt": prompt, "completion": completion}))


def test_trap_20_messages_and_texts_give_the_same_ids() -> None:
    """A text is one message; ShareGPT's words are read; arrow makes missing keys null."""
    import pyarrow as pa

    scorer = pools.scorer(pools.reward("llama"))
    prompts = [[{"from": "human", "value": "Hi"}], [{"from": "human", "value": "Ho"}]]
    lists = pa.record_batch(
        {
            "prompt": prompts,
            "completion": [[{"from": "gpt", "value": "Yo"}], [{"from": "gpt", "value": ""}]],
        }
    )
    texts = pa.record_batch({"prompt": ["Hi", "Ho"], "completion": ["Yo", ""]})
    a, b = scorer.prepare(lists).encoded.rows, scorer.prepare(texts).encoded.rows
    assert a.ids.tolist() == b.ids.tolist()
    with pytest.raises(BadInput, match="row 0 has a message 1 without a role"):
        scorer.prepare(pa.record_batch({"prompt": [[{"content": "Hi"}]], "completion": ["Yo"]}))


def test_trap_20_a_row_of_20_thousand_tokens() -> None:
    folder = pools.reward(
        "llama",
        max_position_embeddings=32768,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    rows = [("Hi", "short"), ("Hi", "abc " * 5000), ("Hi", "abd")]
    scorer = RewardModel(model=folder, device="cpu")
    done = scorer.run(scorer.prepare(pools.batch(rows)))
    assert done.counts["tokens"] > 20_000
    pools.assert_close(done.columns["score"], pools.oracle(folder, rows))


# -- 22: many lengths in one process


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("form", ["segments", "blockmask"])
def test_trap_22_many_lengths_in_one_process(form: str) -> None:
    scorer, folder = fresh("llama"), pools.reward("llama")
    scorer.engines[0].streams.form = f"prefmill_{form}"
    rows = [("Hi", "abcdefg hijklmnop "[i % 18] * i) for i in range(70)]
    wanted = pools.oracle(folder, rows)
    streams = set()
    for i in range(70):
        prepared = scorer.prepare(pools.batch(rows[i : i + 1]))
        streams |= {len(stream) for stream in prepared.works[0].streams}
        pools.assert_close(
            scorer.run(prepared).columns["score"], wanted[[i]], f"length {i}", pool=wanted
        )
    assert len(streams) == 70


def test_nothing_warns() -> None:
    """Loading and scoring say nothing that a user would have to read."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for family in ("llama", "gemma2", "bert"):
            fresh(family)(pools.batch(pools.POOL))
