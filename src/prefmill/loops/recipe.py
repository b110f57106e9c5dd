"""Recipes of `prefmill loop`: a TOML file as frozen sections, with every problem said at once and
the nearest name for a wrong one.

What each key means is in `docs/loop.md`. A section whose keys are another object's own (the
sampler's, a scorer's, a plan's) is checked against the fields of that object, so that what it
learns can be said in a recipe at once.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from prefmill.errors import BadArgument, PlanError, PrefmillError, nearest
from prefmill.scoring.kinds import SCORERS
from prefmill.table.fields import files, flag, key, maybe, number, one_of, some, text, whole


@dataclass(frozen=True, kw_only=True)
class PolicySection:
    """The model that is trained: a folder that `save_pretrained` wrote, or a hub id."""

    model: str = key(text)
    revision: str | None = key(maybe(text), None)


@dataclass(frozen=True, kw_only=True)
class PromptsSection:
    """Where prompts come from; other columns, nulls and repetitions are left out (and counted)."""

    train: str | tuple[str, ...] = key(files)
    heldout: str | tuple[str, ...] | None = key(maybe(files), None)
    heldout_share: float | None = key(maybe(number(0, 1, open_low=True)), None)
    column: str | None = key(maybe(text), None)
    limit: int | None = key(maybe(whole(1)), None)
    heldout_limit: int | None = key(maybe(whole(1)), None)
    max_chars: int | None = key(maybe(whole(1)), None)
    seed: int = key(whole(0), 0)


@dataclass(frozen=True, kw_only=True)
class SampleSection:
    """How many answers; `sampler` holds the fields of `LocalSampler`, or of `EndpointSampler` where
    `url` is given.
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
    """What is trained on: `plan` (fields of `BestOf`, or of `Pairs` for dpo) over the scored rows
    of all stages.

    `finished` leaves out answers that were cut off at the limit of tokens: trained on, they would
    teach to stop there.
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
_INNER = {"sample": "sampler", "score": "scorer", "second": "scorer", "train": "options"}
#: Keys that decide no result: they may change while a run goes on.
HOW = frozenset(
    {
        "device",
        "batch_tokens",
        "threads",
        "concurrency",
        "timeout",
        "retries",
        "backoff",
        "rate_limit",
        "url",
        "api_key_env",
        "serve",
        "chunk_rows",
        "cache",
        "share_prefix",
        "batch_rows",
        "price_in",
        "price_out",
        "on_bad_row",
    }
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What `prefmill loop` does, section by section; made by `read_recipe`, and complete: every
    default is written out.
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
    stages: int = 2
    seed: int = 0

    def decides(self) -> dict[str, Any]:
        """Everything that decides results, nested, as plain values: what a run that goes on may not
        change (but for more stages).
        """
        told = {
            name: asdict(part) for name in _SECTIONS if (part := getattr(self, name)) is not None
        }
        for name, inner in _INNER.items():
            if name in told:
                own = told[name].pop(inner)
                told[name] |= own
        told["sample"]["sampler"] = "server" if "url" in told["sample"] else "local"
        told = _without_how(told)
        plan = self.select.plan
        told["select"] = {
            "finished": self.select.finished,
            "plan": plan.kind,
            **{f.name: getattr(plan, f.name) for f in fields(plan)},
        }
        return {"stages": self.stages, "seed": self.seed, **told}

    def changed(self, *, stages: int | None, seed: int | None) -> Recipe:
        """This recipe with another number of stages, or another seed; None leaves them."""
        return replace(
            self,
            stages=self.stages if stages is None else stages,
            seed=self.seed if seed is None else seed,
        )

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
        parts: sections that the caller provides as objects, so that the recipe need not hold them
            (`score`).

    Raises `PlanError` with every problem at once: where it is, what is there, what is expected.

    >>> read_recipe({"policy": {"model": "base"}, "prompts": {"train": "p.jsonl", "heldout_share": 0.2}, "score": {"model": "rm"}}).sample.n
    8
    >>> read_recipe({"policy": {"modle": "base"}, "prompts": {}, "score": {"model": "rm"}, "stages": 0})
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
    table = {
        key: dict(value) if isinstance(value, Mapping) else value
        for key, value in _table(source, where).items()
    }
    for assignment in sets:
        _set(table, assignment)
    said: list[str] = []
    known = ["stages", "seed", *_SECTIONS, "select"]
    said += [
        f"{_bracketed(key, table[key])}: no such section{_near(key, known)}"
        for key in table
        if key not in known
    ]
    for name, least in (("stages", 1), ("seed", 0)):
        expected = whole(least)(table.get(name, least))
        said += [f"{name}: got {table[name]!r}, expected {expected}."] if expected else []
    made: dict[str, Any] = {}
    for name, kind in _SECTIONS.items():
        given = table.get(name)
        if given is None and name in ("score", "second"):
            made[name] = None
            continue
        made[name], problems = _section(kind, given if given is not None else {}, name)
        said += [f"[{name}] {problem}" for problem in problems]
    if "prompts" not in table or isinstance(table["prompts"], Mapping):
        said += [f"[prompts] {problem}" for problem in _holdout(table.get("prompts", {}))]
    if made["score"] is None and "score" not in parts:
        said.append(
            '[score]: no such section; expected the reward model that selects: [score] model = "DIR".'
        )
    elif (
        made["score"] is not None
        and made["second"] is not None
        and _same_scorer(made["score"], made["second"])
    ):
        said.append(
            "[second]: the same scorer as [score]; expected one that selection does not see."
        )
    if (
        made["sample"] is not None
        and made["sample"].sampler.get("model")
        and not made["sample"].serve
    ):
        said.append(
            "[sample] model: one name for all policies; expected it beside serve only, or no model: a policy has its folder's name."
        )
    if made["sample"] is not None:
        said += _few_answers(made["sample"])
    method = made["train"].method if made["train"] is not None else "sft"
    made["select"], problems = _selection(table.get("select", {}), method)
    said += [f"[select] {problem}" for problem in problems]
    if said:
        raise PlanError(where, said)
    numbers: dict[str, Any] = {name: table[name] for name in ("stages", "seed") if name in table}
    return Recipe(**made, **numbers)


def _few_answers(section: SampleSection) -> Iterator[str]:
    """What is wrong with fewer answers than temperatures."""
    from prefmill.sampling.seeds import draws_of

    try:
        draws_of(section.n, section.temperatures)
    except BadArgument:
        temperatures = list(section.temperatures)
        yield f"[sample] n: got {section.n} for the temperatures {temperatures}, expected at least one answer at each."


def _without_how(part: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_how(value) if isinstance(value, Mapping) else value
        for key, value in part.items()
        if key not in HOW
    }


def _table(source: str | Path | Mapping[str, Any], where: str) -> Mapping[str, Any]:
    if isinstance(source, Mapping):
        return source
    try:
        return tomllib.loads(Path(source).read_text("utf-8"))
    except OSError as error:
        raise BadArgument(f"loop: cannot read the recipe {where!r}; {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadArgument(f"{where}: not TOML; {error}.") from None


def _set(table: dict[str, Any], assignment: str) -> None:
    path, equals, text = assignment.partition("=")
    *sections, key = path.strip().split(".")
    if not equals or not key or len(sections) > 1:
        raise BadArgument(
            f"--set: got {assignment!r}, expected SECTION.KEY=VALUE.",
            hint="for example --set train.epochs=2",
        )
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    (table.setdefault(sections[0], {}) if sections else table)[key] = value


def _section(kind: Any, given: object, name: str) -> tuple[Any, list[str]]:
    """A section from its table, and what is wrong with it."""
    if not isinstance(given, Mapping):
        return None, [f"got {given!r}, expected a table."]
    own = {f.name: f for f in fields(kind) if "check" in f.metadata}
    inner = _INNER.get(name)
    outer = {key: value for key, value in given.items() if key in own}
    said: list[str] = []
    others = {key: value for key, value in given.items() if key not in own}
    if inner is None:
        said += [f"{key}: no such key{_near(key, own)}" for key in others]
    else:
        said += _inner_problems(name, given, others, [*own])
    for at, f in own.items():
        if at not in given:
            said += (
                [f"{at}: got nothing, expected {f.metadata['check'](None)}."]
                if f.default is MISSING
                else []
            )
        elif expected := f.metadata["check"](given[at]):
            said.append(f"{at}: got {given[at]!r}, expected {expected}.")
    if said:
        return None, said
    outer = {
        key: tuple(value) if isinstance(value, list) else value for key, value in outer.items()
    }
    return kind(**outer, **({inner: others} if inner else {})), []


def _inner_problems(
    name: str, given: Mapping[str, Any], others: Mapping[str, Any], own: Sequence[str]
) -> list[str]:
    """What is wrong with the keys of a section that belong to the object which it describes."""
    from prefmill.loops.parts import built, kind_of, needed_by

    kind, taken = kind_of(name, given)
    if kind is None:
        return []  # the problem is that of `kind`, and said there
    said = [f"{key}: no such key{_near(key, [*own, *taken])}" for key in others if key not in taken]
    said += [
        f"{key}: got nothing, expected a value: {kind.__name__} needs it."
        for key in needed_by(name, kind)
        if key not in others
    ]
    if not said and name != "train":
        try:
            if name == "sample":
                kind(**{"model": ".", **others})
            else:
                built(str(given.get("kind", "reward")), others)
        except PrefmillError as error:
            said += str(error).splitlines()
        except TypeError as error:
            said.append(str(error))
    return said


def _holdout(given: Mapping[str, Any]) -> Iterator[str]:
    has = [key for key in ("heldout", "heldout_share") if given.get(key) is not None]
    if not has:
        yield "heldout: got nothing, expected a path, or heldout_share for a share of the prompts."
    elif len(has) == 2:
        yield "heldout: got heldout_share beside it, expected one of the two."


def _same_scorer(one: ScoreSection, other: ScoreSection) -> bool:
    plain = [replace(each, scorer=_without_how(each.scorer)) for each in (one, other)]
    return plain[0] == plain[1]


def _selection(given: object, method: str) -> tuple[Any, list[str]]:
    """The section of selection: the plan is `BestOf` for sft, `Pairs` for dpo."""
    from prefmill.loops.parts import select_plan

    if not isinstance(given, Mapping):
        return None, [f"got {given!r}, expected a table."]
    kind, defaults = select_plan(method)
    own = {
        f.name: given[f.name]
        for f in fields(SelectSection)
        if "check" in f.metadata and f.name in given
    }
    said = [
        f"{name}: got {value!r}, expected true or false."
        for name, value in own.items()
        if flag(value)
    ]
    try:
        plan = kind.from_mapping(
            {**defaults, **{key: value for key, value in given.items() if key not in own}}
        )
    except PlanError as error:
        return None, [*said, *error.problems]
    return SelectSection(**own, plan=plan), said


def _near(key: str, names: Any) -> str:
    near = nearest(key, names)
    return f"; did you mean {near[0]!r}?" if near else f"; expected some of {sorted(names)}."


def _bracketed(key: str, value: object) -> str:
    return f"[{key}]" if isinstance(value, Mapping) else key
