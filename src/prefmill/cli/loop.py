"""`prefmill loop`: a recipe to `prefmill.loop`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from prefmill.cli.app import Command, app
from prefmill.cli.options import AsJson, Overwrite, Quiet
from prefmill.cli.texts import print_json
from prefmill.errors import BadArgument


@app.command(cls=Command)
def loop(  # one option a line: this is the manual
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a TOML file.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="The run's folder.  [default: runs/RECIPE]"
        ),
    ] = None,
    stages: Annotated[
        int | None,
        typer.Option(
            min=1, help="Instead of the recipe's; more of them go on with a run that is done."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the recipe's.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SECTION.KEY=VALUE",
            help="Instead of the recipe's; may be given again.",
        ),
    ] = None,
    reuse: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="Take steps with the same inputs over from that run; may be given again.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print what every stage does and costs; write nothing."),
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Rejection sampling in stages: sample, score, select from all stages, train, again. Stopped at
    any point, the same command goes on.

    \b
    prefmill loop recipe.toml --dry-run
    prefmill loop recipe.toml
    prefmill loop recipe.toml -o runs/median --set select.pick=median --reuse runs/recipe
    """
    # Waiting threads of torch spin by default: beside other work on the same cores a run then takes
    # ten times as long (measured).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from prefmill.cli import show, tables
    from prefmill.loops.dry_run import explain
    from prefmill.loops.loop import loop as run
    from prefmill.loops.recipe import read_recipe

    target = output or Path("runs") / recipe.stem
    made = read_recipe(recipe, sets=set_ or [])
    if dry_run:
        found = explain(made, None if overwrite else target, stages=stages, seed=seed)
        typer.echo(
            json.dumps(found.as_json(), ensure_ascii=False) if as_json else found.text(), nl=as_json
        )
        return
    if not target.name:
        raise BadArgument(f"loop: -o: got {str(target)!r}, expected the name of a folder.")
    try:
        with show.progress(quiet=quiet) as tell:
            report = run(
                made,
                target,
                stages=stages,
                seed=seed,
                reuse=reuse or [],
                overwrite=overwrite,
                progress=tell,
            )
    except KeyboardInterrupt:
        print(
            "prefmill: stopped; what is done is kept, and the same command goes on.",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None
    if as_json:
        print_json(report.as_json())
    if not quiet:
        tables.looped(report)
