"""The app, and how commands are made: from classes of options, a field for each.

A command is a function of one object, which has its options as attributes:

    @command
    def curve(options: CurveOptions) -> None: ...
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from inspect import Parameter
from typing import Annotated, Any, Literal, get_type_hints

import typer
from typer.core import TyperCommand

from prefmill._version import __version__
from prefmill.errors import BadArgument

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Turn raw feedback into preference data: pairs, labels and best-of-K, checked, "
    "with every dropped row counted.",
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


class Command(TyperCommand):
    """A command that refuses an option given twice where it takes one value.

    The last one would win without a word.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As typer parses them, after the look for doubles."""
        # Parsing twice is cheap, and typer's own parse keeps the last value only.
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        for param in self.params:
            flag = param.multiple or getattr(param, "is_flag", False)
            if param.param_type_name == "option" and not flag and order.count(param) > 1:
                name = max(param.opts, key=len)
                raise BadArgument(
                    f"{name}: given {order.count(param)} times, takes one value.",
                    hint=f"leave one {name}.",
                )
        return super().parse_args(ctx, args)


class Options:
    """Options of a command as attributes; a subclass says what they are.

    The help shows those of the first base first, and own ones last.
    """

    def __init__(self, **values: Any) -> None:
        vars(self).update(values)

    def picked(self, *names: str) -> dict[str, Any]:
        """Some of the options by name."""
        return {name: getattr(self, name) for name in names}

    @classmethod
    def parameters(cls) -> Iterator[Parameter]:
        """The options as typer wants them."""
        hints = get_type_hints(cls, include_extras=True)
        for name in dict.fromkeys(_names(cls)):
            default = getattr(cls, name, Parameter.empty)
            yield Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=hints[name])


class Logging(Options):
    """What every command has."""

    log_format: Annotated[
        Literal["text", "json"],
        typer.Option(
            envvar="PREFMILL_LOG_FORMAT",
            show_envvar=False,
            help="json: an object a line on stderr, with progress (or PREFMILL_LOG_FORMAT).",
        ),
    ] = "text"


def _names(options: type) -> Iterator[str]:
    """The names of the options, in the order of the help."""
    # Not `__mro__`, which would put shared groups last: people look for the input first.
    for base in options.__bases__:
        yield from _names(base)
    yield from inspect.get_annotations(options)


Work = Callable[[Any], None]


def add_command(
    name: str, usage: str, parameters: Iterable[Parameter], options: type[Options], work: Work
) -> None:
    """Make the command `name`: it calls `work` with its options."""

    def callback(**values: Any) -> None:
        from prefmill.cli import logs

        # `__main__` read it off the arguments before they were parsed.
        if values.pop("log_format") == "json" and "quiet" in values:
            values["quiet"] = True  # what people read is no object of JSON
        logs.as_text()
        work(options(**values))

    # typer reads options off a signature; this one is made, so no function spells them out.
    made = [*parameters, *Logging.parameters()]
    callback.__signature__ = inspect.Signature(made)  # type: ignore[attr-defined]
    app.command(name, cls=Command, help=usage)(callback)


def command(work: Work) -> Work:
    """Make a command of the function `work` and the options that it takes."""
    # The one argument of the function says which options the command has.
    (options,) = (hint for name, hint in get_type_hints(work).items() if name != "return")
    name = work.__name__.replace("_", "-")
    add_command(name, work.__doc__ or "", options.parameters(), options, work)
    return work
