"""docs/why.md runs as it stands."""

from __future__ import annotations

from pages import ROOT, make_targets, run_page


def test_every_block_of_the_page_of_causes_runs(tmp_path):
    page = (ROOT / "docs" / "why.md").read_text(encoding="utf-8")
    wrong = run_page(page, tmp_path, make_targets(), "docs/why.md")
    assert not wrong, "\n\n".join(wrong)
