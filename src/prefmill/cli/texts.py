"""How the texts of options are read, and how answers are printed on stdout."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import typer

from prefmill.disk.hidden import temporary
from prefmill.errors import BadArgument
from prefmill.redact import redacted
from prefmill.shown import in_json
from prefmill.table.roles import RoleNames

#: What reports call the target `-`.
STDOUT = "<stdout>"


@contextmanager
def stdout_or(output: str) -> Iterator[str]:
    """The target to write to; for `-` a temporary file of JSON Lines.

    It goes to stdout when it is whole.
    """
    if output != "-":
        yield output
        return
    with temporary() as folder:
        path = folder / "stdout.jsonl"
        yield str(path)
        # Nothing is there where no row came out, and half of it never goes to a pipe.
        if path.exists():
            with to_stdout(), path.open("rb") as lines:
                if sys.stdout.isatty():
                    sys.stdout.writelines(in_json(line.decode()) for line in lines)
                else:
                    shutil.copyfileobj(lines, sys.stdout.buffer)
                sys.stdout.flush()
                sys.stdout.buffer.flush()


def was_given(value: object) -> bool:
    """Whether an option was named."""
    # By identity: 0 is a value like others, though it equals False.
    return value is not None and value is not False and value != []


def given_for(
    part: Any, parts: Sequence[Any], options: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """The options that were given and that `part`, one of `parts`, takes.

    Raises for one that only others take: it has no meaning `where`.
    """
    known = frozenset().union(*(each.options() for each in parts))
    given = {name: options[name] for name in sorted(known & options.keys())}
    given = {name: value for name, value in given.items() if was_given(value)}
    for name in given:
        if name not in part.options():
            raise BadArgument(f"options: --{name.replace('_', '-')} has no meaning {where}.")
    for name in ("extra", "engine_args"):
        if name in given:
            given[name] = json_in(name.replace("_", "-"), given[name])
    return given


def json_in(name: str, text: str) -> dict[str, Any]:
    """The JSON object that an option's text is."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise BadArgument(
            f"--{name}: not a JSON object; got {text!r}, expected for example '{{\"top_k\": 40}}'."
        )
    return value


def roles_given(options: object) -> RoleNames:
    """The columns that were named for roles."""
    names = {role: getattr(options, role, None) for role in RoleNames.__annotations__}
    return {role: column for role, column in names.items() if column}  # type: ignore[return-value]


def number_in(name: str, text: str) -> float:
    """The number that an option's text means."""
    try:
        value = float(text)
    except ValueError:
        raise BadArgument(
            f"--{name.replace('_', '-')}: not a number; got {text!r}, expected a number or none."
        ) from None
    # Messages then say 4, as people wrote it, and not 4.0.
    return int(value) if value.is_integer() else value


def threshold_in(name: str, text: str, *, auto: bool) -> float | str | None:
    """A bound of scores: a number, `none`, or where `auto` is, that word for what suits them."""
    word = text.strip().lower()
    if word == "none":
        return None
    return word if word == "auto" and auto else number_in(name, text)


def names_in(text: str | None) -> Sequence[str]:
    """`a,b` as a list."""
    return [part for part in (text or "").split(",") if part]


def print_json(report: object) -> None:
    """`report` on stdout, in one line.

    JSON has no NaN and no infinity: they are null, as a NaN is in the JSON Lines that we write.
    Reports are kept in logs, so URLs in them have no secrets.
    """
    text = json.dumps(redacted(_finite(report)), ensure_ascii=False, allow_nan=False, default=str)
    with to_stdout():
        typer.echo(in_json(text))


@contextmanager
def to_stdout() -> Iterator[None]:
    """What stdout refuses in here says so; a closed pipe stays what it is."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, "<stdout>") from error


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value


def numbers_in(option: str, text: str | None) -> dict[str, float] | None:
    """`a=1,b=2` as a mapping."""
    if text is None:
        return None
    numbers: dict[str, float] = {}
    for part in names_in(text):
        # From the right: a column's name may hold an equals sign, a number does not.
        name, equals, number = part.rpartition("=")
        if not equals or name in numbers:
            raise BadArgument(
                f"{option}: got {part!r} in {text!r}, expected NAME=NUMBER,... with each name once."
            )
        numbers[name] = number_in(option.lstrip("-"), number)
    return numbers


def size_in_bytes(text: str | None) -> int | None:
    """A memory limit in bytes."""
    if text is None:
        return None
    size = _bytes_in("--memory-limit", text)
    # An engine with less spills all the time, or fails in the middle.
    if size < 500_000_000:
        raise BadArgument(
            f"--memory-limit: too small to run in; got {text!r}, expected at least 500MB."
        )
    return size


def temp_bytes_in(text: str | None) -> int | None:
    """The size of a temporary folder in bytes; 0 is none."""
    return None if text is None else _bytes_in("--temp-limit", text)


def _bytes_in(option: str, text: str) -> int:
    """`2GB`, `512MiB`, `1.5G` in bytes.

    >>> _bytes_in("--temp-limit", "1.5K")
    1536
    """
    units = {"": 1, "B": 1}
    for power, letter in enumerate("KMGT", 1):
        units |= {letter: 1024**power, f"{letter}B": 1000**power, f"{letter}IB": 1024**power}
    digits = text.strip().rstrip("KMGTIBkmgtib ")
    unit = text.strip()[len(digits) :].strip().upper()
    try:
        return int(float(digits) * units[unit])
    except (ValueError, KeyError, OverflowError):
        raise BadArgument(
            f"{option}: not a size; got {text!r}, expected a number and a unit.",
            hint="for example 2GB or 512MiB.",
        ) from None


def wrote(notes: Sequence[str]) -> str:
    """What a command did with its output, by the notes of its run.

    >>> wrote([]), wrote(["this run was done before: nothing was to do."])
    ('wrote', 'stands:')
    """
    return "stands:" if any(note.endswith("nothing was to do.") for note in notes) else "wrote"
