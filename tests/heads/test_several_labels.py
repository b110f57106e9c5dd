"""Several labels of a model in one pass: a column each, and a score by weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pools
import pytest

torch = pytest.importorskip("torch", reason="needs the extra prefmill[score]")

from typer.testing import CliRunner  # noqa: E402

import prefmill as pm  # noqa: E402
from prefmill.cli.main import app  # noqa: E402
from prefmill.errors import BadArgument, BadInput  # noqa: E402
from prefmill.scoring import RewardModel  # noqa: E402

pytestmark = pytest.mark.score

pools.one_thread()

NAMES = {0: "helpful", 1: "honest and true", 2: "score", 3: 'a "b", c=d'}
FAMILIES = ["llama", "bert"]


def outputs(folder: Path) -> np.ndarray:
    """All outputs of the model for each row of the pool, one row at a time."""
    model, tok = pools.plain(folder)
    with torch.inference_mode():
        rows = [torch.tensor([pools.ids_of(tok, *row)]) for row in pools.POOL]
        return np.array([model(input_ids=ids).logits[0].tolist() for ids in rows])


def scored(folder: Path, **options: Any) -> dict[str, np.ndarray]:
    scorer = RewardModel(model=folder, device="cpu", **options)
    columns = scorer.run(scorer.prepare(pools.batch(pools.POOL))).columns
    assert tuple(columns) == scorer.columns
    return dict(columns)


def folder_of(family: str, problem_type: str | None = "regression") -> Path:
    more = {} if problem_type is None else {"problem_type": problem_type}
    return pools.reward(family, num_labels=4, **more)


def cli(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("invariant", [False, True])
def test_a_column_for_each(family: str, invariant: bool) -> None:
    """By name or number, in the order named; a label without a weight is a column all the same."""
    folder = folder_of(family)
    wanted = outputs(folder)
    labels = ["LABEL_2", 0, "1"]
    got = scored(folder, label=labels, weights={"LABEL_2": 0.7, "1": -0.3}, invariant=invariant)
    assert list(got) == ["score", "LABEL_2", "0", "1"]
    for name, number in (("LABEL_2", 2), ("0", 0), ("1", 1)):
        pools.assert_close(got[name], wanted[:, number], name)
    assert np.allclose(got["score"], 0.7 * got["LABEL_2"] - 0.3 * got["1"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_of_a_softmax_each_is_its_log_odds(family: str) -> None:
    folder = folder_of(family, None)
    probability = torch.tensor(outputs(folder), dtype=torch.float64).softmax(dim=1).numpy()
    got = scored(folder, label="all", weights={"LABEL_1": 1})
    assert list(got) == ["score", *(f"LABEL_{i}" for i in range(4))]
    for label in range(4):
        p = probability[:, label]
        pools.assert_close(got[f"LABEL_{label}"], np.log(p) - np.log1p(-p))
    assert (got["score"] == got["LABEL_1"]).all()
    assert (scored(folder, label="LABEL_1")["score"] == got["score"]).all()


def test_names_of_any_kind(tmp_path: Path) -> None:
    """Names are the columns' as they are; one that is called score stands apart from the score."""
    model, tok = pools.plain(folder_of("llama"))
    model = copy.deepcopy(model)
    model.config.id2label = NAMES
    model.save_pretrained(tmp_path / "model")
    tok.save_pretrained(tmp_path / "model")
    rows = pl.DataFrame({"prompt": ["p", "p"], "completion": ["a", "b"]})
    scorer = RewardModel(model=tmp_path / "model", device="cpu", label="all", weights={"score": 1})
    done = pm.score(rows, tmp_path / "out.parquet", scorer=scorer)
    names = ["helpful", "honest and true", "label_score", 'a "b", c=d']
    assert done.columns == ("score", *(f"score_{name}" for name in names))
    out = pl.read_parquet(tmp_path / "out.parquet")
    assert out["score"].to_list() == out["score_label_score"].to_list()
    # The weights alone name the labels too, and what was scored is a column for later weights.
    weights = {"score": 0.5, 'a "b", c=d': 2.0}
    got = scored(tmp_path / "model", weights=weights)
    assert list(got) == ["score", "label_score", 'a "b", c=d']
    named = {"score_helpful": 1.0, 'score_a "b", c=d': 0.5}
    plan = pm.Pairs(weights=named, chosen_min=None, rejected_below=None)
    pairs = pm.run(plan, out, tmp_path / "pairs.parquet")
    assert pairs.rows_in == 2


def test_command(tmp_path: Path) -> None:
    folder, pool = folder_of("llama"), tmp_path / "pool.parquet"
    pl.DataFrame(pools.POOL[:5], schema=["prompt", "completion"], orient="row").write_parquet(pool)
    base = ["score", str(pool), "-o", str(tmp_path / "out.parquet"), "--model", str(folder)]
    labels = ["--label", "LABEL_0", "--label", "LABEL_3"]
    weights = ["--weights", "LABEL_0=0.25,LABEL_3=2"]
    cache = ["--cache", str(tmp_path / "cache"), "--device", "cpu"]
    assert cli(*base, *labels, *weights, *cache).exit_code == 0
    out, wanted = pl.read_parquet(tmp_path / "out.parquet"), outputs(folder)[:5]
    pools.assert_close(out["score_LABEL_3"].to_numpy(), wanted[:, 3])
    pools.assert_close(out["score"].to_numpy(), 0.25 * wanted[:, 0] + 2 * wanted[:, 3])
    # Other weights are another score: the run is another one, and so is what the cache keeps.
    other = ["--weights", "LABEL_0=1"]
    refused = cli(*base, *labels, *other, *cache)
    assert refused.exit_code == 1
    assert "weights" in str(refused.exception)
    again = cli(*base, *labels, *other, *cache, "--overwrite")
    assert again.exit_code == 0, again.output
    changed = pl.read_parquet(tmp_path / "out.parquet")
    assert changed["score"].to_list() == out["score_LABEL_0"].to_list()
    # What is known is not run again, and has the same bits.
    third = cli(*base, *labels, *other, *cache, "--overwrite", "--json")
    assert '"cached": 5' in third.output
    assert pl.read_parquet(tmp_path / "out.parquet").equals(changed)


def test_refused(tmp_path: Path) -> None:
    folder = folder_of("llama")
    rows = pl.DataFrame({"prompt": ["p"], "completion": ["a"]})
    for label in (["LABEL_0", "LABEL_1"], "all"):
        scorer = RewardModel(model=folder, device="cpu", label=label)
        with pytest.raises(BadArgument, match=r"labels need weights.*\nHint: --weights NAME="):
            pm.score(rows, tmp_path / "out.parquet", scorer=scorer)
    for label, weights, problem in (
        (["a", "a"], {"a": 1}, "names one label twice"),
        (["a", "b"], {"c": 1}, r"weights are of labels that are not named; got \['c'\]"),
        (["a", "b"], {"a": np.nan}, "weights must be finite"),
        (["a", "b"], {"a": 0.0}, "weights must be finite numbers by label, not all of them 0"),
        (None, {}, "weights must be finite"),
        ([], None, "label must be names or numbers"),
        ([1.5], None, "label must be names or numbers"),
    ):
        with pytest.raises(BadArgument, match=problem):
            RewardModel(model=folder, label=label, weights=weights)
    for label, weights, problem in (
        (["LABEL_0", "0"], {"0": 1}, "one label is named twice"),
        (None, {"LABEL_9": 1}, "no label 'LABEL_9'"),
        ("all", {"LABEL_9": 1}, "no label 'LABEL_9'"),
    ):
        with pytest.raises((BadArgument, BadInput), match=problem):
            scored(folder, label=label, weights=weights)


def test_fingerprints() -> None:
    folder = folder_of("llama")
    prints = [
        RewardModel(model=folder, device="cpu", label=label, weights=weights).fingerprint
        for label, weights in (
            ("LABEL_0", None),
            ("LABEL_0", {"LABEL_0": 1}),
            ("LABEL_0", {"LABEL_0": 2}),
            (["LABEL_0", "LABEL_1"], {"LABEL_0": 1}),
            (["LABEL_1", "LABEL_0"], {"LABEL_0": 1}),
        )
    ]
    assert len({str(sorted(each.items())) for each in prints}) == len(prints)
    alone = RewardModel(model=folder, device="cpu", label=["LABEL_0"])
    assert alone.fingerprint["label"] == "LABEL_0" == prints[0]["label"]
    assert alone.columns == ("score",)
