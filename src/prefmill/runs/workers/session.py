"""The connection to Ray: that of the caller, of a cluster, or of a Ray of our own on this machine.

Ray prints deaths of workers on stdout, where our JSON goes, and takes SIGTERM for itself. Neither
is left so.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from prefmill.errors import BadArgument, MissingPackage

_log = logging.getLogger("prefmill.ray")
_STORE_BYTES = 512 << 20
#: Seconds in which a cluster has to answer.
_ANSWER_S = 20.0


@dataclass(frozen=True)
class Session:
    """A connection that stands: the package, and whether its Ray is our own, on this machine."""

    ray: Any
    is_own: bool


@contextlib.contextmanager
def connected(
    where: str,
    address: str | None = None,
    *,
    cpus: int | None = None,
    store_bytes: int = _STORE_BYTES,
) -> Iterator[Session]:
    """A connection to Ray, ended when the context is left; one of the caller's own stays.

    address  of a cluster (`auto`: the one of which this machine is a node); None: the environment's
             RAY_ADDRESS, else a Ray of our own, which ends with the context.
    cpus     of a Ray of our own; None: those of the machine.

    Raises `MissingPackage`, and `BadArgument` for an address where no cluster answers.
    """
    ray = _package(where)
    if ray.is_initialized():
        if address not in (None, "auto", ray.get_runtime_context().gcs_address):
            raise BadArgument(
                f"{where}: this process is connected to another Ray;"
                f" got the address {address!r}, expected"
                f" {ray.get_runtime_context().gcs_address!r} or none.",
                hint="ray.shutdown() ends that connection.",
            )
        yield Session(ray, is_own=False)
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    own: dict[str, Any] = {}
    if address == "local":
        count = max(cpus or 0, os.cpu_count() or 1)
        own = {"num_cpus": count, "include_dashboard": False, "object_store_memory": store_bytes}
    _refuse_silence(where, address)
    with _own_signals(), _quiet():
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **own)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise _no_cluster(where, address, error) from error
    with _told_to(_to_log):
        try:
            yield Session(ray, is_own=address == "local")
        finally:
            with _own_signals(), _quiet():
                ray.shutdown()


def _refuse_silence(where: str, address: str) -> None:
    """Raise `BadArgument` where nobody listens: Ray itself would ask again for minutes."""
    host, _, port = address.partition("://")[2].rpartition(":")
    if "://" not in address:
        host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(where, address, error) from error


def _no_cluster(where: str, address: str, error: BaseException) -> BadArgument:
    return BadArgument(
        f"{where}: no Ray cluster answers; got the address {address!r}, {_line(error)}.",
        hint="`ray start --head` starts one; without an address a Ray of this machine is used.",
    )


def _package(where: str) -> Any:
    # Ray counts its users; those of prefmill were not asked.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise MissingPackage.for_extra(where, "ray", "ray") from None
    return ray


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """What Ray sets for signals is taken back: they end a command as they always do."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Warnings of Ray about Ray are not for those who run prefmill."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _told_to(tell: Callable[..., None]) -> Iterator[None]:
    """What Ray would print on stdout goes to `tell`; there is no setting for that."""
    from ray._private import worker

    name = "print_to_stdstream"
    before = getattr(worker, name, None)
    if before is None:  # another version of Ray
        yield
        return
    setattr(worker, name, tell)
    try:
        yield
    finally:
        setattr(worker, name, before)


def _to_log(data: Any, *_: object, **__: object) -> None:
    for line in data.get("lines", ()):
        _log.info("%s", line)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
