"""What a server of scores is asked: the requests of every kind of server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prefmill.errors import BadArgument, BadRow, refuse
from prefmill.models.encoder import Encoder
from prefmill.models.tokens import TokenRows
from prefmill.table.conversations import conversations, for_server, row_texts

Kind = Literal[
    "vllm-classify", "vllm-pooling", "vllm-score", "sglang-classify", "tei-predict", "tei-rerank"
]
PATHS: Mapping[str, str] = {
    "vllm-classify": "classify",
    "vllm-pooling": "pooling",
    "vllm-score": "score",
    "sglang-classify": "classify",
    "tei-predict": "predict",
    "tei-rerank": "rerank",
}
#: kinds whose server puts prompt and completion together
OF_PAIRS = ("vllm-score", "tei-rerank")


@dataclass(frozen=True)
class Bodies:
    """What is sent for a batch: for each request a body, and the rows that it asks about."""

    batch: pa.RecordBatch
    rows: list[npt.NDArray[np.int64]]
    bodies: list[dict[str, Any]]


@dataclass(frozen=True)
class Form:
    """How a server is asked about rows.

    kind     of the server
    model    its name there; empty: it has none
    encoder  makes the texts or ids that are sent; None: the server puts them together
    """

    kind: Kind
    model: str
    encoder: Encoder | None

    def bodies(self, batch: pa.RecordBatch, size: int) -> Bodies:
        """What is sent for a batch, at most `size` rows in a request.

        Raises `BadRow` for rows that the server would read as other tokens than are meant.
        """
        asked = Bodies(batch, [], [])
        prompts, completions = batch["prompt"].to_pylist(), batch["completion"].to_pylist()
        if self.kind in OF_PAIRS:
            self._add_pairs(asked, size, *row_texts("endpoint", prompts, completions))
        elif self.kind.startswith("vllm") and self.encoder is None:
            for row, talk in enumerate(conversations("endpoint", prompts, completions)):
                body = {"messages": for_server(talk.messages), "add_generation_prompt": False}
                self._add(asked, [row], {**body, **self._raw})
        else:
            inputs = self._inputs(batch, prompts, completions)
            for first in range(0, len(inputs), size):
                some = inputs[first : first + size]
                self._add(asked, range(first, first + len(some)), self._body(some))
        return asked

    def _add(self, asked: Bodies, rows: Sequence[int], body: Mapping[str, Any]) -> None:
        its_model = {"model": self.model} if self.model else {}
        asked.rows.append(np.asarray(rows, np.int64))
        asked.bodies.append({**its_model, **body})

    def _add_pairs(
        self, asked: Bodies, size: int, prompts: list[str], completions: list[str]
    ) -> None:
        """Requests about rows that stand together and have one prompt, some rows at a time."""
        runs: list[list[int]] = []
        for row, prompt in enumerate(prompts):
            if runs and len(runs[-1]) < size and prompts[runs[-1][0]] == prompt:
                runs[-1].append(row)
            else:
                runs.append([row])
        for rows in runs:
            query, texts = prompts[rows[0]], [completions[row] for row in rows]
            body: dict[str, Any] = {"query": query, "texts": texts}
            if self.kind == "vllm-score":
                body = {"text_1": query, "text_2": texts, "use_activation": False}
            else:
                body |= {"raw_scores": True, "truncate": False}
            self._add(asked, rows, body)

    def _body(self, inputs: list[Any]) -> dict[str, Any]:
        """A request about rows that are ids or texts."""
        if self.kind.startswith("vllm"):
            return {"input": inputs, "add_special_tokens": False, **self._raw}
        if self.kind == "sglang-classify":
            return {"text": inputs}
        return {"inputs": inputs, "raw_scores": True, "truncate": False}

    @property
    def _raw(self) -> dict[str, Any]:
        """What vLLM is told so that it gives raw scores."""
        task = {"task": "classify"} if self.kind == "vllm-pooling" else {}
        return {"use_activation": False, **task}

    def _inputs(
        self, batch: pa.RecordBatch, prompts: list[Any], completions: list[Any]
    ) -> list[Any]:
        """Each row as its server takes it: ids, a text, or a pair of texts."""
        if self.encoder is None:
            pairs = zip(*row_texts("endpoint", prompts, completions), strict=True)
            return [list(pair) for pair in pairs]
        if self.kind.startswith("vllm"):
            rows = _rows(self.encoder, batch)
            if rows.types is not None and rows.types.any():
                raise BadArgument(
                    "endpoint: token ids do not say which of the two texts a token is of;"
                    f" got template 'pair' and kind {self.kind!r}.",
                    hint="--kind vllm-score without --tokenizer sends pairs of texts.",
                )
            return [rows.row(i).tolist() for i in range(len(rows))]
        texts = self._texts(self.encoder, prompts, completions)
        _refuse_read_otherwise(texts, self.encoder, batch, self.kind)
        if self.kind == "tei-predict":
            return [[text] for text in texts]
        return texts

    def _texts(self, encoder: Encoder, prompts: list[Any], completions: list[Any]) -> list[str]:
        """Rows as one text each, without the special tokens that the server's tokenizer adds."""
        if encoder.template == "chat":  # has its special tokens in the text
            talks = conversations("endpoint", prompts, completions)
            head, tail = _put_around(encoder.tokenizer)
            texts = encoder.rendered([talk.messages for talk in talks])
            return [text.removeprefix(head).removesuffix(tail) for text in texts]
        if encoder.template == "concat":
            end = encoder.tokenizer.eos_token or ""
            pairs = zip(*row_texts("endpoint", prompts, completions), strict=True)
            texts = [prompt + completion for prompt, completion in pairs]
            return [text if text.endswith(end) else text + end for text in texts]
        raise BadArgument(
            f"endpoint: template 'pair' makes no one text; got kind {self.kind!r}.",
            hint="leave the tokenizer out.",
        )


def _rows(encoder: Encoder, batch: pa.RecordBatch) -> TokenRows:
    groups = np.arange(batch.num_rows)
    return encoder.encode(batch["prompt"], batch["completion"], groups).rows


def _refuse_read_otherwise(
    texts: list[str], encoder: Encoder, batch: pa.RecordBatch, kind: str
) -> None:
    """Refuse texts of which the server's tokenizer would make other ids than our encoder does."""
    wanted = _rows(encoder, batch)
    hint = (
        f"{kind} takes texts only: leave --tokenizer out, or serve the model where ids can"
        " be sent (--kind vllm-classify)."
    )
    bad = []
    for row, ids in enumerate(encoder.tokenizer(texts, verbose=False)["input_ids"]):
        if ids == wanted.row(row).tolist():
            continue
        what = (
            f"would be read by the server as {len(ids)} tokens, other than the"
            f" {len(wanted.row(row))} of template {encoder.template!r}."
        )
        bad.append(BadRow("endpoint", what, row=row, reason="template_failed", hint=hint))
    refuse(bad)


def _put_around(tokenizer: Any) -> tuple[str, str]:
    """The special tokens that `tokenizer` puts before and after a text."""
    inner = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a", add_special_tokens=True)["input_ids"]
    places = range(len(whole) - len(inner) + 1)
    at = next((i for i in places if whole[i : i + len(inner)] == inner), 0)
    head, tail = whole[:at], whole[at + len(inner) :]
    to_tokens = tokenizer.convert_ids_to_tokens
    return "".join(to_tokens(head)), "".join(to_tokens(tail))
