"""Values of states and actions, over transitions or trees: the Bellman equations.

    transitions ──checked──▶ actions (r, pi) and moves (P) ──from the end up, then sweeps over what
    is left on cycles──▶ q, V tree ──▶ transitions whose actions are the children

The same rule in SQL is `sql/values/pref_solve.sql` and the macros over it; the formulas are in
`docs/semantics.md`.
"""

from __future__ import annotations

from typing import Unpack

import numpy as np
import numpy.typing as npt
import polars as pl
import polars.selectors as cs

from prefmill.connection import literal, quote
from prefmill.errors import BadArgument, BadInput, ColumnMissing
from prefmill.plans import Values
from prefmill.pools.frames import frame_of
from prefmill.table.numbers import number, rounded
from prefmill.table.roles import Inputs, ValueNames

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_NEEDED = {False: ("state", "action", "next_state"), True: ("id", "parent_id")}
_POLICY = {"given": "policy_probability", "softmax": "score"}
#: Sums that should be 1 may be off by this.
_OFF = 1e-6


def values(data: Inputs, plan: Values | None = None, **columns: Unpack[ValueNames]) -> pl.DataFrame:
    """Values of `data` (whatever `prefmill.run` takes): transitions, or a tree.

    It is a tree if there is a `parent_id` (named, or a column of that name without a column
    `state`).

    Transitions are rows of state, action, next_state (null, or a state without rows: the end, worth
    0), probability (default 1; those of an action sum to 1), reward (default 0; null is 0); policy
    `given` reads policy_probability, `softmax` score. Columns out: state, action, reward
    (expected), policy (null for `optimal`), q, v (of the state), advantage (q - v), by state and
    action. A tree is rows of id, parent_id (null: a root), reward, and what the policy reads; the
    children of a message are its actions. Columns
    out: id, parent_id, reward, policy, q, v (of what follows it; 0 for a leaf), advantage (q - v of
    the parent; null for a root), by id.

    Values are rounded to 9 decimals and do not depend on row order. Cost: one pass for every level;
    on cycles one for every sweep. Raises `BadInput` for probabilities, ids and parents that cannot
    be, and for gamma 1 on cycles that never end; `ColumnMissing`.

    >>> tree = pl.DataFrame({"id": [1, 2, 3], "parent_id": [None, 1, 1], "reward": [0, 1, 3]})
    >>> values(tree).select("id", "q", "v", "advantage").rows()
    [(1, 2.0, 2.0, None), (2, 1.0, 0.0, -1.0), (3, 3.0, 0.0, 1.0)]
    """
    plan = plan or Values()
    frame = frame_of(data, "values").lazy().collect()
    is_tree, names = _columns(plan, columns, frame.columns)
    if is_tree:
        refuse_nested(frame, names["parent_id"], "values")
        return _tree_values(plan, frame, names)
    rows = _numbers(frame, names, plan).rename(
        {"state": "_s", "action": "_a", "next_state": "_next"}
    )
    solved = _solve(rows, plan, "values")
    shown = solved.with_columns(
        rounded(pl.col("_r", "_pi", "_q", "_v")) + 0.0,
        advantage=rounded(pl.col("_q") - pl.col("_v")) + 0.0,
    )
    return shown.select(
        state="_s", action="_a", reward="_r", policy="_pi", q="_q", v="_v", advantage="advantage"
    )


def query(plan: Values, table: str, **columns: Unpack[ValueNames]) -> str:
    """`plan` over `table` as one call of the macro `state_values`, or with `parent_id`
    `tree_values`; `Values.sql` is this function.
    """
    from prefmill.engines.sql import value as sql

    is_tree, names = _columns(plan, columns, None)
    how = {
        "policy": plan.policy,
        "temperature": float(plan.temperature),
        "gamma": float(plan.gamma),
    }
    if not is_tree:
        how |= {"tolerance": float(plan.tolerance), "max_sweeps": plan.max_sweeps}
    told = [f"{role} := {quote(name)}" for role, name in names.items()] + [
        f"{name} := {sql(value)}" for name, value in how.items()
    ]
    return f"FROM {'tree' if is_tree else 'state'}_values({literal(table)}, {', '.join(told)})"


def _columns(
    plan: Values, named: ValueNames, there: list[str] | None
) -> tuple[bool, dict[str, str]]:
    """Whether it is a tree, and the column of every role that is used; `there` None: not known, so
    only needed ones are assumed.
    """
    given = {role: str(name) for role, name in named.items() if name}
    unknown = sorted(set(given) - set(ValueNames.__annotations__))
    if unknown:
        raise BadArgument(
            f"values: no role {unknown[0]!r}; expected some of {sorted(ValueNames.__annotations__)}."
        )
    is_tree = "parent_id" in given or (
        "parent_id" in (there or ()) and "state" not in given and "state" not in (there or ())
    )
    roles = [*_NEEDED[is_tree], *(["reward"] if is_tree else ["probability", "reward"])]
    needed = [*_NEEDED[is_tree], *([_POLICY[plan.policy]] if plan.policy in _POLICY else [])]
    roles += [role for role in needed if role not in roles]
    found = {}
    for role in roles:
        name = given.get(role, role)
        if there is None:
            if role in given or role in needed:
                found[role] = name
        elif name in there:
            found[role] = name
        elif role in given or role in needed:
            raise ColumnMissing.for_role("values", role, name, there)
    return is_tree, found


def _numbers(frame: pl.DataFrame, names: dict[str, str], plan: Values) -> pl.DataFrame:
    """The columns of `names` under their roles, and the numbers among them as _p, _r, _w."""
    known = frame.select(cs.by_name(name).alias(role) for role, name in names.items())

    def read(role: str | None, otherwise: float) -> pl.Expr:
        return (
            pl.lit(otherwise)
            if role not in names
            else number(pl.col(str(role)), known.schema[str(role)])
        )

    reward = (
        pl.when(pl.col("reward").is_null()).then(0.0).otherwise(read("reward", 0.0))
        if "reward" in names
        else pl.lit(0.0)
    )
    keys = [role for role in ("state", "action", "next_state", "id", "parent_id") if role in names]
    return known.select(
        *keys, _p=read("probability", 1.0), _r=reward, _w=read(_POLICY.get(plan.policy), 1.0)
    )


def _tree_values(plan: Values, frame: pl.DataFrame, names: dict[str, str]) -> pl.DataFrame:
    tree = checked_tree(_numbers(frame, names, plan), "values")
    steps = tree.filter(pl.col("parent_id").is_not_null()).select(
        "_p", "_r", "_w", _s="parent_id", _a="id", _next="id"
    )
    asked = (
        pl.when(pl.col("parent_id").is_null()).then(1.0).otherwise("_w")
    )  # of a root the policy says nothing
    _check_steps(
        tree.select("_p", "_r", _s=pl.coalesce("parent_id", "id"), _a="id", _w=asked),
        plan,
        "values",
    )
    solved = _solve(steps, plan, "values")
    following = solved.group_by("_s").agg(_after=pl.col("_v").first())
    shown = (
        tree.join(solved.select("_a", "_pi", _up="_v"), left_on="id", right_on="_a", how="left")
        .join(following, left_on="id", right_on="_s", how="left")
        .with_columns(pl.col("_after").fill_null(0.0))
        .with_columns(_q=pl.col("_r") + plan.gamma * pl.col("_after"))
        .sort("id")
    )
    return shown.select(
        "id",
        "parent_id",
        reward=rounded(pl.col("_r")) + 0.0,
        policy=rounded(pl.col("_pi")),
        q=rounded(pl.col("_q")) + 0.0,
        v=rounded(pl.col("_after")) + 0.0,
        advantage=rounded(pl.col("_q") - pl.col("_up")) + 0.0,
    )


def refuse_nested(frame: pl.DataFrame, parent_id: str, where: str) -> None:
    """Raise for a tree whose replies lie inside its rows: all rows look like roots, and every value
    would be 0.
    """
    records = [
        name
        for name, dtype in frame.schema.items()
        if isinstance(dtype, pl.List) and isinstance(dtype.inner, pl.Struct)
    ]
    if records and frame.height and not frame[parent_id].count():
        raise BadInput(
            f"{where}: no row has a parent, and the column {records[0]!r} holds lists of records, as a nested tree does;"
            " expected one row for each message.",
            hint=f"make every record of {records[0]!r} a row of its own, with its id and the id of its parent.",
        )


def checked_tree(nodes: pl.DataFrame, where: str) -> pl.DataFrame:
    """`nodes`, after it is sure that they are a tree (or several); parents in the ids' type."""
    if nodes["id"].null_count():
        parent = nodes.filter(pl.col("id").is_null())["parent_id"].item(0)
        raise BadInput(f"{where}: an id is null; got the parent {parent} beside it.")
    nodes = nodes.with_columns(_like(nodes, "parent_id", "id", where))
    twice = nodes.group_by("id").agg(n=pl.len()).filter(pl.col("n") > 1).sort("id")
    if twice.height:
        raise BadInput(
            f"{where}: the id {twice['id'][0]} is there {twice['n'][0]} times; expected once."
        )
    lost = (
        nodes.filter(pl.col("parent_id").is_not_null())
        .join(nodes, left_on="parent_id", right_on="id", how="anti")
        .sort("id")
    )
    if lost.height:
        raise BadInput(
            f"{where}: the parent of {lost['id'][0]} is not there; got parent {lost['parent_id'][0]}, expected an id of the table or null."
        )
    level = nodes.filter(pl.col("parent_id").is_null()).select("id")
    reached = [level]
    while level.height:
        level = nodes.join(level, left_on="parent_id", right_on="id", how="semi").select("id")
        reached.append(level)
    circle = nodes.join(pl.concat(reached), on="id", how="anti").sort("id")
    if circle.height:
        raise BadInput(
            f"{where}: the parents of {circle['id'][0]} run in a circle; expected a path to a root, whose parent is null."
        )
    return nodes


def _like(frame: pl.DataFrame, column: str, other: str, where: str) -> pl.Expr:
    """`column` in the type of `other`, with which it is compared."""
    mine, wanted = frame.schema[column], frame.schema[other]
    if mine == wanted or mine == pl.Null or (mine.is_integer() and wanted.is_integer()):
        return pl.col(column).cast(wanted, strict=False)
    raise BadArgument(
        f"{where}: {column} and {other} are compared; got types {mine} and {wanted}, expected one type.",
        hint="cast one of them.",
    )


def _check_steps(rows: pl.DataFrame, plan: Values, where: str) -> None:
    def refuse(wrong: pl.Expr, said: str, column: str) -> None:
        found = rows.filter(wrong).sort("_s", "_a")
        if found.height:
            value, state, action = found.select(column, "_s", "_a").row(0)
            raise BadInput(
                f"{where}: {said}; got {'NULL' if value is None else value} in state {state}, action {action}."
            )

    empty = rows.filter(pl.col("_s").is_null() | pl.col("_a").is_null())
    if empty.height:
        state, action = empty.select("_s", "_a").row(0)
        raise BadInput(
            f"{where}: a state or an action is null; got state {state}, action {action}."
        )
    refuse(
        ~(pl.col("_p").is_finite() & (pl.col("_p") >= 0)).fill_null(False),
        "a transition probability is no number >= 0",
        "_p",
    )
    refuse(~pl.col("_r").is_finite().fill_null(False), "a reward is no finite number", "_r")
    if plan.policy in _POLICY:
        fits = pl.col("_w").is_finite() & (pl.lit(plan.policy == "softmax") | (pl.col("_w") >= 0))
        refuse(
            ~fits.fill_null(False), f"policy {plan.policy} needs a number for every action", "_w"
        )


def _actions(moves: pl.DataFrame, plan: Values, where: str) -> pl.DataFrame:
    """_s, _a, _r (expected reward), _pi, sorted like `moves`."""
    acts = moves.group_by("_s", "_a", maintain_order=True).agg(
        _r=(pl.col("_p") * pl.col("_r")).sum(),
        total=pl.col("_p").sum(),
        _w=pl.col("_w").min(),
        other=pl.col("_w").max(),
    )
    off = acts.filter((pl.col("total") - 1).abs() > _OFF)
    if off.height:
        state, action, total = off.select("_s", "_a", "total").row(0)
        raise BadInput(
            f"{where}: the transition probabilities of state {state}, action {action} sum to {total}, expected 1."
        )
    unlike = acts.filter(pl.col("_w") != pl.col("other"))
    if unlike.height:
        state, action, low, high = unlike.select("_s", "_a", "_w", "other").row(0)
        raise BadInput(
            f"{where}: rows of one action differ in what the policy is made of; got {low} and {high} in state {state}, action {action}."
        )
    weight = pl.lit(1.0)
    if plan.policy == "given":
        weight = pl.col("_w")
    elif plan.policy == "softmax":
        weight = ((pl.col("_w") - pl.col("_w").max().over("_s")) / plan.temperature).exp()
    acts = acts.with_columns(_w=weight).with_columns(total=pl.col("_w").sum().over("_s"))
    if plan.policy != "given":
        return acts.select("_s", "_a", "_r", _pi=pl.col("_w") / pl.col("total"))
    off = acts.filter((pl.col("total") - 1).abs() > _OFF)
    if off.height:
        state, total = off.select("_s", "total").row(0)
        raise BadInput(
            f"{where}: the policy's probabilities of state {state} sum to {total}, expected 1."
        )
    return acts.select("_s", "_a", "_r", _pi="_w")


def _solve(rows: pl.DataFrame, plan: Values, where: str) -> pl.DataFrame:
    """_s, _a, _r, _pi, _q, _v of every action of checked transitions (_s, _a, _next, _p, _r, _w),
    by state and action.
    """
    _check_steps(rows, plan, where)
    rows = rows.with_columns(_like(rows, "_next", "_s", where))
    moves = rows.sort(
        "_s", "_a", "_next", "_p", "_r"
    )  # sums run in one order whatever that of the rows
    acts = _actions(moves, plan, where)
    states = acts.select(pl.col("_s").unique(maintain_order=True)).with_row_index("i")
    ahead = (
        moves.join(states, left_on="_next", right_on="_s", how="left", maintain_order="left")["i"]
        .cast(pl.Int64)
        .fill_null(-1)
    )
    graph = _Graph(
        act_state=acts.join(states, on="_s", how="left", maintain_order="left")["i"]
        .cast(pl.Int64)
        .to_numpy(),
        move_act=moves.select(pl.struct("_s", "_a").rle_id().cast(pl.Int64)).to_series().to_numpy(),
        ahead=ahead.to_numpy(),
        p=moves["_p"].to_numpy(),
        r=acts["_r"].to_numpy(),
        pi=None if plan.policy == "optimal" else acts["_pi"].to_numpy(),
        gamma=float(plan.gamma),
        states=states.height,
    )
    left = graph.from_the_end()
    if len(left) and (stuck := graph.sweep(left, plan)) is not None:
        state, before, after = stuck
        raise BadInput(
            f"{where}: gamma 1 does not converge: after {plan.max_sweeps} sweeps the value of state {states['_s'][state]} still moves from"
            f" {before} to {after}; expected every path to end.",
            hint="set gamma below 1.",
        )
    q, v = graph.q, graph.v
    pi = pl.lit(None, pl.Float64).alias("_pi") if plan.policy == "optimal" else pl.col("_pi")
    return acts.select(
        "_s",
        "_a",
        "_r",
        pi,
        _q=pl.Series(q, dtype=pl.Float64),
        _v=pl.Series(v[graph.act_state], dtype=pl.Float64),
    )


class _Graph:
    """Actions and their moves as arrays, actions sorted by state and moves by action; values are
    worked out in `q` and `v`.
    """

    def __init__(
        self,
        *,
        act_state: Ints,
        move_act: Ints,
        ahead: Ints,
        p: Floats,
        r: Floats,
        pi: Floats | None,
        gamma: float,
        states: int,
    ) -> None:
        self.act_state, self.ahead, self.p, self.r, self.pi, self.gamma = (
            act_state,
            ahead,
            p,
            r,
            pi,
            gamma,
        )
        self.q, self.v = np.zeros(len(r)), np.zeros(states)
        self.first_act = np.searchsorted(act_state, np.arange(states + 1))
        self.first_move = np.searchsorted(move_act, np.arange(len(r) + 1))
        self.move_state = act_state[move_act]

    def back_up(self, states: Ints) -> Floats:
        """New values of `states` from those of the states ahead of them; their q are set, their v
        are not.
        """
        acts, act_starts = _spans(self.first_act, states)
        moves, move_starts = _spans(self.first_move, acts)
        future = np.where(self.ahead[moves] >= 0, self.v[self.ahead[moves]], 0.0) * self.p[moves]
        q = self.r[acts] + self.gamma * np.add.reduceat(future, move_starts)
        self.q[acts] = q
        return (
            np.maximum.reduceat(q, act_starts)
            if self.pi is None
            else np.add.reduceat(self.pi[acts] * q, act_starts)
        )

    def from_the_end(self) -> Ints:
        """Solve the states whose states ahead are all solved, level by level, exactly. Left are
        those on cycles or that lead to one.
        """
        inner = np.flatnonzero(self.ahead >= 0)
        waiting = np.bincount(self.move_state[inner], minlength=len(self.v))
        inner = inner[np.argsort(self.ahead[inner], kind="stable")]
        first = np.searchsorted(self.ahead[inner], np.arange(len(self.v) + 1))
        solved = np.zeros(len(self.v), dtype=bool)
        level = np.flatnonzero(waiting == 0)
        while len(level):
            self.v[level] = self.back_up(level)
            solved[level] = True
            before, counts = np.unique(
                self.move_state[inner[_spans(first, level)[0]]], return_counts=True
            )
            waiting[before] -= counts
            level = before[waiting[before] == 0]
        return np.flatnonzero(~solved)

    def sweep(self, states: Ints, plan: Values) -> tuple[int, float, float] | None:
        """Iterate the values of `states` until they stand still; with gamma 1 at most `max_sweeps`
        times.

        Else: a state that still moves, and from where to where.
        """
        still = max(plan.tolerance * (1 - self.gamma if self.gamma < 1 else 1e-3), 4e-15)
        sweeps = 0
        while True:
            fresh = self.back_up(states)
            moved = np.abs(fresh - self.v[states]) - still * np.maximum(1, np.abs(fresh))
            if not (moved > 0).any():
                self.v[states] = self.back_up(states)
                return None
            sweeps += 1
            if self.gamma >= 1 and sweeps > plan.max_sweeps:
                worst = int(moved.argmax())
                return int(states[worst]), float(self.v[states[worst]]), float(fresh[worst])
            self.v[states] = fresh


def _spans(first: Ints, which: Ints) -> tuple[Ints, Ints]:
    """The members of the spans `which` (span i is first[i] to first[i + 1]), and where each span,
    none of them empty, starts among them.
    """
    counts = first[which + 1] - first[which]
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
    return np.arange(counts.sum()) - np.repeat(starts - first[which], counts), starts
