"""docs/why.md runs as it stands."""

from __future__ import annotations

from pages import ROOT, make_targets, run_page


def test_every_block_of_the_page_of_causes_runs(folder):
    page = (ROOT / "docs" / "why.md").read_text(encoding="utf-8")
    wrong = run_page(page, folder, make_targets(), "docs/why.md")
    assert not wrong, "\n\n".join(wrong)
