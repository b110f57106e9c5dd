"""The folder of a loop on disk: which steps are done, so that a killed loop goes on.

    runs/NAME/
      state.json        what decides the recipe's results, and every step that is done with its key,
                        its figures and its seconds
      lock              held while a process works on the folder
      prompts/          train.parquet, heldout.parquet
      stage-0/          pool, scored, selected .parquet
        policy/         what this stage trained
        heldout/        answers of the policy that it began with
      stages.parquet, report.md, stages.png

A step writes its files whole or not at all. Then it is entered in `state.json`, which is replaced
whole: a kill between the two runs the step again, over the same names. A step's key is a hash of
everything that decides its result, also the keys of earlier steps.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefmill.disk import whole
from prefmill.disk.hidden import MARK
from prefmill.disk.locks import lock
from prefmill.disk.records import differences
from prefmill.disk.settling import clear
from prefmill.errors import BadInput, RunBusy, RunDiffers, TargetExists

VERSION = 1
Record = dict[str, Any]  #: of a step that is done: key, figures, seconds


class RunFolder:
    """The folder of one loop. Use it as a context: it holds a lock.

    decides  what the results depend on, nested; a folder of another recipe is refused, and what
             changed is named; more `stages` are fine
    reuse    folders of other loops: a step with the same key is taken from there instead of run
    """

    def __init__(
        self,
        folder: Path,
        decides: Mapping[str, Any],
        *,
        reuse: Sequence[str | Path] = (),
        overwrite: bool = False,
    ) -> None:
        self.folder = folder
        self.decides: dict[str, Any] = json.loads(json.dumps(decides))
        self.steps: dict[str, Record] = {}
        self.ran: list[str] = []  #: names of steps that this process ran
        self._others = [(Path(each), read_state(Path(each))) for each in reuse]
        _refuse_stranger(folder)
        folder.mkdir(parents=True, exist_ok=True)
        refusal = RunBusy(
            f"loop: another process works in {str(folder)!r}.",
            hint="wait for it, or name another folder.",
        )
        self._lock: Any = lock(folder / "lock", refusal)
        try:
            self._begin(overwrite)
        except BaseException:
            self.close()
            raise

    def _begin(self, overwrite: bool) -> None:
        state = self.folder / "state.json"
        if overwrite and state.exists():
            # The state goes last: without it the folder is not recognised as ours.
            for path in sorted(self.folder.iterdir(), key=lambda path: path == state):
                if path.name != "lock":
                    remove(path)
        clear(self.folder)
        for path in list(self.folder.rglob("*")):
            if path.is_dir():
                clear(path)
        before = read_state(self.folder)
        if before:
            refuse_other(self.folder, before["decides"], self.decides)
            self.steps = before["steps"]
        self.save()

    def step(
        self,
        name: str,
        key: Mapping[str, Any],
        outputs: Sequence[str],
        work: Callable[[], Mapping[str, Any]],
    ) -> dict[str, Any]:
        """The figures of a step: of its record if it is done, else those that `work` gives.

        `outputs` are the files or folders that it writes, relative to the run's folder.
        """
        digest = digest_of(key)
        done = self.steps.get(name)
        if done and all((self.folder / path).exists() for path in outputs):
            if done["key"] != digest:
                raise RunDiffers(
                    f"loop: step {name!r} in {str(self.folder)!r} was done from other inputs;"
                    f" got key {digest}, expected {done['key']}.",
                    hint="--overwrite begins anew, or name another folder.",
                )
            return dict(done["figures"])
        record = self._taken(digest, outputs)
        if record is None:
            record = self._run(digest, outputs, work)
            self.ran.append(name)
        self.steps[name] = record
        self.save()
        return dict(record["figures"])

    def _run(
        self, digest: str, outputs: Sequence[str], work: Callable[[], Mapping[str, Any]]
    ) -> Record:
        for path in outputs:
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        figures = json.loads(json.dumps(work()))
        seconds = round(time.perf_counter() - started, 3)
        return {"key": digest, "figures": figures, "seconds": seconds}

    def _taken(self, digest: str, outputs: Sequence[str]) -> Record | None:
        """The record of a step with this key in a folder of `reuse`; its files are copied here."""
        for folder, state in self._others:
            sources = [folder / path for path in outputs]
            records = (state or {}).get("steps", {}).values()
            record = next((each for each in records if each["key"] == digest), None)
            if record is None or not all(path.exists() for path in sources):
                continue
            for source, path in zip(sources, outputs, strict=True):
                _copy(source, self.folder / path)
            return {**record, "taken_from": str(folder)}
        return None

    def save(self) -> None:
        content = {"version": VERSION, "decides": self.decides, "steps": self.steps}
        text = json.dumps(content, indent=1, ensure_ascii=False)
        whole.put_text(self.folder / "state.json", text)

    def write(self, name: str, save: Callable[[Path], Any]) -> None:
        """A file of the folder, whole or not at all; `save` gets the path to write to."""
        whole.put(self.folder / name, save)

    def close(self) -> None:
        """Let others have the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def is_loop(folder: Path) -> bool:
    """Whether this is the folder of a loop; saved data sets have a `state.json` of their own."""
    try:
        state = json.loads((folder / "state.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(state, dict) and {"decides", "steps"} <= state.keys()


def begun_on(folder: Path) -> str | None:
    """The date that the templates of the loop in `folder` print.

    None where there is no loop, or its templates print none.
    """
    inputs = (read_state(folder) or {}).get("decides", {}).get("inputs", {})
    for part in inputs.values():
        if isinstance(part, dict):
            for name, value in part.items():
                if name.rpartition(".")[2] == "template_date":
                    return str(value)
    return None


def _refuse_stranger(folder: Path) -> None:
    """Raise `TargetExists` where `folder` holds something, but no loop."""
    if not folder.exists() or (folder / "state.json").exists():
        return
    # A loop that was killed as it wrote its first state left a hidden file, which `clear` removes.
    if any(path.name != "lock" and not MARK.fullmatch(path.name) for path in folder.iterdir()):
        raise TargetExists(
            f"loop: {str(folder)!r} is there and holds no loop.", hint="name another folder."
        )


def refuse_other(folder: Path, before: Mapping[str, Any], decides: Mapping[str, Any]) -> None:
    """Raise `RunDiffers` where `folder` is of another recipe; more stages are the same one."""
    now, old = dict(decides), dict(before)
    more = now.pop("stages", 0) >= old.pop("stages", 0)
    changes = list(differences(old, now))
    if not more:
        changes.insert(0, ("stages", before["stages"], f"{decides['stages']}, which is fewer"))
    if not changes:
        return
    (name, was, got), *more_changes = changes
    others = ", ".join(other for other, *_ in more_changes)
    also = f" (and other differences: {others})" if others else ""
    raise RunDiffers(
        f"loop: {str(folder)!r} belongs to another recipe:"
        f" {name} changed; got {got!r}, expected {was!r}{also}.",
        hint="name another folder (-o), or --overwrite begins anew; only more stages go on.",
    )


def digest_of(key: Mapping[str, Any]) -> str:
    """20 hexadecimal digits of a key's content.

    >>> digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1})
    True
    """
    text = json.dumps(key, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def done_in(folder: Path, decides: Mapping[str, Any]) -> dict[str, Record]:
    """The steps, by name, that a loop with `decides` would not do again in `folder`.

    Raises `RunDiffers` where the folder is of another recipe.
    """
    state = read_state(folder)
    if state is None:
        return {}
    refuse_other(folder, state["decides"], json.loads(json.dumps(decides)))
    return dict(state["steps"])


def read_state(folder: Path) -> dict[str, Any] | None:
    """What `state.json` holds; None where there is none."""
    path = folder / "state.json"
    anew = "--overwrite begins anew."
    try:
        state: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise BadInput(f"loop: cannot read {str(path)!r}; {error}.", hint=anew) from error
    if state.get("version") != VERSION:
        raise RunDiffers(f"loop: {str(folder)!r} is of another version of prefmill.", hint=anew)
    return state


def _copy(source: Path, target: Path) -> None:
    """A file or folder under another name, whole or not at all.

    It is the same bytes on disk where the file system can share them.
    """
    with whole.Staging([target], where="loop") as staging:
        if source.is_dir():
            shutil.copytree(source, staging.path(target), copy_function=_link)
        else:
            _link(source, staging.path(target))
        staging.publish(overwrite=True)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def remove(path: Path) -> None:
    """A file or folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
