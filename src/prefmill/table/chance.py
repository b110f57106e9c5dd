"""The hash of a prompt that every draw starts from, and splits (`docs/semantics.md`, Chance)."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import polars as pl

from prefmill.errors import BadArgument
from prefmill.table.conversations import MESSAGE_KEYS

#: The rounds of the 32-bit mix: how far a word is shifted, and what it is multiplied with.
_ROUNDS = ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1))


def message_keys(dtype: pl.DataType, where: str) -> tuple[str, str]:
    """The names of role and content in a message list's type.

    Raises `BadArgument` (beginning with `where`) for any type but a list of structs with `role`,
    `content` or `from`, `value`.

    >>> message_keys(pl.List(pl.Struct({"from": pl.String, "value": pl.String})), "prompt")
    ('from', 'value')
    """
    if isinstance(dtype, pl.List) and isinstance(dtype.inner, pl.Struct):
        names = {field.name for field in dtype.inner.fields}
        for keys in MESSAGE_KEYS:
            if names.issuperset(keys):
                return keys
    raise BadArgument(
        f"{where}: neither text nor a message list; got {dtype}, expected String or a list of"
        " structs with role and content.",
        hint="cast it to text, or rename the fields of its messages to role and content.",
    )


def prompt_hash(prompts: pl.Series, prefix: bytes) -> pl.Series:
    """The first 8 bytes of the MD5 of `prefix` + prompt as UInt64, in the order of `prompts`.

    `prompts` is text, or message lists, which are spelled as `docs/semantics.md` says (roles as
    they are in the data). A null has the hash null. `prefix` is `b"SEED:"`, or `b"split:SEED:"` for
    splits.
    Cost: about 1.5 s for a million short prompts; equal ones are hashed once. Raises `BadArgument`
    for any other type.

    >>> prompt_hash(pl.Series(["a", "b", "a", None]), b"0:").to_list()
    [7800741267992507906, 6160962177582260606, 7800741267992507906, None]
    """
    texts = spelled(prompts).alias("text")
    distinct = texts.drop_nulls().unique(maintain_order=True)
    digests = b"".join(
        hashlib.md5(prefix + text.encode(), usedforsecurity=False).digest()[:8] for text in distinct
    )
    hashed = pl.Series(
        "hash", np.frombuffer(digests, dtype="<u8").astype(np.uint64), dtype=pl.UInt64
    )
    # A join costs more than it saves where all prompts differ.
    if len(distinct) != len(texts):
        known = pl.DataFrame([distinct, hashed])
        hashed = texts.to_frame().join(known, on="text", how="left", maintain_order="left")["hash"]
    return hashed.alias(prompts.name)


def mix32(x: pl.Expr) -> pl.Expr:
    """The 32-bit integer hash of `docs/semantics.md` over UInt64 values below 2**32."""
    for shift, factor in _ROUNDS:
        x = ((x ^ (x // 2**shift)) * factor) % 2**32
    return x


def mix32_array(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """`mix32` over an array: the same numbers.

    >>> words = np.arange(3, dtype=np.uint64)
    >>> same = pl.DataFrame({"x": words}).select(mix32(pl.col("x")))["x"]
    >>> mix32_array(words).tolist() == same.to_list()
    True
    """
    for shift, factor in _ROUNDS:
        x = ((x ^ (x >> np.uint64(shift))) * np.uint64(factor)) & np.uint64(0xFFFFFFFF)
    return x


def unmixed32_array(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The numbers that `mix32_array` makes `x` of: it makes each number of one.

    >>> words = np.array([0, 1, 7, 2**32 - 1], dtype=np.uint64)
    >>> unmixed32_array(mix32_array(words)).tolist() == words.tolist()
    True
    """
    for shift, factor in reversed(_ROUNDS):
        x = (x * np.uint64(pow(factor, -1, 2**32))) & np.uint64(0xFFFFFFFF)
        # Shifts are 15 at least: a third time nothing is left.
        x = x ^ (x >> np.uint64(shift)) ^ (x >> np.uint64(2 * shift))
    return x


def check_shares(split: Mapping[str, float]) -> dict[str, float]:
    """The shares of `split` as floats, in their order.

    Raises `BadArgument` unless the names can be parts of file names and the shares are positive and
    sum to 1.

    >>> check_shares({"train": 0.9, "test": 0.1})
    {'train': 0.9, 'test': 0.1}
    """
    for name, share in split.items():
        if not re.fullmatch(r"[A-Za-z0-9_]+", name):
            raise BadArgument(
                f"split: a name is part of a file name; got {name!r}, expected letters, digits and"
                " underscores."
            )
        if isinstance(share, bool) or not (isinstance(share, int | float) and share > 0):
            raise BadArgument(f"split: the share of {name!r} must be above 0; got {share!r}.")
    total = math.fsum(split.values())
    if not abs(total - 1) <= 1e-9:
        raise BadArgument(
            f"split: the shares must sum to 1; got {total:g}.",
            hint="for example train=0.95,test=0.05",
        )
    return {name: float(share) for name, share in split.items()}


def split_frame(
    frame: pl.DataFrame, shares: Mapping[str, float], seed: int, *, prompt: str = "prompt"
) -> Iterator[tuple[str, pl.DataFrame]]:
    """The rows of `frame` by split, in their order: the name of each share, and its rows.

    `shares` must have passed `check_shares`. Which split a row is in depends on its prompt (the
    column `prompt`), `shares` and `seed` alone. Cost: that of `prompt_hash`. Raises what it raises,
    and `BadArgument` for a null prompt.

    >>> frame = pl.DataFrame({"prompt": ["a", "b", "c", "a"]})
    >>> parts = split_frame(frame, {"train": 0.5, "test": 0.5}, 0)
    >>> {name: rows["prompt"].to_list() for name, rows in parts}
    {'train': ['a', 'c', 'a'], 'test': ['b']}
    """
    hashed = prompt_hash(frame[prompt], f"split:{seed}:".encode())
    # A row without a prompt would be in no split.
    if hashed.null_count():
        raise BadArgument(
            f"split: a prompt is null; got {hashed.null_count()} such rows, expected none."
        )
    u = hashed.cast(pl.Float64) / 2.0**64
    # The last split takes what rounding leaves of the sum.
    *bounds, _ = itertools.accumulate(shares.values())
    index = pl.Series([0], dtype=pl.Int32).new_from_index(0, len(u))
    for bound in bounds:
        index += (u >= bound).cast(pl.Int32)
    for number, name in enumerate(shares):
        yield name, frame.filter(index == number)


def spelled(prompts: pl.Series) -> pl.Series:
    """`prompts` as text: itself, or `<bytes>:<role><bytes>:<content>` of every message, joined.

    Two different lists never spell the same. Raises `BadArgument` for any other type.

    >>> spelled(pl.Series("p", [[{"role": "user", "content": "hi"}]])).to_list()
    ['4:user2:hi']
    """
    if prompts.dtype == pl.String:
        return prompts
    message_keys(prompts.dtype, "prompt")
    assert isinstance(prompts.dtype, pl.List)
    assert isinstance(prompts.dtype.inner, pl.Struct)
    there = {field.name for field in prompts.dtype.inner.fields}
    parts: list[pl.Expr] = []
    # Rows of both kinds may stand in one file.
    for names in zip(*MESSAGE_KEYS, strict=True):
        fields = [
            pl.element().struct.field(name).cast(pl.String) for name in names if name in there
        ]
        text = pl.coalesce(fields).fill_null("")
        parts += [text.str.len_bytes().cast(pl.String), pl.lit(":"), text]
    nested = [
        f
        for f in prompts.dtype.inner.fields
        if f.name in {"content", "value"} and f.dtype.is_nested()
    ]
    if nested:
        raise BadArgument(
            f"prompt: message contents that are no text cannot be hashed; got {nested[0].dtype},"
            " expected String."
        )
    return prompts.to_frame("p").select(
        pl.col("p").list.eval(pl.concat_str(parts)).list.join("", ignore_nulls=False)
    )["p"]
