"""A reader of files in a folder of the test's own."""

from __future__ import annotations

import pytest

from prefmill.readers import Source, open_source


@pytest.fixture
def read(tmp_path):
    """`open_source` with a temporary folder."""

    def run(*inputs: object, **more: object) -> Source:
        return open_source([str(i) for i in inputs], temp_dir=tmp_path / "stage", **more)

    return run
