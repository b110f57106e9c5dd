"""Spark without Java (Sail serves Spark Connect in this process), or the real one, which
`make test-spark` asks for by PREFMILL_SPARK=local.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

REAL = os.environ.get("PREFMILL_SPARK") == "local"


# Not of the session: to let go of a server that another test has taken down takes ten minutes.
@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    with warnings.catch_warnings():
        # pyspark warns of pandas 3, which nothing here uses.
        warnings.simplefilter("ignore")
        server, session = real_spark() if REAL else sail()
    yield session
    session.stop()
    if server is not None:
        server.stop()


def sail() -> tuple[Any, Any]:
    from pysail.spark import SparkConnectServer
    from pyspark.sql import SparkSession

    server = SparkConnectServer("127.0.0.1", 0)
    server.start(background=True)
    _, port = server.listening_address
    # pyspark takes a main module without a file, as in a process of xdist, for its own doctests,
    # and then asks for the whole of Spark.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["__main__"], "__file__", __file__, raising=False)
        session = SparkSession.builder.remote(f"sc://127.0.0.1:{port}").getOrCreate()
    return server, session


def real_spark() -> tuple[None, Any]:
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master("local[2]").appName("prefmill")
    options = {
        "spark.ui.enabled": "false",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.sql.shuffle.partitions": "2",
        "spark.executorEnv.PYTHONPATH": os.environ.get("PYTHONPATH", ""),
    }
    for name, value in options.items():
        builder = builder.config(name, value)
    return None, builder.getOrCreate()
