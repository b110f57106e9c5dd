"""`prefmill loop`: a recipe to `prefmill.loop`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefmill.cli.app import Options, command
from prefmill.cli.options import Writing, option, quiet_threads, stoppable
from prefmill.cli.texts import print_json
from prefmill.errors import BadArgument


class _Recipe(Options):
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a TOML file.")]
    output: Annotated[
        Path | None,
        option("--output", "-o", metavar="DIR", help="The run's folder.  [default: runs/RECIPE]"),
    ] = None
    stages: Annotated[
        int | None,
        option(min=1, help="Instead of the recipe's; more of them go on with a run that is done."),
    ] = None
    seed: Annotated[int | None, option(min=0, help="Instead of the recipe's.")] = None
    set_: Annotated[
        list[str] | None,
        option(
            "--set",
            metavar="SECTION.KEY=VALUE",
            help="Instead of the recipe's; may be given again.",
        ),
    ] = None
    reuse: Annotated[
        list[Path] | None,
        option(
            metavar="DIR",
            help="Take steps with the same inputs over from that run; may be given again.",
        ),
    ] = None
    dry_run: Annotated[
        bool, option("--dry-run", help="Print what every stage does and costs; write nothing.")
    ] = False


class LoopOptions(_Recipe, Writing):
    """The options of `prefmill loop`."""


@command
def loop(options: LoopOptions) -> None:
    """Rejection sampling in stages: sample, score, select from all stages, train, again. Stopped at
    any point, the same command goes on.

    \b
    prefmill loop recipe.toml --dry-run
    prefmill loop recipe.toml
    prefmill loop recipe.toml -o runs/median --set select.pick=median --reuse runs/recipe
    """
    quiet_threads()
    from prefmill.cli import show, tables
    from prefmill.loops.dry_run import explain
    from prefmill.loops.loop import loop as run
    from prefmill.loops.recipe import read_recipe

    target, overwrite = options.output or Path("runs") / options.recipe.stem, options.overwrite
    recipe = read_recipe(options.recipe, sets=options.set_ or [])
    numbers = options.picked("stages", "seed")
    if options.dry_run:
        plan = explain(recipe, None if overwrite else target, **numbers)
        if options.as_json:
            print_json(plan.as_json())
        else:
            typer.echo(plan.text(), nl=False)
        return
    if not target.name:
        raise BadArgument(f"loop: -o: got {str(target)!r}, expected the name of a folder.")
    with (
        stoppable("what is done is kept, and the same command goes on"),
        show.progress(quiet=options.quiet) as tell,
    ):
        reuse = options.reuse or []
        report = run(recipe, target, reuse=reuse, overwrite=overwrite, progress=tell, **numbers)
    if options.as_json:
        print_json(report.as_json())
    if not options.quiet:
        tables.looped(report)
