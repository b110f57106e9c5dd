"""The kinds of plan, by their word.

A new kind is an import here, and a name in `__all__` and in `FEEDBACK_KINDS`: `prefmill`,
`prefmill.plans`, the commands, and the functions on every host have it from here.
"""

from __future__ import annotations

from collections.abc import Mapping

from prefmill.errors import BadArgument
from prefmill.plans.advantage import Advantage
from prefmill.plans.best_of import BestOf
from prefmill.plans.feedback import FeedbackPlan
from prefmill.plans.pairs import Pairs
from prefmill.plans.plan import Plan, toml_tables
from prefmill.plans.unpaired import Unpaired
from prefmill.plans.values import Values

__all__ = ["Advantage", "BestOf", "Pairs", "Unpaired", "Values"]

#: Plans over judged completions: commands, and functions on every host, are made of them.
FEEDBACK_KINDS: Mapping[str, type[FeedbackPlan]] = {
    kind.kind: kind for kind in (Pairs, Unpaired, BestOf, Advantage)
}
KINDS: Mapping[str, type[Plan]] = {**FEEDBACK_KINDS, Values.kind: Values}


def read_plan(text: str) -> Plan:
    """The one plan that a TOML text holds.

    >>> read_plan("[unpaired]").kind
    'unpaired'
    """
    # The parsed text, and not a look for "[pairs]" in it: a comment may hold that.
    tables = toml_tables(text)
    for word, kind in KINDS.items():
        if word in tables:
            return kind.from_toml(text)
    expected = [f"[{word}]" for word in KINDS]
    raise BadArgument(f"plan: no table of a plan in the TOML text; expected one of {expected}.")
