"""Plans as data: one signature from their fields, their hashes, their TOML."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from typing import get_type_hints

import pytest

import prefmill as pm
from prefmill.plans import FEEDBACK_KINDS, KINDS, read_plan
from prefmill.plans.advantage import AdvantageOptions
from prefmill.plans.best_of import BestOfOptions
from prefmill.plans.pairs import PairsOptions
from prefmill.plans.plan import fields_that_decide
from prefmill.plans.unpaired import UnpairedOptions
from prefmill.table.roles import RoleNames

OPTIONS = {
    pm.Pairs: PairsOptions,
    pm.Unpaired: UnpairedOptions,
    pm.BestOf: BestOfOptions,
    pm.Advantage: AdvantageOptions,
}


@pytest.mark.parametrize("kind", KINDS.values())
def test_every_field_has_help_and_a_default_that_passes_its_check(kind):
    for field in fields(kind):
        assert field.metadata["help"].endswith("."), field.name
        assert field.metadata["check"](field.default) is None, field.name


@pytest.mark.parametrize(("kind", "options"), OPTIONS.items())
def test_typed_arguments_are_the_fields_and_the_roles(kind, options):
    typed, of_plan = get_type_hints(options), get_type_hints(kind)
    roles = {role: get_type_hints(RoleNames)[role] for role in kind.role_names}
    wanted = {field.name: of_plan[field.name] for field in fields_that_decide(kind)} | roles
    typed.pop("keep")
    assert typed == wanted


def test_every_kind_over_feedback_has_typed_arguments():
    assert set(OPTIONS) == set(FEEDBACK_KINDS.values())


HASHES = {
    "b146053a41aae14c": pm.Pairs(),
    "d037449dffd0c224": pm.Unpaired(),
    "e02f3fe06b380824": pm.BestOf(),
    "1fc7b01bd965c003": pm.Advantage(),
    "1cabd0b978d3f0f1": pm.Values(),
    "e3fde5038ef38529": pm.Pairs(weights={"a": 1, "b": 2.5}, chosen_min=4, rejected_below=4),
    "a2f31cdb67a27bba": pm.Advantage(method="grpo"),
    "a6f79425ff2cceb9": pm.BestOf(beta=0.7, k=3),
}


@pytest.mark.parametrize(("digits", "plan"), HASHES.items())
def test_hashes_stay_what_they_were(digits, plan):
    assert plan.hash() == digits


@pytest.mark.parametrize("plan", HASHES.values())
def test_every_plan_goes_round_through_toml(plan):
    assert read_plan(plan.to_toml()) == plan
    assert hash(read_plan(plan.to_toml())) == hash(plan)


@pytest.mark.parametrize(
    "text",
    ["# [pairs] stood here\n[unpaired]\nseed = 3\n", "[unpaired] # not [pairs]\nseed = 3\n"],
)
def test_the_kind_of_a_plan_is_not_taken_from_a_comment(text):
    assert read_plan(text) == pm.Unpaired(seed=3)


@pytest.mark.parametrize("text", ["", "seed = 3", "# [pairs]", "[loop]\nplan = '[pairs]'"])
def test_a_text_without_a_plan_is_refused(text):
    with pytest.raises(pm.PrefmillError, match=r"no table of a plan.*'\[values\]'"):
        read_plan(text)


NEW_KIND = """
from dataclasses import dataclass
from typing import ClassVar
from prefmill.plans import FEEDBACK_KINDS, Pairs
from prefmill.table.fields import key, whole

@dataclass(frozen=True, kw_only=True)
class Few(Pairs):
    "A few pairs."
    kind: ClassVar[str] = "few"
    command: ClassVar[str] = "few"
    usage: ClassVar[str] = "Make a few pairs."
    rounds: int = key(whole(1), 3, help="So many rounds.")

FEEDBACK_KINDS["few"] = Few
import inspect, polars, prefmill.polars, prefmill.datasets
frame = polars.DataFrame({"prompt": ["p", "p"], "completion": ["a", "b"], "score": [5, 1]})
for function in (prefmill.polars.few, prefmill.datasets.few, polars.DataFrame.pref.few):
    assert inspect.signature(function).parameters["rounds"].default == 3
assert frame.pref.few(rounds=4).height == prefmill.polars.few(frame).collect().height == 1
import sys
from prefmill.__main__ import main
sys.argv = ["prefmill", "few", "--help"]
main()
"""


def test_a_new_kind_is_a_command_and_a_function_everywhere_by_itself():
    pytest.importorskip("datasets", reason="needs the extra prefmill[datasets]")
    done = subprocess.run(
        [sys.executable, "-c", NEW_KIND], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "Make a few pairs." in done.stdout
    assert "--rounds <int>" in done.stdout
    assert "So many rounds. [default: 3]" in " ".join(done.stdout.split())
