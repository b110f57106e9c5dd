"""docs/hosts.md runs as it stands, and so does the dbt project under examples/."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_docs import folder, make_targets, run_page  # noqa: F401  (a fixture)

ROOT = Path(__file__).parents[1]


def test_every_block_of_the_page_of_hosts_runs(folder):  # noqa: F811
    pytest.importorskip("datasets")
    wrong = run_page((ROOT / "docs" / "hosts.md").read_text(encoding="utf-8"), folder, make_targets())
    assert not wrong, "\n\n".join(wrong).replace("README.md", "docs/hosts.md")
