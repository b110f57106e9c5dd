"""Labels for KTO by the Polars engine: a model that hands a frame back."""

import prefmill as pm


def model(dbt, con):
    """prompt, completion, label, score."""
    dbt.config(materialized="table")
    return pm.Unpaired(rejected_below=3).lazy(dbt.ref("feedback").pl()).collect()
