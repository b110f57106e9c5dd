"""Dataset cards: what a set of preference data was made of, and how.

Nothing is imported for it.

A card says which plan made the data (TOML, and its hash), what became of every row, from which
source, under which license.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, Unpack

from prefmill._version import __version__
from prefmill.arguments import closed
from prefmill.disk.whole import Staging
from prefmill.errors import BadArgument, BadInput, MissingPackage
from prefmill.redact import url_without_secrets
from prefmill.shapes.account import line_of
from prefmill.writers.cards import front_matter, table

if TYPE_CHECKING:
    from prefmill.plans import FeedbackPlan
    from prefmill.runs.account.report import RunReport
    from prefmill.table.report import PairReport

    Reports: TypeAlias = PairReport | RunReport | Mapping[str, PairReport | RunReport]

_BEGIN, _END = "<!-- prefmill: begin -->", "<!-- prefmill: end -->"
_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)


def card(
    plan: FeedbackPlan,
    report: Reports,
    *,
    source: str | Sequence[str] = (),
    license: str | None = None,
    title: str = "Preference data",
    language: str | Sequence[str] = (),
) -> str:
    """The card of what `plan` made; the same text for the same arguments.

    Args:
        report: what became of every row (`pair_report`, `run`, `datasets.report`), or one for every
            split by name.
        source: where the feedback came from: ids of the hub, paths, addresses.
        license: the license of the data, as the hub abbreviates it; without one the card says that
            it is unknown.

    Raises `BadArgument` for a report of nothing.

    >>> from prefmill import PairReport, Pairs
    >>> report = PairReport(
    ...     rows_in=3, rows_used=2, rows_not_selected=0, dropped={"tie": 1}, pairs_out=1
    ... )
    >>> print(card(Pairs(), report, source="org/feedback", license="cc-by-4.0").split("---")[1])
    license: "cc-by-4.0"
    source_datasets:
    - "org/feedback"
    tags:
    - "preference"
    - "prefmill"
    - "pairs"
    size_categories:
    - "n<1K"
    prefmill:
      version: "..."
      plan: "b146053a41aae14c"
      rows_in: 3
      rows_out: 1
    <BLANKLINE>
    """
    # A report is a mapping of its fields: one alone is told from several by a field of it.
    several: Any = {"rows": report} if hasattr(report, "rows_in") else report
    reports: dict[str, PairReport | RunReport] = dict(several)
    if not reports:
        raise BadArgument("card: no report; got an empty mapping, expected one for every split.")
    sources = [url_without_secrets(each) for each in _several(source)]
    rows_out = sum(told.pairs_out for told in reports.values())
    head: dict[str, object] = {}
    if license:
        head["license"] = license
    if _several(language):
        head["language"] = _several(language)
    if sources:
        head["source_datasets"] = sources
    head["tags"] = ["preference", "prefmill", plan.kind]
    head["size_categories"] = [next((name for limit, name in _SIZES if rows_out < limit), "n>10M")]
    rows_in = sum(told.rows_in for told in reports.values())
    head["prefmill"] = {
        "version": __version__,
        "plan": plan.hash(),
        "rows_in": rows_in,
        "rows_out": rows_out,
    }
    lines = [
        f"# {title}",
        "",
        _BEGIN,
        f"{rows_out:,} {plan.card}, made by prefmill {__version__} from {rows_in:,} rows of "
        "feedback.",
        "",
        f"- source: {', '.join(sources) or 'not stated'}",
        f"- license: {license or 'not stated: ask whoever owns the source'}",
        f"- plan `{plan.hash()}`, to be read back with `prefmill.plans.read_plan`, "
        "or run with `--plan`:",
        "",
        "```toml",
        plan.to_toml().rstrip(),
        "```",
        "",
        *_records(reports),
        "What became of every row:",
        "",
        *_counts(reports),
        _END,
        "",
    ]
    return "\n".join([front_matter(head), *lines])


class About(TypedDict, total=False):
    """What a card says that no report knows."""

    source: str | Sequence[str]
    license: str | None
    title: str
    language: str | Sequence[str]


@closed("card")
def write_card(
    target: str | Path, plan: FeedbackPlan, report: Reports, **about: Unpack[About]
) -> Path:
    """Write the card as `README.md` into the folder `target`, or as the file `target`.

    It is a file if its name ends in `.md`; the path comes back.

    A README that is there keeps its words and its front matter: only what a card says is put in or
    replaced. That needs the package huggingface_hub, which `datasets` brings; a new card needs
    nothing. `about` are the further arguments of `card`.

    >>> import tempfile
    >>> from prefmill import PairReport, Pairs
    >>> report = PairReport(rows_in=2, rows_used=2, rows_not_selected=0, pairs_out=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_card(folder, Pairs(), report).read_text().splitlines()[0]
    '---'
    """
    path = Path(target)
    if path.suffix != ".md":
        path = path / "README.md"
    text = card(plan, report, **about)
    if path.exists():
        text = merged(path.read_text(encoding="utf-8"), text)
    with Staging([path], where="card", shared=True) as staging:
        staging.path(path).write_text(text, encoding="utf-8")
        staging.publish(overwrite=True)
    return path


def merged(there: str, card: str) -> str:
    """The README `there` with what `card` says.

    The keys of the card's front matter win, and its section takes the place of the old one.
    """
    try:
        from huggingface_hub.repocard import RepoCard
    except ImportError:
        raise MissingPackage.for_extra(
            "card: a README that is there already", "huggingface_hub", "datasets"
        ) from None
    try:
        old = RepoCard(there, ignore_metadata_errors=True)
    except ValueError as error:
        raise BadInput(
            f"card: the front matter of the README is broken; {error}.",
            hint="repair it, or move the file away.",
        ) from None
    # The hub's own parser: a README may hold YAML that ours does not write.
    new = RepoCard(card, ignore_metadata_errors=True)
    theirs: dict[str, Any] = old.data.to_dict()  # type: ignore[no-untyped-call]
    ours: dict[str, Any] = new.data.to_dict()  # type: ignore[no-untyped-call]
    tags = [*(theirs.get("tags") or []), *ours["tags"]]
    head = {**theirs, **ours, "tags": list(dict.fromkeys(tags))}
    section = _BEGIN + new.text.partition(_BEGIN)[2].partition(_END)[0] + _END
    if _BEGIN in old.text and _END in old.text:
        before, _, rest = old.text.partition(_BEGIN)
        body = before + section + rest.partition(_END)[2]
    elif old.text.strip():
        body = f"{old.text.rstrip()}\n\n{section}\n"
    else:
        body = new.text
    return f"{front_matter(head)}\n{body.lstrip()}"


def _several(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _records(reports: Mapping[str, PairReport | RunReport]) -> list[str]:
    """How raw records became rows, if they did."""
    lines = [
        f"- {name}: read as `{done.records['read_as']}`; {line_of(done.records)}"
        for name, done in reports.items()
        if done.records
    ]
    return ["What became of every raw record:", "", *lines, ""] if lines else []


def _counts(reports: Mapping[str, PairReport | RunReport]) -> list[str]:
    """The counts as a Markdown table, a column for every split."""
    several = list(reports.values())
    rows = {
        "rows in": [report.rows_in for report in several],
        "used": [report.rows_used for report in several],
        "not selected": [report.rows_not_selected for report in several],
    }
    for reason in sorted({reason for report in several for reason in report.dropped}):
        rows[f"dropped: {reason}"] = [report.dropped.get(reason, 0) for report in several]
    rows["prompts with a candidate"] = [report.groups_in for report in several]
    rows["prompts used"] = [report.groups_used for report in several]
    rows["rows out"] = [report.pairs_out for report in several]
    if all(report.labels is not None for report in several):
        for name in ("true", "false"):
            rows[f"label {name}"] = [(report.labels or {})[name] for report in several]
    cells = ([name, *(f"{count:,}" for count in counts)] for name, counts in rows.items())
    return table(["", *reports], cells)
