"""A report in words and figures, for both of its faces: the page and the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prefmill.reports import answers
from prefmill.reports.counts import PARTS
from prefmill.reports.floors import is_high
from prefmill.reports.found import Alike, Figures, Floor, Histogram, Near, Part
from prefmill.reports.lines import Lines
from prefmill.reports.parts import SPARK, Bars, Grid, Section, percent
from prefmill.shown import amount


def sections(figures: Figures) -> list[Section]:
    """The parts of a report that have something to say, in reading order."""
    made = (_file(figures), _funnel(figures), _scores(figures), _prompts(figures))
    more = (answers.best_of(figures), _floors(figures), answers.cut(figures), _repeats(figures))
    last = (_splits(figures), _against(figures), _pairs(figures))
    return [section for section in (*made, *more, *last) if section]


def _file(figures: Figures) -> Section:
    named = ", ".join(figures.columns)
    rows = [
        ("kind", figures.kind),
        ("shape", figures.shape),
        ("read as", figures.line),
        ("files", f"{figures.files:,}"),
        ("records", f"{figures.records:,}"),
        ("rows", f"{figures.rows:,}"),
        ("prompts", f"{figures.prompts:,}"),
        ("different answers of them", f"{figures.answers:,}"),
        ("columns", named),
    ]
    return Section("The file", figures.notes, [Grid("What was found", ("", ""), rows)])


def _funnel(figures: Figures) -> Section | None:
    funnel = figures.funnel
    if funnel is None:
        return None
    rows = [("rows in", funnel.rows_in), ("used", funnel.rows_used)]
    rows += [("not selected", funnel.rows_not_selected)]
    rows += [(f"dropped: {reason}", rows) for reason, rows in funnel.dropped.items()]
    whole = max(1, funnel.rows_in)
    grid = Grid(
        "Rows",
        ("", "rows", "share"),
        [(name, f"{count:,}", percent(count / whole)) for name, count in rows],
    )
    groups = [
        ("groups with a candidate", f"{funnel.groups_in:,}"),
        ("groups used", f"{funnel.groups_used:,}"),
        ("pairs", f"{funnel.pairs_out:,}"),
    ]
    words = [f"By {figures.funnel_of}{_bounds(figures)}."]
    return Section("What becomes of rows", words, [grid, Grid("Groups", ("", ""), groups)])


def _bounds(figures: Figures) -> str:
    signs = {"chosen_min": "chosen ≥", "rejected_below": "rejected <"}
    told = [
        f"{signs[name]} {bound:g}"
        for name, bound in figures.thresholds.items()
        if bound is not None and name in signs
    ]
    return f" ({', '.join(told)})" if told and not figures.made_from else ""


def _scores(figures: Figures) -> Section | None:
    if figures.scores is None:
        return None
    parts: list[Grid | Bars | Lines] = [_bars("Scores", figures.scores, "rows")]
    parts += [_of_parts(name, found) for name, found in _by(figures) if found]
    if figures.gaps:
        parts.append(_bars("Gaps: chosen less rejected score", figures.gaps, "pairs"))
    tied, pairs = figures.ties or (0, 0)
    words = []
    if pairs:
        share = percent(tied / pairs)
        words = [f"Ties: {tied:,} of {pairs:,} comparisons inside prompts ({share})."]
    return Section("Scores", words, parts)


def _by(figures: Figures) -> Iterator[tuple[str, Sequence[Part]]]:
    yield "source", figures.sources
    yield "annotator", figures.annotators


def _of_parts(name: str, parts: Sequence[Part]) -> Grid:
    head: tuple[str, ...] = (name, "rows", "mean", SPARK)
    rows: list[list[str]] = [
        [part.name, f"{part.rows:,}", f"{part.mean:.4g}", spark(part.counts)] for part in parts
    ]
    if any(part.met for part in parts):
        head = (*head, "agrees", "of answers")
        for row, part in zip(rows, parts, strict=True):
            agrees = "" if part.agrees is None else f"{part.agrees:.2f}"
            row += [agrees, f"{part.met:,}"]
    told = f" (the {PARTS} with the most rows)" if len(parts) == PARTS else ""
    return Grid(f"Scores by {name}{told}", head, rows)


def _prompts(figures: Figures) -> Section | None:
    if figures.answers_per_prompt is None:
        return None
    bars = _bars("Different answers of a prompt", figures.answers_per_prompt, "prompts")
    return Section("Prompts", (), [bars])


def _floors(figures: Figures) -> Section | None:
    if not figures.floors:
        return None
    words = [
        "What a guess that knows nothing of quality gets right. A trained model is worth what it"
        " gets right beyond the highest floor."
    ]
    head = ("guess", "right", "95 % interval", "p", "shuffled labels", "pairs", "")
    return Section(
        f"Floors of {amount(figures.pairs, 'pair')}",
        words,
        [Grid("Floors", head, [floor_row(floor) for floor in figures.floors])],
    )


def floor_row(floor: Floor) -> Sequence[str]:
    """A floor as a row of the table of floors."""
    if floor.share is None or floor.low is None or floor.high is None:
        return (floor.name, "", "", "", "", "0", floor.why)
    drawn = "" if floor.shuffled is None else percent(floor.shuffled)
    said = floor.why or ("high" if is_high(floor) else "not found")
    between = f"{percent(floor.low)} to {percent(floor.high)}"
    p = floor.p_adjusted or 0.0
    chance = "<0.0001" if p < 0.0001 else f"{p:.4f}"
    return (floor.name, percent(floor.share), between, chance, drawn, f"{floor.pairs:,}", said)


def _repeats(figures: Figures) -> Section | None:
    repeats = figures.repeats
    if repeats is None:
        return None
    rows = [("rows that repeat an answer of their prompt", repeats.rows)]
    if repeats.pairs is None:
        rows.append(("rows of answers with several scores", repeats.conflicting))
    else:
        rows.append(("pairs that are there already", repeats.pairs))
        rows.append(("pairs that contradict another one", repeats.contradictory or 0))
    rows.append(("answers that stand under several prompts", repeats.shared))
    rows.append(("rows of those", repeats.shared_rows))
    grid = Grid("Exact repeats", ("", "count"), [(name, f"{count:,}") for name, count in rows])
    parts = [grid]
    for name, near in (("prompts", figures.near_prompts), ("answers", figures.near_answers)):
        if near:
            parts += _near(name, near)
    if figures.alike:
        parts += _alike(figures.alike)
    return Section("Repeats", (), parts)


def _near(name: str, near: Near) -> list[Grid]:
    rows = [
        (f"different {name}", f"{near.texts:,}"),
        ("nearly the same as an earlier one", f"{near.near:,}"),
        ("of them in another split", f"{near.across:,}"),
    ]
    counts = Grid(f"Near repeats of {name}", ("", "count"), rows)
    if not near.examples:
        return [counts]
    return [counts, Grid(f"The first near {name}", ("one", "the other"), near.examples)]


def _alike(alike: Alike) -> list[Grid]:
    rows = [
        ("different prompts", f"{alike.texts:,}"),
        ("read", f"{alike.read:,}"),
        ("nearly the meaning of an earlier one", f"{alike.alike:,}"),
        ("of them in another split", f"{alike.across:,}"),
    ]
    counts = Grid(f"Prompts of one meaning, by {alike.encoder}", ("", "count"), rows)
    if not alike.examples:
        return [counts]
    closest = [(f"{cosine:.2f}", one, other) for cosine, one, other in alike.examples]
    return [counts, Grid("The closest of them", ("cosine", "one", "the other"), closest)]


def _splits(figures: Figures) -> Section | None:
    if len(figures.splits) < 2:
        return None
    sizes = [(name, f"{prompts:,}") for name, prompts in figures.splits.items()]
    parts = [Grid("Prompts of each split", ("split", "prompts"), sizes)]
    rows = [
        (f"{each.one} and {each.other}", f"{each.prompts:,}", " / ".join(each.examples))
        for each in figures.overlaps
    ]
    words = [] if rows else ["No prompt is in two splits."]
    if rows:
        parts.append(Grid("Prompts in two splits", ("splits", "prompts", "the first ones"), rows))
    return Section("Splits", words, parts)


def _against(figures: Figures) -> Section | None:
    if not figures.against:
        return None
    head = ("benchmark", "rows", "prompts that overlap", "answers that overlap", "")
    rows = [
        (
            each.file,
            f"{each.rows:,}",
            f"{each.prompts:,}",
            f"{each.answers:,}",
            f"{each.short:,} short texts were not looked for" if each.short else "",
        )
        for each in figures.against
    ]
    parts = [Grid("Different texts that have words of a benchmark", head, rows)]
    for each in figures.against:
        spans = [
            (f"{span.of} of record {span.row:,}", f"{span.theirs:,}", f"{span.words:,}", span.text)
            for span in each.spans
        ]
        if spans:
            shown = ("where", "row there", "words", "what both have")
            parts.append(Grid(f"The first that are in {each.file}", shown, spans))
    words = [
        "13 words in a row that both have, without case and punctuation; of a benchmark text of 8"
        " to 12 words, all of them. Records and rows are numbered from 0."
    ]
    return Section("Benchmarks", words, parts)


def _pairs(figures: Figures) -> Section | None:
    if not figures.shown:
        return None
    return Section("Pairs to read", (), (), figures.shown)


def _bars(caption: str, histogram: Histogram, axis: str) -> Bars:
    ends = zip(histogram.low, histogram.high, strict=True)
    labels = [
        _number(low) if low == high else f"{_number(low)} to {_number(high)}" for low, high in ends
    ]
    return Bars(caption, labels, histogram.counts, axis)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


_BLOCKS = "▁▂▃▄▅▆▇█"


def spark(counts: Sequence[int]) -> str:
    """Counts as blocks of eight heights; a bin with anything is seen.

    >>> spark([0, 1, 4, 100])
    ' ▁▁█'
    """
    most = max([*counts, 1])
    return "".join(_BLOCKS[max(0, -(-8 * n // most) - 1)] if n else " " for n in counts)
