"""The corpus of shapes: small invented files, one for each shape, file kind and spelling."""

from __future__ import annotations

import asked_people
import labelled_steps
import lists_of_answers
import ready_pairs
import scored_rows
import thumbs_and_talks
import verdicts
from entry import Entry

#: The shapes by what their records hold.
FAMILIES: dict[str, list[Entry]] = {
    "One answer and its score": scored_rows.EVALUATIONS,
    "Thumbs and words": thumbs_and_talks.THUMBS,
    "Logs and annotation tools": scored_rows.LOGS,
    "Conversations": thumbs_and_talks.TALKS,
    "Several answers in lists": lists_of_answers.ENTRIES,
    "Two answers and a verdict": verdicts.ENTRIES,
    "Crowd work and surveys": asked_people.ENTRIES,
    "Ready pairs": ready_pairs.ENTRIES,
}
ENTRIES: list[Entry] = [entry for entries in FAMILIES.values() for entry in entries]
STEPS: list[Entry] = labelled_steps.STEPS
