"""What a margin of a scorer's scores says about who wins: the file of `prefmill calibrate`.

The file names the scorer whose scores it was made of, and no other scorer can use it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from prefmill.disk import whole
from prefmill.errors import BadArgument
from prefmill.rules.isotonic import WinCurve

_KIND = "prefmill calibration 1"
#: What may differ from run to run, and moves scores by rounding, or other rows only.
_FREE = frozenset({"dtype", "max_length", "on_too_long", "on_refused", "template_date"})


@dataclass(frozen=True)
class Calibration:
    """A curve from margins to chances, the scorer that it is of, and how well it does.

    scorer   the scorer's fingerprint; empty: nobody knows
    pairs    that it was fitted to, of so many prompts
    measured what was measured on prompts that a fit had not seen (`prefmill.calibrate`)

    >>> curve = WinCurve(np.array([0.0, 2.0]), np.array([0.5, 0.9]))
    >>> Calibration(curve).curve(1.0).item()
    0.7
    """

    curve: WinCurve
    scorer: Mapping[str, str] = field(default_factory=dict)
    pairs: int = 0
    prompts: int = 0
    measured: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain values, as the file holds them."""
        return {
            "kind": _KIND,
            "scorer": dict(self.scorer),
            "pairs": self.pairs,
            "prompts": self.prompts,
            "margins": self.curve.margins.tolist(),
            "chances": self.curve.chances.tolist(),
            "measured": dict(self.measured),
        }

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        whole.put_text(path, json.dumps(self.as_json(), indent=1))

    @property
    def identity(self) -> str:
        """What decides chances, as text."""
        content = self.as_json()
        return json.dumps({name: content[name] for name in ("margins", "chances")})

    def check(self, name: str, fingerprint: Mapping[str, str]) -> None:
        """Raise `BadArgument` where the scorer called `name` is not that of the calibration."""
        if not self.scorer:
            return
        for part in sorted({*self.scorer, *fingerprint} - _FREE):
            known, now = self.scorer.get(part), fingerprint.get(part)
            if known != now:
                raise BadArgument(
                    f"ensemble: the calibration of {name!r} is of another scorer, with another"
                    f" {part}; got {now}, expected {known}.",
                    hint="prefmill calibrate makes one from pairs that this scorer scored.",
                )


def read_calibration(path: str | Path) -> Calibration:
    """The calibration in a file. Raises `BadArgument` for what is none."""
    try:
        content = json.loads(Path(path).read_text("utf-8"))
        if content["kind"] != _KIND:
            raise ValueError(f"of the kind {content['kind']!r}")
        curve = _curve(content["margins"], content["chances"])
        counts = {name: int(content[name]) for name in ("pairs", "prompts")}
        return Calibration(curve, dict(content["scorer"]), measured=content["measured"], **counts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadArgument(
            f"ensemble: {str(path)!r} is no calibration; got {error},"
            " expected a file that prefmill calibrate wrote."
        ) from None


def _curve(margins: Any, chances: Any) -> WinCurve:
    """The curve, looked at: a file of one's own may hold anything."""
    curve = WinCurve(np.array(margins, np.float64), np.array(chances, np.float64))
    rises = (np.diff(curve.margins) > 0).all() and (np.diff(curve.chances) >= 0).all()
    same = curve.margins.ndim == 1 and curve.margins.shape == curve.chances.shape
    if not same or not len(curve.margins) or not rises or not np.isfinite(curve.margins).all():
        raise ValueError("margins that do not rise, or chances that fall")
    if curve.margins[0] != 0 or curve.chances[0] != 0.5 or not curve.chances[-1] <= 1:
        raise ValueError("a curve that does not go from margin 0 and chance 0.5 to at most 1")
    return curve
