"""Plans over Hugging Face `datasets`: whole prompt groups although batches cut them, features
declared, fingerprints that hit the cache.

    import prefmill.datasets as pmd

    pairs = pmd.pairs(load_dataset("org/feedback", split="train"), completion="answer",
    score="rating", min_margin=0.5)

| what comes in             | how it runs                                                                                       |
|---------------------------|---------------------------------------------------------------------------------------------------|
| `Dataset`                 | Polars over its Arrow table as it is (memory-mapped where it is), at once; cached as `map` caches |
| `IterableDataset`         | nothing until it is read; then a temporary Parquet file, ranked out of core by DuckDB             |
| the same, `clustered=True`| as a stream: rows of one prompt stand together, a chunk of whole prompts at a time                |
| a dictionary of splits    | split by split                                                                                    |

There is no rule here: the meaning is in `docs/semantics.md`. There is no `num_proc` either, because
a process would see half a prompt: Polars and DuckDB use all cores of one process. What
`map(num_proc=...)` made goes in, and what comes out can go there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, cast

from prefmill.datasets.streams import CHUNK_ROWS, Stream, streamed
from prefmill.datasets.tables import Layout, frame_of, package, used_table, whole
from prefmill.disk.hidden import temporary
from prefmill.errors import BadArgument, BadInput
from prefmill.forks import refuse_fork
from prefmill.plans import (
    Aggregate,
    BestOf,
    Normalize,
    OnInvalid,
    Pairs,
    Pick,
    Plan,
    Scope,
    StagesUsed,
    Strategy,
    Threshold,
    TieBreak,
    Unpaired,
    kept_columns,
    named,
    plan_and_roles,
    roles_of,
    used_columns,
)
from prefmill.polars import report as frame_report
from prefmill.table.fits import fits_table
from prefmill.table.roles import RoleNames
from prefmill.writers.formats import Format

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prefmill.datasets.cards import Reports

_D = TypeVar("_D")


def pairs(
    ds: _D,
    *,
    chosen_min: Threshold = "auto",
    rejected_below: Threshold = "auto",
    strategy: Strategy = "best_worst",
    min_margin: float = 0,
    max_pairs_per_prompt: int | None = None,
    top_k: int | None = None,
    bottom_k: int | None = None,
    aggregate: Aggregate = "none",
    normalize: Normalize = "none",
    weights: Mapping[str, float] | None = None,
    min_votes: int = 1,
    tie_break: TieBreak = "position",
    on_invalid: OnInvalid = "drop",
    seed: int = 0,
    prompt: str | None = None,
    completion: str | None = None,
    score: str | None = None,
    id: str | None = None,
    annotator: str | None = None,
    aspect: str | None = None,
    stage: str | None = None,
    group: str | Sequence[str] | None = None,
    keep: Sequence[str] = (),
    clustered: bool = False,
    format: Format | None = None,
    chat: bool = False,
    margin_scale: float | None = None,
) -> _D:
    """Preference pairs of a dataset: the plan `Pairs` and the roles as arguments; the rest is in
    `apply`.

    | prompt | completion | score |      | prompt | chosen | rejected | chosen_score | rejected_score |
    |   p    |     a      |   5   |  ->  |   p    |   a    |    b     |      5       |       1        |
    |   p    |     b      |   1   |

    >>> import datasets
    >>> feedback = datasets.Dataset.from_dict({"prompt": ["p", "p"], "answer": ["a", "b"], "score": [5, 1]})
    >>> pairs(feedback)[0]
    {'prompt': 'p', 'chosen': 'a', 'rejected': 'b', 'chosen_score': 5.0, 'rejected_score': 1.0}
    """
    return _given(Pairs, ds, locals())


def unpaired(
    ds: _D,
    *,
    chosen_min: Threshold = "auto",
    rejected_below: Threshold = "auto",
    aggregate: Aggregate = "none",
    normalize: Normalize = "none",
    weights: Mapping[str, float] | None = None,
    min_votes: int = 1,
    tie_break: TieBreak = "position",
    on_invalid: OnInvalid = "drop",
    seed: int = 0,
    prompt: str | None = None,
    completion: str | None = None,
    score: str | None = None,
    id: str | None = None,
    annotator: str | None = None,
    aspect: str | None = None,
    stage: str | None = None,
    group: str | Sequence[str] | None = None,
    keep: Sequence[str] = (),
    clustered: bool = False,
    format: Format | None = None,
    chat: bool = False,
) -> _D:
    """Labels for KTO: the plan `Unpaired` and the roles as arguments; the rest is in `apply`.

    >>> import datasets
    >>> feedback = datasets.Dataset.from_dict({"prompt": ["p", "p"], "answer": ["a", "b"], "score": [5, 1]})
    >>> unpaired(feedback)["label"][:]
    [True, False]
    """
    return _given(Unpaired, ds, locals())


def best_of(
    ds: _D,
    *,
    k: int = 1,
    pick: Pick = "best",
    scope: Scope = "prompt",
    min_score: float | None = None,
    stages: StagesUsed = "all",
    beta: float = 0.5,
    length_control: bool = False,
    aggregate: Aggregate = "none",
    normalize: Normalize = "none",
    weights: Mapping[str, float] | None = None,
    min_votes: int = 1,
    tie_break: TieBreak = "position",
    on_invalid: OnInvalid = "drop",
    seed: int = 0,
    prompt: str | None = None,
    completion: str | None = None,
    score: str | None = None,
    id: str | None = None,
    annotator: str | None = None,
    aspect: str | None = None,
    stage: str | None = None,
    group: str | Sequence[str] | None = None,
    keep: Sequence[str] = (),
    clustered: bool = False,
    format: Format | None = None,
    chat: bool = False,
) -> _D:
    """The k best completions of every prompt: the plan `BestOf` and the roles as arguments; the
    rest is in `apply`.

    >>> import datasets
    >>> pool = datasets.Dataset.from_dict({"prompt": ["p", "p"], "completion": ["a", "b"], "score": [0.2, 0.9]})
    >>> best_of(pool)[0]
    {'prompt': 'p', 'completion': 'b', 'score': 0.9, 'rank': 1}
    """
    return _given(BestOf, ds, locals())


def _given(
    kind: type[Pairs] | type[Unpaired] | type[BestOf], ds: _D, given: Mapping[str, Any]
) -> _D:
    plan, roles = plan_and_roles(kind, given)
    return apply(
        plan,
        ds,
        keep=given["keep"],
        clustered=given["clustered"],
        format=given["format"],
        chat=given["chat"],
        margin_scale=given.get("margin_scale"),
        **roles,
    )


def apply(
    plan: Plan,
    ds: _D,
    *,
    keep: Sequence[str] = (),
    clustered: bool = False,
    format: Format | None = None,
    chat: bool = False,
    margin_scale: float | None = None,
    chunk_rows: int = CHUNK_ROWS,
    **roles: Unpack[RoleNames],
) -> _D:
    """`plan` over `ds`; what comes back is of the same kind, and its features are known.

    Args:
        ds: a `Dataset`, `IterableDataset`, `DatasetDict` or `IterableDatasetDict`. Select, shuffle,
            filter, shards: as `ds` gives its rows.
        clustered: of an `IterableDataset`: rows of one prompt stand together. Then it runs as a
            stream, and a prompt that comes back is an error. Plans that look at all rows
            (`normalize`, `stages="last"`, `scope="pool"`, `length_control`) cannot run so.
        keep: columns to carry along: of pairs `chosen_NAME` and `rejected_NAME`, of the others
            `NAME`.
        format: the columns (`prefmill.writers.layouts.convert`); by default `trl` for pairs, `kto`
            for labels, and for picks prompt, completion, score, rank (with length control
            adjusted_score, and stage where that role is mapped). As in files, an answer beside a
            message-list prompt is a message.
        chat, margin_scale: as `prefmill.run` takes them.
        chunk_rows: with `clustered`, so many rows at a time, and more where a prompt has more.
            Labels are in order inside a chunk.

    Text is `string`, scores `float64`, whatever the input had. A `Dataset` that lies in files keeps
    the result beside them, under a fingerprint made of its own, the plan, the roles and the layout:
    the same call in another process reads it back. An `IterableDataset` runs anew on every pass; of
    several passes over a large one, keep the first (`to_parquet`).
    """
    datasets = package()
    refuse_fork("datasets")
    if isinstance(ds, dict):
        more: dict[str, Any] = {
            "keep": keep,
            "clustered": clustered,
            "format": format,
            "chat": chat,
            "margin_scale": margin_scale,
            **roles,
        }
        made = {
            name: apply(plan, split, chunk_rows=chunk_rows, **more) for name, split in ds.items()
        }
        return type(ds)(made)
    kept_columns(plan, keep, None, (), where="datasets")
    layout = Layout(plan, format or cast(Format, plan.layout), chat, margin_scale, tuple(keep))
    if isinstance(ds, datasets.IterableDataset):
        return streamed(ds, layout, roles, clustered, chunk_rows)  # type: ignore[no-any-return]
    if isinstance(ds, datasets.Dataset):
        if clustered:
            raise BadArgument(
                "datasets: clustered is for streams; got a Dataset, which is read as a whole.",
                hint="leave clustered out.",
            )
        return whole(ds, layout, roles)  # type: ignore[no-any-return]
    expected = "a Dataset, IterableDataset, DatasetDict or IterableDatasetDict"
    raise BadArgument(
        f"datasets: cannot run over a {type(ds).__name__}; expected {expected}.",
        hint="of Polars frames: plan.lazy(frame).",
    )


def report(plan: Plan, ds: Any, **roles: Unpack[RoleNames]) -> Any:
    """What `plan` uses of `ds` and why it drops the rest: a `PairReport`, or of a dictionary of
    splits one for each. Reads `ds` once.

    >>> import datasets
    >>> feedback = datasets.Dataset.from_dict({"prompt": ["p", "p", "q"], "completion": ["a", "b", "c"], "score": [5, 1, 5]})
    >>> dict(report(Pairs(), feedback).dropped)
    {'single_completion': 1}
    """
    datasets = package()
    refuse_fork("datasets")
    if isinstance(ds, dict):
        return {name: report(plan, split, **roles) for name, split in ds.items()}
    if isinstance(ds, datasets.Dataset):
        found = roles_of(
            plan, roles, ds.column_names, where="datasets", fits=fits_table(ds.data.table)
        )
        table = used_table(ds, used_columns(plan, found))
        return frame_report(plan, frame_of(ds, table), **named(found))
    if not isinstance(ds, datasets.IterableDataset):
        raise BadArgument(
            f"datasets: cannot report on a {type(ds).__name__}; expected a Dataset, IterableDataset or a dictionary of them."
        )
    stream = Stream.over(
        ds, Layout(plan, cast(Format, plan.layout), False, None), roles, False, CHUNK_ROWS
    )
    with temporary() as home, stream.job(home) as job:
        return job.report()


def push_to_hub(
    ds: Any,
    repo_id: str,
    *,
    plan: Plan,
    report: Reports,
    source: str | Sequence[str] = (),
    license: str | None = None,
    title: str = "Preference data",
    **options: Any,
) -> Any:
    """`ds.push_to_hub(repo_id, **options)`, then the card of `plan` and `report` into the README
    there; what the push returned.

    The card goes where the data went: to `revision`, or with `create_pr` into that pull request.
    The README there keeps what `datasets` wrote about configurations and features, and words of
    your own (`prefmill.datasets.cards.write_card`). Raises `BadInput` if a pull request was asked
    for and the push names none: the card is then nowhere.
    """
    from prefmill.datasets.cards import card, merged

    package()
    from huggingface_hub import DatasetCard
    from huggingface_hub.errors import EntryNotFoundError

    text = card(plan, report, source=source, license=license, title=title)
    done = ds.push_to_hub(repo_id, **options)
    revision = getattr(done, "pr_revision", None) or options.get("revision")
    if options.get("create_pr") and not getattr(done, "pr_revision", None):
        raise BadInput(
            f"push_to_hub: the data was pushed, but its pull request is not known; got {done!r}, so the card was not pushed.",
            hint="write the card into a folder (prefmill.datasets.cards.write_card) and add it to that pull request.",
        )
    token = options.get("token")
    try:
        place = _readme_of(repo_id, revision, token) if revision else repo_id
        there = str(
            DatasetCard.load(place, repo_type="dataset", ignore_metadata_errors=True, token=token)
        )
    except EntryNotFoundError:
        there = ""
    access = {
        name: value
        for name, value in (("token", token), ("revision", revision))
        if value is not None
    }
    new = DatasetCard(merged(there, text) if there else text, ignore_metadata_errors=True)
    new.push_to_hub(repo_id, repo_type="dataset", **access)
    return done


def _readme_of(repo_id: str, revision: str, token: Any) -> Path:
    """The README of a branch or a pull request: `DatasetCard.load` knows that of main alone."""
    import huggingface_hub

    return Path(
        huggingface_hub.hf_hub_download(
            repo_id, "README.md", repo_type="dataset", revision=revision, token=token
        )
    )
