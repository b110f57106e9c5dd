"""The folder of a loop on disk: which steps are done, so that a loop that was killed anywhere goes
on.

    runs/NAME/
      state.json            the recipe's hash material, and every step that is done with its key,
      its figures and its seconds lock                  held while a process works on the folder
      prompts/              train.parquet, heldout.parquet
      stage-0/              pool, scored, selected .parquet; policy/: what this stage trained;
      heldout/: answers of the policy it began with stages.parquet, report.md, stages.png

A step writes its files whole or not at all, then it is entered in `state.json`, which is replaced
whole: a kill between the two runs the step again, over the same names. A step's key is a hash of
everything that decides its result, the keys of earlier steps among it.
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
from prefmill.disk.ledger import differences
from prefmill.disk.locks import lock
from prefmill.disk.settling import clear
from prefmill.errors import BadInput, RunBusy, RunDiffers, TargetExists

_VERSION = 1
#: a key as `Steps.key` makes it
Key = str


class RunFolder:
    """The folder of one loop. Use it as a context: it holds a lock.

    decides  what the results depend on, nested; a folder of another recipe is refused, and what
    changed is named. More `stages` are fine.
    reuse    folders of other loops: a step with the same key is taken from there instead of run.
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
        self.steps: dict[str, dict[str, Any]] = {}
        self.ran: list[str] = []  #: names of steps that this process ran
        self._others = [(Path(each), _read(Path(each))) for each in reuse]
        self._lock: Any = None
        self._begin(overwrite)

    def _begin(self, overwrite: bool) -> None:
        state = self.folder / "state.json"
        if (
            self.folder.exists()
            and not state.exists()
            and any(path.name != "lock" for path in self.folder.iterdir())
        ):
            raise TargetExists(
                f"loop: {str(self.folder)!r} is there and holds no loop.",
                hint="name another folder.",
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        refusal = RunBusy(
            f"loop: another process works in {str(self.folder)!r}.",
            hint="wait for it, or name another folder.",
        )
        self._lock = lock(self.folder / "lock", refusal)
        try:
            if state.exists() and overwrite:
                for path in sorted(
                    self.folder.iterdir(), key=lambda path: path == state
                ):  # it goes last: without it the rest is a stranger's
                    if path.name != "lock":
                        remove(path)
            for folder in [
                self.folder,
                *(path for path in self.folder.rglob("*") if path.is_dir()),
            ]:
                clear(folder)  # of a life that was killed while it wrote
            before = _read(self.folder)
            if before:
                refuse_other(self.folder, before["decides"], self.decides)
                self.steps = before["steps"]
            self._save()
        except BaseException:
            self.close()
            raise

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
                    f"loop: step {name!r} in {str(self.folder)!r} was done from other inputs; got key {digest}, expected {done['key']}.",
                    hint="--overwrite begins anew, or name another folder.",
                )
            return dict(done["figures"])
        taken = self._taken(digest, outputs)
        started = time.perf_counter()
        if taken is None:
            for path in outputs:
                (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            figures = json.loads(json.dumps(work()))
            self.steps[name] = {
                "key": digest,
                "figures": figures,
                "seconds": round(time.perf_counter() - started, 3),
            }
            self.ran.append(name)
        else:
            self.steps[name] = taken
        self._save()
        return dict(self.steps[name]["figures"])

    def _taken(self, digest: str, outputs: Sequence[str]) -> dict[str, Any] | None:
        """The record of a step with this key in a folder of `reuse`, whose files are now here
        too.
        """
        for folder, state in self._others:
            for step in (state or {}).get("steps", {}).values():
                there = [folder / path for path in step.get("outputs", outputs)]
                if step["key"] != digest or not all(path.exists() for path in there):
                    continue
                for source, path in zip(there, outputs, strict=True):
                    _copy(source, self.folder / path)
                return {**step, "taken_from": str(folder)}
        return None

    def _save(self) -> None:
        content = {"version": _VERSION, "decides": self.decides, "steps": self.steps}
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


def begun_on(folder: Path) -> str | None:
    """The date that the templates of the loop in `folder` print; None where there is no loop, or
    they print none.
    """
    inputs = (_read(folder) or {}).get("decides", {}).get("inputs", {})
    dates = (
        value
        for part in inputs.values()
        if isinstance(part, dict)
        for name, value in part.items()
        if _is_date(name)
    )
    return next(dates, None)


def _is_date(name: str) -> bool:
    return name.rpartition(".")[2] == "template_date"


def refuse_other(folder: Path, before: Mapping[str, Any], decides: Mapping[str, Any]) -> None:
    """Raise `RunDiffers` where `folder` is of another recipe; more stages are the same one."""
    now, old = dict(decides), dict(before)
    more = now.pop("stages", 0) >= old.pop("stages", 0)
    said = list(differences(old, now))
    if not more:
        said.insert(0, ("stages", before["stages"], f"{decides['stages']}, which is fewer"))
    if said:
        name, was, got = said[0]
        others = (
            f" (and other differences: {', '.join(each for each, *_ in said[1:])})"
            if len(said) > 1
            else ""
        )
        raise RunDiffers(
            f"loop: {str(folder)!r} belongs to another recipe: {name} changed; got {got!r}, expected {was!r}{others}.",
            hint="name another folder (-o), or --overwrite begins anew; only more stages go on.",
        )


def digest_of(key: Mapping[str, Any]) -> Key:
    """20 hexadecimal digits of a key's content.

    >>> digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1})
    True
    """
    return hashlib.sha256(
        json.dumps(key, sort_keys=True, ensure_ascii=False, default=str).encode()
    ).hexdigest()[:20]


def done_in(folder: Path, decides: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The steps that a loop with `decides` would not do again in `folder`, by name; none where
    there is no loop.

    Raises `RunDiffers` where the folder is of another recipe.
    """
    found = _read(folder)
    if found is None:
        return {}
    refuse_other(folder, found["decides"], json.loads(json.dumps(decides)))
    return dict(found["steps"])


def _read(folder: Path) -> dict[str, Any] | None:
    path = folder / "state.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise BadInput(
            f"loop: cannot read {str(path)!r}; {error}.", hint="--overwrite begins anew."
        ) from error
    if found.get("version") != _VERSION:
        raise RunDiffers(
            f"loop: {str(folder)!r} is of another version of prefmill.",
            hint="--overwrite begins anew.",
        )
    return found


def _copy(source: Path, target: Path) -> None:
    """A file or folder under another name, whole or not at all; the same bytes on disk where the
    file system can share them.
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
