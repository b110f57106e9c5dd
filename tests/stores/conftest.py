"""A server for the module, a bucket for the test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from s3_serving import S3, new_bucket, s3_server


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    with s3_server() as port:
        yield port


@pytest.fixture
def s3(s3_port: int, monkeypatch: pytest.MonkeyPatch) -> S3:
    """An empty bucket, to which the environment leads."""
    return new_bucket(s3_port).lead_here(monkeypatch)
