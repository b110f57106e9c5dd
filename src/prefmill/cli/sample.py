"""`prefmill sample`: options to a sampler, and to `prefmill.sample`."""

from __future__ import annotations

from typing import Annotated, Any

from prefmill.cli.app import Options, command
from prefmill.cli.options import (
    BadRows,
    Batches,
    Cluster,
    Device,
    Engine,
    Id,
    Inputs,
    Model,
    Prompt,
    Reading,
    Records,
    Server,
    Target,
    Writing,
    expecting,
    finish,
    option,
    output_of,
    quiet_threads,
    records_given,
    stoppable,
)
from prefmill.cli.texts import given_for, names_in, stdout_or
from prefmill.errors import BadArgument
from prefmill.plans.bounds import SAMPLE
from prefmill.plans.expect import expect_in


class _Policy(Options):
    model: Annotated[
        str | None,
        option(metavar="DIR|HUB_ID", help="The policy; with --url its name on the server."),
    ] = None


class _Answers(Options):
    n: Annotated[
        int, option("-n", "--n", min=1, help="Answers of a prompt, spread over the temperatures.")
    ] = 8
    temperature: Annotated[
        list[float] | None,
        option(
            help="May be given again; 0 is greedy and gives one answer.  [default: 0.8 and 0.9]"
        ),
    ] = None
    top_p: Annotated[
        float | None,
        option(help="Draw from the likeliest tokens that sum to this.  [default: 1]"),
    ] = None
    max_new_tokens: Annotated[
        int | None, option(min=1, help="Most tokens of an answer.  [default: 256]")
    ] = None
    stop: Annotated[
        list[str] | None,
        option(metavar="TEXT", help="Ends an answer, which is cut before it; again."),
    ] = None
    on_too_long: Annotated[
        str | None,
        option(
            help="A prompt that leaves no room for an answer: error, or null.  [default: error]"
        ),
    ] = None
    seed: Annotated[int, option(help="Of every draw.")] = 0
    stage: Annotated[int, option(help="Column stage; another stage draws anew.")] = 0
    source: Annotated[str | None, option(help="Column source.  [default: the model's name]")] = None


class _Speed(Device):
    device: Annotated[str | None, option(help="auto, cpu, cuda, cuda:N.  [default: auto]")] = None
    batch_tokens: Annotated[int | None, option(min=1, help="Tokens in work at a time.")] = None
    chunk_rows: Annotated[
        int | None, option(min=1, help="Answers committed at a time.  [default: 256]")
    ] = None


class _Rows(BadRows):
    expect: Annotated[list[str] | None, expecting(SAMPLE)] = None
    keep: Annotated[str | None, option(metavar="COL,...", help="Columns to carry along.")] = None
    prompt: Prompt = None
    id: Id = None


class _Asked(_Rows, Records):  # type: ignore[misc]
    """What is asked: the prompts of records."""


class SampleOptions(
    Inputs,
    Target,
    _Policy,
    Model,
    _Answers,
    Server,
    Batches,
    Engine,
    _Speed,
    Cluster,
    _Asked,
    Reading,
    Writing,
):
    """The options of `prefmill sample`."""

    seed_bits: Annotated[
        int | None,
        option(min=1, max=64, help="Bits of a seed that the server takes.  [default: 31]"),
    ] = None


@command
def sample(options: SampleOptions) -> None:
    """Sample answers of prompts into a pool, with a local model or a server. Stopped at any point,
    the same command goes on.

    \b
    prefmill sample prompts.jsonl -o pool.parquet --model my-policy -n 8
    prefmill sample prompts.jsonl -o pool.parquet --model my-policy --temperature 0
    prefmill sample prompts.jsonl -o pool.parquet --model my-policy --url http://localhost:8000/v1
    --concurrency 64
    prefmill sample prompts.jsonl -o pool.parquet --model gpt --url https://api.openai.com/v1
    --api-key-env KEY --backend batch
    """
    quiet_threads()
    from prefmill.cli import show, tables
    from prefmill.runs.resumable.sample import CHUNK_ROWS
    from prefmill.runs.resumable.sample import sample as run

    output = output_of(options, "sample", "-o pool.parquet")
    names = ("n", "seed", "stage", "source", "prompt", "id", "on_bad_row", "overwrite")
    with (
        stoppable("what is sampled is kept, and the same command goes on"),
        stdout_or(output) as target,
        show.progress(quiet=options.quiet) as tell,
    ):
        report = run(
            options.inputs,
            target,
            sampler=_sampler(options),
            temperatures=options.temperature or None,
            keep=names_in(options.keep),
            rows=records_given(options),
            chunk_rows=options.chunk_rows or CHUNK_ROWS,
            workers=options.hands(),
            expect=expect_in(options.expect or (), SAMPLE) or None,
            progress=tell,
            **options.picked(*names),
            **options.reading(),
        )
    finish(report, options, tables.sampled)


def _sampler(options: SampleOptions) -> Any:
    """The sampler that the options describe."""
    from prefmill.sampling.kinds import SAMPLERS, kind_for, sampler_class, sampler_from

    if options.model is None:
        raise BadArgument(
            "sample: no model named.",
            hint="--model DIR, a folder that save_pretrained wrote, or a hub id.",
        )
    # Options of a server without a server would be ignored, so they are refused.
    values = vars(options)
    side = "without --url" if options.url is None else "with --url"
    kind = kind_for(values)
    if options.backend is not None or options.batch_files is not None:
        side = f"with --backend {kind}"
    parts = [sampler_class(each) for each in SAMPLERS]
    given = given_for(sampler_class(kind), parts, values, side)
    return sampler_from({"model": options.model, "backend": kind, **given})
