"""What Python tells a person: words as scores, reports in a notebook."""

from __future__ import annotations

import datasets
import polars as pl
import pytest

import prefmill as pm
import prefmill.datasets as pmd
import prefmill.polars

WORDS = pl.DataFrame(
    {"prompt": ["p", "p", "q"], "completion": ["a", "b", "c"], "score": ["good", "poor", None]}
)


@pytest.mark.parametrize("dtype", [pl.String, pl.Categorical, pl.Enum(["good", "poor"])], ids=str)
def test_words_as_scores_give_a_warning(dtype):
    frame = WORDS.with_columns(pl.col("score").cast(dtype))
    for call in (
        lambda: frame.pref.pairs(),
        lambda: frame.pref.best_of(),
        lambda: pm.Pairs().lazy(frame).collect(),
    ):
        with pytest.warns(
            UserWarning,
            match="no score in the column 'score' is a number; got 'good', and every row is "
            "bad_score",
        ) as told:
            assert call().is_empty()
        assert len(told) == 1
    with pytest.warns(UserWarning, match="got 'good'"):
        assert len(pmd.pairs(datasets.Dataset.from_polars(WORDS))) == 0


def test_one_number_among_words_is_counted_and_not_warned_of():
    frame = WORDS.with_columns(score=pl.Series(["good", "5", "1"]))
    assert frame.pref.best_of().rows() == [("p", "b", 5.0, 1), ("q", "c", 1.0, 1)]
    assert dict(pm.pair_report(frame).dropped) == {"bad_score": 1, "single_completion": 2}
    assert WORDS.clear().pref.best_of().is_empty()


def test_a_lazy_frame_is_not_looked_into_and_its_report_says_why():
    assert WORDS.lazy().pref.pairs().collect().is_empty()
    assert dict(WORDS.lazy().pref.pair_report().dropped) == {"bad_score": 2, "null_score": 1}


def test_reports_are_tables_in_a_notebook(tmp_path):
    rows = pl.DataFrame(
        {
            "prompt": ["p", "p", "q"],
            "completion": ["a", "b", "c"],
            "score": [5, 1, 2],
            "<b>": [1, 2, 3],
        }
    )
    done = pm.run(pm.Pairs(), rows, tmp_path / "pairs.parquet", keep=["<b>"])
    html = done._repr_html_()
    assert html.startswith("<table><tr><td>rows_in</td><td>3</td></tr>")
    assert "<tr><td>dropped: single_completion</td><td>1</td></tr>" in html
    assert f"<tr><td>output</td><td>{tmp_path}/pairs.parquet</td></tr>" in html
    assert "<tr><td>pairs_out</td><td>1</td></tr>" in pm.pair_report(rows)._repr_html_()
    odd = pm.run(
        pm.Pairs(), rows.drop("<b>").rename({"prompt": "<b>x"}), None, roles={"prompt": "<b>x"}
    )
    assert "&lt;b&gt;x" in odd._repr_html_()
    assert "<b>" not in odd._repr_html_()


def test_progress_is_called_with_phases_and_shares(tmp_path):
    seen = []
    rows = pl.DataFrame({"prompt": ["p", "p"], "completion": ["a", "b"], "score": [5, 1]})
    pm.run(
        pm.Pairs(),
        rows,
        tmp_path / "pairs.parquet",
        progress=lambda phase, share: seen.append((phase, share)),
    )
    assert ("ranking", None) in seen
    assert seen[-1] == ("writing", 1.0)
    assert "progress:" in pm.run.__doc__
