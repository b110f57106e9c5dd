"""Print `docs/api.md`: every public name and its first sentence, from the docstrings.

.venv/bin/python docs/generate_api.py > docs/api.md

The site shows the whole docstring below each table (docs/site/hooks.py).
"""

from __future__ import annotations

import importlib
import sys

HEAD = """# Python

`import prefmill as pm` has the names below. Each is loaded on first use. `help(pm.run)` shows the
whole of a docstring, and so does the site (`make docs`).
This page is generated from the docstrings by `docs/generate_api.py`; a test compares the two.

A report is data: `as_json()` gives it as plain values, and a notebook shows it.
"""

#: Heading, module, names; no names: those of the module's `__all__`.
GROUPS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "Plans",
        "prefmill",
        ("Pairs", "Unpaired", "BestOf", "Advantage", "Values", "Expect", "Roles", "Rows"),
    ),
    (
        "From files to files",
        "prefmill",
        ("run", "rows", "score", "sample", "votes", "label_steps", "loop", "isolated"),
    ),
    (
        "Training",
        "prefmill",
        ("train_reward", "train_policy"),
    ),
    (
        "Looking",
        "prefmill",
        (
            "pair_report",
            "report",
            "loop_report",
            "worth",
            "label_next",
            "curve",
            "audit",
            "calibrate",
            "diff",
            "why",
        ),
    ),
    (
        "In memory",
        "prefmill",
        ("values", "score_stream", "step_labels", "step_values", "stepwise"),
    ),
    (
        "Scorers",
        "prefmill",
        (
            "RewardModel",
            "ImplicitReward",
            "LogProb",
            "ChoiceScorer",
            "Verifier",
            "JudgeScorer",
            "Rubric",
            "Criterion",
            "EndpointScorer",
            "VllmReward",
            "Ensemble",
            "Scorer",
            "Workers",
        ),
    ),
    (
        "Samplers",
        "prefmill",
        ("LocalSampler", "EndpointSampler", "BatchSampler", "VllmSampler", "Sampler"),
    ),
    (
        "Reports",
        "prefmill",
        (
            "PairReport",
            "WorthReport",
            "NextReport",
            "RunReport",
            "RowsReport",
            "ScoreReport",
            "SampleReport",
            "VotesReport",
            "StepsReport",
            "ValuesReport",
            "TrainReport",
            "LoopReport",
            "StagesReport",
            "AuditReport",
            "CalibrateReport",
            "DiffReport",
            "WhyReport",
            "Report",
            "Curve",
        ),
    ),
    ("Errors", "prefmill", ("PrefmillError",)),
    ("Polars", "prefmill.polars", ()),
    ("DuckDB", "prefmill.duckdb", ()),
    ("Datasets", "prefmill.datasets", ()),
)


def first_sentence(text: str) -> str:
    """The first paragraph of a docstring up to its first full stop, in one line.

    >>> first_sentence("What a run did. The counts are\\nthose of `PairReport`.")
    'What a run did.'
    """
    words = " ".join(text.strip().split("\n\n")[0].split())
    head, stop, _ = words.partition(". ")
    return f"{head}." if stop else words


def table(module: str, names: tuple[str, ...]) -> str:
    """The names of a module and their first sentences."""
    home = importlib.import_module(module)
    lines = ["| name | |", "|---|---|"]
    for name in names or sorted(home.__all__):
        said = first_sentence(getattr(home, name).__doc__ or "").replace("|", "\\|")
        lines.append(f"| `{module}.{name}` | {said} |")
    return "\n".join(lines)


def page() -> str:
    """The whole page."""
    parts = [f"## {heading}\n\n{table(module, names)}\n" for heading, module, names in GROUPS]
    return "\n".join([HEAD, *parts])


if __name__ == "__main__":
    sys.stdout.write(page())
