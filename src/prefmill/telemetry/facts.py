"""What may be told of a run: numbers of its report, and where its data lies; never texts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from prefmill import redact

#: Mappings of a report whose keys are reasons or states of ours, and no words of the data.
_BY_REASON = ("dropped", "null")
_WILD = re.compile(r"[*?\[]")
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://\S+")


def figures(report: Any) -> dict[str, Any]:
    """The numbers of a report, and its mappings of reason to rows.

    >>> class Report:
    ...     def as_json(self):
    ...         return {"rows_in": 3, "dropped": {"tie": 2}, "notes": ["text"], "labels": {"x": 1}}
    >>> figures(Report())
    {'rows_in': 3, 'dropped': {'tie': 2}}
    """
    as_json = getattr(report, "as_json", None)
    told = as_json() if as_json is not None else {}
    numbers = {name: value for name, value in told.items() if type(value) in (int, float)}
    for name in _BY_REASON:
        if isinstance(told.get(name), Mapping):
            numbers[name] = dict(told[name])
    return numbers


def rows_out(numbers: Mapping[str, Any]) -> int | None:
    """The rows of the output, by whatever name the report has for them."""
    names = ("pairs_out", "rows_out", "rows_scored", "answers")
    return next((numbers[name] for name in names if name in numbers), None)


def without_secrets(text: str) -> str:
    """A text without secrets, whose URLs have lost their fragments too.

    >>> without_secrets("no answer from https://me:pw@host/x?token=t.")
    'no answer from https://host/x'
    """
    return redact.without_secrets(_URL.sub(lambda found: _plain(found[0]), text))


def _plain(url: str) -> str:
    namespace, name = _parts(url)
    return f"{namespace}/{name}" if name else namespace


def _parts(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}", parts.path.strip("/")


def dataset_of(place: str) -> tuple[str, str]:
    """A path or URL as OpenLineage names a data set: (namespace, name). A glob is its folder.

    >>> dataset_of("s3://key:secret@bucket/rated/*.parquet"), dataset_of("/data/x.csv")
    (('s3://bucket', 'rated'), ('file', '/data/x.csv'))
    """
    if "://" in place:
        namespace, name = _parts(place)
    else:
        namespace, name = "file", os.path.abspath(place)
    wild = _WILD.search(name)
    if wild:
        name = name[: wild.start()].rpartition("/")[0]
    return namespace, name or "/"


def places_of(data: Any) -> list[str]:
    """The paths and URLs among inputs or outputs; what is in memory has none."""
    if isinstance(data, str | Path):
        return [os.fspath(data)]
    if isinstance(data, Mapping):  # splits
        return places_of(list(data.values()))
    if isinstance(data, list | tuple | set):
        return [place for each in data for place in places_of(each)]
    return []


def datasets_of(data: Any) -> list[tuple[str, str]]:
    """The data sets among inputs or outputs, each once, in order."""
    return list(dict.fromkeys(dataset_of(place) for place in places_of(data)))


def size_of(places: Iterable[str]) -> tuple[int, int] | None:
    """Files and bytes of local files and folders; None where one of them is not there."""
    files = [file for place in places for file in _files(Path(place))]
    try:
        return len(files), sum(file.stat().st_size for file in files)
    except OSError:
        return None


def _files(place: Path) -> list[Path]:
    if not place.is_dir():
        return [place]
    return [file for file in place.rglob("*") if file.is_file()]
