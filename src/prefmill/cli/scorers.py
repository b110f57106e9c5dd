"""What the options of `prefmill score` describe: the scorer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefmill.cli.options import json_in, number_in, was_given
from prefmill.errors import BadArgument

#: What every scorer over a model in this process takes.
_LOCAL = (
    "revision",
    "template",
    "template_date",
    "max_length",
    "on_too_long",
    "dtype",
    "batch_tokens",
    "share_prefix",
    "threads",
    "cache",
    "device",
    "trust_remote_code",
    "invariant",
    "compile",
)
_SERVER = ("url", "concurrency", "rate_limit", "retries", "timeout", "api_key_env")
#: The options that mean something for each scorer, beside --model and --combine.
TAKES: Mapping[str, tuple[str, ...]] = {
    "reward": (*_LOCAL, "label", "pooling"),
    "logprob": _LOCAL,
    "implicit": (*_LOCAL, "reference", "beta"),
    "judge": (
        *_SERVER,
        "rubric",
        "scale",
        "mode",
        "schedule",
        "max_pairs",
        "max_new_tokens",
        "top_logprobs",
        "ten_is_one_token",
        "on_refused",
        "extra",
        "price_in",
        "price_out",
        "device",
        "dtype",
        "template_date",
    ),
    "endpoint": (
        *_SERVER,
        "kind",
        "tokenizer",
        "template",
        "template_date",
        "label",
        "parity",
        "tolerance",
        "on_refused",
        "batch_rows",
        "device",
        "dtype",
    ),
}
_ALL = sorted({name for names in TAKES.values() for name in names})


def scorer_of(options: Mapping[str, Any]) -> Any:
    """The scorer that the options describe; several --model are an ensemble."""
    kind = options["scorer"]
    if kind not in TAKES:
        raise BadArgument(f"--scorer: got {kind!r}, expected one of {list(TAKES)}.")
    for name in _ALL:
        if was_given(options[name]) and name not in TAKES[kind]:
            raise BadArgument(f"--{name.replace('_', '-')} has no meaning for --scorer {kind}.")
    models = options["model"] or ([""] if kind == "endpoint" else [])
    if not models:
        raise BadArgument(
            "score: no model named.",
            hint="--model DIR, a folder that save_pretrained wrote, or a hub id; with --url its name there.",
        )
    given = {name: options[name] for name in TAKES[kind] if was_given(options[name])}
    make = {"judge": _judge, "endpoint": _endpoint}.get(kind, _local)
    scorers = [make(options, model, given) for model in models]
    if len(scorers) == 1:
        return scorers[0]
    from prefmill.scoring import Ensemble

    names = [Path(name).name for name in models]
    names = names if len(set(names)) == len(names) else [f"model{i + 1}" for i in range(len(names))]
    return Ensemble(scorers=dict(zip(names, scorers, strict=True)), combine=options["combine"])


def _local(options: Mapping[str, Any], model: str, given: dict[str, Any]) -> Any:
    from prefmill.scoring import ImplicitReward, LogProb, RewardModel

    if options["scorer"] == "implicit" and options["reference"] is None:
        raise BadArgument("score: implicit needs a reference model.", hint="--reference DIR")
    kinds: dict[str, Any] = {"reward": RewardModel, "logprob": LogProb, "implicit": ImplicitReward}
    return kinds[options["scorer"]](
        model=model, **{**given, "device": (options["device"] or ["auto"])[0]}
    )


def _judge(options: Mapping[str, Any], model: str, given: dict[str, Any]) -> Any:
    from prefmill import sampling as samplers
    from prefmill.scoring import JudgeScorer

    own = {name: value for name, value in given.items() if name in JudgeScorer.__dataclass_fields__}
    if "scale" in own:
        low, _, high = str(own["scale"]).partition("-")
        own["scale"] = (number_in("scale", low), number_in("scale", high))
    sampling = {
        name: value
        for name, value in given.items()
        if name in (*_SERVER, "max_new_tokens", "extra")
    }
    if "extra" in sampling:
        sampling["extra"] = json_in("extra", sampling["extra"])
    if "url" not in given:
        needless = [name for name in sampling if name in (*_SERVER, "extra")]
        if needless:
            raise BadArgument(
                f"--{needless[0].replace('_', '-')} needs a server.",
                hint="--url http://HOST:PORT/v1",
            )
        local: dict[str, Any] = {
            name: given[name] for name in ("dtype", "template_date") if name in given
        }
        local["on_too_long"] = own.get("on_refused", "error")
        sampler = samplers.LocalSampler(
            model=model, device=(options["device"] or ["auto"])[0], **sampling, **local
        )
        return JudgeScorer(sampler=sampler, **own)
    for name in ("device", "dtype", "template_date"):
        if name in given:
            raise BadArgument(
                f"--{name.replace('_', '-')} has no meaning with --url: the server has its own."
            )
    return JudgeScorer(sampler=samplers.EndpointSampler(model=model, **sampling), **own)


def _endpoint(options: Mapping[str, Any], model: str, given: dict[str, Any]) -> Any:
    from prefmill.scoring import EndpointScorer, RewardModel

    if "url" not in given:
        raise BadArgument("score: no server named.", hint="--url http://HOST:PORT")
    for name in ("device", "dtype"):
        if name in given and "parity" not in given:
            raise BadArgument(
                f"--{name} is that of --parity: the server has its own.", hint="--parity DIR"
            )
    devices = given.pop("device", [])
    if len(devices) > 1:
        raise BadArgument(f"--device: got {devices}, expected one device for --parity.")
    if "parity" in given:
        same: dict[str, Any] = {
            name: given[name] for name in ("template", "label") if name in given
        }
        same |= {"device": devices[0]} if devices else {}
        same |= {"dtype": given.pop("dtype")} if "dtype" in given else {}
        given["parity"] = RewardModel(model=given["parity"], **same)
    return EndpointScorer(model=model, **given)
