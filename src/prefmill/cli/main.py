"""The command line: options to plans, plans to `runs.run`, reports to people. Nothing heavy is
imported before a command runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prefmill._version import __version__
from prefmill.cli.curve import curve as curve_command
from prefmill.cli.loop import loop as loop_command
from prefmill.cli.options import (
    STDOUT,
    Aggregate,
    AllowEmpty,
    Annotator,
    AsJson,
    Aspect,
    BottomK,
    Chat,
    ChosenMin,
    Command,
    Completion,
    Delimiter,
    DryRun,
    Encoding,
    EngineName,
    Format,
    Group,
    Id,
    Inputs,
    Keep,
    Logprob,
    MaxPairs,
    MemoryLimit,
    MinMargin,
    MinVotes,
    Normalize,
    NoThresholds,
    OnInvalid,
    Output,
    Overwrite,
    PlanFile,
    Prompt,
    Quiet,
    RejectedBelow,
    Rejects,
    Score,
    Seed,
    Split,
    StrategyName,
    TempDir,
    Threads,
    TieBreak,
    TopK,
    Weight,
    Weights,
    names_in,
    numbers_in,
    print_json,
    roles_given,
    size_in_bytes,
    stdout_or,
    threshold_in,
)
from prefmill.cli.sample import sample as sample_command
from prefmill.cli.score import score as score_command
from prefmill.cli.sql import sql as sql_command
from prefmill.cli.train import train_reward as train_reward_command
from prefmill.cli.values import steps as steps_command
from prefmill.cli.values import values as values_command
from prefmill.errors import BadArgument
from prefmill.plans import Advantage, BestOf, FeedbackPlan, Pairs, Plan, Unpaired, read_plan

if TYPE_CHECKING:
    from prefmill.runs.run import RunReport

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Turn raw feedback into preference data: pairs, labels and best-of-K, checked, with every dropped row counted.",
)


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True)
    ] = False,
) -> None:
    if version:
        typer.echo(f"prefmill {__version__}")
        raise typer.Exit


@app.command()
def pairs(  # one option a line: this is the manual
    inputs: Inputs,
    output: Output = None,
    strategy: StrategyName = None,
    chosen_min: ChosenMin = None,
    rejected_below: RejectedBelow = None,
    no_thresholds: NoThresholds = False,
    min_margin: MinMargin = None,
    max_pairs_per_prompt: MaxPairs = None,
    top_k: TopK = None,
    bottom_k: BottomK = None,
    aggregate: Aggregate = None,
    normalize: Normalize = None,
    weights: Weights = None,
    min_votes: MinVotes = None,
    tie_break: TieBreak = None,
    on_invalid: OnInvalid = None,
    seed: Seed = None,
    plan: PlanFile = None,
    prompt: Prompt = None,
    completion: Completion = None,
    score: Score = None,
    id: Id = None,
    annotator: Annotator = None,
    aspect: Aspect = None,
    group: Group = None,
    format: Format = None,
    chat: Chat = False,
    margin_scale: Annotated[
        float | None,
        typer.Option(
            metavar="NUMBER",
            help="Add margin = (chosen - rejected) * NUMBER: RewardTrainer's loss uses it.",
        ),
    ] = None,
    keep: Keep = None,
    split: Split = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    rejects: Rejects = None,
    engine: EngineName = "auto",
    memory_limit: MemoryLimit = None,
    threads: Threads = None,
    temp_dir: TempDir = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    dry_run: DryRun = False,
    allow_empty: AllowEmpty = False,
    overwrite: Overwrite = False,
) -> None:
    """Make preference pairs: per prompt, high scores against low ones.

    \b
    prefmill pairs feedback.csv -o pairs.parquet
    prefmill pairs ratings.jsonl -o pairs --strategy all --no-thresholds --min-margin 1
    """
    _run(Pairs, locals())


@app.command()
def unpair(
    inputs: Inputs,
    output: Output = None,
    chosen_min: ChosenMin = None,
    rejected_below: RejectedBelow = None,
    aggregate: Aggregate = None,
    normalize: Normalize = None,
    weights: Weights = None,
    min_votes: MinVotes = None,
    tie_break: TieBreak = None,
    on_invalid: OnInvalid = None,
    seed: Seed = None,
    plan: PlanFile = None,
    prompt: Prompt = None,
    completion: Completion = None,
    score: Score = None,
    id: Id = None,
    annotator: Annotator = None,
    aspect: Aspect = None,
    group: Group = None,
    format: Format = None,
    chat: Chat = False,
    keep: Keep = None,
    split: Split = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    rejects: Rejects = None,
    engine: EngineName = "auto",
    memory_limit: MemoryLimit = None,
    threads: Threads = None,
    temp_dir: TempDir = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    dry_run: DryRun = False,
    allow_empty: AllowEmpty = False,
    overwrite: Overwrite = False,
) -> None:
    """Label completions for KTO: true from --chosen-min on, false below --rejected-below. Thumbs
    (true/false, 0/1, -1/1) need neither.

    \b
    prefmill unpair feedback.csv -o labels.parquet
    """
    _run(Unpaired, locals())


@app.command()
def best(
    inputs: Inputs,
    output: Output = None,
    k: Annotated[
        int | None,
        typer.Option("--k", "-k", help="So many of a prompt (or of the pool).  [default: 1]"),
    ] = None,
    pick: Annotated[
        str | None,
        typer.Option(
            help="best, median, worst, random, or rso (statistical rejection sampling).  [default: best]"
        ),
    ] = None,
    beta: Annotated[
        float | None,
        typer.Option(
            help="Of rso, in units of the score: small picks the best, large at random.  [default: 0.5]"
        ),
    ] = None,
    length_control: Annotated[
        bool | None,
        typer.Option(
            "--length-control/--no-length-control",
            help="Take what length explains out of the scores before picking.",
        ),
    ] = None,
    scope: Annotated[
        str | None,
        typer.Option(
            help="prompt: k of every prompt; pool: k of the whole table.  [default: prompt]"
        ),
    ] = None,
    min_score: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER|none", help="Leave smaller scores out first.  [default: none]"
        ),
    ] = None,
    stages: Annotated[
        str | None,
        typer.Option(help="all, or last: rows of the largest stage only.  [default: all]"),
    ] = None,
    aggregate: Aggregate = None,
    normalize: Normalize = None,
    weights: Weights = None,
    min_votes: MinVotes = None,
    tie_break: TieBreak = None,
    on_invalid: OnInvalid = None,
    seed: Seed = None,
    plan: PlanFile = None,
    prompt: Prompt = None,
    completion: Completion = None,
    score: Score = None,
    id: Id = None,
    annotator: Annotator = None,
    aspect: Aspect = None,
    stage: Annotated[
        str | None,
        typer.Option(help="Column of the stage, a whole number.", rich_help_panel="Roles"),
    ] = None,
    group: Group = None,
    format: Annotated[
        str | None,
        typer.Option(
            help="pool (every column, and the rank), prompt-completion, messages, pairs (best against worst).  [default: pool]"
        ),
    ] = None,
    chat: Chat = False,
    keep: Keep = None,
    split: Split = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    rejects: Rejects = None,
    engine: EngineName = "auto",
    memory_limit: MemoryLimit = None,
    threads: Threads = None,
    temp_dir: TempDir = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    dry_run: DryRun = False,
    allow_empty: AllowEmpty = False,
    overwrite: Overwrite = False,
) -> None:
    """Select the k best completions of every prompt, for SFT on best-of-K; or accepted, median,
    worst or random ones.

    \b
    prefmill best scored.parquet -o best.parquet
    prefmill best scored.parquet -o sft.jsonl -k 4 --min-score 0 --format messages
    prefmill best stage0.parquet stage1.parquet -o best.parquet -k 8 --pick rso --beta 0.5
    --length-control
    """
    _run(BestOf, locals())


@app.command()
def advantages(
    inputs: Inputs,
    output: Output = None,
    method: Annotated[
        str | None,
        typer.Option("--kind", help="centered, grpo, rloo or rank.  [default: centered]"),
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="What grpo adds to the deviation.  [default: 0.0001]")
    ] = None,
    aggregate: Aggregate = None,
    normalize: Normalize = None,
    weights: Weights = None,
    min_votes: MinVotes = None,
    tie_break: TieBreak = None,
    on_invalid: OnInvalid = None,
    plan: PlanFile = None,
    prompt: Prompt = None,
    completion: Completion = None,
    score: Score = None,
    weight: Weight = None,
    logprob: Logprob = None,
    id: Id = None,
    annotator: Annotator = None,
    aspect: Aspect = None,
    group: Group = None,
    split: Split = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    rejects: Rejects = None,
    engine: EngineName = "auto",
    memory_limit: MemoryLimit = None,
    threads: Threads = None,
    temp_dir: TempDir = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    dry_run: DryRun = False,
    allow_empty: AllowEmpty = False,
    overwrite: Overwrite = False,
) -> None:
    """Add each row's advantage over the other completions of its prompt: whole rows, in their
    order, and a column `advantage`.

    \b
    prefmill advantages scored.parquet -o rollouts.parquet --kind grpo
    """
    _run(Advantage, locals() | {"format": None, "keep": None, "chat": False})


@app.command()
def check(
    inputs: Inputs,
    prompt: Prompt = None,
    completion: Completion = None,
    score: Score = None,
    id: Id = None,
    annotator: Annotator = None,
    aspect: Aspect = None,
    group: Group = None,
    strategy: StrategyName = None,
    chosen_min: ChosenMin = None,
    rejected_below: RejectedBelow = None,
    no_thresholds: NoThresholds = False,
    min_margin: MinMargin = None,
    max_pairs_per_prompt: MaxPairs = None,
    top_k: TopK = None,
    bottom_k: BottomK = None,
    aggregate: Aggregate = None,
    normalize: Normalize = None,
    weights: Weights = None,
    min_votes: MinVotes = None,
    tie_break: TieBreak = None,
    seed: Seed = None,
    plan: PlanFile = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    rejects: Rejects = None,
    memory_limit: MemoryLimit = None,
    threads: Threads = None,
    temp_dir: TempDir = None,
    as_json: AsJson = False,
) -> None:
    """Say what is in the feedback: roles, groups, scores, repeated answers, unusable rows, and how
    many pairs a plan makes of it.

    Exit code 1 if rows are unusable or malformed, if no prompt has answers with different scores,
    or if the plan makes no pair.

    \b
    prefmill check feedback.csv
    prefmill check feedback.csv --strategy all --no-thresholds
    """
    options = locals()
    from prefmill.cli import show
    from prefmill.runs.check import check as look

    made = _plan(Pairs, options)
    assert isinstance(made, Pairs)
    found = look(
        inputs,
        plan=made,
        roles=roles_given(options),
        encoding=encoding,
        delimiter=delimiter,
        rejects=rejects,
        threads=threads,
        temp_dir=temp_dir,
        memory_bytes=size_in_bytes(memory_limit),
    )
    if as_json:
        print_json(found.as_json())
    else:
        show.check(found)
    raise typer.Exit(0 if found.ok else 1)


app.command("sample")(sample_command)
app.command("score")(score_command)
app.command("loop")(loop_command)
app.command("sql")(sql_command)
app.command("curve")(curve_command)
app.command("train-reward")(train_reward_command)
app.command("values")(values_command)
app.command("steps")(steps_command)
for _registered in app.registered_commands:
    _registered.cls = Command


def _run(kind: type[FeedbackPlan], options: dict[str, Any]) -> None:
    """Run one plan from the options of its command, and tell what became of every row."""
    if options["threads"]:
        os.environ.setdefault(
            "POLARS_MAX_THREADS", str(options["threads"])
        )  # read once, when Polars is imported
    from prefmill.cli import show
    from prefmill.runs.run import explain, run

    plan = _plan(kind, options)
    names = roles_given(options)
    reading = {
        key: options[key] for key in ("encoding", "delimiter", "rejects", "threads", "temp_dir")
    }
    reading["memory_bytes"] = size_in_bytes(options["memory_limit"])
    if options["dry_run"]:
        typer.echo(
            explain(
                plan,
                options["inputs"],
                roles=names,
                engine=options["engine"],
                format=options["format"],
                **reading,
            ),
            nl=False,
        )
        return
    output = options["output"]
    if output is None:
        raise BadArgument(
            f"{plan.kind}: no output named.", hint="-o pairs.parquet, or --dry-run to see the plan."
        )
    if output == "-" and options["as_json"]:
        raise BadArgument("-o - and --json both want stdout.", hint="give -o a file.")
    if output == "-" and options["split"]:
        raise BadArgument(
            "-o - and --split: stdout takes one stream of rows.",
            hint="give -o a file, or leave --split out.",
        )
    with stdout_or(output) as target, show.progress(quiet=options["quiet"]) as tell:
        report = run(
            plan,
            options["inputs"],
            target,
            roles=names,
            engine=options["engine"],
            format=options["format"],
            chat=options["chat"],
            margin_scale=options.get("margin_scale"),
            keep=names_in(options["keep"]),
            split=numbers_in("--split", options["split"]),
            overwrite=options["overwrite"],
            allow_empty=options["allow_empty"],
            progress=tell,
            **reading,
        )
    if output == "-":
        report = replace(report, output=dict.fromkeys(report.output, STDOUT))
    if options["as_json"]:
        print_json(report.as_json())
    if not options["quiet"]:
        show.report(plan, report)
    if not report.pairs_out and not options["allow_empty"]:
        _nothing(plan, report)


def _nothing(plan: Plan, report: RunReport) -> None:
    from prefmill.cli.show import MADE, nothing_hint

    what = f"no {MADE[plan.kind]} came out, and nothing was written (--allow-empty writes it)"
    print(f"prefmill: {what}.\nHint: {nothing_hint(plan, report)}", file=sys.stderr)
    raise typer.Exit(1)


def _plan(kind: type[FeedbackPlan], options: Mapping[str, Any]) -> Plan:
    """The plan of `--plan` with the options that were given on top."""
    names = [f.name for f in fields(kind)]
    base: dict[str, Any] = {}
    if options["plan"] is not None:
        try:
            read = read_plan(options["plan"].read_text(encoding="utf-8"))
        except OSError as error:
            raise BadArgument(
                f"--plan: cannot read {str(options['plan'])!r}; {error.strerror}."
            ) from None
        if not isinstance(read, kind):
            raise BadArgument(
                f"--plan: {str(options['plan'])!r} is a plan of {read.kind}; expected {kind.kind}."
            )
        base = {name: getattr(read, name) for name in names}
    given = {name: options[name] for name in names if options.get(name) is not None}
    if options.get("no_thresholds"):
        base |= {"chosen_min": None, "rejected_below": None}
    for name in ("chosen_min", "rejected_below", "min_score"):
        if name in given:
            given[name] = threshold_in(name, given[name])
    if "weights" in given:
        given["weights"] = numbers_in("--weights", given["weights"])
    return kind(**{**base, **given})
