"""The record of a command from inputs to files: what its key is, and which targets it may have.

A command that writes through `writers` takes `recorded`; one that makes its files itself takes
`recorded_files`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from prefmill.disk.hidden import MARK, sweep
from prefmill.disk.targets import check_free, is_object, target_of
from prefmill.plans.feedback import FeedbackPlan
from prefmill.runs.account.expecting import in_key
from prefmill.runs.job.opening import Reading
from prefmill.runs.records.inputs import is_stdin, joined, known_of, read_by
from prefmill.runs.records.recorded import key_of
from prefmill.runs.records.recording import Recording, recording
from prefmill.shapes.source import words_in
from prefmill.table.roles import Inputs, RoleNames
from prefmill.writers.write import check_target, outputs_of


def recorded(
    command: str,
    inputs: Inputs,
    output: str | Path | None,
    reading: Reading,
    *,
    overwrite: bool,
    split: Mapping[str, float] | None = None,
    in_place: bool = False,
    words: Mapping[str, Any] | None = None,
    spreadsheet_safe: bool = False,
    partition_by: Sequence[str] = (),
    **parts: Any,
) -> AbstractContextManager[Recording]:
    """`recording` of a command whose output `writers` write.

    Args:
        reading: how inputs are read; the outputs are added to what is no input.
        in_place: a single input may be what is written.
        words: how records become rows, as they were given.
        spreadsheet_safe: as `writers.write` takes it; CSV alone has it.
        partition_by: columns by which the output is a folder of partitions.
        parts: what else decides the output, by name.

    Where nothing was done before, the target is checked: raises what `write.check_target` raises.
    """
    if output is None:
        return recording(command, [], {}, overwrite=overwrite)
    sweep_for(output, reading)  # also where the target is refused
    check = partial(check_target, output, split=split, partition_by=partition_by)
    check(overwrite=True, spreadsheet_safe=spreadsheet_safe)
    outputs = [Path(path) for path in outputs_of(output, split, partition_by)]
    return _recorded(
        command,
        inputs,
        outputs,
        reading,
        check,
        overwrite=overwrite,
        in_place=in_place,
        words=words,
        split=split,
        spreadsheet_safe=spreadsheet_safe,
        partition_by=partition_by,
        **parts,
    )


def recorded_files(
    command: str,
    inputs: Inputs,
    outputs: Sequence[str | Path],
    reading: Reading,
    *,
    overwrite: bool,
    words: Mapping[str, Any] | None = None,
    **parts: Any,
) -> AbstractContextManager[Recording]:
    """`recording` of a command that makes its files itself, all of them in one folder.

    Arguments as in `recorded`. Where nothing was done before, raises what `check_free` raises.
    """
    targets = [target_of(path, command) for path in outputs]
    if not targets:
        return recording(command, [], {}, overwrite=overwrite)
    sweep_for(targets[0], reading)
    check = partial(check_free, *targets, where=command)
    return _recorded(
        command, inputs, targets, reading, check, overwrite=overwrite, words=words, **parts
    )


def key_of_plan(
    plan: FeedbackPlan,
    inputs: Inputs,
    roles: RoleNames | None,
    reading: Reading,
    **parts: Any,
) -> dict[str, Any]:
    """The key of a run of `plan`; `parts` are the options that change what is written."""
    words = words_in(plan.rows, roles or {}).named()
    return key_of(
        inputs=known_of(inputs, without=reading["without"]),
        joined=joined(words, plan.command),
        command=plan.command,
        rows=words,
        plan=plan.content(),
        carried=in_key(plan.expect),
        **parts,
        **read_by(reading),
    )


@contextmanager
def _recorded(
    command: str,
    inputs: Inputs,
    outputs: Sequence[Path],
    reading: Reading,
    check: Callable[..., None],
    *,
    overwrite: bool,
    in_place: bool = False,
    words: Mapping[str, Any] | None = None,
    **parts: Any,
) -> Iterator[Recording]:
    reading["without"] = [*reading.get("without", ()), *map(str, outputs)]
    key: dict[str, Any] = {}
    if known := not any(map(is_temporary, outputs)) and not is_stdin(inputs):
        key = key_of(
            inputs=known_of(inputs, without=reading["without"], in_place=in_place),
            joined=joined(words or {}, command),
            command=command,
            rows=words,
            **parts,
            **read_by(reading),
        )
    with recording(command, outputs if known else [], key, overwrite=overwrite) as record:
        if not record.done:
            check(overwrite=record.overwrites)
        yield record


def is_temporary(output: Path) -> bool:
    """Whether an output lies in a temporary folder of ours: then it is nobody's to keep."""
    return any(MARK.fullmatch(part) for part in output.absolute().parts[:-1])


def sweep_for(output: str | Path, reading: Mapping[str, Any]) -> None:
    """Remove what dead runs left in temporary folders. Objects are made in the system's."""
    sweep(reading.get("temp_dir"))
    if reading.get("temp_dir") is not None and is_object(output):
        sweep()
