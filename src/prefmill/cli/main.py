"""The command line: every command, in the order of the help.

A command registers itself when its module is imported. Nothing heavy is imported before it runs.
"""

from __future__ import annotations

import importlib

from prefmill.cli.app import app

__all__ = ["app"]

# In the order of a user's work: select first, for most people need nothing else.
COMMANDS = (
    "select",
    "check",
    "report",
    "view",
    "worth",
    "label_next",
    "rows",
    "sample",
    "score",
    "calibrate",
    "loop",
    "sql",
    "curve",
    "votes",
    "audit",
    "train",
    "values",
    "steps",
    "runs",
    "causes",
)
for _module in COMMANDS:
    importlib.import_module(f"prefmill.cli.{_module}")
