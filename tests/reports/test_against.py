"""Words of a benchmark in the data: what both have is shown, and nothing else is said to be there.

The rule is that of a few lines of plain Python over sets of words.
"""

from __future__ import annotations

import random
import re

import polars as pl
import pytest

import prefmill as pm

WORDS = [f"w{n}" for n in range(9)]


def words_of(text):
    return re.findall(r"\w+", text.casefold())


def is_there(text, other):
    """13 words in a row of `other`, or all of it where it has 8 to 12."""
    here, there = words_of(text), words_of(other)
    size = min(13, len(there))
    if size < 8:
        return False
    runs = {tuple(there[at : at + size]) for at in range(len(there) - size + 1)}
    return any(tuple(here[at : at + size]) in runs for at in range(len(here) - size + 1))


def test_what_is_there_is_what_plain_python_finds(tmp_path):
    draw = random.Random(0)

    def text(least, most):
        return " ".join(draw.choice(WORDS) for _ in range(draw.randint(least, most)))

    theirs = [text(2, 30) for _ in range(60)]
    rows = [{"prompt": text(1, 40), "completion": text(1, 40), "score": n} for n in range(80)]
    for row in draw.sample(rows, 30):
        cut = draw.choice(theirs)
        row["completion"] = f"{text(0, 3)} {cut.upper().replace(' ', ', ')}! {text(0, 3)}"
    pl.DataFrame({"question": theirs}).write_parquet(tmp_path / "bench.parquet")
    (found,) = pm.report(pl.DataFrame(rows), against=tmp_path / "bench.parquet").figures.against
    for side, met in (("prompt", found.prompts), ("completion", found.answers)):
        texts = {row[side] for row in rows}
        assert met == sum(any(is_there(text, other) for other in theirs) for text in texts)
    assert found.answers > 10
    assert found.texts + found.short == sum(len(words_of(each)) > 1 for each in theirs)
    for span in found.spans:
        side = "prompt" if span.of == "prompt" else "completion"
        assert span.text in rows[span.row][side]
        assert len(words_of(span.text)) == span.words
        assert " ".join(words_of(span.text)) in " ".join(words_of(theirs[span.theirs]))


def test_a_run_over_two_texts_is_none(tmp_path):
    """Texts are hashed in a row, and a run must not begin in one and end in the next."""
    words = [f"v{n}" for n in range(14)]
    pl.DataFrame({"q": [" ".join(words)]}).write_parquet(tmp_path / "bench.parquet")
    answers = [" ".join(words[:7]), " ".join(words[7:])]
    rows = pl.DataFrame({"prompt": ["p", "p"], "completion": answers, "score": [1, 2]})
    report = pm.report(rows, against=[tmp_path / "bench.parquet"])
    assert report.figures.against[0].answers == 0
    assert "benchmark" not in report.found


@pytest.mark.parametrize("messages", [False, True])
def test_the_page_and_the_lines_show_the_words(tmp_path, messages):
    text = "one two three <b>four</b> five six seven eight"
    pl.DataFrame({"q": [text]}).write_ndjson(tmp_path / "bench.jsonl")
    prompt = [{"role": "user", "content": f"So {text}?"}] if messages else f"So {text}?"
    rows = {"prompt": [prompt, prompt], "completion": ["a", "b"], "score": [1, 2]}
    report = pm.report(pl.DataFrame(rows), against=tmp_path / "bench.jsonl")
    assert "benchmark" in report.found
    assert text in str(report)
    report.save(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "three &lt;b&gt;four" in page
    assert "<b>four" not in page
