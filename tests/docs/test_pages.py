"""The pages can be read: narrow lines, a short README, pictures as drawn, a changelog without
repeats.
"""

from __future__ import annotations

import difflib
import re
from itertools import combinations
from pathlib import Path

import pytest
from pages import script

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "prefmill"
#: Two subjects as like as this say the same.
ALIKE = 0.75


def page(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def entries(changelog: str) -> list[str]:
    """The items of its lists, each in one line."""
    items = re.split(r"\n\n|\n(?=- |#)", changelog)
    return [" ".join(item.removeprefix("- ").split()) for item in items if item.startswith("- ")]


def repeats(changelog: str) -> list[tuple[str, str]]:
    """Pairs of entries that say nearly the same, as a whole or in their first 80 characters."""
    return [
        (one[:80], other[:80])
        for one, other in combinations(entries(changelog), 2)
        if any(_alike(one[:end], other[:end]) for end in (80, 400))
    ]


def _alike(one: str, other: str) -> bool:
    match = difflib.SequenceMatcher(None, one, other, autojunk=False)
    # The quick ratios are upper bounds of the last.
    return all(
        ratio() >= ALIKE for ratio in (match.real_quick_ratio, match.quick_ratio, match.ratio)
    )


def test_the_changelog_repeats_nothing():
    changelog = page("CHANGELOG.md")
    assert len(entries(changelog)) > 20
    assert repeats(changelog) == []


@pytest.mark.parametrize(
    ("changelog", "count"),
    [
        ("- `prefmill best` picks the k best.\n- `prefmill curve` plots.\n", 0),
        ("- `prefmill best` picks the k best.\n- `prefmill best` picks the best k.\n", 1),
        ("## A\n\n- one thing\n  in two lines\n\n## B\n\n- one thing in two lines\n", 1),
    ],
)
def test_repeats_are_found(changelog, count):
    assert len(repeats(changelog)) == count


def test_the_pictures_are_what_the_script_draws():
    for path, drawing in script("docs/draw_pictures.py").pictures().items():
        assert path.read_text("utf-8") == drawing, "run: python docs/draw_pictures.py"
        assert f"docs/pictures/{path.name}" in page("README.md")


def test_the_readme_is_short_and_names_every_package():
    lines = page("README.md").splitlines()
    assert len(lines) <= 150
    table = lines[lines.index("## The packages") :]
    named = {cell for line in table for cell in re.findall(r"^\| `(\w+)` \|", line)}
    assert named == {path.parent.name for path in SOURCE.glob("*/__init__.py")}


def test_links_between_pages_lead_to_files():
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "benchmarks" / "README.md"]
    for path in pages:
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text("utf-8")):
            assert link.startswith("http") or (path.parent / link).exists(), f"{path.name}: {link}"


def test_lines_are_narrow():
    too_long = script("benchmarks/house_numbers.py").too_long
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    wide = {path.name: too_long(path) for path in pages if path.name != "cli.md"}
    assert not {name: count for name, count in wide.items() if count}
