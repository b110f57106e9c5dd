"""Recipes of `prefmill loop`: a TOML file as frozen sections.

Every problem is told at once, with the nearest name for a wrong one. What each key means is in
`docs/loop.md`. A section whose keys are another object's own (the sampler's, a scorer's, a plan's)
is checked by the fields of that object, so that what it learns can be said in a recipe at once.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from prefmill.errors import BadArgument, PlanError, PrefmillError, near_file, nearest
from prefmill.loops.keys import described_by, plan_for
from prefmill.plans.plan import fields_that_decide
from prefmill.sampling.seeds import draws_of
from prefmill.scoring.kinds import SCORERS
from prefmill.table.fields import files, flag, key, maybe, number, one_of, some, text, whole


@dataclass(frozen=True, kw_only=True)
class PolicySection:
    """The model that is trained: a folder that `save_pretrained` wrote, or a hub id."""

    model: str = key(text)
    revision: str | None = key(maybe(text), None)


@dataclass(frozen=True, kw_only=True)
class PromptsSection:
    """Where prompts come from; nulls and repetitions are left out (and counted).

    `keep` are columns that a scorer reads: reference answers, criteria. Others are left out.
    """

    train: str | tuple[str, ...] = key(files)
    heldout: str | tuple[str, ...] | None = key(maybe(files), None)
    heldout_share: float | None = key(maybe(number(0, 1, open_low=True)), None)
    column: str | None = key(maybe(text), None)
    limit: int | None = key(maybe(whole(1)), None)
    heldout_limit: int | None = key(maybe(whole(1)), None)
    max_chars: int | None = key(maybe(whole(1)), None)
    keep: tuple[str, ...] = key(some(text), ())
    seed: int = key(whole(0), 0)


@dataclass(frozen=True, kw_only=True)
class SampleSection:
    """How many answers of a prompt, and the sampler.

    `sampler` holds fields of `LocalSampler`, or of `EndpointSampler` where `url` is among them.
    """

    n: int = key(whole(1), 8)
    temperatures: tuple[float, ...] = key(some(number(0)), (0.8, 0.9))
    serve: str | None = key(maybe(text), None)
    chunk_rows: int | None = key(maybe(whole(1)), None)
    on_bad_row: Literal["error", "null"] = key(one_of("error", "null"), "error")
    sampler: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ScoreSection:
    """A scorer: its kind, and in `scorer` its own fields."""

    kind: str = key(one_of(*SCORERS), "reward")
    on_bad_row: Literal["error", "null"] = key(one_of("error", "null"), "error")
    scorer: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SelectSection:
    """What is trained on: a plan over the scored rows of all stages.

    `plan` is a `BestOf`, or `Pairs` for dpo. `finished` leaves out answers that were cut off at
    the limit of tokens: trained on, they would teach to stop there.
    """

    finished: bool = key(flag, True)
    plan: Any = None


@dataclass(frozen=True, kw_only=True)
class TrainSection:
    """One training from the selected rows; `start` is the policy that it begins with."""

    method: str = key(one_of("sft", "dpo"), "sft")
    start: str = key(one_of("previous", "base"), "previous")
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EvaluateSection:
    """Answers to held-out prompts, of every policy."""

    n: int = key(whole(1), 2)
    temperature: float = key(number(0), 1.0)
    kl: bool = key(flag, True)


@dataclass(frozen=True, kw_only=True)
class StopSection:
    """When to end before all stages are done; None is no rule."""

    patience: int | None = key(maybe(whole(1)), None)
    max_kl: float | None = key(maybe(number(0, open_low=True)), None)


_SECTIONS: Mapping[str, Any] = {
    "policy": PolicySection,
    "prompts": PromptsSection,
    "sample": SampleSection,
    "score": ScoreSection,
    "second": ScoreSection,
    "train": TrainSection,
    "evaluate": EvaluateSection,
    "stop": StopSection,
}
#: the field of a section that holds the keys of what it describes
_INNER = {"sample": "sampler", "score": "scorer", "second": "scorer", "train": "options"}
_WHERE = ("device", "url", "api_key_env", "serve", "cache", "price_in", "price_out")
_PACE = ("threads", "concurrency", "timeout", "retries", "backoff", "rate_limit")
_PARTS = ("batch_tokens", "batch_rows", "chunk_rows", "share_prefix", "on_bad_row")
_BATCHES = ("batch_requests", "batch_mb", "batch_window", "batch_files", "poll", "no_wait")
#: Keys that decide no result: they may change while a run goes on.
HOW = frozenset({*_WHERE, *_PACE, *_PARTS, *_BATCHES})


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What `prefmill loop` does, section by section.

    `read_recipe` makes it. It is complete: every default is written out.
    """

    policy: PolicySection
    prompts: PromptsSection
    sample: SampleSection
    score: ScoreSection | None
    second: ScoreSection | None
    select: SelectSection
    train: TrainSection
    evaluate: EvaluateSection
    stop: StopSection
    stages: int = key(whole(1), 2)
    seed: int = key(whole(0), 0)

    def decides(self) -> dict[str, Any]:
        """Everything that decides results, nested, as plain values.

        A run that goes on may not change it, but for more stages.
        """
        sections = {name: getattr(self, name) for name in _SECTIONS}
        values = {name: asdict(part) for name, part in sections.items() if part is not None}
        for name, inner in _INNER.items():
            if name in values:
                values[name] |= values[name].pop(inner)
        sample = values["sample"]
        if "backend" not in sample:
            sample["sampler"] = "server" if "url" in sample else "local"
        plan = self.select.plan
        select = {"finished": self.select.finished, "plan": plan.kind}
        select |= {each.name: getattr(plan, each.name) for each in fields_that_decide(type(plan))}
        return {
            "stages": self.stages,
            "seed": self.seed,
            **_without_how(values),
            "select": select,
        }

    def changed(self, **numbers: int | None) -> Recipe:
        """This recipe with other `stages` or another `seed`; None leaves them."""
        others: dict[str, Any] = {n: value for n, value in numbers.items() if value is not None}
        problem = next(_value_problems(_checked(Recipe), others), None)
        if problem:
            raise BadArgument(f"loop: {problem}")
        return replace(self, **others)

    def as_text(self) -> str:
        """What decides results, as JSON."""
        return json.dumps(self.decides(), indent=1, ensure_ascii=False)


def read_recipe(
    source: str | Path | Mapping[str, Any], *, sets: Sequence[str] = (), parts: Sequence[str] = ()
) -> Recipe:
    """The recipe in the TOML file `source` (or in a mapping of the same shape).

    Args:
        sets: `SECTION.KEY=VALUE` (or `stages=3`), on top of the file; the value is TOML, and plain
            text where it is not.
        parts: what the caller provides as objects: the recipe need not hold a `score`, and values
            for another `train` are not checked.

    Raises `PlanError` with every problem at once: where it is, what is there, what is expected.

    >>> prompts = {"train": "p.jsonl", "heldout_share": 0.2}
    >>> tables = {"policy": {"model": "base"}, "prompts": prompts, "score": {"model": "rm"}}
    >>> read_recipe(tables).sample.n
    8
    >>> read_recipe({**tables, "policy": {"modle": "base"}, "prompts": {}, "stages": 0})
    Traceback (most recent call last):
    ...
    prefmill.errors.PlanError: recipe: stages: got 0, expected a whole number >= 1.
    recipe: [policy] modle: no such key; did you mean 'model'?
    recipe: [policy] model: got nothing, expected text that is not empty.
    recipe: [prompts] train: got nothing, expected a path, or a list of paths.
    recipe: [prompts] heldout: got nothing, expected a path, or heldout_share for a share of the
    prompts.
    """
    where = "recipe" if isinstance(source, Mapping) else str(source)
    tables = _tables(source, where)
    for assignment in sets:
        _set(tables, assignment)
    numbers = _checked(Recipe)
    problems = [*_unknown_sections(tables, numbers), *_value_problems(numbers, tables)]
    sections: dict[str, Any] = {}
    for name, kind in _SECTIONS.items():
        table = tables.get(name)
        if table is None and name in ("score", "second"):
            sections[name] = None
        else:
            values = {} if table is None else table
            sections[name] = _section(kind, name, values, problems, own=name not in parts)
    problems += _problems_between(tables, sections, parts)
    method = "sft" if sections["train"] is None else sections["train"].method
    sections["select"] = _selection(tables.get("select", {}), method, problems)
    if problems:
        raise PlanError(where, problems)
    return Recipe(**sections, **{name: tables[name] for name in numbers if name in tables})


def _tables(source: str | Path | Mapping[str, Any], where: str) -> dict[str, Any]:
    """The tables of a recipe, which may be changed."""
    if isinstance(source, Mapping):
        return {
            name: dict(value) if isinstance(value, Mapping) else value
            for name, value in source.items()
        }
    try:
        return tomllib.loads(Path(source).read_text("utf-8"))
    except OSError as error:
        raise BadArgument(
            f"loop: cannot read the recipe {where!r}; {error.strerror}.", hint=near_file(where)
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadArgument(f"{where}: not TOML; {error}.") from None


def _set(tables: dict[str, Any], assignment: str) -> None:
    path, equals, text = assignment.partition("=")
    *sections, name = path.strip().split(".")
    if not equals or not name or len(sections) > 1:
        raise BadArgument(
            f"--set: got {assignment!r}, expected SECTION.KEY=VALUE.",
            hint="for example --set train.epochs=2",
        )
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    table = tables.setdefault(sections[0], {}) if sections else tables
    table[name] = value


# --- what is wrong with one section ---


def _section(kind: Any, name: str, table: object, problems: list[str], *, own: bool) -> Any:
    """A section from its table; None, and its problems to `problems`, if it has some.

    own  whether we make what it describes, so that its values are checked
    """
    if not isinstance(table, Mapping):
        problems.append(f"[{name}] got {table!r}, expected a table.")
        return None
    known, inner = _checked(kind), _INNER.get(name)
    others = {each: value for each, value in table.items() if each not in known}
    wrong = _other_problems(name, table, others, list(known), own=own)
    wrong += _value_problems(known, table)
    if wrong:
        problems += [f"[{name}] {problem}" for problem in wrong]
        return None
    values = {each: table[each] for each in known if each in table}
    for each, value in values.items():
        values[each] = tuple(value) if isinstance(value, list) else value
    return kind(**values, **({inner: others} if inner else {}))


def _checked(kind: Any) -> dict[str, Field[Any]]:
    """The fields that a recipe can set, by name."""
    return {each.name: each for each in fields(kind) if "check" in each.metadata}


def _value_problems(own: Mapping[str, Field[Any]], table: Mapping[str, Any]) -> Iterator[str]:
    for name, its in own.items():
        expected = its.metadata["check"](table.get(name))
        if name in table and expected:
            yield f"{name}: got {table[name]!r}, expected {expected}."
        elif name not in table and its.default is MISSING:
            yield f"{name}: got nothing, expected {expected}."


def _other_problems(
    name: str,
    table: Mapping[str, Any],
    others: Mapping[str, Any],
    known: Sequence[str],
    *,
    own: bool,
) -> list[str]:
    """What is wrong with the keys that are not the section's own."""
    if name not in _INNER:
        return [f"{each}: no such key{_near(each, known)}" for each in others]
    described = described_by(name, table)
    if described is None:
        return []  # the problem is that of `kind`, and told there
    keys = described.keys
    problems = [
        f"{each}: no such key{_near(each, [*known, *keys])}" for each in others if each not in keys
    ]
    problems += [
        f"{each}: got nothing, expected a value: {described.name} needs it."
        for each in described.needed
        if each not in others
    ]
    if own:
        problems += _value_problems(described.checked, others)
    if not problems and described.make is not None:
        try:
            described.make(others)
        except (PrefmillError, TypeError) as error:
            problems += str(error).splitlines()
    return problems


def _selection(table: object, method: str, problems: list[str]) -> SelectSection | None:
    """The section of selection: the plan is `BestOf` for sft, `Pairs` for dpo."""
    if not isinstance(table, Mapping):
        problems.append(f"[select] got {table!r}, expected a table.")
        return None
    kind, defaults = plan_for(method)
    own = _checked(SelectSection)
    problems += [f"[select] {problem}" for problem in _value_problems(own, table)]
    values = {each: value for each, value in table.items() if each not in own}
    try:
        plan = kind.from_mapping({**defaults, **values})
    except PlanError as error:
        problems += [f"[select] {problem}" for problem in error.problems]
        return None
    return SelectSection(plan=plan, **{each: table[each] for each in own if each in table})


# --- what is wrong with several together ---


def _unknown_sections(tables: Mapping[str, Any], numbers: Iterable[str]) -> Iterator[str]:
    known = [*numbers, *_SECTIONS, "select"]
    for name, value in tables.items():
        if name not in known:
            shown = f"[{name}]" if isinstance(value, Mapping) else name
            yield f"{shown}: no such section{_near(name, known)}"


def _problems_between(
    tables: Mapping[str, Any], sections: Mapping[str, Any], parts: Sequence[str]
) -> Iterator[str]:
    score, second, sample = (sections[name] for name in ("score", "second", "sample"))
    prompts = tables.get("prompts", {})
    if isinstance(prompts, Mapping):
        yield from _held_out_problems(prompts)
    if tables.get("score") is None and "score" not in parts:
        yield (
            "[score]: no such section;"
            ' expected the reward model that selects: [score] model = "DIR".'
        )
    if score is not None and second is not None and _results_of(score) == _results_of(second):
        yield "[second]: the same scorer as [score]; expected one that selection does not see."
    if sample is None:
        return
    if sample.sampler.get("model") and not sample.serve:
        yield (
            "[sample] model: one name for all policies; expected it next to serve only,"
            " or no model: a policy has its folder's name."
        )
    try:
        draws_of(sample.n, sample.temperatures)
    except BadArgument:
        yield (
            f"[sample] n: got {sample.n} for the temperatures {list(sample.temperatures)},"
            " expected at least one answer at each."
        )


def _held_out_problems(prompts: Mapping[str, Any]) -> Iterator[str]:
    known = [name for name in ("heldout", "heldout_share") if prompts.get(name) is not None]
    if not known:
        yield (
            "[prompts] heldout: got nothing,"
            " expected a path, or heldout_share for a share of the prompts."
        )
    elif len(known) == 2:
        yield "[prompts] heldout: got heldout_share beside it, expected one of the two."


def _results_of(section: ScoreSection) -> ScoreSection:
    return replace(section, scorer=_without_how(section.scorer))


def _without_how(part: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _without_how(value) if isinstance(value, Mapping) else value
        for name, value in part.items()
        if name not in HOW
    }


def _near(name: str, known: Sequence[str]) -> str:
    near = nearest(name, known)
    return f"; did you mean {near[0]!r}?" if near else f"; expected some of {sorted(known)}."
