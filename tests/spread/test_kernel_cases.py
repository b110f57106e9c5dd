"""Every case of `tests/cases` in buckets: what comes out is what the table says."""

from __future__ import annotations

import pytest
from case_tables import CASES, expected, table_of
from engines import assert_same, rows_of
from parts import WIDE, in_buckets, is_wide, numbered

from prefmill.errors import BadArgument, PrefmillError
from prefmill.plans import FEEDBACK_KINDS as KINDS


@pytest.mark.parametrize("large", [False, True], ids=["narrow", "large"])
@pytest.mark.parametrize("case", CASES)
def test_case_in_buckets(case: dict, large: bool) -> None:
    kind = case.get("kind", "pairs")

    def run():
        plan = KINDS[kind].from_mapping(case.get("plan", {}))
        rows, report = in_buckets(
            numbered(table_of(case)), plan, case.get("roles", {}), large=large
        )
        return rows_of(rows.to_arrow(), plan), report

    if "error" in case:
        with pytest.raises(PrefmillError, match=f"(?s){case['error']}|{WIDE}"):
            run()
    elif is_wide(case):
        with pytest.raises(BadArgument, match=WIDE):
            run()
    else:
        assert_same(case["name"], "buckets", run(), expected(case, kind))
