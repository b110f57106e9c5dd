"""A report as one HTML page: no script, no network, and texts of data stay texts.

What the page may load is nothing at all (its Content-Security-Policy), so even a mistake in here
would run no script of a row.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape

from prefmill.reports.found import Excerpt, Shown, Warned
from prefmill.reports.lines import Lines, legend, picture
from prefmill.reports.parts import SPARK, Bars, Grid, Section, short
from prefmill.shown import shown

_HOME = "prefmill-report"
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]{1,30}(?![\w-])")
_NAME = 160  # characters of the name of a row
#: The colours, light and dark, of all our pages. They have a contrast of at least 4.5 to their
#: ground (WCAG 2, AA), bars of at least 3.
LIGHT = (
    "--ink:#1b1f24;--soft:#4d5761;--line:#c9d1d9;--ground:#fff;--raised:#f4f6f8;"
    "--bar:#0072b2;--bad:#a4370b;--badground:#fdf1ea"
)
DARK = (
    "--ink:#e6e9ec;--soft:#aab4be;--line:#3a424a;--ground:#14171a;--raised:#1d2226;"
    "--bar:#56b4e9;--bad:#ffab85;--badground:#2b1d16"
)
#: Each rule holds inside the report only: a notebook has styles of its own.
_RULES = (
    ("", LIGHT),
    (
        "",
        "color:var(--ink);background:var(--ground);max-width:60rem;margin:0 auto;padding:1rem;"
        # What has no space, a path or a name, breaks anywhere rather than widen the page.
        "font:1rem/1.5 system-ui,sans-serif;overflow-wrap:anywhere",
    ),
    ("h1", "font-size:1.5rem;line-height:1.25"),
    ("h2", "font-size:1.2rem;margin:2rem 0 .5rem;border-bottom:1px solid var(--line)"),
    ("h3,h4", "font-size:1rem;margin:1rem 0 .25rem"),
    ("h4", "font-weight:400;color:var(--soft);margin-top:.5rem"),
    (":focus-visible", "outline:2px solid var(--bar);outline-offset:2px"),
    (".option", "white-space:nowrap"),
    (".scroll", "overflow-x:auto;margin:.75rem 0"),
    ("table", "border-collapse:collapse;font:inherit;font-variant-numeric:tabular-nums;margin:0"),
    ("caption", "text-align:left;color:var(--soft);padding:.25rem 0"),
    # A caption is read without scrolling its table.
    (
        "caption span",
        "display:inline-block;position:sticky;left:0;max-width:min(58rem,calc(100vw - 3rem))",
    ),
    (
        "th,td",
        "text-align:left;font-weight:400;padding:.25rem .75rem .25rem 0;vertical-align:top;"
        "max-width:none;white-space:normal;"
        "border-bottom:1px solid var(--line);min-width:4rem",
    ),
    ("tbody th,td:not(.n)", "min-width:7rem"),
    ("thead th", "font-weight:600;overflow-wrap:normal"),
    # Notebooks paint rows and cells for their own ground, and align them to the right.
    ("thead,tr", "background:none!important"),
    ("th,td", "color:inherit!important;text-align:left!important"),
    ("td:last-child:not(.n)", "min-width:9rem"),
    ("td.n", "text-align:right!important;white-space:nowrap"),
    ("th.n", "text-align:right!important"),
    ("td.spark", "font-family:monospace;white-space:pre;color:var(--bar)!important"),
    ("figure", "margin:.75rem 0;max-width:40rem"),
    ("figcaption", "color:var(--soft)"),
    ("svg", "display:block;width:100%;height:8rem;border-bottom:1px solid var(--soft)"),
    ("svg rect", "fill:var(--bar)"),
    ("svg.lines", "height:12rem;border-left:1px solid var(--soft)"),
    (
        "svg polyline,svg path",
        "fill:none;stroke:var(--bar);stroke-width:2;vector-effect:non-scaling-stroke",
    ),
    ("svg path", "stroke-width:7;stroke-linecap:round"),
    ("svg polygon", "fill:var(--bar);opacity:.18"),
    ("svg .l1", "stroke:var(--bad)"),
    ("svg .l2", "stroke:var(--soft)"),
    ("svg polygon.l1", "fill:var(--bad);stroke:none"),
    ("svg polygon.l2", "fill:var(--soft);stroke:none"),
    (".keys", "margin:.25rem 0"),
    (".key", "border-bottom:2px solid var(--bar);margin-right:1rem"),
    (".key.l1", "border-bottom:2px dashed var(--bad)"),
    (".key.l2", "border-bottom:2px dotted var(--soft)"),
    (".ends", "display:flex;justify-content:space-between;color:var(--soft)"),
    ("summary", "cursor:pointer;color:var(--soft)"),
    (
        ".warning",
        "border-left:.25rem solid var(--bad);background:var(--badground);"
        "padding:.5rem .75rem;margin:.75rem 0",
    ),
    (".warning h3", "color:var(--bad);margin:0"),
    (".warning p", "margin:.25rem 0"),
    ("pre,code", "font-family:ui-monospace,monospace;font-size:.875rem"),
    (
        "pre",
        "white-space:pre-wrap;background:var(--raised);color:var(--ink);"
        "padding:.5rem;margin:.25rem 0;border:1px solid var(--line)",
    ),
    (".sides", "display:grid;grid-template-columns:1fr 1fr;gap:.75rem"),
    (".sides>div", "min-width:0"),
    (".more", "color:var(--soft)"),
)


def _style() -> str:
    rules = []
    for names, rule in _RULES:
        inside = ",".join(f".{_HOME} {name}".strip() for name in names.split(","))
        rules.append(f"{inside}{{{rule}}}")
    rules.append(f"@media(prefers-color-scheme:dark){{.{_HOME}{{{DARK}}}}}")
    # A notebook has a scheme of its own: that of Jupyter, or of Visual Studio Code.
    for scheme, light, name in ((LIGHT, "true", "light"), (DARK, "false", "dark")):
        themes = (f'[data-jp-theme-light="{light}"]', f".vscode-{name}")
        rules.append(f"{','.join(f'{theme} .{_HOME}' for theme in themes)}{{{scheme}}}")
    rules.append(f"@media(max-width:40rem){{.{_HOME} .sides{{grid-template-columns:1fr}}}}")
    # Paper does not scroll.
    rules.append(f"@media print{{.{_HOME} .scroll{{overflow:visible}}}}")
    return "\n".join(rules)


def page(title: str, warned: Sequence[Warned], parts: Sequence[Section]) -> str:
    """The whole page; the same bytes for the same report."""
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    ground = (
        "body{margin:0;background:#fff}@media(prefers-color-scheme:dark){body{background:#14171a}}"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{_text(title)}</title>\n<style>{ground}</style>\n</head>\n<body>\n"
        f"{fragment(title, warned, parts)}\n</body>\n</html>\n"
    )


def fragment(title: str, warned: Sequence[Warned], parts: Sequence[Section]) -> str:
    """The report as a part of another page, a notebook say."""
    inside = "\n".join(_inside(title, warned, parts))
    return f'<style>{_style()}</style>\n<main class="{_HOME}">\n{inside}\n</main>'


def _text(text: str) -> str:
    """A text of data, or ours, as HTML shows it; what cannot be seen is spelled out."""
    return escape(shown(text.replace("\r\n", "\n")))


def _words(text: str) -> str:
    """The same between tags: the dashes of an option stay with its name."""
    return _OPTION.sub(r'<span class="option">\g<0></span>', _text(text))


def _inside(title: str, warned: Sequence[Warned], parts: Sequence[Section]) -> Iterator[str]:
    yield f"<h1>{_text(title)}</h1>"
    yield "<section>"
    yield f"<h2>{len(warned)} warning{'' if len(warned) == 1 else 's'}</h2>"
    for each in warned:
        line = f"<pre>{_words(each.line)}</pre>" if each.line else ""
        yield (
            f'<div class="warning"><h3>{_text(each.name)}</h3><p>{_words(each.what)}</p>'
            f"<p>{_words(each.advice)}</p>{line}</div>"
        )
    if not warned:
        yield "<p>Nothing was found that needs a look.</p>"
    yield "</section>"
    for section in parts:
        yield f"<section>\n<h2>{_text(section.title)}</h2>"
        yield from (f"<p>{_words(words)}</p>" for words in section.words)
        for part in section.parts:
            yield _part(part)
        yield from (_pair(number, pair) for number, pair in enumerate(section.pairs, 1))
        yield "</section>"


def _part(part: Grid | Bars | Lines) -> str:
    if isinstance(part, Grid):
        return _grid(part)
    return _bars(part) if isinstance(part, Bars) else _lines(part)


def _grid(grid: Grid) -> str:
    head = ""
    if any(grid.head):
        cells = "".join(
            f'<th scope="col"{_numeric(grid, place)}>{_text(name)}</th>' if name else "<td></td>"
            for place, name in enumerate(grid.head)
        )
        head = f"<thead><tr>{cells}</tr></thead>"
    rows = "".join(f"<tr>{_cells(grid, row)}</tr>" for row in grid.rows)
    caption = _text(grid.caption)
    # A wide table scrolls by itself, with keys too. Two columns are as narrow as any window.
    keys = f' tabindex="0" role="region" aria-label="{caption}"' if len(grid.head) > 2 else ""
    return (
        f'<div class="scroll"{keys}><table>'
        f"<caption><span>{caption}</span></caption>{head}<tbody>{rows}</tbody></table></div>"
    )


def _numeric(grid: Grid, place: int) -> str:
    # The first column names its rows.
    cells = [row[place] for row in grid.rows if row[place] and place]
    return ' class="n"' if cells and all(cell[0] in "0123456789<-" for cell in cells) else ""


def _cells(grid: Grid, row: Sequence[str]) -> str:
    first, *rest = row
    cells = [f'<th scope="row">{_text(short(first, _NAME))}</th>']
    for place, cell in enumerate(rest, 1):
        kind = _numeric(grid, place)
        if grid.head[place] == SPARK:
            kind = ' class="spark"'
        cells.append(f"<td{kind}>{_words(short(cell))}</td>")
    return "".join(cells)


def _bars(bars: Bars) -> str:
    count, most = len(bars.counts), max([*bars.counts, 1])
    # Narrow gaps between bars; one with anything in it is seen.
    shapes = "".join(
        f'<rect x="{place * 10 + 1}" y="{100 - _height(n, most)}" width="8" '
        f'height="{_height(n, most)}"/>'
        for place, n in enumerate(bars.counts)
    )
    caption, top = _text(bars.caption), bars.counts.index(max(bars.counts))
    alt = f"{caption}: {count} bars; the highest, {_text(bars.labels[top])}, has {most:,}"
    rows = list(zip(bars.labels, (f"{n:,}" for n in bars.counts), strict=True))
    numbers = _grid(Grid(bars.caption, ("", bars.axis), rows))
    # A few bars are not as wide as many.
    width = min(40, max(12, 4 * count))
    ends = (_text(bars.labels[0]), _text(bars.labels[-1]) if count > 1 else "")
    return (
        f"<figure><figcaption>{caption}</figcaption>"
        f'<div style="max-width:{width}rem"><div class="ends" aria-hidden="true">'
        f"<span>{most:,} {_text(bars.axis)}</span></div>"
        f'<svg role="img" aria-label="{alt}" viewBox="0 0 {count * 10} 100"'
        f' preserveAspectRatio="none">{shapes}</svg>'
        f'<div class="ends" aria-hidden="true"><span>{ends[0]}</span>'
        f"<span>{ends[1]}</span></div></div>"
        f"<details><summary>Numbers: {caption}</summary>{numbers}</details></figure>"
    )


def _lines(lines: Lines) -> str:
    caption = _text(lines.caption)
    low, high = lines.ends
    names = ", ".join(_text(line.name) for line in lines.lines)
    alt = f"{caption}: {names}; from {low:.4g} to {high:.4g}, over {_text(lines.axis)}"
    keys = "".join(
        f'<span class="key {kind}">{_text(name)}</span> ' for kind, name in legend(lines)
    )
    first, last = (_text(f"{lines.axis} = {lines.labels[place]}") for place in (0, -1))
    return (
        f'<figure><figcaption>{caption}</figcaption><p class="keys">{keys}</p>'
        f'<div class="ends" aria-hidden="true"><span>{high:.4g}</span></div>'
        f'<svg class="lines" role="img" aria-label="{alt}" viewBox="0 0 100 100"'
        f' preserveAspectRatio="none">{picture(lines)}</svg>'
        f'<div class="ends" aria-hidden="true"><span>{low:.4g}</span></div>'
        f'<div class="ends" aria-hidden="true"><span>{first}</span><span>{last}</span></div>'
        "</figure>"
    )


def _height(count: int, most: int) -> int:
    return max(1, round(100 * count / most)) if count else 0


def _pair(number: int, pair: Shown) -> str:
    return (
        f"<article><h3>Pair {number}</h3><h4>Prompt</h4>{_excerpt(pair.prompt)}"
        f'<div class="sides"><div><h4>Chosen, {pair.chosen_score:g}</h4>{_excerpt(pair.chosen)}'
        f"</div><div><h4>Rejected, {pair.rejected_score:g}</h4>{_excerpt(pair.rejected)}</div>"
        "</div></article>"
    )


def _excerpt(excerpt: Excerpt) -> str:
    more = f'<p class="more">{excerpt.more:,} more characters</p>' if excerpt.more else ""
    # A line feed right after <pre> would be swallowed.
    return f'<pre dir="auto">\n{_text(excerpt.text)}</pre>{more}'
