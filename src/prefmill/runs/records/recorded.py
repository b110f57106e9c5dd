"""What records say: keys and how they differ, outputs as they are made, reports read back."""

from __future__ import annotations

import platform
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from prefmill._version import __version__
from prefmill.disk import records
from prefmill.disk.targets import shown
from prefmill.runs.records.inputs import Known
from prefmill.shapes.words import Rows
from prefmill.writers.arrow import arrow_schema
from prefmill.writers.write import Staged

_Report = TypeVar("_Report")
#: What messages call the words of a key.
WORDS = "choice of columns"
_PACKAGES = ("polars", "duckdb", "pyarrow", "numpy", "torch", "transformers", "vllm", "datasets")


def key_of(
    *, inputs: Sequence[Known], joined: Sequence[Known] = (), **parts: Any
) -> dict[str, Any]:
    """A key: the inputs, the major version of the code, and `parts` that are there."""
    given = {name: value for name, value in parts.items() if value not in (None, (), [], {}, False)}
    files: dict[str, Any] = {"inputs": list(inputs)}
    if joined:
        files["joined"] = list(joined)
    return {**given, **files, "prefmill": __version__.split(".")[0]}


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """`records.differences` of two keys, with inputs by their names, and words as options."""
    was, is_now = options_of(before.get("rows")), options_of(now.get("rows"))
    if was != is_now:
        yield WORDS, was, is_now
    old_rest, rest = ({**key, "rows": None} for key in (before, now))
    for name, old, new in records.differences(old_rest, rest):
        if name in ("inputs", "joined"):
            yield from _inputs_changed(name.removesuffix("s"), old or [], new or [])
        else:
            yield name, old, new


def options_of(words: Mapping[str, Any] | None) -> str:
    """The words of a key as options to type; `none` where all columns were guessed."""
    return Rows(**words).options() if words else "none"


def _inputs_changed(
    word: str, before: Sequence[Known], now: Sequence[Known]
) -> Iterator[tuple[str, Any, Any]]:
    old, new = ({each[0]: each[1:] for each in known} for known in (before, now))
    for name in dict.fromkeys([*old, *new]):
        if old.get(name) != new.get(name):
            yield f"{word} {shown(name)!r}", _told(old.get(name)), _told(new.get(name))
    if old == new:
        yield f"order of {word}s", list(old), list(new)


def _told(known: Sequence[Any] | None) -> str:
    if known is None:
        return "no such input"
    if len(known) == 2:
        return f"{known[0]:,} bytes of {instant(known[1] / 1e9)}"
    return str(known[0])


def input_told(known: Sequence[Any]) -> dict[str, Any]:
    """An input of the key as the record tells it."""
    name, *facts = known
    if len(facts) == 2:
        return {"path": name, "size": facts[0], "modified": facts[1]}
    return {"path": name, "sha256" if "://" not in str(name) else "etag": facts[0]}


def outputs_of(staged: Staged) -> list[dict[str, Any]]:
    """The outputs as they are made: a file for each split, or the parts of a folder."""
    schema = {field.name: str(field.type) for field in arrow_schema(staged.schema)}
    rows, named = staged.written.rows, []
    for name, path in staged.written.paths.items():
        named.append((name, Path(path).name if len(staged.targets) > 1 else None))
    files = [
        file
        for target in staged.targets
        for file in records.described(target, staged.stage.path(target))
    ]
    if len(named) == 1 or len(staged.targets) > 1:
        return [
            {
                "path": at or staged.targets[0].name,
                "split": name or None,
                "rows": rows[name],
                "schema": schema,
                "files": [file for file in files if at is None or file["path"] == at],
            }
            for name, at in named
        ]
    home = staged.targets[0].name  # a folder with a folder for each split
    out = []
    for place, (name, _) in enumerate(named):
        inside = [file for file in files if file["path"].startswith(f"{home}/{name}/")]
        if not place:
            inside += [file for file in files if file["path"].count("/") == 1]
        out.append(
            {
                "path": f"{home}/{name}",
                "split": name,
                "rows": rows[name],
                "schema": schema,
                "files": inside,
            }
        )
    return out


def versions() -> dict[str, str]:
    """The versions of what is at work here."""
    loaded = {name: sys.modules[name] for name in _PACKAGES if name in sys.modules}
    own = {"prefmill": __version__, "python": platform.python_version()}
    return own | {name: str(getattr(each, "__version__", "")) for name, each in loaded.items()}


def instant(seconds: float) -> str:
    """A time of `time.time` in UTC, as ISO 8601 has it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def plain(value: Any) -> Any:
    """What JSON has no word for."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return list(value) if isinstance(value, Collection) else str(value)


def restored(kind: type[_Report], told: Mapping[str, Any]) -> _Report:
    """A report, a frozen dataclass, from the JSON of its `asdict`."""
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: _as(hints[name], told[name]) for name in names if name in told})


def _as(hint: Any, value: Any) -> Any:
    if value is None:
        return None
    for each in (hint, *get_args(hint)):
        if isinstance(each, type) and is_dataclass(each) and isinstance(value, dict):
            return restored(each, value)
        if isinstance(value, list) and (each is tuple or get_origin(each) is tuple):
            return tuple(value)
    return value
