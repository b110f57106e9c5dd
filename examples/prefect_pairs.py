"""Prefect: a task around one call, tried again only where another try can help.

PREFMILL_DATA=/data python examples/prefect_pairs.py 2026-01-01
"""

from __future__ import annotations

import os
import sys
from typing import Any

from prefect import flow, task

import prefmill as pm

DATA = os.environ.get("PREFMILL_DATA", "/data")


def can_help(task: Any, run: Any, state: Any) -> bool:
    """Whether the error goes away by itself: another run works there, a store was not reached."""
    try:
        state.result()
    except pm.PrefmillError as error:
        return error.retryable
    except OSError:
        return True
    except Exception:
        return False
    return False


@task(retries=3, retry_delay_seconds=120, retry_condition_fn=can_help)
def pairs(day: str) -> dict[str, object]:
    """Pairs of one day's ratings; the report of the run."""
    inputs, output = f"{DATA}/rated/{day}/*.csv", f"{DATA}/pairs/{day}.parquet"
    return pm.run(pm.Pairs(), inputs, output, overwrite=True).as_json()


@flow
def preference_pairs(day: str) -> int:
    """How many pairs a day has."""
    return int(str(pairs(day)["pairs_out"]))


if __name__ == "__main__":
    print(preference_pairs(sys.argv[1]), "pairs")
