"""A folder whose weights are pickles alone is refused by name, and nothing of it runs."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import fake_vllm
import pools
import pytest
from coded import policies, refused, rewards

from prefmill.errors import BadArgument, BadInput
from prefmill.models.folders import refuse_pickled
from prefmill.sampling.vllm import VllmSampler

pytestmark = pytest.mark.score

pools.one_thread()
NAMES = ("pytorch_model.bin", "model.pt", "weights.pth", "last.ckpt")


class Trap:
    """What it unpickles to makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def trapped(folder: Path, place: Path, name: str, mark: Path) -> Path:
    """A copy of `folder` whose weights are a pickle that would make the file `mark`."""
    shutil.copytree(folder, place, ignore=shutil.ignore_patterns("*.safetensors*"))
    (place / name).write_bytes(pickle.dumps(Trap(mark)))
    return place


@pytest.mark.parametrize("name", NAMES)
def test_scorers_policies_and_training_refuse_pickles(name: str, tmp_path: Path) -> None:
    said = rf"(?s)no safetensors weights in .*got {name}, and a pickle runs code.*Hint: convert"
    mark = tmp_path / "ran"
    reward = trapped(pools.reward("llama"), tmp_path / "reward", name, mark)
    refused(rewards(reward, tmp_path), said)
    causal = trapped(pools.causal("llama"), tmp_path / "causal", name, mark)
    refused(policies(causal, tmp_path), said)
    assert not mark.exists()


def test_vllm_is_not_let_near_them(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    folder = trapped(pools.causal("llama"), tmp_path / "causal", NAMES[0], mark)
    with fake_vllm.installed(), pytest.raises(BadInput, match="a pickle runs code"):
        VllmSampler(model=folder).load()
    assert not mark.exists()
    with pytest.raises(BadArgument, match="load_format of pickles"):
        VllmSampler(model=folder, engine_args={"load_format": "pt"})


def test_other_files_of_such_names_are_no_weights(tmp_path: Path) -> None:
    for name in ("training_args.bin", "model.safetensors", "optimizer.pt"):
        (tmp_path / name).touch()
        refuse_pickled(tmp_path, "score")
