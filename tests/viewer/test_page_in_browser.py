"""The page of `prefmill view` in a real browser: rendered, keys and filters, hostile texts."""

from __future__ import annotations

import json

import polars as pl
import pytest
from browser import CHROMIUM, browsing
from viewers import served

pytest.importorskip("aiohttp")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed here")

MARKUP = "<script>document.title='hacked'</script><img src=x onerror=\"document.title='hacked'\">"
HOSTILE = f"{MARKUP}</script> \u202eabc\u200f \x1b[31mred nul\x00 &amp;"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of 120 pairs, two of them hostile, and the file of its flags."""
    folder = tmp_path_factory.mktemp("browser")
    rows = {
        "prompt": [HOSTILE, *(f"Question {n}" for n in range(1, 120))],
        "chosen": [HOSTILE, "w" * 1_000_000, *(f"the good answer {n}" for n in range(2, 120))],
        "rejected": [f"the bad answer {n}" for n in range(120)],
        "margin": [n * 7 % 120 for n in range(120)],
    }
    pl.DataFrame(rows).write_parquet(folder / "pairs.parquet")
    with served(folder / "pairs.parquet", folder / "flags.jsonl") as server, browsing() as page:
        page.send("Page.navigate", url=server.url)
        page.until("document.querySelectorAll('#rows tr').length === 50")
        yield page, folder / "flags.jsonl"


def at(page, row):
    return page.until(f"document.querySelector('#row h2')?.textContent === 'Row {row}'")


def test_hostile_texts_are_text(page):
    page, _ = page
    at(page, 0)
    spelled = "</script> \\u202eabc\\u200f \\x1b[31mred nul\\x00 &amp;"
    shown = page.value("document.querySelector('#row pre').textContent")
    assert shown == MARKUP + spelled
    assert page.value("document.querySelector('.sides pre').textContent") == MARKUP + spelled
    assert page.value("document.querySelectorAll('main script, main img').length") == 0
    assert page.value("document.title").endswith("pairs.parquet: prefmill view")
    page.key("j")
    at(page, 1)  # a million letters without a space do not widen the page
    assert page.value("document.documentElement.scrollWidth <= innerWidth")
    page.key("k")
    at(page, 0)


def test_words_that_differ_are_marked(page):
    page, _ = page
    page.key("j")
    at(page, 1)
    page.key("j")
    at(page, 2)
    marked = page.value("[...document.querySelectorAll('.sides mark')].map(m => m.textContent)")
    assert marked == ["good", "bad"]


def test_keys_flag_rows_and_turn_pages(page):
    page, flags = page
    row = page.value("document.querySelector('#row h2').textContent.slice(4)")
    page.key("f")
    page.until("document.querySelector('#flag').getAttribute('aria-pressed') === 'true'")
    assert [json.loads(line)["row"] for line in flags.read_text().splitlines()] == [int(row)]
    page.key("f")
    page.until("document.querySelector('#flag').getAttribute('aria-pressed') === 'false'")
    assert flags.read_text() == ""
    page.key("n")
    at(page, 50)
    page.key("k")  # over the edge of a page
    at(page, 49)
    page.key("?")
    page.until("document.querySelector('#help').open")
    page.key("Escape")
    page.until("!document.querySelector('#help').open")


def test_a_filter_a_search_and_an_order_are_answered(page):
    page, _ = page
    fill = """(() => {
      document.querySelector('#more').click();
      const [column, operator] = document.querySelectorAll('#filters select');
      column.value = 'margin'; operator.value = '<';
      document.querySelector('#filters input').value = '5';
      document.querySelector('#down').checked = true;
      document.querySelector('#sort').value = 'margin';
      document.querySelector('#ask').requestSubmit();
      return true;
    })()"""
    assert page.value(fill)
    page.until("document.querySelector('#state').textContent.includes(' of 5 rows')")
    shown = "[...document.querySelectorAll('#rows th')].map(cell => Number(cell.textContent))"
    expected = sorted(range(120), key=lambda n: -(n * 7 % 120))[-5:]
    assert page.value(shown) == expected
    at(page, expected[0])
    page.value("document.activeElement.blur()")
    page.key("/")
    assert page.value("document.activeElement.id") == "search"
    for letter in f"question {expected[1]}":
        page.key(letter)
    page.value("document.querySelector('#ask').requestSubmit()")
    page.until("document.querySelector('#state').textContent.includes(' of 1 rows')")
    assert page.value(shown) == [expected[1]]


def test_the_console_said_nothing(page):
    assert page[0].told == []
