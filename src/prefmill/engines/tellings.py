"""Reports and accounts of parts as one cell of text: every engine brings texts together."""

from __future__ import annotations

import json
from dataclasses import asdict

import pyarrow as pa

from prefmill.shapes.account import Account
from prefmill.table.report import PairReport

#: The table that one report, or one account, is.
TOLD = pa.schema([("told", pa.string())])


def told(what: PairReport | Account) -> pa.Table:
    """A report or an account as a table of one row.

    >>> report_in(told(PairReport(1, 1, 0))["told"][0].as_py()).rows_used
    1
    """
    return pa.Table.from_arrays([pa.array([json.dumps(asdict(what))])], schema=TOLD)


def report_in(text: str) -> PairReport:
    """The report that `told` made a text of."""
    return PairReport(**json.loads(text))


def account_in(text: str) -> Account:
    """The account that `told` made a text of."""
    return Account(**json.loads(text))
