"""What a loop's stages came to: the rule that stops it, and findings in sentences.

They say what the figures say, good or bad. A difference counts as one only where its 95 % interval
leaves 0 out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prefmill.loops.recipe import StopSection

Row = Mapping[str, Any]

_MUCH = 0.15  # a change of length or diversity by this share is told
CUT_OFF = 0.1  #: share of answers that were cut off from which on something is said
_MANY_CUT_OFF = 0.25


def stop_rule(rows: Sequence[Row], stop: StopSection) -> str | None:
    """The rule by which the stages so far end the loop, in words, or None.

    >>> rows = [{"stage": 0, "reward_mean": 1.0}, {"stage": 1, "reward_mean": 0.5, "kl": 3.0}]
    >>> stop_rule(rows, StopSection(max_kl=2))
    'stage 1: KL estimate 3 nats per answer, over max_kl 2'
    """
    stage, kl = rows[-1]["stage"], rows[-1].get("kl")
    if stop.max_kl is not None and kl is not None and kl > stop.max_kl:
        return f"stage {stage}: KL estimate {kl:.4g} nats per answer, over max_kl {stop.max_kl:g}"
    best = best_stage(rows)
    if stop.patience is not None and stage - best >= stop.patience:
        return (
            f"stage {stage}: no held-out reward above that of stage {best}"
            f" for {stage - best} stages, patience {stop.patience}"
        )
    return None


def best_stage(rows: Sequence[Row]) -> int:
    """The stage with the largest mean reward on held-out prompts; the earliest of equals."""
    means = [row.get("reward_mean") for row in rows]
    known = [-math.inf if mean is None else mean for mean in means]
    return int(rows[known.index(max(known))]["stage"])


def findings(rows: Sequence[Row], stopped: str | None) -> list[str]:
    """What happened, in sentences, from the figures alone."""
    sentences = [f"Stopped early at {stopped}."] if stopped else []
    if len(rows) == 1:
        return [*sentences, "Only stage 0 is measured so far: nothing was trained, or not yet."]
    first, last = rows[0], rows[-1]
    sentences += _judged(first, last)
    best = best_stage(rows)
    if best != last["stage"]:
        sentences.append(f"The largest mean reward is that of stage {best}, not of the last stage.")
    sentences += [*_drift(first, last), *_little_choice(rows)]
    return sentences


_JUDGES = {
    "reward": ("", "the model that selected"),
    "second": ("second_", "the second judge, which selection never saw"),
}
_VERBS = {
    "up": "rose",
    "down": "fell",
    "same": "did not move by more than these prompts can show",
}
_HARM = (
    "Training lowered the reward that it selected for."
    " A smaller learning rate or fewer epochs may help."
)
#: for the ways that the judge which selected and the second one went
_VERDICTS = {
    ("up", "up"): "Both judges prefer the last policy: no sign of reward hacking here.",
    ("up", "down"): "The judge that selected likes the last policy better and the second one likes"
    " it less: this is what reward hacking looks like.",
    ("up", "same"): "The second judge does not confirm the gain: it may be real and small, or"
    " particular to the model that selected.",
    ("up", "none"): "No second judge was given, so nothing here can tell a gain from reward"
    " hacking.",
    ("same", "down"): "Training moved only the second judge, and downwards.",
    ("same", "up"): "Only the second judge sees a gain, which selection did not aim at.",
    ("down", "down"): "Both judges like the last policy less: training did harm. A smaller learning"
    " rate or fewer epochs may help.",
    ("down", "up"): "The judges disagree: the one that selected sees a loss, the second one a"
    " gain.",
    ("down", "same"): _HARM,
    ("down", "none"): _HARM,
}


def _judged(first: Row, last: Row) -> Iterator[str]:
    """What each judge says, and what they say together."""
    moved = ways(first, last)
    for (name, (prefix, judge)), way in zip(_JUDGES.items(), moved, strict=True):
        gain = last.get(f"{prefix}gain")
        if gain is None:
            continue
        mean, spread = f"{name}_mean", ""
        if last.get(f"{prefix}gain_low") is not None:
            low, high = last[f"{prefix}gain_low"], last[f"{prefix}gain_high"]
            spread = f", 95 % interval {low:+.4g} to {high:+.4g} over {last['prompts']} prompts"
        win, low, high = (100 * last[f"{prefix}win{end}"] for end in ("", "_low", "_high"))
        yield (
            f"Under {judge}, the mean over held-out prompts {_VERBS[way]}:"
            f" {first[mean]:.4g} at stage 0, {last[mean]:.4g} at stage {last['stage']}"
            f" (difference {gain:+.4g}{spread}); it wins {win:.1f} % of comparisons with stage 0"
            f" ({low:.1f} to {high:.1f} %)."
        )
    verdict = _VERDICTS.get(moved)
    if verdict:
        yield verdict


def ways(first: Row, last: Row) -> tuple[str, str]:
    """Which way the judge that selected, and the second one, went from stage 0 to the last.

    up, down, or same, where an interval leaves 0 out; of no second judge none.
    """
    reward, second = (
        _way(last, prefix) if last.get(f"{prefix}gain") is not None else ""
        for prefix, _ in _JUDGES.values()
    )
    return reward, second or "none"


def _way(row: Row, prefix: str) -> str:
    low, high = row.get(f"{prefix}gain_low"), row.get(f"{prefix}gain_high")
    if low is None or high is None:
        return "same"
    if low > 0:
        return "up"
    return "down" if high < 0 else "same"


def _drift(first: Row, last: Row) -> Iterator[str]:
    """What changed as well as the rewards: length, cut-off answers, diversity, distance."""
    counted = first.get("tokens") is not None and last.get("tokens") is not None
    unit = "tokens" if counted else "chars"
    stage, longer = last["stage"], last[unit] > first[unit]
    if _moved(first, last, unit):
        yield (
            f"Answers became {'longer' if longer else 'shorter'}: {first[unit]:.0f} {unit} at"
            f" stage 0, {last[unit]:.0f} at stage {stage};"
            " a judge that looks at length would see that as well."
        )
    before, after = (100 * (row.get("cut_off") or 0.0) for row in (first, last))
    if max(before, after) > 100 * CUT_OFF:
        yield (
            f"{before:.0f} % of held-out answers were cut off at stage 0 and {after:.0f} % at"
            f" stage {stage}: their scores and their KL are those of unfinished answers."
        )
    if _moved(first, last, "distinct_2"):
        before, after = first["distinct_2"], last["distinct_2"]
        fell = after < before
        why = " Longer text has fewer distinct ones by itself." if fell and longer else ""
        verb = "fell" if fell else "rose"
        yield f"Distinct bigrams {verb} from {before:.3f} to {after:.3f} of all.{why}"
    kl, per_token = last.get("kl"), last.get("kl_per_token")
    if kl is not None:
        more = "" if per_token is None else f", {per_token:.3g} per token"
        yield f"The last policy is about {kl:.3g} nats per answer{more} from stage 0 (KL estimate)."


def _moved(first: Row, last: Row, name: str) -> bool:
    before, after = first.get(name), last.get(name)
    # A length may have become 0; a diversity of 0 is one that was not measured.
    if not before or (not after and name == "distinct_2"):
        return False
    return abs(after / before - 1) > _MUCH  # type: ignore[no-any-return]


def _little_choice(rows: Sequence[Row]) -> Iterator[str]:
    """Where so many samples were cut off that selection had few to choose from."""
    for row in rows:
        share = row.get("pool_cut_off") or 0
        if share > _MANY_CUT_OFF and row.get("selected_mean") is not None:
            yield (
                f"{100 * share:.0f} % of the samples of stage {row['stage']} were cut off. What was"
                f" trained on has a mean score of {row['selected_mean']:.4g}; of the samples the"
                f" mean is {row['pool_mean']:.4g}, of the best of each prompt"
                f" {row['pool_best']:.4g}: more max_new_tokens, or a stop string, lets selection"
                " choose among more."
            )
