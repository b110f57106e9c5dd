"""What is wrong with a server's scores, next to those of the same model scored here."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from prefmill.scoring.reward import RewardModel
from prefmill.scoring.scorers import Floats


def compared(
    model: RewardModel, batch: pa.RecordBatch, remote: Floats, tolerance: float
) -> str | None:
    """What the difference of a server's scores of `batch` from those of `model` looks like.

    As of `difference`; rows that `model` gives no score are left out. The model is let go.
    """
    local = model.run(model.prepare(batch))
    model.unload()
    kept = np.ones(len(remote), bool) if local.null is None else ~local.null
    return difference(local.columns["score"][kept], remote[kept], tolerance)


def difference(local: Floats, remote: Floats, tolerance: float) -> str | None:
    """What the difference of a server's scores from those scored here looks like.

    None: there is none beyond `tolerance` of the largest.

    >>> difference(np.array([-1.0, 2.0]), np.array([0.2689, 0.8808]), 0.02)
    'they are the sigmoid of those scored here: the server applies an activation'
    >>> difference(np.array([-1.0, 2.0]), np.array([-1.001, 2.003]), 0.02)
    """
    if not len(local):
        return None
    near = tolerance * float(np.abs(local).max()) + 1e-6
    gap = np.abs(local - remote)
    if gap.max() <= near:
        return None
    squashed = 1 / (1 + np.exp(-local))
    spread = tolerance * float(squashed.max() - squashed.min()) + 1e-3
    if np.abs(squashed - remote).max() <= spread:
        return "they are the sigmoid of those scored here: the server applies an activation"
    if len(remote) > 1 and np.ptp(remote) <= 1e-6:
        return (
            f"they are all {remote[0]:g}: a softmax over one label, or one token of the rows is"
            " scored that is the same in all"
        )
    if len(local) > 2 and np.ptp(local) > 0 and np.corrcoef(local, remote)[0, 1] > 0.999:
        slope, shift = np.polyfit(local, remote, 1)
        return (
            f"they are {slope:.4g} times those scored here plus {shift:.4g}: the server"
            " normalises, or another head is loaded"
        )
    worst = int(gap.argmax())
    return (
        f"row {worst} of the first {len(local)} has {remote[worst]:.6g} there and"
        f" {local[worst]:.6g} here: another template, another scored token (pooling), or other"
        " weights"
    )
