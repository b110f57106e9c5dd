"""docs/worth.md runs as it stands."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from pages import ROOT, make_targets, run_page

from prefmill.models.embedding import PACKAGE

pytestmark = pytest.mark.score


@pytest.mark.skipif(find_spec(PACKAGE) is None, reason=f"needs {PACKAGE.replace('_', '-')}")
def test_every_block_of_the_page_runs(tmp_path):
    page = (ROOT / "docs" / "worth.md").read_text(encoding="utf-8")
    wrong = run_page(page, tmp_path, make_targets(), "docs/worth.md")
    assert not wrong, "\n".join(wrong)
