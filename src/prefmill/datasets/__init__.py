"""Plans over Hugging Face `datasets`: whole prompts, declared features, cached results.

    import prefmill.datasets as pmd

    feedback = load_dataset("org/feedback", split="train")
    pairs = pmd.pairs(feedback, completion="answer", score="rating", min_margin=0.5)

| what comes in      | how it runs                                                                 |
|--------------------|-----------------------------------------------------------------------------|
| `Dataset`          | at once, in Polars, over its Arrow table as it is; cached as `map` caches   |
| `IterableDataset`  | when it is read: a temporary Parquet file, ranked out of core by DuckDB     |
| `clustered=True`   | as a stream: rows of one prompt stand together, whole prompts at a time     |
| dictionary         | split by split                                                              |

Every kind of plan is a function of this module, by its word: `pairs`, `unpaired`, `best_of`,
`advantages`. The arguments are the fields of the plan, the words of `prefmill.Rows` (the columns
of roles, and how raw records become rows), and those of `apply`. `rows` gives those rows.

>>> import datasets
>>> feedback = {"prompt": ["p", "p"], "answer": ["a", "b"], "score": [5, 1]}
>>> pairs(datasets.Dataset.from_dict(feedback))[0]
{'prompt': 'p', 'chosen': 'a', 'rejected': 'b', 'chosen_score': 5.0, 'rejected_score': 1.0}
>>> unpaired(datasets.Dataset.from_dict(feedback))["label"][:]
[True, False]
>>> best_of(datasets.Dataset.from_dict(feedback))[0]
{'prompt': 'p', 'completion': 'a', 'score': 5.0, 'rank': 1}
>>> advantages(datasets.Dataset.from_dict(feedback))["advantage"][:]
[2.0, -2.0]

>>> judged = {"prompt": ["p"], "response_a": ["a"], "response_b": ["b"], "winner": ["B"]}
>>> judged = datasets.Dataset.from_dict(judged)
>>> pairs(judged, completion="response_a,response_b", winner="winner")[0]["chosen"]
'b'

There is no rule here: the meaning is in `docs/semantics.md`. There is no `num_proc` either, because
a process would see half a prompt: Polars and DuckDB use all cores of one process. What
`map(num_proc=...)` made goes in, and what comes out can go there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, Unpack

from prefmill.arguments import closed
from prefmill.datasets.cached import long_dataset, report_of, whole
from prefmill.datasets.records import long_stream
from prefmill.datasets.stepwise import step_labels
from prefmill.datasets.streams import CHUNK_ROWS, Stream, read_rows_of, streamed
from prefmill.datasets.tables import Layout, package
from prefmill.engines.steps import kept_names
from prefmill.errors import BadArgument, BadInput
from prefmill.forks import refuse_fork
from prefmill.plans import FEEDBACK_KINDS, FeedbackPlan
from prefmill.plans.signature import function_of
from prefmill.shapes.source import words_in
from prefmill.shapes.words import Rows
from prefmill.table.roles import RoleNames
from prefmill.writers.formats import Format, margin_for

_D = TypeVar("_D")

if TYPE_CHECKING:
    from prefmill.datasets.cards import Reports
    from prefmill.plans import AdvantageOptions, BestOfOptions, PairsOptions, UnpairedOptions

    class Laid(TypedDict, total=False):
        """The arguments of `apply` that lay out rows."""

        clustered: bool
        format: Format | None
        chat: bool
        margin_scale: float | None

    class _Pairs(PairsOptions, Laid, total=False): ...

    class _Unpaired(UnpairedOptions, Laid, total=False): ...

    class _BestOf(BestOfOptions, Laid, total=False): ...

    class _Advantages(AdvantageOptions, Laid, total=False): ...

    # What editors and type checkers see of the functions that the loop below makes.
    def pairs(ds: _D, **options: Unpack[_Pairs]) -> _D: ...
    def unpaired(ds: _D, **options: Unpack[_Unpaired]) -> _D: ...
    def best_of(ds: _D, **options: Unpack[_BestOf]) -> _D: ...
    def advantages(ds: _D, **options: Unpack[_Advantages]) -> _D: ...


__all__ = ["apply", "push_to_hub", "report", "rows", "step_labels", *FEEDBACK_KINDS]


@closed("datasets")
def apply(
    plan: FeedbackPlan,
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
    kept_names(keep, None, where="datasets")
    layout = Layout(plan, format or plan.layout, chat, margin_scale, tuple(keep))
    if isinstance(ds, datasets.IterableDataset):
        return streamed(ds, layout, roles, clustered, chunk_rows)  # type: ignore[no-any-return]
    if isinstance(ds, datasets.Dataset):
        if clustered:
            raise BadArgument(
                "datasets: clustered is for streams; got a Dataset, which is read as a whole.",
                hint="leave clustered out.",
            )
        return whole(ds, layout, roles)  # type: ignore[no-any-return]
    raise _no_dataset(ds)


def _no_dataset(ds: object) -> BadArgument:
    expected = "a Dataset, IterableDataset, DatasetDict or IterableDatasetDict"
    return BadArgument(
        f"datasets: cannot run over a {type(ds).__name__}; expected {expected}.",
        hint="of Polars frames: plan.lazy(frame).",
    )


def _work(plan: FeedbackPlan, ds: Any, roles: RoleNames, **options: Any) -> Any:
    return apply(plan, ds, **options, **roles)


# `chunk_rows` of `apply` is left out: it changes speed alone.
_LAID: dict[str, Any] = {"keep": (), "clustered": False, "format": None, "chat": False}
for _word, _kind in FEEDBACK_KINDS.items():
    _more = dict(_LAID)
    if margin_for(_kind.rows_are):
        _more["margin_scale"] = None
    globals()[_word] = function_of(_kind, _work, module=__name__, data="ds", more=_more)


@closed("datasets")
def report(plan: FeedbackPlan, ds: Any, **roles: Unpack[RoleNames]) -> Any:
    """What `plan` uses of `ds` and why it drops the rest; reads `ds` once.

    A `PairReport`, or of a dictionary of splits one for each.

    >>> import datasets
    >>> from prefmill import Pairs
    >>> rows = {"prompt": ["p", "p", "q"], "completion": ["a", "b", "c"], "score": [5, 1, 5]}
    >>> dict(report(Pairs(), datasets.Dataset.from_dict(rows)).dropped)
    {'single_completion': 1}
    """
    datasets = package()
    refuse_fork("datasets")
    if isinstance(ds, dict):
        return {name: report(plan, split, **roles) for name, split in ds.items()}
    layout = Layout(plan, plan.layout, False, None)
    if isinstance(ds, datasets.Dataset):
        return report_of(ds, layout, roles)
    if not isinstance(ds, datasets.IterableDataset):
        raise BadArgument(
            f"datasets: cannot report on a {type(ds).__name__}; "
            "expected a Dataset, IterableDataset or a dictionary of them."
        )
    return Stream.over(ds, layout, roles, False, CHUNK_ROWS).report()


def rows(ds: _D, *, rows: Rows | None = None, **words: Unpack[RoleNames]) -> _D:
    """The rows that the raw records of `ds` become, in order; of the same kind as `ds`.

    Args:
        ds: as `apply` takes it.
        rows: words of `prefmill.Rows`, as a whole.
        words: words of `prefmill.Rows`, one by one; they win over `rows`.

    Columns: prompt, completion, score and the other roles that are named, then the columns of
    `ds` whose values are not in these. Where scores compare inside one record only, its number is
    the last one, `record`: give it as `group` to a plan. A score that no column holds is left out.
    Records that give no row are told in a warning. A `Dataset` is cached as `apply` caches; an
    `IterableDataset` stays a stream, some thousand records at a time. Raises `ColumnMissing`,
    `BadArgument`; `BadInput` for lists of unequal length.

    >>> import datasets
    >>> asked = {"prompt": ["p"], "responses": [["a", "b"]], "scores": [[5, 1]]}
    >>> rows(datasets.Dataset.from_dict(asked), each="responses,scores")[:]
    {'prompt': ['p', 'p'], 'completion': ['a', 'b'], 'score': [5, 1]}
    """
    refuse_fork("datasets")
    return _long(ds, words_in(rows, words))  # type: ignore[no-any-return]


def _long(ds: Any, words: Rows) -> Any:
    datasets = package()
    if isinstance(ds, dict):
        return type(ds)({name: _long(split, words) for name, split in ds.items()})
    if isinstance(ds, datasets.IterableDataset):
        return long_stream(ds, words, read_rows_of(ds))
    if isinstance(ds, datasets.Dataset):
        return long_dataset(ds, words)
    raise _no_dataset(ds)


def push_to_hub(
    ds: Any,
    repo_id: str,
    *,
    plan: FeedbackPlan,
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
            f"push_to_hub: the data was pushed, but its pull request is not known; got {done!r}, "
            "so the card was not pushed.",
            hint="write the card into a folder (prefmill.datasets.cards.write_card) "
            "and add it to that pull request.",
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
