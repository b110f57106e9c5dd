"""What every plan can do: check itself, be hashed, be written and read as TOML.

A plan is data. Its fields carry their default, check and help (`prefmill.table.fields`). What only
several fields together can get wrong is its method `problems`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import Field, dataclass, fields
from typing import Any, ClassVar, Self

from prefmill.errors import BadArgument, PlanError, nearest
from prefmill.plans.bounds import PLAN, Bounds
from prefmill.plans.expect import Expect, is_expect
from prefmill.shown import shown
from prefmill.table.fields import OneOf, key
from prefmill.table.showing import display


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A frozen description of what is wanted; the classes of this package are the kinds of plan."""

    #: The word for the kind: its table in TOML, its function on every host.
    kind: ClassVar[str]
    #: The module of `prefmill.runs` whose function `run` runs it over files.
    runs: ClassVar[str] = "run"
    #: How messages of that run begin, and what can be expected of it.
    where: ClassVar[str] = "run"
    contract: ClassVar[Bounds] = PLAN
    #: Whether rows of output have ids (`pair_id`), by which tables merge.
    has_ids: ClassVar[bool] = True

    expect: Expect | None = key(
        is_expect, None, help="What must hold of a run.", of_runs=True, own_table=True
    )

    def __post_init__(self) -> None:
        if isinstance(self.expect, Mapping):
            object.__setattr__(self, "expect", Expect(**self.expect))
        # All at once: who mends one problem a run needs many runs.
        problems = [*self._field_problems(), *self.problems()]
        if problems:
            raise PlanError(type(self).__name__, problems)
        if self.expect is not None:
            self.expect.of(self.contract)

    def problems(self) -> list[str]:
        """What is wrong with the fields together; a field may be wrong by itself as well."""
        return []

    def _field_problems(self) -> list[str]:
        problems = []
        for field in fields(self):
            check, value = field.metadata["check"], getattr(self, field.name)
            expected = check(value)
            if expected is None:
                continue
            if isinstance(check, OneOf):
                near = nearest(str(value).replace("-", "_"), check.choices)
                meant = f"; did you mean {near[0]!r}?" if near else ""
                wrong = f"is not one of {check.choices}; got {value!r}{meant}"
            else:
                wrong = f"must be {expected}; got {value!r}"
            problems.append(f"{field.name} {wrong}")
        return problems

    def hash(self) -> str:
        """16 hexadecimal digits of what decides rows: equal plans have equal hashes.

        Plans that differ have different ones, but for what is expected of a run.

        >>> from prefmill import Pairs
        >>> Pairs(chosen_min=4).hash() == Pairs(chosen_min=4.0).hash() != Pairs().hash()
        True
        """
        text = json.dumps([self.kind, self.content()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def content(self) -> dict[str, Any]:
        """What `hash` hashes: the fields as plain values; equal plans have equal ones."""
        return {
            field.name: _canonical(_plain(getattr(self, field.name)))
            for field in fields_that_decide(type(self))
            # A field that came later is left out at its default: older plans keep their hash.
            if not field.metadata.get("later") or getattr(self, field.name) != field.default
        }

    def _repr_html_(self) -> str:
        import html  # most plans are never looked at

        return f"<pre>{html.escape(shown(self.to_toml()))}</pre>"

    def show(self) -> None:
        """Show the plan: in a notebook as it shows one, elsewhere as TOML on stdout."""
        display(self, shown(self.to_toml()))

    def to_toml(self) -> str:
        """The plan as a TOML table of its kind, every field written out.

        >>> from prefmill import Unpaired
        >>> print(Unpaired(rejected_below=3).to_toml().splitlines()[0])
        [unpaired]
        """
        lines, tables = [f"[{self.kind}]"], []
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and (field.metadata.get("table") or field.metadata.get("own_table")):
                continue  # a table has no word for nothing
            if field.metadata.get("own_table"):
                tables.append(f"\n[{field.name}]")
                tables += [f"{name} = {_toml(each)}" for name, each in value.named().items()]
                continue
            lines.append(f"{field.name} = {_toml('none' if value is None else value)}")
        return "\n".join([*lines, *tables]) + "\n"

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """The plan that the TOML `text` describes.

        Keys that are absent keep their defaults, unknown keys are errors.

        >>> from prefmill import Pairs
        >>> Pairs.from_toml('[pairs]\\nchosen_min = "none"').chosen_min is None
        True
        """
        tables = toml_tables(text)
        if not isinstance(tables.get(cls.kind), dict):
            raise BadArgument(
                f"plan: no table [{cls.kind}]; got {sorted(tables)}.",
                hint=f"begin it with [{cls.kind}].",
            )
        return cls.from_mapping({**tables[cls.kind], **tables_beside(cls, tables)})

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """The plan with these fields; `"none"` stands for None where a field can be None."""
        known = {field.name: field for field in fields(cls)}
        unknown = [key for key in values if key not in known]
        if unknown:
            near = [f"; did you mean {name!r}?" for name in nearest(unknown[0], list(known))[:1]]
            expected = f"expected some of {list(known)}{''.join(near)}"
            raise PlanError(cls.__name__, [f"no field {key!r}; {expected}" for key in unknown])
        # Only where None can be meant: "none" is also a word of aggregate and normalize.
        nothing = [
            name
            for name, value in values.items()
            if value == "none" and known[name].metadata["check"](None) is None
        ]
        return cls(**{**values, **dict.fromkeys(nothing)})


def fields_that_decide(kind: type[Plan]) -> list[Field[Any]]:
    """The fields of a plan of `kind` that decide which rows come out."""
    return [field for field in fields(kind) if not field.metadata.get("of_runs")]


def tables_beside(kind: type[Plan], tables: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a plan of `kind` that are TOML tables next to its own."""
    own = [field.name for field in fields(kind) if field.metadata.get("own_table")]
    return {name: tables[name] for name in own if name in tables}


def _plain(value: Any) -> Any:
    """A value that has words of its own as a mapping."""
    return value.named() if hasattr(value, "named") else value


def toml_tables(text: str) -> dict[str, Any]:
    """The tables of the TOML `text`, or `BadArgument`."""
    import tomllib  # few plans are read

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadArgument(f"plan: not TOML; {error}.") from None


def _toml(value: object) -> str:
    """A value as TOML: as JSON, but that DEL is escaped and surrogate pairs are not known."""
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_toml(key)} = {_toml(each)}" for key, each in value.items())
        return f"{{ {inner} }}"
    if value is None:
        return '"null"'
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _canonical(value: object) -> object:
    """`value` for a hash: equal numbers are one number, and mappings have one order."""
    if isinstance(value, bool) or value is None:
        return value
    # 4 and 4.0 are equal, and JSON would spell them apart.
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, Mapping):
        return {key: _canonical(value[key]) for key in sorted(value)}
    return value
