"""`prefmill score`: options to a scorer, and to `prefmill.score`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any

from prefmill.cli.app import Options, command
from prefmill.cli.checking import Checks, Programs
from prefmill.cli.options import (
    BadRows,
    Batches,
    Cluster,
    Completion,
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
    stoppable,
)
from prefmill.cli.outputs import Choices, Outputs, outputs_given
from prefmill.cli.texts import given_for, roles_given, stdout_or
from prefmill.cli.together import Together, ensemble_of, scorer_in_file
from prefmill.errors import BadArgument
from prefmill.plans.bounds import SCORE
from prefmill.plans.expect import expect_in
from prefmill.scoring.kinds import SCORERS, kind_for, scorer_class


class _Models(Outputs):
    model: Annotated[
        list[str] | None,
        option(
            metavar="DIR|HUB_ID|NAME",
            help="The model, or its name on the server; again for an ensemble.",
        ),
    ] = None
    scorer: Annotated[
        str,
        option(
            metavar="KIND|FILE",
            help="reward, logprob, implicit, choice, judge, endpoint, verify; or a TOML file with "
            "the table [score] of a recipe.",
        ),
    ] = "reward"
    reference: Annotated[
        str | None, option(metavar="DIR|HUB_ID", help="The reference model of implicit.")
    ] = None
    beta: Annotated[float | None, option(help="Of implicit.  [default: 0.1]")] = None
    pooling: Annotated[
        str | None,
        option(
            help="Token that is scored: hf (last that is no pad), last, or auto (as the model's "
            "owner does).  [default: auto]"
        ),
    ] = None


class _Texts(Model):
    template: Annotated[
        str | None,
        option(
            metavar="NAME|FILE", help="auto, chat, pair, concat, or a Jinja file.  [default: auto]"
        ),
    ] = None
    max_length: Annotated[
        int | None,
        option(min=1, help="Most tokens of a row.  [default: what the model takes]"),
    ] = None
    on_too_long: Annotated[
        str | None, option(help="Longer rows: error, null, truncate.  [default: error]")
    ] = None


class _Asked(Server):
    url: Annotated[
        str | None, option(help="Of the server of judge or endpoint: http://HOST:PORT/v1.")
    ] = None
    on_refused: Annotated[
        str | None, option(help="Rows that the server refuses: error, null.  [default: error]")
    ] = None


class _Judge(Options):
    mode: Annotated[
        str | None,
        option(
            help="rating (a number) or pairwise (a prompt's candidates compared).  "
            "[default: rating]"
        ),
    ] = None
    max_new_tokens: Annotated[
        int | None, option(min=1, help="Of the judge's answer.  [default: 256]")
    ] = None
    schedule: Annotated[
        str | None,
        option(help="Of pairwise: all, or baseline (each against the first).  [default: all]"),
    ] = None
    max_pairs: Annotated[int | None, option(min=1, help="Most pairs of a prompt.")] = None
    top_logprobs: Annotated[
        int | None,
        option(min=0, help="Alternatives of a rating that the server is asked for.  [default: 20]"),
    ] = None
    ten_is_one_token: Annotated[
        bool,
        option("--ten-is-one-token", help='The judge\'s tokenizer has "10" as one token.'),
    ] = False
    price_in: Annotated[float | None, option(min=0, help="Of a million tokens read.")] = None
    price_out: Annotated[float | None, option(min=0, help="Of a million tokens written.")] = None


class _Rubric(Options):
    rubric: Annotated[
        Path | None,
        option(
            metavar="FILE",
            help="What a judge is asked: a text with {prompt} and {completion}, or {a} and {b}, "
            "{COLUMN}; or TOML with criteria.",
        ),
    ] = None
    scale: Annotated[
        str | None,
        option(
            metavar="LOW-HIGH|NAME",
            help="The numbers that it allows, or mt-bench, prometheus, likert, percent.  "
            "[default: 1-10]",
        ),
    ] = None
    system: Annotated[
        str | None, option(metavar="TEXT|FILE", help="The judge's system message.")
    ] = None
    criteria: Annotated[
        str | None,
        option(metavar="COLUMN", help="Criteria of each row: records with question and weight."),
    ] = None
    ask: Annotated[
        str | None,
        option(help="Of criteria: each in a request, or all together.  [default: each]"),
    ] = None
    reference_answer: Annotated[
        str | None, option(metavar="COLUMN", help="A reference answer, shown to the judge.")
    ] = None
    structured: Annotated[
        str | None,
        option(
            help="Send a JSON schema of the answer: on, auto (without where it is refused), off.  "
            "[default: off]"
        ),
    ] = None


class _Endpoint(Options):
    kind: Annotated[
        str | None,
        option(
            help="vllm-classify, vllm-pooling, vllm-score, sglang-classify, tei-predict, "
            "tei-rerank.  [default: vllm-classify]"
        ),
    ] = None
    tokenizer: Annotated[
        str | None,
        option(metavar="DIR|HUB_ID", help="Make texts or token ids here, by --template."),
    ] = None
    batch_rows: Annotated[
        int | None,
        option(min=1, help="Rows of a request, where it takes several.  [default: 32]"),
    ] = None
    parity: Annotated[
        str | None,
        option(
            metavar="DIR|HUB_ID",
            help="The same reward model: compare the first rows, stop if they differ.",
        ),
    ] = None
    tolerance: Annotated[
        float | None,
        option(
            help="Of --parity, as a share of the largest score, or of check number.  "
            "[default: 0.02; 1e-6]"
        ),
    ] = None


class _Speed(Device):
    device: Annotated[
        list[str] | None,
        option(help="auto, cpu, cuda, cuda:N; again for a process on each.  [default: auto]"),
    ] = None
    batch_tokens: Annotated[int | None, option(min=1, help="Tokens of one forward pass.")] = None
    share_prefix: Annotated[
        str | None,
        option(help="auto runs what rows begin with once; off.  [default: auto]"),
    ] = None
    invariant: Annotated[
        bool,
        option(
            "--invariant",
            help="A row's score is bitwise the same whatever its neighbours are.",
        ),
    ] = False
    compile: Annotated[bool, option("--compile", help="Through torch.compile.")] = False
    cache: Annotated[
        Path | None,
        option(metavar="DIR", help="Keep scores by content: a grown pool scores its new rows."),
    ] = None
    chunk_rows: Annotated[
        int | None,
        option(min=1, help="Rows committed at a time.  [default: 512; GPU: a million tokens]"),
    ] = None


class _Rows(BadRows):
    expect: Annotated[list[str] | None, expecting(SCORE)] = None
    score_column: Annotated[str, option(metavar="NAME", help="Column to write.")] = "score"
    prompt: Prompt = None
    completion: Completion = None
    id: Id = None


class ScorerOptions(
    _Models,
    Together,
    _Texts,
    Choices,
    _Asked,
    Batches,
    Engine,
    _Judge,
    _Rubric,
    _Endpoint,
    Checks,
    Programs,
    _Speed,
):
    """The options that describe a scorer."""


class ScoreOptions(Inputs, Target, ScorerOptions, Cluster, _Rows, Records, Reading, Writing):  # type: ignore[misc]
    """The options of `prefmill score`."""


@command
def score(options: ScoreOptions) -> None:
    """Score a pool of candidates, or both sides of pairs, with a reward model, log-probabilities or
    a judge. Stopped at any point, the same command goes on.

    \b
    prefmill score pool.parquet -o scored.parquet --model my-reward-model
    prefmill score pairs.jsonl -o scored.parquet --model my-reward-model
    prefmill score pool.parquet -o scored.parquet --model one --model other --combine zscore
    prefmill score pool.parquet -o scored.parquet --scorer implicit --model policy --reference base
    prefmill score pool.parquet -o scored.parquet --model my-reward-model --workers 2..8
    prefmill score pool.parquet -o scored.parquet --scorer judge --url http://localhost:8000/v1
    --model judge
    """
    quiet_threads()
    from prefmill.cli import show, tables
    from prefmill.runs.resumable.score import score as run

    output = output_of(options, "score", "-o scored.parquet")
    with (
        stoppable("what is scored is kept, and the same command goes on"),
        stdout_or(output) as target,
        show.progress(quiet=options.quiet) as tell,
    ):
        report = run(
            options.inputs,
            target,
            scorer=scorer_of(vars(options)),
            roles=roles_given(options),
            devices=options.device,
            workers=options.hands(),
            expect=expect_in(options.expect or (), SCORE) or None,
            progress=tell,
            **options.picked("chunk_rows", "score_column", "on_bad_row", "overwrite"),
            **options.reading(),
        )
    finish(report, options, tables.scored)


def scorer_of(options: Mapping[str, Any]) -> Any:
    """The scorer that the options describe; several --model are an ensemble."""
    kind, kinds = options["scorer"], [each for each in SCORERS if each != "ensemble"]
    parts = [scorer_class(each) for each in kinds]
    if kind.endswith(".toml"):
        taken = frozenset().union(*(part.options() for part in parts))
        return scorer_in_file(kind, options, taken)
    if kind not in kinds:
        raise BadArgument(
            f"--scorer: got {kind!r}, expected one of {kinds}, or a file NAME.toml.",
            hint="several kinds together are written in a file." if kind == "ensemble" else None,
        )
    if kind_for(kind, options.get("backend")) != kind:
        kind, options = kind_for(kind, options["backend"]), {**options, "backend": None}
    scorer = scorer_class(kind)
    given = given_for(scorer, parts, options, f"for --scorer {kind}")
    models = options["model"] or _unnamed(scorer)
    if not models:
        raise BadArgument(
            "score: no model named.",
            hint="--model DIR, a folder that save_pretrained wrote, or a hub id;"
            " with --url its name there.",
        )
    given |= outputs_given(given)
    scorers = [scorer.from_options(model, given) for model in models]
    return ensemble_of(models, scorers, options)


def _unnamed(scorer: Any) -> list[str]:
    """The model of a scorer that needs none to be named; "" of one that has none."""
    if getattr(scorer, "without_model", False):
        return [""]
    defaults = {field.name: field.default for field in fields(scorer)}
    model = defaults.get("model", MISSING)
    return [] if model is MISSING else [model]
