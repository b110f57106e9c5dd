"""A task of Airflow that makes pairs on an existing Ray cluster.

Put this file in Airflow's `dags` folder. The worker that runs the task needs `prefmill[ray,s3]` in
the Python and with the versions of the cluster, and reaches it as RAY_ADDRESS.

The task may be tried as often as Airflow likes. The output appears whole or not at all, under a
name that is the run's own. A second try of the same run goes on from the ledger next to the output,
and one that finds the output there is done.
"""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import dag, task

BUCKET = "s3://my-bucket"


@dag(schedule="@daily", start_date=pendulum.datetime(2026, 1, 1, tz="UTC"), catchup=False)
def preference_pairs() -> None:
    """Pairs of each day's ratings."""

    @task.bash(retries=5, retry_delay=timedelta(minutes=2), execution_timeout=timedelta(hours=6))
    def pairs() -> str:
        # Airflow fills in {{ ds }}, the day of the run: equal in every try, so the command is too.
        day = "{{ ds }}"
        return (
            f"prefmill pairs '{BUCKET}/rated/{day}/*.parquet' -o {BUCKET}/pairs/{day}.parquet"
            " --engine ray --address $RAY_ADDRESS"
        )

    pairs()


preference_pairs()
