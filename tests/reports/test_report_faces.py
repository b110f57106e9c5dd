"""The page and the lines of a report: texts of data stay texts, and the bytes are the same."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import polars as pl
import pytest
from command import prefmill

import prefmill as pm
from prefmill.errors import BadArgument, TargetExists
from prefmill.reports import page

HOSTILE = (
    "<script>alert(1)</script>",
    "</pre></script></style><img src=x onerror=alert(1)>",
    '"><b onmouseover=alert(1)>',
    "right\u202eto left\u2066",
    "red \x1b[31m and \x07 bell",
    "&lt;i&gt; & 'quotes'",
)
#: What a page holds and no text may add to.
TAGS = set(
    re.findall(
        r"\w+",
        "html head meta title style body main section h1 h2 h3 p div span pre article"
        " h4 table caption thead tbody tr th td figure figcaption svg rect details summary",
    )
)


class Seen(HTMLParser):
    """The tags of a page, its attributes, and the texts in `pre`."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.texts, self.open = set(), set(), [], []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in ("meta", "rect"):
            self.open.append(tag)
        if tag == "pre":
            self.texts.append("")

    def handle_endtag(self, tag):
        if tag != "rect":
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "pre":
            self.texts[-1] += data


def seen(text):
    parser = Seen()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    return parser


@pytest.fixture
def hostile():
    rows = [
        {"prompt": f"{text} {n}", "chosen": f"{text} yes", "rejected": f"no {text}", "source": text}
        for n, text in enumerate(HOSTILE)
    ]
    rows.append({"prompt": "long", "chosen": "w" * 1_000_000, "rejected": "z", "source": "q"})
    return pl.DataFrame(rows)


def test_hostile_texts_stay_texts_on_the_page(hostile, tmp_path):
    report = pm.report(hostile)
    path = tmp_path / "report.html"
    report.save(path)
    text = path.read_text("utf-8")
    assert len(text) < 100_000
    found = seen(text)
    assert found.tags <= TAGS
    assert not any(name.startswith("on") or name in ("src", "href") for name in found.attributes)
    assert "Content-Security-Policy" in text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", text)
    shown = "\n".join(found.texts)
    for plain in ("<script>alert(1)</script>", "&lt;i&gt; & 'quotes'", "onerror=alert(1)>"):
        assert plain in shown
    assert r"right\u202eto left\u2066" in shown
    assert r"red \x1b[31m and \x07 bell" in shown
    assert "998,800 more characters" in text
    assert seen(report._repr_html_()).tags <= TAGS


def test_hostile_names_stay_texts(tmp_path):
    name = "<script>alert(2)</script>\x1b[31m"
    rows = {"prompt": ["a", "a"], "completion": ["x", "y"], "score": [1, 5], name: ["u", "v"]}
    report = pm.report(pl.DataFrame(rows), roles={"annotator": name})
    assert report.figures.annotators[0].name == "u"
    assert "script" not in seen(report._repr_html_()).tags
    assert "\x1b" not in str(report)


def test_lines_are_not_obeyed_by_a_terminal(hostile):
    text = str(pm.report(hostile))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert max(map(len, text.splitlines())) <= 200
    assert r"red \x1b[31m" in text


def test_equal_data_has_equal_bytes(hostile, tmp_path):
    for name in ("one.html", "two.html"):
        pm.report(hostile).save(tmp_path / name)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def contrast(one, other):
    """The contrast of two colours by WCAG 2."""

    def light(colour):
        colour = colour * 2 if len(colour) == 3 else colour
        parts = [int(colour[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_colours_have_the_contrast_of_wcag_aa(dark):
    rules = page.DARK if dark else page.LIGHT
    colours = dict(re.findall("--([a-z]+):#([0-9a-f]+)", rules))
    grounds = [colours[name] for name in ("ground", "raised")]
    for ground in grounds:
        assert contrast(colours["ink"], ground) >= 7
        assert contrast(colours["soft"], ground) >= 4.5
        assert contrast(colours["bar"], ground) >= 3
    for name in ("bad", "ink"):
        assert contrast(colours[name], colours["badground"]) >= 4.5


def test_the_command_writes_a_page_or_tells(tmp_path):
    rows = [
        {"prompt": f"q{n}", "chosen": f"a longer answer {n}", "rejected": f"short {n}"}
        for n in range(50)
    ]
    path, target = tmp_path / "pairs.parquet", tmp_path / "report.html"
    pl.DataFrame(rows).write_parquet(path)
    done = prefmill("report", path)
    assert done.returncode == 0, done.stderr
    assert "== Floors of 50 pairs" in done.stdout
    assert "! length: " in done.stdout
    done = prefmill("report", path, "-o", target, "--pairs", "3")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "warnings: length" in done.stderr
    assert target.read_text("utf-8").count("<article>") == 3
    again = prefmill("report", path, "-o", target)
    assert again.returncode != 0
    assert "Traceback" not in again.stderr
    assert prefmill("report", path, "-o", target, "--overwrite", "--strict").returncode == 1
    told = json.loads(prefmill("report", path, "--json").stdout)
    assert [each["name"] for each in told["warnings"]] == ["length"]
    assert told["floors"][0]["share"] == 1.0


def test_a_target_is_refused_before_work(tmp_path):
    report = pm.report(pl.DataFrame({"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]}))
    with pytest.raises(BadArgument, match=r"ends in \.html"):
        report.save(tmp_path / "report.pdf")
    report.save(tmp_path / "report.html")
    with pytest.raises(TargetExists):
        report.save(tmp_path / "report.html")
    report.save(tmp_path / "report.html", overwrite=True)
    with pytest.raises(BadArgument, match="number of pairs"):
        pm.report(pl.DataFrame({"prompt": ["a"]}), pairs=-1)
