"""docs/audit.md runs as it stands."""

from __future__ import annotations

from pages import ROOT, make_targets, run_page


def test_every_block_of_the_page_of_audits_runs(folder):
    page = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
    wrong = run_page(page, folder, make_targets(), "docs/audit.md")
    assert not wrong, "\n\n".join(wrong)
