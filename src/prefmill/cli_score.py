"""`prefmill score`: options to a scorer, and to `prefmill.score`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from prefmill.errors import BadArgument
from prefmill.options import (
    AsJson,
    Completion,
    Delimiter,
    Encoding,
    Id,
    Inputs,
    MemoryLimit,
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

_MODEL = "Model"


def score(  # one option a line: this is the manual
    inputs: Inputs,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Target: .parquet .jsonl .csv .tsv .arrow, or a directory (datasets).")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(metavar="DIR|HUB_ID", help="The model; again for an ensemble.", rich_help_panel=_MODEL)
    ] = None,
    scorer: Annotated[str, typer.Option(help="reward, logprob or implicit.", rich_help_panel=_MODEL)] = "reward",
    reference: Annotated[
        str | None, typer.Option(metavar="DIR|HUB_ID", help="The reference model of implicit.", rich_help_panel=_MODEL)
    ] = None,
    beta: Annotated[float | None, typer.Option(help="Of implicit.  [default: 0.1]", rich_help_panel=_MODEL)] = None,
    combine: Annotated[str, typer.Option(help="An ensemble's score: mean or min.", rich_help_panel=_MODEL)] = "mean",
    revision: Annotated[str | None, typer.Option(help="Of a hub id: a commit pins it.", rich_help_panel=_MODEL)] = None,
    label: Annotated[
        str | None, typer.Option(help="The label that is the score, where the model has several.", rich_help_panel=_MODEL)
    ] = None,
    pooling: Annotated[
        str | None, typer.Option(help="Token that is scored: hf (last that is no pad) or last.  [default: hf]", rich_help_panel=_MODEL)
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help="auto, chat, pair, concat, or a Jinja file.  [default: auto]", rich_help_panel=_MODEL),
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(min=1, help="Most tokens of a row.  [default: what the model takes]", rich_help_panel=_MODEL)
    ] = None,
    on_too_long: Annotated[
        str | None, typer.Option(help="Longer rows: error, null, truncate.  [default: error]", rich_help_panel=_MODEL)
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.", rich_help_panel=_MODEL)
    ] = False,
    device: Annotated[
        list[str] | None,
        typer.Option(help="auto, cpu, cuda, cuda:N; again for a process on each.  [default: auto]", rich_help_panel="Speed"),
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16, float16.  [default: auto]", rich_help_panel="Speed")] = None,
    batch_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens of one forward pass.", rich_help_panel="Speed")] = None,
    share_prefix: Annotated[
        str | None, typer.Option(help="auto runs a prompt once for its candidates; off.  [default: auto]", rich_help_panel="Speed")
    ] = None,
    invariant: Annotated[
        bool, typer.Option("--invariant", help="A row's score is bitwise the same whatever its neighbours are.", rich_help_panel="Speed")
    ] = False,
    compile: Annotated[bool, typer.Option("--compile", help="Through torch.compile.", rich_help_panel="Speed")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the model on a CPU.", rich_help_panel="Speed")] = None,
    cache: Annotated[Path | None, typer.Option(metavar="DIR", help="Keep scores by content: a grown pool scores its new rows.")] = None,
    chunk_rows: Annotated[int | None, typer.Option(min=1, help="Rows committed at a time.  [default: 512]")] = None,
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
    """Score a pool of candidates with a reward model (or log-probabilities). Stopped at any point, the same command goes on.

    \b
    prefmill score pool.parquet -o scored.parquet --model my-reward-model
    prefmill score pool.parquet -o scored.parquet --scorer implicit --model policy --reference base
    """
    options = locals()
    # Waiting threads of torch spin by default: beside other work on the same cores a run then takes ten times as long (measured).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from prefmill import show
    from prefmill.score_runs import score as run
    from prefmill.stream import CHUNK_ROWS

    if output is None:
        raise BadArgument("score: no output named.", hint="-o scored.parquet")
    if output == "-" and as_json:
        raise BadArgument("-o - and --json both want stdout.", hint="give -o a file.")
    names = ("score_column", "overwrite", "encoding", "delimiter", "rejects", "temp_dir")
    try:
        with stdout_or(output) as target, show.progress(quiet=quiet) as tell:
            report = run(
                inputs, target, scorer=_scorer(options), roles=roles_given(options), chunk_rows=chunk_rows or CHUNK_ROWS, devices=device,
                progress=tell, memory_bytes=size_in_bytes(memory_limit), **{name: options[name] for name in names},
            )  # fmt: skip
    except KeyboardInterrupt:
        print("prefmill: stopped; what is scored is kept, and the same command goes on.", file=sys.stderr)
        raise typer.Exit(130) from None
    if as_json:
        print_json(report.as_json())
    if not quiet:
        show.scored(report)


def _scorer(options: Mapping[str, Any]) -> Any:
    """The scorer that the options describe."""
    from prefmill.scoring import Ensemble, ImplicitReward, LogProb, RewardModel

    kinds: dict[str, Any] = {"reward": RewardModel, "logprob": LogProb, "implicit": ImplicitReward}
    kind = kinds.get(options["scorer"])
    models = options["model"] or []
    if kind is None:
        raise BadArgument(f"--scorer: got {options['scorer']!r}, expected one of {list(kinds)}.")
    if not models:
        raise BadArgument("score: no model named.", hint="--model DIR, a folder that save_pretrained wrote, or a hub id.")
    own = {"reward": ("label", "pooling"), "logprob": (), "implicit": ("reference", "beta")}
    for name in ("label", "pooling", "reference", "beta"):
        if options[name] is not None and name not in own[options["scorer"]]:
            raise BadArgument(f"--{name} has no meaning for --scorer {options['scorer']}.")
    if kind is ImplicitReward and options["reference"] is None:
        raise BadArgument("score: implicit needs a reference model.", hint="--reference DIR")
    shared = ("revision", "template", "max_length", "on_too_long", "dtype", "batch_tokens", "share_prefix", "threads", "cache")
    given = {name: options[name] for name in (*shared, *own[options["scorer"]]) if options[name] is not None}
    flags = {name: options[name] for name in ("trust_remote_code", "invariant", "compile")}
    device = (options["device"] or ["auto"])[0]
    scorers = [kind(model=name, device=device, **given, **flags) for name in models]
    if len(scorers) == 1:
        return scorers[0]
    names = [Path(name).name for name in models]
    names = names if len(set(names)) == len(names) else [f"model{i + 1}" for i in range(len(names))]
    return Ensemble(scorers=dict(zip(names, scorers, strict=True)), combine=options["combine"])
