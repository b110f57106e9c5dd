"""Options that several commands share, and how their texts are read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from prefmill import ending
from prefmill.cli.app import Options
from prefmill.cli.texts import STDOUT, print_json, size_in_bytes, temp_bytes_in
from prefmill.errors import BadArgument
from prefmill.plans.bounds import Bounds
from prefmill.runs.workers.workers import Workers, workers_in
from prefmill.shapes.words import WORDS, Rows

option = typer.Option


class Inputs(Options):
    """What a command reads."""

    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...", help="Files, globs, directories or URLs; - is JSONL on stdin."
        ),
    ]


class Target(Options):
    """Where rows go."""

    output: Annotated[
        str | None,
        option(
            "--output",
            "-o",
            help="Target: .parquet .jsonl .csv .tsv .arrow, a directory (datasets), or a table "
            "(delta:PATH and others, docs/tables.md). - is JSONL on stdout.",
        ),
    ] = None


def _words() -> dict[str, Any]:
    """The options of the words of `[rows]`."""
    kinds: dict[str, Any] = dict.fromkeys(WORDS, str)
    kinds |= dict.fromkeys(("group", "where", "join"), list[str])
    metavars = {"values": "WORD=SCORE,...", "where": "PATH=VALUE", "join": "FILE:KEY"}
    return {
        field.name: Annotated[
            kinds[field.name] | None,
            option(help=field.metadata["help"], metavar=metavars.get(field.name)),
        ]
        for field in fields(Rows)
    }


_WORDS = _words()


def role_option(role: str) -> Any:
    """The option of a word of `[rows]`: the column of a role, or how records become rows."""
    return _WORDS[role]


Prompt, Completion, Score = (_WORDS[role] for role in ("prompt", "completion", "score"))
Id, Group, Annotator = (_WORDS[role] for role in ("id", "group", "annotator"))


def _options_of(name: str, about: str, words: Sequence[str]) -> Any:
    """A class of options that are words of `[rows]`."""
    hints = {word: _WORDS[word] for word in words}
    body = {"__doc__": about, "__module__": __name__, "__annotations__": hints}
    return type(name, (Options,), {**body, **dict.fromkeys(words)})


Words = _options_of("Words", "How records become rows, with every word.", WORDS)
_RECORDS = ("each", "where", "join", "file_as", "system", "history")
Records = _options_of("Records", "How records become prompts, or rows of a pool.", _RECORDS)


def records_given(options: Any) -> dict[str, Any]:
    """The words of `Records` that were given."""
    named = options.picked(*_RECORDS)
    return {word: value for word, value in named.items() if value}


Encoding = Annotated[str | None, option(help="Codec of text files.  [default: utf-8]")]
Delimiter = Annotated[str | None, option(help="Of CSV files.")]
MemoryLimit = Annotated[str | None, option(metavar="SIZE", help="For example 2GB.")]
Threads = Annotated[int | None, option(min=1, help="Threads of the engine.")]
TempDir = Annotated[Path | None, option(metavar="DIR", help="Folder for spilling.")]
TempLimit = Annotated[
    str | None, option(metavar="SIZE", help="Most that a run may keep in its temporary folder.")
]
AsJson = Annotated[bool, option("--json", help="Print the report as JSON on stdout.")]
Quiet = Annotated[bool, option("--quiet", "-q", help="Errors only.")]
Overwrite = Annotated[bool, option("--overwrite", help="Replace an existing output.")]

SpreadsheetSafe = Annotated[
    bool,
    option(
        "--spreadsheet-safe",
        help="Of CSV for people: an apostrophe in front of texts that begin like a formula.",
    ),
]


class Reading(Options):
    """How files are read."""

    encoding: Encoding = None
    delimiter: Delimiter = None
    rejects: Annotated[
        Path | None, option(metavar="FILE", help="Write malformed rows there and go on.")
    ] = None
    memory_limit: MemoryLimit = None
    temp_dir: TempDir = None
    temp_limit: TempLimit = None

    def reading(self) -> dict[str, Any]:
        """The options as the arguments of a run."""
        options = self.picked("encoding", "delimiter", "rejects", "temp_dir")
        if self.temp_limit is not None:  # told only where it is given
            options["temp_bytes"] = temp_bytes_in(self.temp_limit)
        return {**options, "memory_bytes": size_in_bytes(self.memory_limit)}


Address = Annotated[
    str | None,
    option(
        metavar="ADDRESS",
        help="HOST:PORT of the Ray cluster, or auto.  [default: RAY_ADDRESS, else a Ray "
        "of this machine]",
    ),
]


class Spreading(Options):
    """How a plan runs on many machines."""

    address: Address = None
    work: Annotated[
        str | None,
        option(
            metavar="PLACE",
            help="Folder that all workers see, for what they leave each other; of an incremental "
            "table, for what the next run goes on from.  [default: next to the output]",
        ),
    ] = None
    shuffle: Annotated[
        str,
        option(help="auto, memory (fast) or storage (outlives workers, nodes and this process)."),
    ] = "auto"


class OnCluster(Spreading):
    """Which engine looks, and where."""

    work: Annotated[
        str | None,
        option(
            metavar="PLACE",
            help="Folder that all workers see, for what they leave each other.  [default: a "
            "temporary one]",
        ),
    ] = None
    engine: Annotated[str, option(help="auto, or ray (many machines).")] = "auto"


Isolate = Annotated[
    bool,
    option(
        "--isolate",
        help="Work in a process of its own: a file that crashes a reader ends that one, with 1.",
    ),
]


def called(isolate: bool, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function here, or in a process of its own."""
    if not isolate:
        return function(*args, **kwargs)
    from prefmill.isolation import isolated

    return isolated(function, *args, **kwargs)


class EngineReading(Reading):
    """How an engine reads files."""

    threads: Threads = None

    def reading(self) -> dict[str, Any]:
        """The options as the arguments of a run."""
        if self.threads:  # read once, when Polars is imported
            os.environ.setdefault("POLARS_MAX_THREADS", str(self.threads))
        return {**super().reading(), "threads": self.threads}


class Isolating(EngineReading):
    """How files are read that nobody has looked at."""

    isolate: Isolate = False

    def called(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function that reads files, in a process of its own where that is asked for."""
        return called(self.isolate, function, *args, **kwargs)


class Telling(Options):
    """What people are told."""

    as_json: AsJson = False
    quiet: Quiet = False


class Writing(Telling):
    """What is told, and what may be replaced."""

    overwrite: Overwrite = False


class Empty(Options):
    """What becomes of an output without rows."""

    allow_empty: Annotated[
        bool, option("--allow-empty", help="Write the output even where nothing came out.")
    ] = False


class Sheets(Options):
    """What a spreadsheet makes of the output."""

    spreadsheet_safe: SpreadsheetSafe = False


def expecting(bounds: Bounds) -> Any:
    """The option --expect of a command of which `bounds` can be expected."""
    words = [
        f"{word}, {word}.REASON" if word == "max_dropped" and len(bounds.reasons) > 1 else word
        for word in bounds.words
    ]
    return option(
        "--expect",
        metavar="WORD=VALUE",
        help=f"What must hold, else nothing is published: {', '.join(words)}; may be given again.",
    )


class BadRows(Options):
    """What becomes of a row that cannot be used."""

    on_bad_row: Annotated[
        Literal["error", "null"],
        option(
            help="A row that cannot be used: error names it, null leaves it out, "
            "counted by reason.",
        ),
    ] = "error"


class Pinned(Options):
    """How a model is loaded."""

    revision: Annotated[str | None, option(help="Of a hub id: a commit pins it.")] = None
    trust_remote_code: Annotated[
        bool, option("--trust-remote-code", help="Run code that comes with the model.")
    ] = False


class Model(Pinned):
    """How a model is loaded, and texts are made for it."""

    base: Annotated[
        str | None,
        option(
            metavar="DIR|HUB_ID",
            help="Of an adapter (PEFT): the model that it changes.  [default: the one it names]",
        ),
    ] = None
    template: Annotated[
        str | None,
        option(metavar="NAME|FILE", help="auto, chat, concat, or a Jinja file.  [default: auto]"),
    ] = None
    template_date: Annotated[
        str | None,
        option(
            metavar="YYYY-MM-DD",
            help="What a template prints as the date.  [default: the day on which the run begins]",
        ),
    ] = None


class Server(Options):
    """How a server is asked."""

    url: Annotated[
        str | None,
        option(
            help="An OpenAI-compatible server instead of a local model: http://localhost:8000/v1"
        ),
    ] = None
    api_key_env: Annotated[
        str | None,
        option(metavar="NAME", help="The environment variable that holds the key."),
    ] = None
    concurrency: Annotated[int | None, option(min=1, help="Requests at a time.  [default: 8]")] = (
        None
    )
    rate_limit: Annotated[
        str | None, option(metavar="N|N/min", help="Most requests a second, or a minute.")
    ] = None
    retries: Annotated[
        int | None,
        option(min=0, help="Tries after the first, with growing waits.  [default: 6]"),
    ] = None
    timeout: Annotated[float | None, option(help="Seconds for one answer.  [default: 300]")] = None
    extra: Annotated[
        str | None, option(metavar="JSON", help="Further fields of every request.")
    ] = None


class Batches(Options):
    """How a server is asked in batches."""

    backend: Annotated[
        str | None,
        option(
            metavar="NAME",
            help="What answers: local, vllm, endpoint (a server), batch (its /v1/batches).  "
            "[default: endpoint with --url, else local]",
        ),
    ] = None
    batch_requests: Annotated[
        int | None, option(min=1, help="Most requests of a batch.  [default: 50000]")
    ] = None
    batch_mb: Annotated[
        float | None, option(help="Most megabytes of its file.  [default: 190]")
    ] = None
    batch_window: Annotated[
        str | None, option(help="The server's time for a batch.  [default: 24h]")
    ] = None
    batch_files: Annotated[
        Path | None,
        option(
            metavar="DIR",
            help="Write request files there, for `vllm run-batch` and its like, and read answers.",
        ),
    ] = None
    poll: Annotated[
        float | None, option(help="Seconds between looks at a batch.  [default: 60]")
    ] = None
    no_wait: Annotated[
        bool,
        option("--no-wait", help="Send batches, fetch what is done, and end with exit code 75."),
    ] = False


class Engine(Options):
    """What an engine inside this process is told."""

    engine_args: Annotated[
        str | None,
        option(
            metavar="JSON",
            help="Of --backend vllm: arguments of its engine, as '{\"tensor_parallel_size\": 2}'.",
        ),
    ] = None


class Cluster(Options):
    """On which machines the work is done."""

    workers: Annotated[
        str | None,
        option(
            metavar="N|N..N",
            help="Workers of a Ray cluster, each with a model of its own; from a least to a most "
            "as the cluster has room.",
        ),
    ] = None
    address: Address = None
    cpus_per_worker: Annotated[
        float | None, option(metavar="N", min=0, help="CPUs of a worker, shares too.  [default: 1]")
    ] = None
    gpus_per_worker: Annotated[
        float | None,
        option(
            metavar="N",
            min=0,
            help="GPUs of a worker, shares too.  [default: 1 for a model where there are any]",
        ),
    ] = None

    def hands(self) -> Workers | None:
        """The workers that the options describe."""
        shares = self.picked("cpus_per_worker", "gpus_per_worker", "address")
        given = {
            name.partition("_per_")[0]: each for name, each in shares.items() if each is not None
        }
        if self.workers is not None:
            return Workers(*workers_in(self.workers), **given)
        if given:
            named = next(name for name, each in shares.items() if each is not None)
            raise BadArgument(
                f"workers: --{named.replace('_', '-')} has no meaning without workers.",
                hint="--workers 4, or --workers 2..8.",
            )
        return None


class Device(Options):
    """Where a model runs."""

    dtype: Annotated[
        str | None, option(help="auto, float32, bfloat16, float16.  [default: auto]")
    ] = None
    threads: Annotated[int | None, option(min=1, help="Threads of the model on a CPU.")] = None


def quiet_threads() -> None:
    """Let waiting threads of torch sleep.

    They spin by default: next to other work on the same cores a run then takes ten times as long
    (measured).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@contextmanager
def stoppable(message: str) -> Iterator[None]:
    """Ctrl-C in here ends the command with `message`."""
    try:
        yield
    except KeyboardInterrupt:
        ending.say_stopped(message)
        raise typer.Exit(130) from None


def output_of(options: Any, where: str, hint: str) -> str:
    """The target, or `BadArgument` where none is named, or stdout is wanted twice."""
    output: str | None = options.output
    if output is None:
        raise BadArgument(f"{where}: no output named.", hint=hint)
    refuse_two_on_stdout(options)
    return output


def refuse_two_on_stdout(options: Any) -> None:
    """Raise where rows and the report both want stdout."""
    if options.output == "-" and options.as_json:
        raise BadArgument("output: -o - and --json both want stdout.", hint="give -o a file.")


def finish(report: Any, options: Any, show: Callable[[Any], None]) -> None:
    """Tell what a run did: as JSON on stdout, and as people read it on stderr."""
    if options.output == "-" and report.output:
        # The rows went through a temporary file, whose name is nobody's business.
        stdout: Any = STDOUT
        if not isinstance(report.output, str):
            stdout = dict.fromkeys(report.output, STDOUT)
        report = replace(report, output=stdout)
    if options.as_json:
        print_json(report.as_json())
    if not options.quiet:
        show(report)
