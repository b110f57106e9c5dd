"""Airflow: a day's ratings become a day's pairs, by an operator of ten lines.

Put this file in Airflow's `dags` folder, with prefmill in the Python of the workers. The same day
again does nothing where its ratings are the same, and replaces the pairs where they are not. What
is returned is small: counts and paths, never texts.

    PREFMILL_DATA=/data airflow dags test preference_pairs 2026-01-01
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import pendulum
from airflow.sdk import BaseOperator, dag
from airflow.sdk.exceptions import AirflowFailException

import prefmill as pm

DATA = os.environ.get("PREFMILL_DATA", "/data")


class PlanOperator(BaseOperator):
    """Run a plan over files. Names of files may hold `{{ ds }}`, the day of the run."""

    template_fields = ("inputs", "target")

    def __init__(self, *, plan: Any, inputs: str, target: str, **task: Any) -> None:
        super().__init__(**task)
        self.plan, self.inputs, self.target = plan, inputs, target

    def execute(self, context: Any) -> dict[str, object]:
        """The report of the run, as XCom keeps it."""
        try:
            return pm.run(self.plan, self.inputs, self.target, overwrite=True).as_json()
        except pm.PrefmillError as error:
            if error.retryable:
                raise
            raise AirflowFailException(str(error)) from error  # it would fail again


@dag(schedule="@daily", start_date=pendulum.datetime(2026, 1, 1, tz="UTC"), catchup=False)
def preference_pairs() -> None:
    """Pairs of each day's ratings."""
    PlanOperator(
        task_id="pairs",
        plan=pm.Pairs(),
        inputs=f"{DATA}/rated/{{{{ ds }}}}/*.csv",
        target=f"{DATA}/pairs/{{{{ ds }}}}.parquet",
        retries=3,
        retry_delay=timedelta(minutes=2),
        execution_timeout=timedelta(hours=2),
    )


preference_pairs()
