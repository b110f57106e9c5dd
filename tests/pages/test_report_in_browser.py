"""The page of `prefmill report` in a real browser: readable, with keys too; texts stay texts."""

from __future__ import annotations

from itertools import pairwise

import polars as pl
import pytest
from browser import AXE, CHROMIUM, browsing
from loop_runs import run

import prefmill as pm
from prefmill.loops import plot as stage_plot

pytest.importorskip("aiohttp")
pytest.importorskip("torch")  # what prompts mean is read by an encoder
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed here"),
    pytest.mark.skipif(AXE is None, reason="axe-playwright-python is not installed here"),
]

MARKUP = "<script>alert(1)</script></script><img src=x onerror=alert(2)>"
HOSTILE = f"{MARKUP}\u202eabc\u200f \x1b[31mred\x01 &amp;"
SPELLED = f"{MARKUP}\\u202eabc\\u200f \\x1b[31mred\\x01 &amp;"
SCREENS = [(1280, False), (1280, True), (390, False), (390, True)]
NAMES = ["feedback", "splits", "hostile", "pool", "loop"]


def feedback():
    """Feedback of three annotators about answers of 14 models, with repeats and a null score."""
    rows = [
        {
            "prompt": f"How would a person do the thing of number {n}, and why?",
            "completion": "An answer of some words. " * (1 + (n + k) % 5) + f"It is of {k}.",
            "score": (n * 3 + k * 2) % 5 + 1 if n + k else None,
            "model": f"some-organisation/a-model-with-a-name-{(n + k) % 14}",
            "annotator": f"annotator_{'abc'[k % 3]}",
        }
        for n in range(40)
        for k in range(4)
    ]
    return pl.DataFrame([*rows, *rows[:3]])


def splits(folder):
    """Pairs of two files that share prompts, and a benchmark that they overlap with."""
    text = "Tell me at length of number {} of the things that people do in their own kitchens."
    for name, numbers in {"train": range(60), "test": range(50, 80)}.items():
        rows = [
            {
                "prompt": text.format(n),
                "chosen": f"- one\n- two\n- {n} of them are good",
                "rejected": f"no {n}",
            }
            for n in numbers
        ]
        pl.DataFrame(rows).write_parquet(folder / f"{name}.parquet")
    known = folder / "a-benchmark-whose-name-is-long-and-has-no-space-in-it.jsonl"
    pl.DataFrame({"prompt": [text.format(n) for n in range(5)]}).write_ndjson(known)
    return [folder / "train.parquet", folder / "test.parquet"], known


def hostile():
    texts = [HOSTILE, "w" * 1_000_000, "\u0627\u0644\u0633\u0644\u0627\u0645", ""]
    name = "so\"urce'<b>x</b>"
    rows = [
        {"prompt": f"{text}{n}", "chosen": f"{text}+", "rejected": f"-{text}", name: text}
        for n, text in enumerate(texts * 4)
    ]
    return pm.report(pl.DataFrame(rows), roles={"source": name}, alike=True)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A report of each kind, as files."""
    folder = tmp_path_factory.mktemp("pages")
    files, known = splits(folder)
    (folder / "loop").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage_plot, "draw", lambda *_: None)
        run(folder / "loop")
    made = {
        "feedback": pm.report(feedback(), roles={"source": "model"}, pairs=3),
        "splits": pm.report(files, near=True, alike=True, against=[known]),
        "hostile": hostile(),
        "pool": pm.report(feedback().drop("score")),
        "loop": pm.loop_report(folder / "loop/run"),
    }
    assert list(made) == NAMES
    for name, report in made.items():
        report.save(folder / f"{name}.html")
    shown = (made["feedback"], pm.curve(feedback(), by="annotator", resamples=20), pm.Pairs())
    (folder / "cells.html").write_text("".join(each._repr_html_() for each in shown), "utf-8")
    return folder


@pytest.fixture(scope="module")
def page(pages):
    with browsing() as page:
        page.place = pages
        yield page


def go(page, name):
    page.open((page.place / f"{name}.html").as_uri())


@pytest.mark.parametrize("name", NAMES)
def test_people_can_read_it_on_every_screen(page, name):
    go(page, name)
    page.value("document.querySelectorAll('details').forEach(each => { each.open = true })")
    for width, dark in SCREENS:
        page.look(width=width, dark=dark)
        assert page.violations() == [], (width, dark)
        inside = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        assert page.value(inside), width
    levels = page.value("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert all(below <= level + 1 for level, below in pairwise(levels))
    assert levels.count(1) == 1


#: What Jupyter says of tables, in its own colours, whatever those of the desktop are.
JUPYTER = """<style>
body {{ background: {ground}; color: {ink}; margin: 0 }}
.output thead {{ border-bottom: 1px solid }}
.output td, .output th, .output tr {{ text-align: right; color: {ink}; font-size: 12px }}
.output tbody tr:nth-child(odd) {{ background: {ground} }}
.output tbody tr:nth-child(even) {{ background: {row} }}
</style>"""
THEMES = {
    "true": {"ground": "#fff", "ink": "#000", "row": "#f5f5f5"},
    "false": {"ground": "#111", "ink": "#fff", "row": "#212121"},
}


@pytest.mark.parametrize("light", THEMES)
def test_a_notebook_has_a_scheme_of_its_own(page, light):
    path = page.place / f"notebook-{light}.html"
    cells = (page.place / "cells.html").read_text("utf-8")
    path.write_text(
        f'<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>a notebook</title>'
        f'{JUPYTER.format(**THEMES[light])}<body data-jp-theme-light="{light}"><div class="output">'
        f"{cells}</div></body></html>",
        "utf-8",
    )
    for dark in (False, True):
        page.look(width=1280, dark=dark)
        page.open(path.as_uri())
        assert page.violations() == []
        ground = "getComputedStyle(document.querySelector('main')).backgroundColor"
        assert page.value(ground) == (
            "rgb(255, 255, 255)" if light == "true" else "rgb(20, 23, 26)"
        )
        rows = "[...document.querySelectorAll('main tr')].map(e => getComputedStyle(e).background)"
        assert all("rgba(0, 0, 0, 0)" in each for each in page.value(rows))


def test_hostile_texts_are_text(page):
    go(page, "hostile")
    assert page.value("document.querySelector('article pre').textContent") == f"{SPELLED}0"
    assert page.value("document.querySelectorAll('script, img, b, article a').length") == 0
    cells = page.value("[...document.querySelectorAll('tbody th')].map(th => th.textContent)")
    assert SPELLED in cells
    assert max(map(len, cells)) < 200  # a name of a million letters is cut
    assert page.value("document.body.innerHTML.length") < 60_000


def test_keys_reach_what_scrolls_and_what_opens(page):
    go(page, "feedback")
    page.look(width=390)
    scrolls = page.value(
        "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth)"
        ".every(e => e.tabIndex === 0 && e.getAttribute('aria-label'))"
    )
    assert scrolls
    places = []
    for _ in range(60):
        page.key("Tab")
        at = page.value(
            "(e => [e.tagName, getComputedStyle(e).outlineStyle,"
            " e.getBoundingClientRect().top + scrollY])(document.activeElement)"
        )
        if at[0] == "BODY":
            break
        places.append(at)
    assert {"DIV", "SUMMARY"} == {tag for tag, *_ in places}
    assert {outline for _, outline, _ in places} == {"solid"}
    tops = [top for *_, top in places]
    assert tops == sorted(tops)
    page.value("document.querySelector('summary').focus()")
    page.key("Enter")
    page.until("document.querySelector('details').open")


def test_paper_does_not_scroll(page):
    go(page, "feedback")
    page.look(width=800, media="print")
    assert page.value("getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"
    page.look(width=1280)


def test_nothing_was_fetched_and_the_console_said_nothing(page):
    assert page.told == []
    assert {url.partition(":")[0] for url in page.asked} == {"file"}
    names = {url.rpartition("/")[2] for url in page.asked}
    assert names - {f"notebook-{light}.html" for light in THEMES} == {f"{n}.html" for n in NAMES}
