"""`prefmill score`: options to a scorer (`cli_scorers.py`), and to `prefmill.score`."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from prefmill.cli.options import (
    STDOUT,
    AsJson,
    Completion,
    Delimiter,
    Encoding,
    Extra,
    Id,
    Inputs,
    MemoryLimit,
    OnBadRow,
    Overwrite,
    Prompt,
    Quiet,
    Rejects,
    TempDir,
    print_json,
    roles_given,
    size_in_bytes,
    stdout_or,
)
from prefmill.cli.scorers import scorer_of
from prefmill.errors import BadArgument

_MODEL = "Model"
_SERVER = "Server (judge, endpoint)"
_JUDGE = "Judge"
_ENDPOINT = "Endpoint"


def score(  # one option a line: this is the manual
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
        list[str] | None,
        typer.Option(
            metavar="DIR|HUB_ID|NAME",
            help="The model, or its name on the server; again for an ensemble.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    scorer: Annotated[
        str,
        typer.Option(help="reward, logprob, implicit, judge or endpoint.", rich_help_panel=_MODEL),
    ] = "reward",
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|HUB_ID", help="The reference model of implicit.", rich_help_panel=_MODEL
        ),
    ] = None,
    beta: Annotated[
        float | None, typer.Option(help="Of implicit.  [default: 0.1]", rich_help_panel=_MODEL)
    ] = None,
    combine: Annotated[
        str, typer.Option(help="An ensemble's score: mean or min.", rich_help_panel=_MODEL)
    ] = "mean",
    revision: Annotated[
        str | None, typer.Option(help="Of a hub id: a commit pins it.", rich_help_panel=_MODEL)
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            help="The label that is the score, where the model has several.", rich_help_panel=_MODEL
        ),
    ] = None,
    pooling: Annotated[
        str | None,
        typer.Option(
            help="Token that is scored: hf (last that is no pad) or last.  [default: hf]",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="auto, chat, pair, concat, or a Jinja file.  [default: auto]",
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
    max_length: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Most tokens of a row.  [default: what the model takes]",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    on_too_long: Annotated[
        str | None,
        typer.Option(
            help="Longer rows: error, null, truncate.  [default: error]", rich_help_panel=_MODEL
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
    url: Annotated[
        str | None,
        typer.Option(help="Of the server: http://HOST:PORT/v1.", rich_help_panel=_SERVER),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(min=1, help="Requests at a time.  [default: 8]", rich_help_panel=_SERVER),
    ] = None,
    rate_limit: Annotated[
        str | None,
        typer.Option(
            metavar="N/s|N/min",
            help="Most requests in a second or minute.",
            rich_help_panel=_SERVER,
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
    api_key_env: Annotated[
        str | None,
        typer.Option(
            metavar="VARIABLE",
            help="Environment variable with the API key.",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    on_refused: Annotated[
        str | None,
        typer.Option(
            help="Rows that the server refuses: error, null.  [default: error]",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    extra: Extra = None,
    mode: Annotated[
        str | None,
        typer.Option(
            help="rating (a number) or pairwise (a prompt's candidates compared).  [default: rating]",
            rich_help_panel=_JUDGE,
        ),
    ] = None,
    rubric: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="What is asked, with {prompt} and {completion}, or {a} and {b}.",
            rich_help_panel=_JUDGE,
        ),
    ] = None,
    scale: Annotated[
        str | None,
        typer.Option(
            metavar="LOW-HIGH",
            help="The numbers that the rubric allows.  [default: 1-10]",
            rich_help_panel=_JUDGE,
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Of the judge's answer.  [default: 256]", rich_help_panel=_JUDGE),
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            help="Of pairwise: all, or baseline (each against the first).  [default: all]",
            rich_help_panel=_JUDGE,
        ),
    ] = None,
    max_pairs: Annotated[
        int | None, typer.Option(min=1, help="Most pairs of a prompt.", rich_help_panel=_JUDGE)
    ] = None,
    top_logprobs: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Alternatives of a rating that the server is asked for.  [default: 20]",
            rich_help_panel=_JUDGE,
        ),
    ] = None,
    ten_is_one_token: Annotated[
        bool,
        typer.Option(
            "--ten-is-one-token",
            help='The judge\'s tokenizer has "10" as one token.',
            rich_help_panel=_JUDGE,
        ),
    ] = False,
    price_in: Annotated[
        float | None, typer.Option(min=0, help="Of a million tokens read.", rich_help_panel=_JUDGE)
    ] = None,
    price_out: Annotated[
        float | None,
        typer.Option(min=0, help="Of a million tokens written.", rich_help_panel=_JUDGE),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            help="vllm-classify, vllm-pooling, vllm-score, sglang-classify, tei-predict, tei-rerank.  [default: vllm-classify]",
            rich_help_panel=_ENDPOINT,
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|HUB_ID",
            help="Make texts or token ids here, by --template.",
            rich_help_panel=_ENDPOINT,
        ),
    ] = None,
    batch_rows: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Rows of a request, where it takes several.  [default: 32]",
            rich_help_panel=_ENDPOINT,
        ),
    ] = None,
    parity: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|HUB_ID",
            help="The same reward model: compare the first rows, stop if they differ.",
            rich_help_panel=_ENDPOINT,
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Of --parity, as a share of the largest score.  [default: 0.02]",
            rich_help_panel=_ENDPOINT,
        ),
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(
            help="auto, cpu, cuda, cuda:N; again for a process on each.  [default: auto]",
            rich_help_panel="Speed",
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="auto, float32, bfloat16, float16.  [default: auto]", rich_help_panel="Speed"
        ),
    ] = None,
    batch_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of one forward pass.", rich_help_panel="Speed")
    ] = None,
    share_prefix: Annotated[
        str | None,
        typer.Option(
            help="auto runs a prompt once for its candidates; off.  [default: auto]",
            rich_help_panel="Speed",
        ),
    ] = None,
    invariant: Annotated[
        bool,
        typer.Option(
            "--invariant",
            help="A row's score is bitwise the same whatever its neighbours are.",
            rich_help_panel="Speed",
        ),
    ] = False,
    compile: Annotated[
        bool, typer.Option("--compile", help="Through torch.compile.", rich_help_panel="Speed")
    ] = False,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads of the model on a CPU.", rich_help_panel="Speed"),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Keep scores by content: a grown pool scores its new rows."
        ),
    ] = None,
    chunk_rows: Annotated[
        int | None,
        typer.Option(
            min=1, help="Rows committed at a time.  [default: 512; GPU: a million tokens]"
        ),
    ] = None,
    on_bad_row: OnBadRow = "error",
    score_column: Annotated[str, typer.Option(metavar="NAME", help="Column to write.")] = "score",
    prompt: Prompt = None,
    completion: Completion = None,
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
    """Score a pool of candidates with a reward model, log-probabilities or a judge. Stopped at any
    point, the same command goes on.

    \b
    prefmill score pool.parquet -o scored.parquet --model my-reward-model
    prefmill score pool.parquet -o scored.parquet --scorer implicit --model policy --reference base
    prefmill score pool.parquet -o scored.parquet --scorer judge --url http://localhost:8000/v1
    --model judge
    """
    options = locals()
    # Waiting threads of torch spin by default: beside other work on the same cores a run then takes
    # ten times as long (measured).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from prefmill.cli import show
    from prefmill.runs.score import score as run

    if output is None:
        raise BadArgument("score: no output named.", hint="-o scored.parquet")
    if output == "-" and as_json:
        raise BadArgument("-o - and --json both want stdout.", hint="give -o a file.")
    names = (
        "score_column",
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
                scorer=scorer_of(options),
                roles=roles_given(options),
                chunk_rows=chunk_rows,
                devices=device,
                progress=tell,
                memory_bytes=size_in_bytes(memory_limit),
                **{name: options[name] for name in names},
            )
    except KeyboardInterrupt:
        print(
            "prefmill: stopped; what is scored is kept, and the same command goes on.",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None
    if output == "-":
        report = replace(report, output=STDOUT)
    if as_json:
        print_json(report.as_json())
    if not quiet:
        show.scored(report)
