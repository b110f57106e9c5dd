import pytest
from postgres_serving import serving
from warehouses import KINDS, catalog_of


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="session")
def server():
    """A Postgres of this session's own, as variables of libpq."""
    with serving() as variables:
        yield variables


@pytest.fixture
def postgres(server, monkeypatch):
    """The server is the one that addresses without a host mean."""
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    return server


@pytest.fixture(autouse=True)
def catalog(request, monkeypatch, tmp_path):
    """The catalog `lake`, of this test alone; pyiceberg reads its variables once."""
    for name, value in catalog_of(tmp_path).items():
        monkeypatch.setenv(name, value)
    if (
        getattr(request.node, "callspec", None)
        and "postgres" in request.node.callspec.params.values()
    ):
        request.getfixturevalue("postgres")
    if "iceberg" in request.node.name:
        import pyiceberg.catalog
        from pyiceberg.utils.config import Config

        monkeypatch.setattr(pyiceberg.catalog, "_ENV_CONFIG", Config())
