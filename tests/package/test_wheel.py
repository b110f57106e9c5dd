"""The wheel, as `pip install prefmill` unpacks it: nothing that a checkout has and a wheel lacks
may be needed.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import prefmill

ROOT = Path(__file__).parents[2]

FROM_THE_WHEEL = """
import sys
from pathlib import Path
wheel, checkout = sys.argv[1:]
sys.path[:] = [wheel, *(p for p in sys.path if not p.startswith(checkout) or "site-packages" in p)]
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
import duckdb, prefmill, prefmill.duckdb
for module in [m for name, m in sys.modules.items() if name.split(".")[0] == "prefmill"]:
    assert module.__file__.startswith(wheel), module.__file__
assert prefmill.duckdb.install.__module__ == "prefmill.duckdb"
con = duckdb.connect()
prefmill.duckdb.install(con)
rows = "(VALUES ('p', 'a', 5), ('p', 'b', 1)) t(prompt, completion, score)"
con.execute(f"CREATE TABLE feedback AS FROM {rows}")
print(con.sql(prefmill.Pairs().sql("feedback")).fetchall())
print(con.sql("FROM preference_pairs('feedback')").fetchall())
con.sql("COPY feedback TO 'feedback.parquet'")
report = prefmill.run(prefmill.Pairs(), "feedback.parquet", "pairs.jsonl")
print(report.pairs_out, Path("pairs.jsonl").read_text(), end="")
print(prefmill.__version__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of this checkout: about 3 seconds, and hatchling from the package index."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(folder),
        str(ROOT),
    ]
    done = subprocess.run(build, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (found,) = folder.glob("*.whl")
    return found


def test_the_wheel_holds_the_package_its_macros_and_its_types(wheel):
    assert wheel.name == f"prefmill-{prefmill.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        loads = file.read("prefmill/sql/prefmill.sql").decode()
        for name in sorted(n for n in names if n.startswith("prefmill/sql/")):
            assert file.read(name) == (ROOT / Path(name).relative_to("prefmill")).read_bytes(), name
    loaded = {line.split()[1] for line in loads.splitlines() if line.startswith(".read ")}
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "sql").rglob("*.sql")}
    assert loaded == files - {"sql/prefmill.sql"}
    assert {f"prefmill/{name}" for name in loaded} <= names
    assert "prefmill/py.typed" in names
    modules = {
        f"prefmill/{path.relative_to(ROOT / 'src/prefmill').as_posix()}"
        for path in (ROOT / "src/prefmill").rglob("*.py")
    }
    assert modules <= names
    strangers = {
        name
        for name in names
        if name.split("/")[0] not in ("prefmill", f"prefmill-{prefmill.__version__}.dist-info")
    }
    assert not strangers


def test_the_wheel_has_its_license_its_command_and_no_heavy_requirement(wheel):
    info = f"prefmill-{prefmill.__version__}.dist-info"
    with zipfile.ZipFile(wheel) as file:
        assert f"{info}/licenses/LICENSE" in file.namelist()
        assert "prefmill = prefmill.__main__:main" in file.read(f"{info}/entry_points.txt").decode()
        metadata = file.read(f"{info}/METADATA").decode()
    always = [
        line
        for line in metadata.splitlines()
        if line.startswith("Requires-Dist:") and "extra ==" not in line
    ]
    assert always
    assert not [
        line
        for line in always
        if any(heavy in line for heavy in ("torch", "transformers", "trl", "datasets"))
    ]


def test_the_unpacked_wheel_works_without_the_checkout(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "unpacked")
    work = tmp_path / "work"
    work.mkdir()
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-W",
            "error",
            "-c",
            FROM_THE_WHEEL,
            str(tmp_path / "unpacked"),
            str(ROOT),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=work,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "[('p', 'a', 'b', 5.0, 1.0)]",
        "[('p', 'a', 'b', 5.0, 1.0)]",
        '1 {"prompt":"p","chosen":"a","rejected":"b","chosen_score":5.0,"rejected_score":1.0}',
        prefmill.__version__,
    ]
    assert done.stderr == ""
