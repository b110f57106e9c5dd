"""vLLM inside this process: how its engine is made, and what is asked of it.

vLLM is imported here alone, and only when it is asked for (extra `vllm`). The calls are those of
vLLM 0.33: `LLM`, `SamplingParams`, `PoolingParams`, prompts as `{"prompt_token_ids": [...]}`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from prefmill.errors import BadArgument, BadInput, BadRow, MissingPackage, refuse
from prefmill.models.described import described
from prefmill.models.folders import refuse_pickled

#: what the engine is told here; other arguments are the caller's
_OURS = ("model", "tokenizer", "runner", "dtype", "trust_remote_code", "logprobs_mode")


class InVllm:
    """What is vLLM's own affair, for a scorer or a sampler that runs in it."""

    @property
    def shape(self) -> Mapping[str, Any]:
        """Nothing of ours: vLLM puts its batches together."""
        return {}

    def with_shape(self, shape: Mapping[str, Any]) -> Self:
        """The same."""
        return self

    def on_device(self, device: str) -> Self:
        """The same: vLLM has its own devices."""
        return self


def engine_problems(engine_args: Any) -> list[str]:
    """What is wrong with arguments for the engine."""
    if not isinstance(engine_args, Mapping) or not all(isinstance(n, str) for n in engine_args):
        return [f"engine_args must be names and values; got {engine_args!r}"]
    problems = [f"engine_args cannot have {name!r}" for name in _OURS if name in engine_args]
    if engine_args.get("load_format") in ("pt", "npcache"):
        problems.append("engine_args cannot have a load_format of pickles; expected safetensors")
    try:
        json.dumps(dict(engine_args))
    except (TypeError, ValueError):
        problems.append(f"engine_args must be what JSON can hold; got {engine_args!r}")
    return problems


def engine_text(engine_args: Mapping[str, Any]) -> str:
    """The arguments as a fingerprint has them."""
    return json.dumps(dict(engine_args), sort_keys=True)


def open_engine(
    folder: Path,
    runner: Literal["generate", "pooling"],
    *,
    dtype: str,
    trust_remote_code: bool,
    engine_args: Mapping[str, Any],
    where: str,
) -> Any:
    """A `vllm.LLM` of the model in `folder`.

    Raises `MissingPackage`, and with vLLM's words `BadArgument` or `BadInput`.
    """
    try:
        from vllm import LLM
    except ImportError as error:
        raise MissingPackage.for_extra(where, error.name or "vllm", "vllm") from None
    refuse_pickled(folder, where)  # vLLM takes pickles where it finds nothing else
    own: dict[str, Any] = {"dtype": dtype, "trust_remote_code": trust_remote_code}
    if runner == "generate":
        # Log-probabilities at temperature 1, whatever an answer was drawn at.
        own["logprobs_mode"] = "raw_logprobs"
    try:
        return LLM(model=str(folder), runner=runner, **own, **engine_args)
    except TypeError as error:
        raise BadArgument(f"{where}: vLLM does not take these arguments; {error}.") from error
    except (ValueError, RuntimeError, NotImplementedError) as error:
        raise BadInput(
            f"{where}: vLLM cannot load {str(folder)!r}; {described(error)}.",
            hint="--engine-args '{\"max_model_len\": 8192}' and the like go to the engine;"
            " without --backend vllm Transformers loads it.",
        ) from error


def longest_of(engine: Any) -> int | None:
    """Tokens of prompt and answer that the engine takes; None: it does not tell."""
    for place in (engine, getattr(engine, "llm_engine", None)):
        length = getattr(getattr(place, "model_config", None), "max_model_len", None)
        if type(length) is int:
            return length
    return None


def tokens_prompts(rows: Sequence[Sequence[int]]) -> list[dict[str, list[int]]]:
    """Rows of ids as vLLM's prompts."""
    return [{"prompt_token_ids": [int(token) for token in row]} for row in rows]


def refuse_longer(rows: Sequence[Sequence[int]], limit: int | None, where: str) -> None:
    """Raise `BadRow` for rows that the engine would end the whole call for."""
    if limit is None:
        return
    hint = f"--engine-args '{{\"max_model_len\": N}}'; it is {limit:,} now."
    refuse(
        [
            BadRow(
                where,
                f"is too long; got {len(row):,} tokens, expected at most {limit:,}.",
                row=place,
                reason="too_long",
                hint=hint,
            )
            for place, row in enumerate(rows)
            if len(row) > limit
        ]
    )
