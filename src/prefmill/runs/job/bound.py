"""A plan bound to a source: its roles are columns, and it asks an engine for steps over them."""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from prefmill.connection import quote
from prefmill.engines.steps import Output
from prefmill.plans.feedback import FeedbackPlan
from prefmill.readers import Source
from prefmill.rules.rows import check_types
from prefmill.shapes.source import Rowed
from prefmill.table.fits import fits_files
from prefmill.table.json_values import JSON_FIELD
from prefmill.table.messages import is_json_text
from prefmill.table.thresholds import Scale


class BoundPlan:
    """A plan over the rows of a source.

    Thresholds may wait for the scores: `settle` puts the plan that has numbers for them.

    Attributes:
        plan: as it is now.
        program: what it asks of an engine.
        roles: the column of every role.
        dtypes: the columns of the rows, as Polars has them.
        scalars: of columns that are JSON texts, the expression of a score.
        scale: of all candidates, where thresholds waited for it.
    """

    def __init__(self, plan: FeedbackPlan, rowed: Rowed) -> None:
        source = rowed.source
        self.rowed = rowed
        fits = fits_files(source.files) if rowed.shape is None else None
        self.roles = plan.roles(rowed.names, source.columns.names, where="roles", fits=fits)
        self.settle(plan)
        # Arrow imports pandas, where it is installed, for `empty_table()`, `pa.array` and
        # `pa.table`: a fifth of a second and 45 MB.
        self.dtypes = pl.DataFrame(pa.Table.from_batches([], schema=source.columns)).schema
        self.scalars = {
            name: scalar(name) for name, dtype in self.dtypes.items() if is_json_text(dtype)
        }
        self.scale = Scale(None, None)
        source.refuse_mixed(self.roles, where="roles")
        check_types(self.program.read, self.dtypes, where="roles")

    def settle(self, plan: FeedbackPlan) -> None:
        """Go on with `plan`, over the same columns."""
        self.plan = plan
        self.program = plan.program(self.roles)

    @property
    def source(self) -> Source:
        """The files whose rows are read."""
        return self.rowed.source

    @property
    def output(self) -> Output:
        """What the rows of the last step become."""
        return self.program.output

    @property
    def never_null(self) -> frozenset[str]:
        """Columns that need no look for nulls."""
        return frozenset(self.source.columns.names) - self.source.nulls


def scalar(name: str) -> str:
    """The text of a JSON scalar as a score; the same as in `prefmill.table.numbers`."""
    text = f"{quote(name)}.{quote(JSON_FIELD)}"
    return f"CASE {text} WHEN 'true' THEN '1' WHEN 'false' THEN '0' ELSE trim({text}, '\"') END"
