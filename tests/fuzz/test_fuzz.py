"""Files and words near good ones: a few hundred here, a minute and more of each in the torture.

`fuzz.py` says what is wrong with one. The cases of a seed are always the same; how many of them a
minute sees depends on the machine. `make fuzz` looks for longer, from other seeds.
"""

from __future__ import annotations

import os
from pathlib import Path

import fuzz
import mutations
import plan_words
import pytest

SECONDS = float(os.environ.get("PREFMILL_FUZZ", "60"))


KINDS = {
    "binary": [*mutations.BINARY],
    "text": [*mutations.TEXT],
    "words": [*plan_words.READERS],
}


@pytest.mark.parametrize(("kinds", "most"), [("binary", 60), ("text", 70), ("words", 1200)])
def test_some_files_and_words_are_read_right_or_refused(
    kinds: str, most: int, tmp_path: Path
) -> None:
    told = fuzz.run(KINDS[kinds], 3600, 15, tmp_path / "kept", most)
    assert told["wrong"] == {}
    assert sum(told["cases"].values()) == most


@pytest.mark.torture
@pytest.mark.parametrize("kinds", KINDS)
def test_what_is_near_a_good_file_is_read_right_or_refused(kinds: str, tmp_path: Path) -> None:
    told = fuzz.run(KINDS[kinds], SECONDS, 1, tmp_path / "kept")
    print(told["cases"])
    assert told["wrong"] == {}
    assert sum(told["cases"].values()) >= len(KINDS[kinds])


def test_the_fuzzer_sees_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that dies, and one that says something, are both found."""
    monkeypatch.setitem(mutations.BINARY, "parquet", lambda draw: b"PAR1")
    path = tmp_path / "x.parquet"
    path.write_bytes(b"")
    child = fuzz.Child()
    try:
        assert child.ask({"path": str(path), "ending": "parquet"}) is None
        assert child.process is not None
        child.process.kill()
        child.process.wait()
        assert child.ask({"words": "none", "seed": "1"}) is not None
    finally:
        child.close()
