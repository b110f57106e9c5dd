"""The kinds of training, each a thin layer over a trainer of TRL.

rows ──Encoder, the one of scoring──▶ token ids ──RewardTrainer, SFTTrainer, DPOTrainer──▶
hidden folder ──renamed──▶ output
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from prefmill.disk.folders import check_folder, whole_folder
from prefmill.errors import BadArgument, BadInput, BadRow
from prefmill.forks import refuse_fork
from prefmill.models.contract import OnBadRow, check_on_bad_row
from prefmill.models.limits import longest
from prefmill.progress import Progress, peak_rss_mb
from prefmill.readers.find import check_apart
from prefmill.scoring.bad_rows import RowGuard
from prefmill.table.conversations import Conversation, conversation
from prefmill.table.roles import RoleNames
from prefmill.training.measure import measured, read_tests
from prefmill.training.report import HeldOut, TrainReport, write_report
from prefmill.training.rows import (
    PairRows,
    Winners,
    added,
    hold_out,
    pair_ids,
    read_pairs,
    read_winners,
    winner_ids,
)
from prefmill.training.settings import TrainSettings
from prefmill.training.trl import (
    ENCODER_TEMPLATE,
    Trained,
    Trainee,
    configuration,
    fit,
    load,
    lora_of,
    refuse_rows,
    save,
    stop_ids,
    training,
    trl,
)

#: Tokens of a row, where neither the model nor the caller sets a smaller limit: TRL's own default.
MAX_LENGTH = 1024
#: Of prompts, for measuring, where no other pairs are given.
_HOLDOUT = 0.1

Columns = dict[str, list[Any]]


@dataclass(kw_only=True)
class Training(ABC):
    """One training; a subclass says what its rows are, and which of TRL's trainers learns them."""

    kind: ClassVar[Literal["reward", "causal"]]
    method: ClassVar[str]

    where: str
    data: Any
    output: str | Path
    model: str | Path
    settings: Any
    revision: str | None
    trust_remote_code: bool
    on_bad_row: OnBadRow
    overwrite: bool
    tell: Progress
    rows_in: int = field(init=False)
    dropped: Mapping[str, int] = field(init=False)
    encoder: Any = field(init=False)

    @abstractmethod
    def read(self) -> None:
        """The rows, `rows_in`, and what was `dropped` on the way."""

    @abstractmethod
    def columns(self) -> tuple[Columns, Mapping[str, int]]:
        """What the trainer reads, `length` among it, and rows left out, by reason."""

    @abstractmethod
    def trainer(self, trainee: Trainee, columns: Columns, folder: Path) -> Any:
        """TRL's trainer."""

    def inputs(self) -> list[Any]:
        """What is read: none of it may lie where the output goes."""
        return [self.data, self.model]

    def more(self, folder: Path) -> dict[str, Any]:
        """Further fields of the report."""
        return {}

    @abstractmethod
    def more_settings(self) -> dict[str, Any]:
        """Settings that only this training has."""

    def run(self) -> TrainReport:
        """Check, read, train, measure, write."""
        refuse_fork(self.where)
        started = time.perf_counter()
        self.settings.check(self.where)
        check_folder(self.output, overwrite=self.overwrite, where=self.where)
        check_apart(_paths(*self.inputs()), self.output, where=self.where)
        check_on_bad_row(self.where, self.on_bad_row)
        self.tell("reading", None)
        self.read()
        with training(self.settings.seed, lora=self.settings.lora):
            trainee = self._loaded()
            columns, lost = self.columns()
            self.dropped = added(self.dropped, lost)
            rows = len(columns["length"])
            refuse_rows(rows, self.where, self.dropped)
            with whole_folder(self.output, overwrite=self.overwrite, where=self.where) as folder:
                done = self._fit(trainee, columns, folder)
                trainee.model = None  # measuring loads what was written
                report = TrainReport(
                    method=self.method,
                    model=str(self.model),
                    output=str(self.output),
                    rows_in=self.rows_in,
                    rows_used=rows,
                    dropped=dict(self.dropped),
                    steps=done.steps,
                    epochs=done.epochs,
                    tokens=done.tokens,
                    loss=done.loss,
                    losses=done.losses,
                    settings=self._told(),
                    seconds_training=done.seconds,
                    **self.more(folder),
                    seconds=round(time.perf_counter() - started, 3),
                    peak_rss_mb=peak_rss_mb(),
                )
                write_report(folder, report)
        return report

    def _loaded(self) -> Trainee:
        """The model; and the encoder and settings that suit it."""
        settings = self.settings
        trainee = load(
            self.kind,
            str(self.model),
            self.revision,
            device=settings.device,
            lora=settings.lora,
            trust_remote_code=self.trust_remote_code,
        )
        limit = _limit(trainee, settings.max_length, self.where)
        rate = settings.rate(self.method)
        self.settings = replace(settings, max_length=limit, learning_rate=rate)
        self.encoder = _encoder(trainee, limit, self.where, starts=self.kind == "causal")
        return trainee

    def _fit(self, trainee: Trainee, columns: Columns, folder: Path) -> Trained:
        trainer = self.trainer(trainee, columns, folder)
        done = fit(trainer, len(columns["length"]), self.tell)
        if self.kind == "causal":  # an answer stops where the template ends it
            generation = trainee.model.generation_config
            generation.eos_token_id = stop_ids(trainee.tokenizer, generation.eos_token_id)
        save(trainer, trainee.tokenizer, folder)
        return done

    def made(self, name: str, trainee: Trainee, columns: Columns, folder: Path, **more: Any) -> Any:
        """TRL's trainer of this name: `NAMETrainer` over `NAMEConfig`."""
        rows, config = len(columns["length"]), getattr(trl(), f"{name}Config")
        return getattr(trl(), f"{name}Trainer")(
            model=trainee.model,
            args=configuration(config, self.settings, folder, rows, trainee.model, **more),
            train_dataset=by_length(columns),
            processing_class=trainee.tokenizer,
            peft_config=lora_of(self.settings, self.kind),
        )

    def _told(self) -> dict[str, Any]:
        """The settings that a report tells; steps and epochs are figures of their own."""
        names = [field.name for field in fields(TrainSettings)]
        shared = [name for name in names if name not in ("steps", "epochs")]
        settings = {name: getattr(self.settings, name) for name in shared}
        settings |= self.more_settings()
        if self.encoder.template_date is not None:
            settings["template_date"] = self.encoder.template_date
        return settings


@dataclass(kw_only=True)
class RewardTraining(Training):
    """A reward model of pairs, measured on pairs that it has not seen."""

    kind: ClassVar[Literal["reward"]] = "reward"
    method: ClassVar[str] = "reward"

    test: Any
    tests: dict[str, PairRows] = field(init=False)
    share: float = field(init=False)
    rows: PairRows = field(init=False)
    kept: Any = field(init=False)

    def inputs(self) -> list[Any]:
        """The tests too."""
        return [self.data, self.test, self.model]

    def read(self) -> None:
        """The pairs; without tests of its own, a share of the prompts is held out."""
        self.tests = read_tests(self.test, self.where)
        pairs = read_pairs(self.data, where=self.where)
        self.rows_in, self.dropped = pairs.rows_in, dict(pairs.dropped)
        self.share = self.settings.holdout
        if self.share is None:
            self.share = 0.0 if self.tests else _HOLDOUT
        self.rows = pairs
        if self.share and pairs.frame.height:
            held = hold_out(pairs, self.share, self.settings.seed, where=self.where)
            self.rows, self.tests["held-out"] = held
            if not self.rows.frame.height:
                raise BadInput(
                    f"{self.where}: all {pairs.frame.height:,} pairs are held out, for they have"
                    f" {len(set(pairs.prompts)):,} prompts in all;"
                    f" got holdout {self.share:g}, expected some to train on.",
                    hint="--holdout 0, and --test FILE with other pairs to measure on.",
                )

    def columns(self) -> tuple[Columns, Mapping[str, int]]:
        """Token ids of both sides, and the margin."""
        ids, self.kept, lost = pair_ids(
            self.encoder, self.rows, where=self.where, on_bad_row=self.on_bad_row
        )
        columns: Columns = {f"{side}_ids": ids[side] for side in ids}
        columns["length"] = _longer(ids)
        if "margin" in self.rows.frame.columns:
            columns["margin"] = self.rows.frame["margin"].gather(self.kept).to_list()
        return columns, lost

    def trainer(self, trainee: Trainee, columns: Columns, folder: Path) -> Any:
        """The loss has a term that keeps rewards around 0."""
        center = self.settings.center or None
        return self.made("Reward", trainee, columns, folder, center_rewards_coefficient=center)

    def more_settings(self) -> dict[str, Any]:
        """The weight of that term, and what was held out."""
        return {"center": self.settings.center, "holdout": self.share}

    def more(self, folder: Path) -> dict[str, Any]:
        """How the written model does on each test."""
        self.tell("measuring", None)
        held = self.tests["held-out"].frame.height if self.share and "held-out" in self.tests else 0
        return {"rows_held_out": held, "held_out": self._held_out(folder)}

    def _held_out(self, folder: Path) -> tuple[HeldOut, ...]:
        from prefmill.scoring import RewardModel

        trained = set(self.rows.take(self.rows.frame[self.kept]).prompts)
        answers = []
        for name, pairs in self.tests.items():
            scorer = RewardModel(
                model=folder,
                device=self.settings.device,
                on_too_long="null",
                trust_remote_code=self.trust_remote_code,
                template_date=self.encoder.template_date,
            )
            guard = RowGuard(scorer, self.on_bad_row)
            answers.append(measured(guard, name, pairs, trained, self.where))
        return tuple(answer for answer in answers if answer is not None)


@dataclass(kw_only=True)
class PolicyTraining(Training):
    """A policy, which can be sampled from."""

    kind: ClassVar[Literal["causal"]] = "causal"

    roles: RoleNames

    def more(self, folder: Path) -> dict[str, Any]:
        """Nothing is held out."""
        return {"rows_held_out": 0, "held_out": ()}


@dataclass(kw_only=True)
class SFTTraining(PolicyTraining):
    """A policy of winners."""

    method: ClassVar[str] = "sft"

    winners: Winners = field(init=False)

    def read(self) -> None:
        """Prompts and completions."""
        self.winners = read_winners(self.data, self.roles, where=self.where)
        self.rows_in, self.dropped = self.winners.rows_in, dict(self.winners.dropped)

    def columns(self) -> tuple[Columns, Mapping[str, int]]:
        """Token ids and labels (-100: no loss); a row without a token to learn is left out."""
        ids, starts, lost = winner_ids(
            self.encoder, self.winners, where=self.where, on_bad_row=self.on_bad_row
        )
        rows = [(row, start) for row, start in zip(ids, starts, strict=True) if start < len(row)]
        columns: dict[str, list[Any]] = {
            "input_ids": [row for row, _ in rows],
            "labels": [[-100] * start + row[start:] for row, start in rows],
            "length": [len(row) for row, _ in rows],
        }
        empty = len(ids) - len(rows)
        return columns, added(lost, {"no_tokens": empty} if empty else {})

    def trainer(self, trainee: Trainee, columns: Columns, folder: Path) -> Any:
        """The rows are token ids already."""
        ready = {"skip_prepare_dataset": True}
        return self.made("SFT", trainee, columns, folder, dataset_kwargs=ready)

    def more_settings(self) -> dict[str, Any]:
        """There is no reference to diverge from."""
        return {"beta": None}


@dataclass(kw_only=True)
class DPOTraining(PolicyTraining):
    """A policy of pairs."""

    method: ClassVar[str] = "dpo"

    pairs: PairRows = field(init=False)

    def read(self) -> None:
        """The pairs."""
        self.pairs = read_pairs(self.data, where=self.where)
        self.rows_in, self.dropped = self.pairs.rows_in, dict(self.pairs.dropped)

    def columns(self) -> tuple[Columns, Mapping[str, int]]:
        """Conversations (or texts, where there is no template) for TRL to tokenise.

        It does so as the encoder would.
        """
        pairs = self.pairs
        if pairs.implicit:
            raise BadInput(
                f"{self.where}: DPO needs to know where the prompt ends;"
                " got pairs of plain texts without a prompt column.",
                hint="prefmill pairs with --format trl, or with --chat.",
            )
        ids, kept, lost = pair_ids(
            self.encoder, pairs, where=self.where, on_bad_row=self.on_bad_row
        )
        frame, lengths = pairs.frame[kept], _longer(ids)
        names = ("prompt", "chosen", "rejected")
        if self.encoder.template == "concat":
            return {"length": lengths, **{name: frame[name].to_list() for name in names}}, lost
        columns: Columns = {"length": [], **{name: [] for name in names}}
        for place, (prompt, chosen, rejected) in enumerate(frame.select(names).iter_rows()):
            one, two = conversation(prompt, chosen), conversation(prompt, rejected)
            problem = _no_dpo(one, two)
            if problem is None:
                row = (lengths[place], one.prompt, one.completion, two.completion)
                for column, value in zip(columns.values(), row, strict=True):
                    column.append(value)
            elif self.on_bad_row == "error":
                error = BadRow(self.where, problem, row=0, reason="bad_message")
                raise pairs.bad(error, int(kept[place]), self.where)
            else:
                lost = added(lost, {"bad_message": 1})
        return columns, lost

    def trainer(self, trainee: Trainee, columns: Columns, folder: Path) -> Any:
        """The model that DPO starts from is its reference.

        Its log-probabilities are computed once, before the first step.
        """
        more = {"beta": self.settings.beta, "precompute_ref_log_probs": True}
        return self.made("DPO", trainee, columns, folder, **more)

    def more_settings(self) -> dict[str, Any]:
        """What a divergence from the reference costs."""
        return {"beta": self.settings.beta}


def _paths(*inputs: Any) -> list[str | Path]:
    """What of these names a file."""
    flat: list[Any] = []
    for each in inputs:
        if isinstance(each, Mapping):
            flat += each.values()
        elif isinstance(each, list | tuple):
            flat += each
        else:
            flat.append(each)
    return [each for each in flat if isinstance(each, str | Path)]


def _limit(trainee: Trainee, asked: int | None, where: str) -> int:
    """Tokens of a row: what was asked, and the model allows."""
    own = longest(trainee.model.config, trainee.tokenizer)
    if asked is not None and own is not None and asked > own:
        raise BadArgument(
            f"{where}: max_length {asked} is more than the model takes; got a limit of {own}."
        )
    return asked or min(own or MAX_LENGTH, MAX_LENGTH)


def _encoder(trainee: Trainee, limit: int, where: str, *, starts: bool) -> Any:
    from prefmill.models.encoder import Encoder

    options: dict[str, Any] = {"limit": limit, "on_too_long": "null", "where": where}
    options |= {"starts": starts, "needs_completion": starts}
    encoder = Encoder(trainee.tokenizer, **options)
    if encoder.template == "pair":
        # Two texts with separators, which TRL's collator has no token types for: the same as one
        # template.
        trainee.tokenizer.chat_template = ENCODER_TEMPLATE
        encoder = Encoder(trainee.tokenizer, **options)
    return encoder


def _longer(ids: Mapping[str, Sequence[Sequence[int]]]) -> list[int]:
    """Tokens of the longer side of every pair."""
    return [max(map(len, sides)) for sides in zip(ids["chosen"], ids["rejected"], strict=True)]


def by_length(columns: Columns) -> Any:
    """Rows sorted by length: what runs over them in order (DPO's reference) pads little.

    The sampler shuffles them anyway.
    """
    from datasets import Dataset

    order = np.argsort(columns["length"], kind="stable")
    return Dataset.from_dict({name: [values[i] for i in order] for name, values in columns.items()})


def _no_dpo(chosen: Conversation, rejected: Conversation) -> str | None:
    """Why TRL's DPO would train on something else than the two conversations, if it would."""
    if chosen.prompt != rejected.prompt:
        return (
            "has sides that are whole conversations with different prompts;"
            " DPO needs one prompt for both."
        )
    if chosen.continues or rejected.continues:
        return (
            "has a prompt that ends in an assistant's message, which TRL's DPO would close;"
            " expected one that ends in a user's."
        )
    return None
