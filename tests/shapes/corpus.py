"""The corpus of shapes: small invented files, one for each shape, file kind and spelling."""

from __future__ import annotations

import lists_of_answers
import ready_pairs
import scored_rows
import verdicts
from entry import Entry

ENTRIES: list[Entry] = [
    *lists_of_answers.ENTRIES,
    *verdicts.ENTRIES,
    *ready_pairs.ENTRIES,
    *scored_rows.ENTRIES,
]
