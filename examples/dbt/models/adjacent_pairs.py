"""Neighbours in the ranking of every prompt, by the SQL of a plan on dbt's own connection, whose
settings stay as they are.
"""

import prefmill as pm
import prefmill.duckdb


def model(dbt, con):
    """prompt, chosen, rejected, chosen_score, rejected_score."""
    dbt.config(materialized="table")
    dbt.ref("feedback").create_view("judged_feedback", replace=True)
    prefmill.duckdb.install(con)
    plan = pm.Pairs(strategy="adjacent", chosen_min=None, rejected_below=None)
    return con.sql(plan.sql("judged_feedback"))
