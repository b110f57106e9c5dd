"""Cards of data sets, and pushing them."""

from __future__ import annotations

import os

import polars as pl
import pytest
from feedback import feedback

import prefmill as pm
from prefmill.datasets.cards import card, merged, write_card
from prefmill.plans import read_plan

os.environ.setdefault("HF_HUB_OFFLINE", "1")

os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

datasets = pytest.importorskip("datasets", reason="needs the extra prefmill[datasets]")

datasets.disable_progress_bars()

import prefmill.datasets as pmd  # noqa: E402

FEEDBACK = feedback(5, prompts=200)


def dataset(frame: pl.DataFrame = FEEDBACK) -> datasets.Dataset:
    return datasets.Dataset.from_polars(frame)


def test_a_card_says_what_was_done(tmp_path):
    plan = pm.Pairs(strategy="all", min_margin=1, aggregate="mean")
    report = pmd.report(plan, dataset())
    text = card(
        plan,
        report,
        source=["org/feedback", 'a "quoted": name'],
        license="cc-by-4.0",
        title="Pairs",
        language="en",
    )
    _, body = text.split("---\n")[1:]
    from huggingface_hub import DatasetCard

    read = DatasetCard(text).data.to_dict()
    assert read["license"] == "cc-by-4.0"
    assert read["source_datasets"] == ["org/feedback", 'a "quoted": name']
    assert read["language"] == ["en"]
    assert read["prefmill"] == {
        "version": pm.__version__,
        "plan": plan.hash(),
        "rows_in": report.rows_in,
        "rows_out": report.pairs_out,
    }
    assert read_plan(body.split("```toml\n")[1].split("```")[0]) == plan
    for reason, count in report.dropped.items():
        assert f"| dropped: {reason} | {count:,} |" in body
    assert text == card(
        plan,
        report,
        source=["org/feedback", 'a "quoted": name'],
        license="cc-by-4.0",
        title="Pairs",
        language="en",
    )
    splits = card(plan, {"train": report, "test": report})
    assert "| | train | test |" in splits
    assert f"| rows out | {report.pairs_out:,} | {report.pairs_out:,} |" in splits
    assert "license: not stated" in splits
    with pytest.raises(pm.PrefmillError, match="no report"):
        card(plan, {})
    pmd.pairs(dataset()).save_to_disk(tmp_path / "pairs")
    assert write_card(tmp_path / "pairs", plan, report).name == "README.md"
    datasets.load_from_disk(tmp_path / "pairs")


def test_a_card_of_a_run(tmp_path):
    FEEDBACK.write_parquet(tmp_path / "in.parquet")
    report = pm.run(pm.Pairs(), tmp_path / "in.parquet", tmp_path / "pairs.parquet")
    assert (
        f"| rows in | {FEEDBACK.height:,} |"
        in write_card(tmp_path / "card.md", pm.Pairs(), report).read_text()
    )


THEIRS = """---
license: mit
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
dataset_info:
  features:
  - name: prompt
    dtype: string
tags: [mine]
---
# My data

My words.
"""


def test_a_readme_keeps_its_words_and_its_front_matter(tmp_path):
    from huggingface_hub import DatasetCard

    plan, report = pm.Pairs(), pmd.report(pm.Pairs(), dataset())
    once = merged(THEIRS, card(plan, report, license="cc-by-4.0"))
    twice = merged(once, card(pm.Pairs(chosen_min=5), report))
    for text in (once, twice):
        read = DatasetCard(text)
        assert read.data.to_dict()["license"] == "cc-by-4.0"
        assert read.data.to_dict()["configs"] == [
            {"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}
        ]
        assert read.data.to_dict()["dataset_info"] == {
            "features": [{"name": "prompt", "dtype": "string"}]
        }
        assert read.data.to_dict()["tags"] == ["mine", "preference", "prefmill", "pairs"]
        assert "My words." in text
        assert text.count("What became of every row") == 1
    assert pm.Pairs(chosen_min=5).hash() in twice
    assert plan.hash() not in twice
    (tmp_path / "README.md").write_text(THEIRS)
    assert write_card(tmp_path, plan, report, license="cc-by-4.0").read_text() == once


@pytest.mark.parametrize("there", [True, False])
def test_push_to_hub(there, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    pushed = []
    monkeypatch.setattr(
        datasets.Dataset,
        "push_to_hub",
        lambda self, repo_id, **options: pushed.append((repo_id, len(self), options)) or "done",
    )

    def load(repo_id, **options):
        if there:
            return huggingface_hub.DatasetCard(THEIRS)
        raise EntryNotFoundError("no README")

    monkeypatch.setattr(huggingface_hub.DatasetCard, "load", load)
    monkeypatch.setattr(
        huggingface_hub.DatasetCard,
        "push_to_hub",
        lambda self, repo_id, **options: pushed.append((repo_id, str(self), options)),
    )
    plan, report = pm.Pairs(), pmd.report(pm.Pairs(), dataset())
    made = pmd.pairs(dataset())
    assert (
        pmd.push_to_hub(
            made,
            "me/pairs",
            plan=plan,
            report=report,
            license="mit",
            source="org/x",
            token="t",
            private=True,
        )
        == "done"
    )
    assert pushed[0] == ("me/pairs", len(made), {"token": "t", "private": True})
    repo, text, options = pushed[1]
    assert (repo, options) == ("me/pairs", {"repo_type": "dataset", "token": "t"})
    assert plan.hash() in text
    assert ("My words." in text) == there
