"""docs/errors.md has every error, raised; and every message has the form that people are told."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest
from pages import ROOT, script

from prefmill import errors

PAGE = ROOT / "docs" / "errors.md"
SOURCE = ROOT / "src" / "prefmill"
#: These put their message together themselves.
BUILT = ("BadRow", "PlanError", "ExpectationFailed")
KINDS = {
    name
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.PrefmillError) and name not in BUILT
}
#: What a message cannot say until it is raised.
LATER = "\0"
#: `where: what is wrong`: a name, a place or an option, then the words.
FORM = re.compile(rf"(?:{LATER}|[\w .'{LATER}(),/\[\]-]+?): .*[.?{LATER}]", re.DOTALL)
#: A hint is a sentence, or ends in a thing to type.
HINT = re.compile(rf"[.?{LATER}]$|\S*[-_=/:]\S*$|-\S+ \S+$|\b[A-Z]+$")


def text_of(node: ast.expr | None) -> str | None:
    """A text in the source, or None where it comes from elsewhere."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = [each.value if isinstance(each, ast.Constant) else LATER for each in node.values]
        return "".join(map(str, parts))
    return None


def messages(source: str) -> Iterator[tuple[int, str, str | None]]:
    """Line, message and hint of each error that is made with a text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
            text = text_of(node.args[0])
            if node.func.id in KINDS and text is not None:
                hints = [each.value for each in node.keywords if each.arg == "hint"]
                yield node.lineno, text, text_of(hints[0] if hints else None)


Told = tuple[int, str, str | None]


def faults(told: list[Told]) -> list[Told]:
    """Those whose message or hint has another form; a message that is handed on has none."""
    return [
        (line, text, hint)
        for line, text, hint in told
        if not text.startswith(f"{LATER} ")
        and not (FORM.fullmatch(text) and (hint is None or HINT.search(hint)))
    ]


def test_every_message_has_the_form():
    counted, wrong = 0, {}
    for path in sorted(SOURCE.rglob("*.py")):
        told = list(messages(path.read_text("utf-8")))
        counted += len(told)
        if found := faults(told):
            wrong[str(path.relative_to(SOURCE))] = found
    assert wrong == {}
    assert counted > 600


@pytest.mark.parametrize(
    ("made", "fits"),
    [
        ('BadArgument("pairs: no; got 1, expected 2.")', True),
        ('BadArgument(f"{where}: no; got {x!r}.", hint="leave it out.")', True),
        ('BadArgument("pairs: no.", hint="--device cpu")', True),
        ('BadArgument("pairs: no; got 1")', False),
        ('BadArgument("no such thing; got 1.")', False),
        ('BadArgument("pairs: no.", hint="do something")', False),
        ("BadArgument(message)", True),
        ('ValueError("no form")', True),
    ],
)
def test_a_message_of_another_form_is_found(made, fits):
    assert (faults(list(messages(made))) == []) is fits


def test_the_page_is_what_is_raised():
    made = script("docs/generate_errors.py")
    assert PAGE.read_text("utf-8") == made.page(), "run: python docs/generate_errors.py"
    names = [kind.__name__ for kind in made.kinds()]
    assert sorted([*made.RAISING, *made.ELSEWHERE]) == sorted(names)
    assert len(names) > 20


def test_the_tree_in_the_source_names_every_error():
    tree = str(errors.__doc__)
    assert [name for name in (*KINDS, *BUILT) if not re.search(rf"\b{name}\b", tree)] == []


def test_messages_of_the_page_have_the_form():
    blocks = re.findall(r"```text\n(.*?)\n```", PAGE.read_text("utf-8"), re.DOTALL)
    assert len(blocks) > 15
    for block in blocks:
        message, _, hint = block.partition("\nHint: ")
        assert all(re.match(r"\S.*?: \S", line) for line in message.splitlines()), block
        assert "\n" not in hint, block
