"""Plots: the picture is there, of the right size, says what it shows, and its numbers lie beside
it.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import polars as pl
import pytest
from command import prefmill
from draws import drawn

import prefmill as pm
from prefmill.errors import BadArgument, ColumnMissing, MissingPackage, TargetExists

pytest.importorskip("matplotlib", reason="needs the extra prefmill[report]")

from prefmill.plots import check_plot, plot_curve, plot_lines, text_curve

STAGES = pl.DataFrame(
    {
        "stage": [0, 1, 2] * 2,
        "reward": [0.1, 0.5, 0.9, 0.1, None, 0.2],
        "low": [0.0, 0.4, 0.8, 0.0, None, 0.1],
        "high": [0.2, 0.6, 1.0, 0.2, None, 0.3],
        "trained on": ["best $x$"] * 3 + ["_random 漢"] * 3,
    }
)


def size_of(png: Path) -> tuple[int, int]:
    head = png.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:24])


def test_lines_as_png_and_svg(tmp_path):
    given = {
        "x": "stage",
        "y": "reward",
        "series": "trained on",
        "low": "low",
        "high": "high",
        "y_label": "mean reward",
        "title": "Stages",
    }
    png = plot_lines(STAGES, tmp_path / "new" / "stages.png", **given)
    assert size_of(Path(png.picture)) == (960, 600)
    assert pl.read_csv(png.data).equals(STAGES)
    svg = Path(plot_lines(STAGES, tmp_path / "stages.svg", **given).picture).read_text()
    for label in ("mean reward", "stage", "Stages", "trained on", "best $x$", "_random 漢", ">2<"):
        assert label in svg, label
    assert ">1.5<" not in svg  # there is no half stage
    again = plot_lines(STAGES, tmp_path / "again.svg", **given)
    assert Path(again.picture).read_text() == svg
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "again.csv",
        "again.svg",
        "new",
        "stages.csv",
        "stages.svg",
    ]


@pytest.mark.parametrize("by", [None, "temperature"])
def test_a_curve(by, tmp_path):
    found = pm.curve(drawn(1), by=by, resamples=50)
    plotted = plot_curve(found, tmp_path / "curve.svg")
    svg = Path(plotted.picture).read_text()
    for label in (
        "best of n (95 % interval)",
        "median of n",
        "mean",
        "score",
        "KL (nats)",
        "n, samples of a prompt",
    ):
        assert label in svg, label
    assert ("temperature" in svg) == (by is not None)
    if by:
        for label in ("0.1", "0.9", "none"):
            assert f">{label}<" in svg, label
    assert pl.read_csv(plotted.data).equals(found.points)
    assert size_of(Path(plot_curve(found, tmp_path / "curve.png", overwrite=True).picture)) == (
        (1080 if by else 960),
        750,
    )


def test_many_lines_and_one_point(tmp_path):
    many = pl.DataFrame(
        {
            "x": list(range(3)) * 12,
            "y": [float(i) for i in range(36)],
            "s": [i // 3 for i in range(36)],
        }
    )
    plot_lines(many, tmp_path / "many.svg", x="x", y="y", series="s")
    plot_curve(
        pm.curve(pl.DataFrame({"prompt": ["p"], "completion": ["a"], "score": [1.0]}), resamples=0),
        tmp_path / "one.svg",
    )


@pytest.fixture
def figures(monkeypatch):
    """Every figure that is saved, as it stands after it."""
    from matplotlib.figure import Figure

    saved, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (save(self, *a, **k), saved.append(self))
    )
    return saved


@pytest.mark.parametrize("check", [None, "right"])
def test_legends_of_many_lines_cover_none(check, figures, tmp_path):
    pool = pl.concat(
        drawn(1).with_columns(
            model=pl.lit(f"{'a long name of' * (i % 3)} model {i}"), right=pl.col("score") > 1
        )
        for i in range(14)
    )
    plot_curve(
        pm.curve(pool, by="model", check=check, resamples=0), tmp_path / "a.svg", overwrite=True
    )
    stages = [STAGES.with_columns(pl.lit(f"run {i}").alias("trained on")) for i in range(13)]
    plot_lines(pl.concat(stages), tmp_path / "b.svg", x="stage", y="reward", series="trained on")
    for figure, more in zip(figures, (3, 2), strict=True):
        texts = [text.get_text() for each in figure.legends for text in each.get_texts()]
        assert f"and {more} more" in texts
        assert max(map(len, texts)) <= 28
        for axes in figure.axes:
            assert axes.get_legend() is None
            right = axes.get_window_extent().x1
            assert all(legend.get_window_extent().x0 > right for legend in figure.legends)
    first, second = (legend.get_window_extent() for legend in figures[0].legends)
    assert not first.overlaps(second)


def test_curves_as_text():
    found = pm.curve(drawn(1, prompts=5), by="temperature", resamples=20)
    lines = text_curve(found, width=60)
    assert lines[0] == "best of n by temperature: a 0.1, b 0.9, c none; * several"
    assert max(map(len, lines)) <= 62
    largest = int(found.points["n"].max())
    assert [line.split()[1] for line in lines[1:-1]] == [
        str(n) for n in sorted({1, 2, 4, 8, 16, 32, largest}) if n <= largest
    ]
    single = text_curve(pm.curve(drawn(1), resamples=20), width=60)
    assert single[0].endswith("interval ─")
    for line in single[1:-1]:
        assert line.count("●") == 1
    ends = [line.index("●") for line in single[1:-1]]
    assert ends == sorted(ends)
    assert text_curve(pm.curve(drawn(1).clear()), width=60) == []


def test_what_is_refused(tmp_path, monkeypatch):
    given = {"x": "stage", "y": "reward"}
    with pytest.raises(BadArgument, match=r"expected a name that ends in \.png or \.svg"):
        plot_lines(STAGES, tmp_path / "a.pdf", **given)
    with pytest.raises(ColumnMissing, match="no column 'z'"):
        plot_lines(STAGES, tmp_path / "a.png", x="z", y="reward")
    with pytest.raises(BadArgument, match="an interval has two ends"):
        plot_lines(STAGES, tmp_path / "a.png", **given, low="low")
    (tmp_path / "a.csv").write_text("mine")
    with pytest.raises(TargetExists, match=r"a\.csv"):
        plot_lines(STAGES, tmp_path / "a.png", **given)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingPackage, match=r"pip install '\.\[report\]'"):
        check_plot(tmp_path / "b.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_the_command(tmp_path):
    drawn(1).write_parquet(tmp_path / "pool.parquet")
    command = (
        "curve",
        tmp_path / "pool.parquet",
        "--by",
        "temperature",
        "--plot",
        tmp_path / "curve.png",
        "--resamples",
        "20",
    )
    done = prefmill(*command, "-o", tmp_path / "curve.csv")
    assert done.returncode == 0, done.stderr
    assert size_of(tmp_path / "curve.png") == (1080, 750)
    assert pl.read_csv(tmp_path / "curve.csv").equals(
        pm.curve(tmp_path / "pool.parquet", by="temperature", resamples=20).points
    )
    done = prefmill(*command, "--seed", "1")
    assert done.returncode == 2
    assert (
        "curve.png' belongs to a run with another settings.seed; got 1, expected 0" in done.stderr
    )
