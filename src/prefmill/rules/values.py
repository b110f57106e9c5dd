"""Values of states and actions, over transitions or trees: the Bellman equations.

    transitions ──checked──▶ actions (r, pi) and moves (P) ──from the end up──▶ q, V
                             what is left on cycles ──sweeps──▶ q, V
    tree ──▶ transitions whose actions are the children

The functions have the names and the arguments of the macros; the same rule in SQL is
`sql/values/pref_solve.sql`. The formulas are in `docs/semantics.md`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl
import polars.selectors as cs

from prefmill.errors import BadArgument, BadInput
from prefmill.table.numbers import number, plain_zero, rounded

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: Sums that should be 1 may be off by this.
_OFF = 1e-6
_ENDLESS = (
    "gamma 1 does not converge: after {} sweeps the value of state {} still moves"
    " from {} to {}; expected every path to end."
)


def state_values(
    frame: pl.DataFrame,
    *,
    state: str = "state",
    action: str = "action",
    next_state: str = "next_state",
    probability: str | None = None,
    reward: str | None = None,
    policy: str = "uniform",
    policy_probability: str | None = None,
    score: str | None = None,
    temperature: float = 1,
    gamma: float = 1,
    tolerance: float = 1e-12,
    max_sweeps: int = 10_000,
) -> pl.DataFrame:
    """Transitions to state, action, reward, policy, q, v, advantage, by state and action.

    >>> rows = [("s", "a", None, 1), ("s", "b", None, 3)]
    >>> moves = pl.DataFrame(rows, ["state", "action", "next_state", "reward"], orient="row")
    >>> state_values(moves, reward="reward").select("q", "v").rows()
    [(1.0, 2.0), (3.0, 2.0)]
    """
    where = "state_values"
    names = {"_s": state, "_a": action, "_next": next_state}
    weight = {"given": policy_probability, "softmax": score}.get(policy)
    rows = _numbers(frame, names, probability, reward, weight)
    solved = _solve(
        rows,
        where,
        policy=policy,
        temperature=temperature,
        gamma=gamma,
        tolerance=tolerance,
        max_sweeps=max_sweeps,
    )
    shown = solved.with_columns(
        *(plain_zero(rounded(pl.col(name))).alias(name) for name in ("_r", "_pi", "_q", "_v")),
        advantage=plain_zero(rounded(pl.col("_q") - pl.col("_v"))),
    )
    return shown.select(
        state="_s", action="_a", reward="_r", policy="_pi", q="_q", v="_v", advantage="advantage"
    )


def tree_values(
    frame: pl.DataFrame,
    *,
    id: str = "id",
    parent_id: str = "parent_id",
    reward: str | None = None,
    policy: str = "uniform",
    policy_probability: str | None = None,
    score: str | None = None,
    temperature: float = 1,
    gamma: float = 1,
) -> pl.DataFrame:
    """A tree to id, parent_id, reward, policy, q, v, advantage, by id.

    >>> tree = pl.DataFrame({"id": [1, 2, 3], "parent_id": [None, 1, 1], "reward": [0, 1, 3]})
    >>> tree_values(tree, reward="reward").select("id", "q", "v").rows()
    [(1, 2.0, 2.0), (2, 1.0, 0.0), (3, 3.0, 0.0)]
    """
    where = "tree_values"
    if frame.height and not frame[parent_id].count():
        refuse_nested(frame.schema, where)
    weight = {"given": policy_probability, "softmax": score}.get(policy)
    names = {"id": id, "parent_id": parent_id}
    tree = checked_tree(_numbers(frame, names, None, reward, weight), where)
    # Of a root the policy says nothing.
    asked = pl.when(pl.col("parent_id").is_null()).then(1.0).otherwise("_w")
    above = pl.coalesce("parent_id", "id")
    _check_steps(tree.select("_p", "_r", _s=above, _a="id", _w=asked), policy, where)
    steps = tree.filter(pl.col("parent_id").is_not_null()).select(
        "_p", "_r", "_w", _s="parent_id", _a="id", _next="id"
    )
    # Without cycles nothing is swept.
    solved = _solve(
        steps,
        where,
        policy=policy,
        temperature=temperature,
        gamma=gamma,
        tolerance=1e-12,
        max_sweeps=1,
    )
    following = solved.group_by("_s").agg(_after=pl.col("_v").first())
    shown = (
        tree.join(solved.select("_a", "_pi", _up="_v"), left_on="id", right_on="_a", how="left")
        .join(following, left_on="id", right_on="_s", how="left")
        .with_columns(pl.col("_after").fill_null(0.0))
        .with_columns(_q=pl.col("_r") + gamma * pl.col("_after"))
        .sort("id")
    )
    return shown.select(
        "id",
        "parent_id",
        reward=plain_zero(rounded(pl.col("_r"))),
        policy=rounded(pl.col("_pi")),
        q=plain_zero(rounded(pl.col("_q"))),
        v=plain_zero(rounded(pl.col("_after"))),
        advantage=plain_zero(rounded(pl.col("_q") - pl.col("_up"))),
    )


def _numbers(
    frame: pl.DataFrame,
    names: dict[str, str],
    probability: str | None,
    reward: str | None,
    weight: str | None,
) -> pl.DataFrame:
    """The columns of `names`, and the numbers _p, _r, _w: of what is not there 1, 0 and 1."""

    def read(column: str | None, otherwise: float) -> pl.Expr:
        if column is None:
            return pl.lit(otherwise)
        return number(cs.by_name(column).as_expr(), frame.schema[column])

    gained = read(reward, 0.0)
    if reward is not None:
        gained = pl.when(cs.by_name(reward).as_expr().is_not_null()).then(gained).otherwise(0.0)
    keys = [cs.by_name(column).alias(name) for name, column in names.items()]
    return frame.select(*keys, _p=read(probability, 1.0), _r=gained, _w=read(weight, 1.0))


def refuse_nested(schema: pl.Schema, where: str) -> None:
    """Raise for a tree without a parent whose replies lie inside its rows.

    All of its rows look like roots, and every value would be 0.
    """
    records = [
        name
        for name, dtype in schema.items()
        if isinstance(dtype, pl.List) and isinstance(dtype.inner, pl.Struct)
    ]
    if records:
        raise BadInput(
            f"{where}: no row has a parent, and the column {records[0]!r} holds lists of records,"
            " as a nested tree does; expected one row for each message.",
            hint=f"make every record of {records[0]!r} a row of its own,"
            " with its id and the id of its parent.",
        )


def checked_tree(nodes: pl.DataFrame, where: str) -> pl.DataFrame:
    """`nodes`, after it is sure that they are a tree (or several); parents in the ids' type."""
    if nodes["id"].null_count():
        parent = nodes.filter(pl.col("id").is_null())["parent_id"].item(0)
        raise BadInput(f"{where}: an id is null; got the parent {parent} beside it.")
    refuse_unlike(where, parent_id=nodes.schema["parent_id"], id=nodes.schema["id"])
    nodes = nodes.with_columns(pl.col("parent_id").cast(nodes.schema["id"], strict=False))
    twice = nodes.group_by("id").agg(n=pl.len()).filter(pl.col("n") > 1).sort("id")
    if twice.height:
        name, times = twice.row(0)
        raise BadInput(f"{where}: the id {name} is there {times} times; expected once.")
    replies = nodes.filter(pl.col("parent_id").is_not_null())
    lost = replies.join(nodes, left_on="parent_id", right_on="id", how="anti").sort("id")
    if lost.height:
        name, parent = lost.select("id", "parent_id").row(0)
        raise BadInput(
            f"{where}: the parent of {name} is not there; got parent {parent},"
            " expected an id of the table or null."
        )
    level = nodes.filter(pl.col("parent_id").is_null()).select("id")
    reached = [level]
    while level.height:
        level = nodes.join(level, left_on="parent_id", right_on="id", how="semi").select("id")
        reached.append(level)
    circle = nodes.join(pl.concat(reached), on="id", how="anti").sort("id")
    if circle.height:
        raise BadInput(
            f"{where}: the parents of {circle['id'][0]} run in a circle;"
            " expected a path to a root, whose parent is null."
        )
    return nodes


def refuse_unlike(where: str, **types: pl.DataType) -> None:
    """Raise where two columns that are compared have types that are not alike."""
    (column, mine), (other, wanted) = types.items()
    if mine in (wanted, pl.Null) or (mine.is_integer() and wanted.is_integer()):
        return
    raise BadArgument(
        f"{where}: {column} and {other} are compared;"
        f" got types {mine} and {wanted}, expected one type.",
        hint="cast one of them.",
    )


def _check_steps(rows: pl.DataFrame, policy: str, where: str) -> None:
    empty = rows.filter(pl.col("_s").is_null() | pl.col("_a").is_null())
    if empty.height:
        state, action = empty.select("_s", "_a").row(0)
        raise BadInput(
            f"{where}: a state or an action is null; got state {state}, action {action}."
        )
    chance = pl.col("_p").is_finite() & (pl.col("_p") >= 0)
    sound = [
        ("_p", chance, "a transition probability is no number >= 0"),
        ("_r", pl.col("_r").is_finite(), "a reward is no finite number"),
    ]
    if policy in ("given", "softmax"):
        weight = pl.col("_w").is_finite() & (pl.lit(policy == "softmax") | (pl.col("_w") >= 0))
        sound.append(("_w", weight, f"policy {policy} needs a number for every action"))
    for column, fits, problem in sound:
        bad = rows.filter(~fits.fill_null(False)).sort("_s", "_a")
        if bad.height:
            value, state, action = bad.select(column, "_s", "_a").row(0)
            shown = "NULL" if value is None else value
            raise BadInput(f"{where}: {problem}; got {shown} in state {state}, action {action}.")


def _actions(moves: pl.DataFrame, where: str, *, policy: str, temperature: float) -> pl.DataFrame:
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
            f"{where}: the transition probabilities of state {state}, action {action}"
            f" sum to {total}, expected 1."
        )
    unlike = acts.filter(pl.col("_w") != pl.col("other"))
    if unlike.height:
        state, action, low, high = unlike.select("_s", "_a", "_w", "other").row(0)
        raise BadInput(
            f"{where}: rows of one action differ in what the policy is made of;"
            f" got {low} and {high} in state {state}, action {action}."
        )
    weight = pl.lit(1.0)
    if policy == "given":
        weight = pl.col("_w")
    elif policy == "softmax":
        weight = ((pl.col("_w") - pl.col("_w").max().over("_s")) / temperature).exp()
    acts = acts.with_columns(_w=weight).with_columns(total=pl.col("_w").sum().over("_s"))
    if policy != "given":
        return acts.select("_s", "_a", "_r", _pi=pl.col("_w") / pl.col("total"))
    off = acts.filter((pl.col("total") - 1).abs() > _OFF)
    if off.height:
        state, total = off.select("_s", "total").row(0)
        raise BadInput(
            f"{where}: the policy's probabilities of state {state} sum to {total}, expected 1."
        )
    return acts.select("_s", "_a", "_r", _pi="_w")


def _solve(
    rows: pl.DataFrame,
    where: str,
    *,
    policy: str,
    temperature: float,
    gamma: float,
    tolerance: float,
    max_sweeps: int,
) -> pl.DataFrame:
    """_s, _a, _r, _pi, _q, _v of every action, by state and action.

    `rows` are transitions: _s, _a, _next, _p, _r, _w.
    """
    _check_steps(rows, policy, where)
    refuse_unlike(where, next_state=rows.schema["_next"], state=rows.schema["_s"])
    rows = rows.with_columns(pl.col("_next").cast(rows.schema["_s"], strict=False))
    # Sums run in one order, whatever that of the rows.
    moves = rows.sort("_s", "_a", "_next", "_p", "_r")
    acts = _actions(moves, where, policy=policy, temperature=temperature)
    states = acts.select(pl.col("_s").unique(maintain_order=True)).with_row_index("i")

    def place(frame: pl.DataFrame, column: str) -> Ints:
        """The number of the state in `column`; -1 where it has no rows."""
        here = frame.join(states, left_on=column, right_on="_s", how="left", maintain_order="left")
        return here["i"].cast(pl.Int64).fill_null(-1).to_numpy()

    graph = _Graph(
        act_state=place(acts, "_s"),
        move_act=moves.select(pl.struct("_s", "_a").rle_id().cast(pl.Int64)).to_series().to_numpy(),
        ahead=place(moves, "_next"),
        p=moves["_p"].to_numpy(),
        r=acts["_r"].to_numpy(),
        pi=None if policy == "optimal" else acts["_pi"].to_numpy(),
        gamma=float(gamma),
        states=states.height,
    )
    left = graph.from_the_end()
    if len(left) and (stuck := graph.sweep(left, tolerance, max_sweeps)) is not None:
        state, before, after = stuck
        message = _ENDLESS.format(max_sweeps, states["_s"][state], before, after)
        raise BadInput(f"{where}: {message}", hint="set gamma below 1.")
    pi = pl.col("_pi")
    if policy == "optimal":
        pi = pl.lit(None, pl.Float64).alias("_pi")
    return acts.select(
        "_s",
        "_a",
        "_r",
        pi,
        _q=pl.Series(graph.q, dtype=pl.Float64),
        _v=pl.Series(graph.v[graph.act_state], dtype=pl.Float64),
    )


class _Graph:
    """Actions and their moves as arrays; values are worked out in `q` and `v`.

    Actions are sorted by state, and moves by action.
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
        self.act_state, self.ahead = act_state, ahead
        self.p, self.r, self.pi, self.gamma = p, r, pi, gamma
        self.q, self.v = np.zeros(len(r)), np.zeros(states)
        self.first_act = np.searchsorted(act_state, np.arange(states + 1))
        self.first_move = np.searchsorted(move_act, np.arange(len(r) + 1))
        self.move_state = act_state[move_act]

    def back_up(self, states: Ints) -> Floats:
        """New values of `states` from those ahead of them.

        Their q are set, their v are not.
        """
        acts, act_starts = _spans(self.first_act, states)
        moves, move_starts = _spans(self.first_move, acts)
        future = np.where(self.ahead[moves] >= 0, self.v[self.ahead[moves]], 0.0) * self.p[moves]
        q = self.r[acts] + self.gamma * np.add.reduceat(future, move_starts)
        self.q[acts] = q
        if self.pi is None:
            best: Floats = np.maximum.reduceat(q, act_starts)
            return best
        mean: Floats = np.add.reduceat(self.pi[acts] * q, act_starts)
        return mean

    def from_the_end(self) -> Ints:
        """Solve the states whose states ahead are all solved: exactly, level by level.

        Left are those on cycles, or that lead to one.
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
            into = inner[_spans(first, level)[0]]
            before, counts = np.unique(self.move_state[into], return_counts=True)
            waiting[before] -= counts
            level = before[waiting[before] == 0]
        return np.flatnonzero(~solved)

    def sweep(
        self, states: Ints, tolerance: float, max_sweeps: int
    ) -> tuple[int, float, float] | None:
        """Iterate the values of `states` until they stand still.

        With gamma 1 that is at most `max_sweeps` times; else the answer is a state that still
        moves, and from where to where.
        """
        # With gamma below 1 the change of a sweep bounds what is left; with 1 it does not.
        share = 1 - self.gamma if self.gamma < 1 else 1e-3
        still = max(tolerance * share, 4e-15)
        sweeps = 0
        while True:
            fresh = self.back_up(states)
            moved = np.abs(fresh - self.v[states]) - still * np.maximum(1, np.abs(fresh))
            if not (moved > 0).any():
                self.v[states] = self.back_up(states)
                return None
            sweeps += 1
            if self.gamma >= 1 and sweeps > max_sweeps:
                worst = int(moved.argmax())
                return int(states[worst]), float(self.v[states[worst]]), float(fresh[worst])
            self.v[states] = fresh


def _spans(first: Ints, which: Ints) -> tuple[Ints, Ints]:
    """The members of the spans `which`, and where each span starts among them.

    Span i is first[i] to first[i + 1]; none is empty.
    """
    counts = first[which + 1] - first[which]
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
    return np.arange(counts.sum()) - np.repeat(starts - first[which], counts), starts
