"""docs/verify.md runs as it stands, and names every check and every reason."""

from __future__ import annotations

import re
from typing import get_args

from pages import ROOT, make_targets, run_page

from prefmill.scoring.verify import verifier

PAGE = (ROOT / "docs" / "verify.md").read_text("utf-8")
ROOM = ROOT / "src" / "prefmill" / "scoring" / "verify"


def test_every_block_of_the_page_runs(tmp_path):
    wrong = run_page(PAGE, tmp_path, make_targets())
    assert not wrong, "\n\n".join(wrong).replace("README.md", "docs/verify.md")


def test_every_check_and_every_reason_is_named():
    for check in get_args(verifier.Check):
        assert f"| `{check}` |" in PAGE
    words = set()
    for path in ROOM.glob("*.py"):
        text = path.read_text("utf-8")
        words |= set(re.findall(r'Verdict\([^"\n]*"(\w+)[":]', text))
        words |= set(re.findall(r'return f?"(\w+)[":]', text))
    reasons = {word for word in words if "_" in word or word in ("raised", "exited", "killed")}
    assert {"wrong_answer", "no_answer", "timed_out", "bad_column", "own_equality"} <= reasons
    assert {word for word in reasons if f"`{word}`" not in PAGE} == set()
