"""The door to Polars: plans as functions over frames, and `lf.pref`, `df.pref`, `pl.col().pref`.

`apply` composes and never collects; only `report` does. Importing this module registers the
namespaces (`prefmill.polars_pref`).
"""

from __future__ import annotations

from prefmill.engines.frames import apply, report
from prefmill.polars_pref import best_of, pair_report, pairs, unpaired
from prefmill.rules.picks import rank_in

__all__ = ["apply", "best_of", "pair_report", "pairs", "rank_in", "report", "unpaired"]
