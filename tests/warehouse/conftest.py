import pytest
from warehouses import KINDS, catalog_of


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(autouse=True)
def catalog(request, monkeypatch, tmp_path):
    """The catalog `lake`, of this test alone; pyiceberg reads its variables once."""
    for name, value in catalog_of(tmp_path).items():
        monkeypatch.setenv(name, value)
    if "iceberg" in request.node.name:
        import pyiceberg.catalog
        from pyiceberg.utils.config import Config

        monkeypatch.setattr(pyiceberg.catalog, "_ENV_CONFIG", Config())
