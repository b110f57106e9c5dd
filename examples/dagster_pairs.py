"""Dagster: pairs as an asset, with what became of every row as its metadata.

The version of the data is the hash of its content: what is downstream is stale only where the pairs
changed.

    PREFMILL_DATA=/data dagster asset materialize -f dagster_pairs.py --select preference_pairs
"""

import hashlib
import os
from pathlib import Path

import dagster as dg

import prefmill as pm

DATA = Path(os.environ.get("PREFMILL_DATA", "/data"))
PLAN = pm.Pairs()


@dg.asset(code_version=f"{pm.__version__}-{PLAN.hash()}", kinds={"parquet"})
def preference_pairs() -> dg.MaterializeResult:
    """Pairs (prompt, chosen, rejected) of all ratings."""
    target = DATA / "pairs.parquet"
    report = pm.run(PLAN, str(DATA / "rated" / "**" / "*.csv"), target, overwrite=True)
    with target.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": report.pairs_out,
            "rows_in": report.rows_in,
            "rows_used": report.rows_used,
            "dropped": dict(report.dropped),
            "path": dg.MetadataValue.path(str(target)),
        },
        data_version=dg.DataVersion(content),
    )


defs = dg.Definitions(assets=[preference_pairs])
