"""Dataset cards: what a set of preference data was made of, and how, as YAML front matter and
Markdown. Nothing is imported for it.

A card says which plan made the data (TOML, and its hash), what became of every row, from which
source, under which license.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from prefmill._version import __version__
from prefmill.disk.whole import Staging
from prefmill.errors import BadArgument, BadInput, MissingPackage

if TYPE_CHECKING:
    from prefmill.plans import Plan
    from prefmill.runs.run import RunReport
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
    plan: Plan,
    report: Reports,
    *,
    source: str | Sequence[str] = (),
    license: str | None = None,
    title: str = "Preference data",
    language: str | Sequence[str] = (),
) -> str:
    """The card of what `plan` made: Markdown behind YAML front matter, the same text for the same
    arguments.

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
    reports: dict[str, PairReport | RunReport] = (
        {"rows": report} if hasattr(report, "rows_in") else dict(report)
    )  # type: ignore[dict-item]
    if not reports:
        raise BadArgument("card: no report; got an empty mapping, expected one for every split.")
    sources = _several(source)
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
        "What became of every row:",
        "",
        *_table(reports),
        _END,
        "",
    ]
    return f"---\n{_yaml(head)}---\n\n" + "\n".join(lines)


def write_card(target: str | Path, plan: Plan, report: Reports, **about: str) -> Path:
    """Write the card as `README.md` into the folder `target` (or as the file `target`, if its name
    ends in `.md`); the path.

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
    path = path if path.suffix == ".md" else path / "README.md"
    text = card(plan, report, **about)
    if path.exists():
        text = merged(path.read_text(encoding="utf-8"), text)
    with Staging([path], where="card", shared=True) as staging:
        staging.path(path).write_text(text, encoding="utf-8")
        staging.publish(overwrite=True)
    return path


def merged(there: str, card: str) -> str:
    """The README `there` with what `card` says: its front matter keys over those that are there,
    its section in place of the old one.
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
    new = RepoCard(card, ignore_metadata_errors=True)
    theirs: dict[str, Any] = old.data.to_dict()  # type: ignore[no-untyped-call]
    ours: dict[str, Any] = new.data.to_dict()  # type: ignore[no-untyped-call]
    head = (
        theirs | ours | {"tags": list(dict.fromkeys([*(theirs.get("tags") or []), *ours["tags"]]))}
    )
    section = new.text[new.text.index(_BEGIN) : new.text.index(_END) + len(_END)]
    if _BEGIN in old.text and _END in old.text:
        body = (
            old.text[: old.text.index(_BEGIN)]
            + section
            + old.text[old.text.index(_END) + len(_END) :]
        )
    elif old.text.strip():
        body = f"{old.text.rstrip()}\n\n{section}\n"
    else:
        body = new.text
    return f"---\n{_yaml(head)}---\n\n{body.lstrip()}"


def _several(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _table(reports: Mapping[str, PairReport | RunReport]) -> list[str]:
    """The counts as a Markdown table, a column for every split."""
    reasons = sorted({reason for told in reports.values() for reason in told.dropped})
    lines: list[tuple[str, list[int]]] = [
        ("rows in", [told.rows_in for told in reports.values()]),
        ("used", [told.rows_used for told in reports.values()]),
        ("not selected", [told.rows_not_selected for told in reports.values()]),
        *(
            (f"dropped: {reason}", [told.dropped.get(reason, 0) for told in reports.values()])
            for reason in reasons
        ),
        ("prompts with a candidate", [told.groups_in for told in reports.values()]),
        ("prompts used", [told.groups_used for told in reports.values()]),
        ("rows out", [told.pairs_out for told in reports.values()]),
    ]
    if all(told.labels is not None for told in reports.values()):
        lines += [
            (f"label {name}", [(told.labels or {})[name] for told in reports.values()])
            for name in ("true", "false")
        ]
    head = f"| | {' | '.join(reports)} |"
    return [
        head,
        "|---|" + "---:|" * len(reports),
        *(f"| {name} | {' | '.join(f'{n:,}' for n in counts)} |" for name, counts in lines),
    ]


def _yaml(values: Mapping[str, object], indent: str = "") -> str:
    """YAML of mappings, lists and scalars; a scalar is written as JSON, which YAML is a superset
    of.
    """
    lines = ""
    for key, value in values.items():
        name = (
            key
            if key.replace("_", "").replace("-", "").isalnum() and not key.isdigit()
            else json.dumps(key, ensure_ascii=False)
        )
        if isinstance(value, Mapping) and value:
            lines += f"{indent}{name}:\n{_yaml(value, indent + '  ')}"
        elif (
            isinstance(value, list)
            and value
            and not any(isinstance(item, Mapping | list) for item in value)
        ):
            lines += f"{indent}{name}:\n" + "".join(
                f"{indent}- {json.dumps(item, ensure_ascii=False)}\n" for item in value
            )
        else:
            lines += f"{indent}{name}: {json.dumps(value, ensure_ascii=False)}\n"
    return lines
