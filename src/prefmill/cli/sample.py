"""`prefmill sample`: options to a sampler, and to `prefmill.sample`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

import typer

from prefmill.cli.options import (
    STDOUT,
    AsJson,
    Delimiter,
    Encoding,
    Extra,
    Id,
    Inputs,
    Keep,
    MemoryLimit,
    OnBadRow,
    Overwrite,
    Prompt,
    Quiet,
    Rejects,
    TempDir,
    json_in,
    names_in,
    print_json,
    size_in_bytes,
    stdout_or,
    was_given,
)
from prefmill.errors import BadArgument

_MODEL, _ANSWERS, _SERVER, _SPEED = "Model", "Answers", "Server", "Speed"


def sample(  # one option a line: this is the manual
    inputs: Inputs,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="Target: .parquet .jsonl .csv .tsv .arrow, or a directory (datasets).",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|HUB_ID",
            help="The policy; with --url its name on the server.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Of a hub id: a commit pins it.", rich_help_panel=_MODEL)
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="auto, chat, concat, or a Jinja file.  [default: auto]",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    template_date: Annotated[
        str | None,
        typer.Option(
            metavar="YYYY-MM-DD",
            help="What a template prints as the date.  [default: the day on which the run begins]",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code",
            help="Run code that comes with the model.",
            rich_help_panel=_MODEL,
        ),
    ] = False,
    n: Annotated[
        int,
        typer.Option(
            "-n",
            "--n",
            min=1,
            help="Answers of a prompt, spread over the temperatures.",
            rich_help_panel=_ANSWERS,
        ),
    ] = 8,
    temperature: Annotated[
        list[float] | None,
        typer.Option(
            help="May be given again; 0 is greedy and gives one answer.  [default: 0.8 and 0.9]",
            rich_help_panel=_ANSWERS,
        ),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            help="Draw from the likeliest tokens that sum to this.  [default: 1]",
            rich_help_panel=_ANSWERS,
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, help="Most tokens of an answer.  [default: 256]", rich_help_panel=_ANSWERS
        ),
    ] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="Ends an answer, which is cut before it; again.",
            rich_help_panel=_ANSWERS,
        ),
    ] = None,
    on_too_long: Annotated[
        str | None,
        typer.Option(
            help="A prompt that leaves no room for an answer: error, or null.  [default: error]",
            rich_help_panel=_ANSWERS,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of every draw.", rich_help_panel=_ANSWERS)] = 0,
    stage: Annotated[
        int, typer.Option(help="Column stage; another stage draws anew.", rich_help_panel=_ANSWERS)
    ] = 0,
    source: Annotated[
        str | None,
        typer.Option(help="Column source.  [default: the model's name]", rich_help_panel=_ANSWERS),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            help="An OpenAI-compatible server instead of a local model: http://localhost:8000/v1",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    api_key_env: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The environment variable that holds the key.",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(min=1, help="Requests at a time.  [default: 8]", rich_help_panel=_SERVER),
    ] = None,
    rate_limit: Annotated[
        str | None,
        typer.Option(
            metavar="N|N/min", help="Most requests a second, or a minute.", rich_help_panel=_SERVER
        ),
    ] = None,
    retries: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Tries after the first, with growing waits.  [default: 6]",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(help="Seconds for one answer.  [default: 300]", rich_help_panel=_SERVER),
    ] = None,
    seed_bits: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=64,
            help="Bits of a seed that the server takes.  [default: 31]",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    extra: Extra = None,
    device: Annotated[
        str | None,
        typer.Option(help="auto, cpu, cuda, cuda:N.  [default: auto]", rich_help_panel=_SPEED),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="auto, float32, bfloat16, float16.  [default: auto]", rich_help_panel=_SPEED
        ),
    ] = None,
    batch_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens in work at a time.", rich_help_panel=_SPEED)
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads of the model on a CPU.", rich_help_panel=_SPEED),
    ] = None,
    chunk_rows: Annotated[
        int | None, typer.Option(min=1, help="Answers committed at a time.  [default: 256]")
    ] = None,
    on_bad_row: OnBadRow = "error",
    keep: Keep = None,
    prompt: Prompt = None,
    id: Id = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    rejects: Rejects = None,
    memory_limit: MemoryLimit = None,
    temp_dir: TempDir = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Sample answers of prompts into a pool, with a local model or a server. Stopped at any point,
    the same command goes on.

    \b
    prefmill sample prompts.jsonl -o pool.parquet --model my-policy -n 8
    prefmill sample prompts.jsonl -o pool.parquet --model my-policy --temperature 0
    prefmill sample prompts.jsonl -o pool.parquet --model my-policy --url http://localhost:8000/v1
    --concurrency 64
    """
    options = locals()
    # Waiting threads of torch spin by default: beside other work on the same cores a run then takes
    # ten times as long (measured).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from prefmill.cli import show
    from prefmill.runs.sample import CHUNK_ROWS
    from prefmill.runs.sample import sample as run

    if output is None:
        raise BadArgument("sample: no output named.", hint="-o pool.parquet")
    if output == "-" and as_json:
        raise BadArgument("-o - and --json both want stdout.", hint="give -o a file.")
    names = (
        "n",
        "seed",
        "stage",
        "source",
        "prompt",
        "id",
        "on_bad_row",
        "overwrite",
        "encoding",
        "delimiter",
        "rejects",
        "temp_dir",
    )
    try:
        with stdout_or(output) as target, show.progress(quiet=quiet) as tell:
            report = run(
                inputs,
                target,
                sampler=_sampler(options),
                temperatures=temperature or None,
                keep=names_in(keep),
                chunk_rows=chunk_rows or CHUNK_ROWS,
                progress=tell,
                memory_bytes=size_in_bytes(memory_limit),
                **{name: options[name] for name in names},
            )
    except KeyboardInterrupt:
        print(
            "prefmill: stopped; what is sampled is kept, and the same command goes on.",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None
    if output == "-":
        report = replace(report, output=STDOUT)
    if as_json:
        print_json(report.as_json())
    if not quiet:
        show.sampled(report)


def _sampler(options: Mapping[str, Any]) -> Any:
    """The sampler that the options describe."""
    from prefmill.sampling.kinds import SAMPLERS, kind_for, sampler_class, sampler_from

    if options["model"] is None:
        raise BadArgument(
            "sample: no model named.",
            hint="--model DIR, a folder that save_pretrained wrote, or a hub id.",
        )
    takes = sampler_class(kind_for(options)).options()
    of_all = frozenset().union(*(sampler_class(kind).options() for kind in SAMPLERS))
    names = sorted(of_all & options.keys())
    given = {name: options[name] for name in names if was_given(options[name])}
    for name in given:
        if name not in takes:
            side = "without" if options["url"] is None else "with"
            raise BadArgument(f"--{name.replace('_', '-')} has no meaning {side} --url.")
    if "extra" in given:
        given["extra"] = json_in("extra", given["extra"])
    return sampler_from({"model": options["model"], **given})
