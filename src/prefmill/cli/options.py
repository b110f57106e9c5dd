"""Options that several commands share, and how their texts are read."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from prefmill.disk.hidden import temporary
from prefmill.errors import BadArgument
from prefmill.table.roles import RoleNames


class Command(TyperCommand):
    """A command that refuses an option given twice where it takes one value: the last one would win
    without a word.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As typer parses them, after the look for doubles."""
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        once = [
            p
            for p in self.params
            if p.param_type_name == "option" and not p.multiple and not getattr(p, "is_flag", False)
        ]
        for param in once:
            if order.count(param) > 1:
                name = max(param.opts, key=len)
                raise BadArgument(
                    f"{name}: given {order.count(param)} times, takes one value.",
                    hint=f"leave one {name}.",
                )
        return super().parse_args(ctx, args)


Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT...", help="Files, globs, directories or URLs; - is JSONL on stdin."
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        help="Target: .parquet .jsonl .csv .tsv .arrow, or a directory (datasets). - is JSONL on stdout.",
    ),
]
Prompt = Annotated[str | None, typer.Option(help="Column of the prompt.", rich_help_panel="Roles")]
Completion = Annotated[
    str | None, typer.Option(help="Column of the completion.", rich_help_panel="Roles")
]
Score = Annotated[
    str | None,
    typer.Option(
        help="Column of the score; -COLUMN where lower is better.", rich_help_panel="Roles"
    ),
]
Id = Annotated[
    str | None, typer.Option("--id", help="Column of the row's id.", rich_help_panel="Roles")
]
Annotator = Annotated[
    str | None, typer.Option(help="Column of the annotator.", rich_help_panel="Roles")
]
Aspect = Annotated[
    str | None, typer.Option(help="Column of the aspect judged.", rich_help_panel="Roles")
]
Group = Annotated[
    list[str] | None,
    typer.Option(
        help="Column that groups instead of the prompt; may be given again.",
        rich_help_panel="Roles",
    ),
]
Weight = Annotated[
    str | None,
    typer.Option(help="Column of the policy's weight (or probability).", rich_help_panel="Roles"),
]
Logprob = Annotated[
    str | None,
    typer.Option(help="Column of the policy's log-probability.", rich_help_panel="Roles"),
]
ChosenMin = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBER|none",
        help="Smallest score of a chosen completion.  [default: 4, or the larger of two labels]",
    ),
]
RejectedBelow = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBER|none",
        help="A rejected score is below this.  [default: 4, or the larger of two labels]",
    ),
]
StrategyName = Annotated[
    str | None,
    typer.Option(
        "--strategy", help="best_worst, best_random, best_rest, adjacent, all, threshold."
    ),
]
NoThresholds = Annotated[
    bool, typer.Option("--no-thresholds", help="Any two different scores make a pair.")
]
MinMargin = Annotated[float | None, typer.Option(help="Smallest difference of scores.")]
MaxPairs = Annotated[
    int | None,
    typer.Option("--max-pairs-per-prompt", help="Draw at most so many pairs of a prompt."),
]
TopK = Annotated[int | None, typer.Option(help="Choose from the k best only.")]
BottomK = Annotated[int | None, typer.Option(help="Reject from the k worst only.")]
Aggregate = Annotated[
    str | None,
    typer.Option(
        help="Merge judgements of one completion: none, mean, median, max, min, majority."
    ),
]
Normalize = Annotated[str | None, typer.Option(help="Scale of annotators: none, zscore, rank.")]
Weights = Annotated[
    str | None,
    typer.Option(metavar="NAME=W,...", help="Weighted sum of score columns, or of aspects."),
]
MinVotes = Annotated[int | None, typer.Option(help="Judgements that a completion needs.")]
TieBreak = Annotated[str | None, typer.Option(help="Order of equal scores: position or id.")]
OnInvalid = Annotated[
    str | None, typer.Option(help="Rows without a usable score: drop (and count) or raise.")
]
Seed = Annotated[int | None, typer.Option(help="Of everything drawn, and of splits.")]
PlanFile = Annotated[
    Path | None,
    typer.Option("--plan", metavar="FILE", help="Plan as TOML; options given beside it win."),
]
Format = Annotated[
    str | None,
    typer.Option(
        help="trl, trl-implicit, kto, instruction, openrlhf, llama-factory.  [default: trl; kto for labels]"
    ),
]
Chat = Annotated[bool, typer.Option("--chat", help="Write text as messages.")]
Keep = Annotated[str | None, typer.Option(metavar="COL,...", help="Columns to carry along.")]
Split = Annotated[
    str | None,
    typer.Option(
        metavar="NAME=SHARE,...", help="Split by prompt, for example train=0.95,test=0.05."
    ),
]
Encoding = Annotated[str | None, typer.Option(help="Codec of text files.  [default: utf-8]")]
Delimiter = Annotated[str | None, typer.Option(help="Of CSV files.")]
Rejects = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write malformed rows there and go on.")
]
EngineName = Annotated[str, typer.Option("--engine", help="auto, polars or duckdb.")]
MemoryLimit = Annotated[str | None, typer.Option(metavar="SIZE", help="For example 2GB.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of the engine.")]
TempDir = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for spilling.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Errors only.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would run; write nothing.")]
OnBadRow = Annotated[
    Literal["error", "null"],
    typer.Option(
        "--on-bad-row",
        help="A row that cannot be used: error names it, null leaves it out, counted by reason.",
    ),
]
Extra = Annotated[
    str | None,
    typer.Option(metavar="JSON", help="Further fields of every request.", rich_help_panel="Server"),
]
AllowEmpty = Annotated[
    bool, typer.Option("--allow-empty", help="Write the output even where nothing came out.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]


#: What reports call the target `-`.
STDOUT = "<stdout>"


@contextmanager
def stdout_or(output: str) -> Iterator[str]:
    """The target to write to; for `-` a temporary JSON Lines file that goes to stdout when it is
    whole.
    """
    if output != "-":
        yield output
        return
    with temporary() as folder:
        path = folder / "stdout.jsonl"
        yield str(path)
        if path.exists():  # not where nothing came out
            with to_stdout(), path.open("rb") as lines:
                shutil.copyfileobj(lines, sys.stdout.buffer)
                sys.stdout.buffer.flush()


def was_given(value: object) -> bool:
    """Whether an option was named: 0 is a value like others, though it equals False."""
    return value is not None and value is not False and value != []


def json_in(name: str, text: str) -> dict[str, Any]:
    """The JSON object that an option's text is."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise BadArgument(
            f"--{name}: not a JSON object; got {text!r}, expected for example '{{\"top_k\": 40}}'."
        )
    return found


def roles_given(options: Mapping[str, Any]) -> RoleNames:
    """The columns that were named for roles."""
    return {role: options[role] for role in RoleNames.__annotations__ if options.get(role)}  # type: ignore[return-value]


def number_in(name: str, text: str) -> float:
    """The number that an option's text means."""
    try:
        value = float(text)
    except ValueError:
        raise BadArgument(
            f"--{name.replace('_', '-')}: not a number; got {text!r}, expected a number or none."
        ) from None
    return int(value) if value.is_integer() else value


def threshold_in(name: str, text: str) -> float | str | None:
    """A threshold: a number, `none` for no bound, or `auto` for what suits the scores."""
    word = text.strip().lower()
    if word == "none":
        return None
    return word if word == "auto" and name != "min_score" else number_in(name, text)


def names_in(text: str | None) -> Sequence[str]:
    """`a,b` as a list."""
    return [part for part in text.split(",") if part] if text else []


def print_json(told: object) -> None:
    """`told` on stdout, in one line. JSON has no NaN and no infinity: they are null, as a NaN is in
    the JSON Lines that we write.
    """
    text = json.dumps(_finite(told), ensure_ascii=False, allow_nan=False, default=str)
    with to_stdout():
        typer.echo(text)


@contextmanager
def to_stdout() -> Iterator[None]:
    """What stdout refuses in here says so; a closed pipe stays what it is."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, "<stdout>") from error


def _finite(told: object) -> object:
    if isinstance(told, float):
        return told if math.isfinite(told) else None
    if isinstance(told, Mapping):
        return {key: _finite(value) for key, value in told.items()}
    return [_finite(value) for value in told] if isinstance(told, list | tuple) else told


def numbers_in(option: str, text: str | None) -> dict[str, float] | None:
    """`a=1,b=2` as a mapping; a name may hold an equals sign itself."""
    if text is None:
        return None
    found: dict[str, float] = {}
    for part in names_in(text):
        name, equals, number = part.rpartition("=")
        if not equals or name in found:
            raise BadArgument(
                f"{option}: got {part!r} in {text!r}, expected NAME=NUMBER,... with each name once."
            )
        found[name] = number_in(option.lstrip("-"), number)
    return found


def size_in_bytes(text: str | None) -> int | None:
    """`2GB`, `512MiB`, `1.5G` in bytes."""
    if text is None:
        return None
    units = {"": 1, "B": 1} | {
        f"{p}{s}": (1000 if s == "B" else 1024) ** i
        for i, p in enumerate("KMGT", 1)
        for s in ("", "B", "IB")
    }
    digits = text.strip().rstrip("KMGTIBkmgtib ")
    unit = text.strip()[len(digits) :].strip().upper()
    try:
        size = int(float(digits) * units[unit])
    except (ValueError, KeyError):
        raise BadArgument(
            f"--memory-limit: not a size; got {text!r}, expected a number and a unit.",
            hint="for example 2GB or 512MiB.",
        ) from None
    if size < 500_000_000:
        raise BadArgument(
            f"--memory-limit: too small to run in; got {text!r}, expected at least 500MB."
        )
    return size
