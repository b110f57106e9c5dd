"""Labels of steps over Hugging Face `datasets`: records of steps as rows of a reward model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar, Unpack

import pyarrow as pa

from prefmill.arguments import closed
from prefmill.datasets.tables import frame_of, info_of, package, tables_of, used_table
from prefmill.errors import BadArgument
from prefmill.forks import refuse_fork
from prefmill.rules.step_records import step_labels as frame_labels
from prefmill.runs.steps import step_rows
from prefmill.table.step_words import StepOptions

_D = TypeVar("_D")
_SCHEMA = pa.schema(
    [
        ("prompt", pa.string()),
        ("completions", pa.list_(pa.string())),
        ("labels", pa.list_(pa.bool_())),
    ]
)


@closed("datasets")
def step_labels(ds: _D, **words: Unpack[StepOptions]) -> _D:
    """Rows of prompt, completions and labels of steps; what comes back is of the same kind.

    `ds` is a `Dataset`, `IterableDataset` or a dictionary of them; the words are those of
    `prefmill.step_labels`. An `IterableDataset` is read twice, when it is read: what ratings mean
    is decided by all of them.

    >>> import datasets
    >>> records = {"prompt": ["2+2?"], "steps": [["2+2=5", "so 5"]], "ratings": [[0, 1]]}
    >>> step_labels(datasets.Dataset.from_dict(records))[0]
    {'prompt': '2+2?', 'completions': ['2+2=5', 'so 5'], 'labels': [False, True]}
    """
    datasets = package()
    refuse_fork("datasets")
    if isinstance(ds, dict):
        return type(ds)({name: step_labels(split, **words) for name, split in ds.items()})
    features = datasets.Features.from_arrow_schema(_SCHEMA)
    if isinstance(ds, datasets.IterableDataset):
        return _streamed(ds, features, words)  # type: ignore[no-any-return]
    if not isinstance(ds, datasets.Dataset):
        raise BadArgument(
            f"datasets: cannot run over a {type(ds).__name__}; expected a Dataset, IterableDataset"
            " or a dictionary of them.",
            hint="of Polars frames: prefmill.step_labels(frame).",
        )
    rows = frame_labels(frame_of(ds, used_table(ds, ds.column_names)), **words)
    tables = [_SCHEMA.empty_table(), *tables_of(rows, _SCHEMA)]
    table = pa.concat_tables(tables)
    info = info_of(features, ds.info)
    return datasets.Dataset(table, info=info, split=ds.split)  # type: ignore[no-any-return]


def _streamed(ds: Any, features: Any, words: StepOptions) -> Any:
    from datasets.iterable_dataset import ArrowExamplesIterable

    examples = ArrowExamplesIterable(_Rows(ds, words).tables, {})
    info = info_of(features, ds.info)
    return package().IterableDataset(examples, info=info, split=ds.split)


class _Rows:
    """What a stream of ours reads from; it can be read any number of times."""

    def __init__(self, ds: Any, words: StepOptions) -> None:
        self._ds, self._words = ds, words

    def tables(self) -> Iterator[tuple[str, pa.Table]]:
        """Keys and tables, as `ArrowExamplesIterable` wants them."""
        number = 0
        for frame in step_rows(self._ds, **self._words):
            for table in tables_of(frame, _SCHEMA):
                yield str(number), table
                number += 1
