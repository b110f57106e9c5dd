"""Places for files under one root: a local folder, or a prefix in an object store.

A file has a name with slashes, appears whole or not at all, and is replaced whole. What runs write
for each other goes through a `Store`: pieces of a shuffle, chunks of a ledger, manifests, leases.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import pyarrow as pa

from prefmill.disk import whole
from prefmill.disk.hidden import MARK, alone
from prefmill.disk.settling import sync
from prefmill.errors import BadArgument
from prefmill.objects import (
    ObjectReader,
    ask,
    bucket,
    is_object,
    refuse_unknown,
    split_url,
    url_of,
)

#: Writes the content of a file to an open binary file.
Save = Callable[[IO[bytes]], object]
#: What is uploaded in one request; more goes up in parts, and appears when the last one is there.
PART = 16 << 20
_PARTS = 9_000  # S3 takes 10,000
_AT_ONCE = 4
_COPIED = 4 << 30  # S3 copies 5 GB in one request


class Store(Protocol):
    """Files under one root. It can be pickled, and holds no credentials.

    Names have slashes and no `..`. All methods but `names` cost one request of an object store, or
    one more where that is said. Raises `StoreFailed` where an object store gives up.
    """

    def url(self, name: str = "") -> str:
        """The path or URL of a file, or of the root."""

    def put(self, name: str, save: Save, *, durable: bool = True) -> None:
        """What `save` writes, whole or not at all; it replaces what is there.

        Durable when it returns; a local file that need not be so outlives processes only. An object
        is made in a local temporary file first; one of over 16 MB goes up in parts, with 64 MB of
        memory. Where `save` raises, nothing is changed.
        """

    def put_file(self, name: str, path: Path) -> None:
        """`put` of a local file's content."""

    def put_text(self, name: str, text: str) -> None:
        """`put` of a text in UTF-8."""

    def put_new(self, name: str, text: str) -> bool:
        """`put_text` where no such file is, in one step; False, and no change, where there is one.

        Of several writers at once one gets True. A store that took the text, and whose answer was
        lost on the way, makes it False: texts that differ by writer tell.
        """

    def replace(self, name: str, text: str, tag: str) -> bool:
        """`put_text` where the file is still the one that `tagged` gave; False where it is not.

        One step in an object store. Locally it is one step among the writers of one machine.
        """

    def tagged(self, name: str) -> tuple[str, str]:
        """A text, and the tag of this version of it. Raises `FileNotFoundError`."""

    def get_text(self, name: str) -> str:
        """A text. Raises `FileNotFoundError`."""

    def open(self, name: str) -> pa.NativeFile:
        """A file for reading at random. Raises `FileNotFoundError`.

        Opening an object fetches its last 64 kB; small reads fetch 256 kB at once. So the footer
        and one record batch of an Arrow file cost two or three requests.
        """

    def names(self, prefix: str = "") -> list[str]:
        """All names that begin with `prefix`, sorted. A request for each 1,000 objects."""

    def size(self, name: str) -> int:
        """Bytes of a file. Raises `FileNotFoundError`."""

    def delete(self, name: str) -> None:
        """Remove a file; one that is not there is no error."""


def store_of(place: str | Path, where: str = "store") -> Store:
    """The store whose root is a path, or a URL of an object store.

    A folder is made when the first file is put there. Raises `BadArgument` for a URL of another
    scheme, `MissingPackage` where the extra `s3` is not installed. Makes no request.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = store_of(folder)
    ...     store.put_text("a/b.txt", "hello")
    ...     store.put_new("a/b.txt", "again"), store.names(), store.get_text("a/b.txt")
    (False, ['a/b.txt'], 'hello')
    >>> store_of("ftp://host/x")
    Traceback (most recent call last):
    ...
    prefmill.errors.BadArgument: store: no store of the scheme 'ftp'; got 'ftp://host/x', ...
    """
    refuse_unknown(place, where)
    if is_object(place):
        root, prefix = split_url(url_of(place))
        bucket(root, where)
        return ObjectStore(root, prefix)
    return LocalStore(Path(place).absolute())


def _check(name: str) -> str:
    parts = name.split("/")
    if not name or any(part in ("", ".", "..") for part in parts):
        raise BadArgument(f"store: {name!r} is no name of a file in a store.")
    return name


@dataclass(frozen=True)
class LocalStore:
    """A folder; see `Store`. What a kill leaves half-written has a hidden name, in no `names`."""

    root: Path

    def _path(self, name: str) -> Path:
        return self.root / _check(name)

    def url(self, name: str = "") -> str:
        return str(self.root / name)

    def put(self, name: str, save: Save, *, durable: bool = True) -> None:
        path = self._path(name)

        def write(hidden: Path) -> None:
            with hidden.open("wb") as file:
                save(file)

        _made(path.parent)
        whole.put(path, write, durable=durable)

    def put_file(self, name: str, path: Path) -> None:
        def copy(file: IO[bytes]) -> None:
            with path.open("rb") as source:
                shutil.copyfileobj(source, file, 1 << 20)

        self.put(name, copy)

    def put_text(self, name: str, text: str) -> None:
        self.put(name, lambda file: file.write(text.encode()))

    def put_new(self, name: str, text: str) -> bool:
        path = self._path(name)
        _made(path.parent)
        return whole.put_new(path, text)

    def replace(self, name: str, text: str, tag: str) -> bool:
        path = self._path(name)
        if not path.parent.is_dir():
            return False
        with alone(path.parent):
            try:
                if self.tagged(name)[1] != tag:
                    return False
            except FileNotFoundError:
                return False
            self.put_text(name, text)
        return True

    def tagged(self, name: str) -> tuple[str, str]:
        data = self._path(name).read_bytes()
        return data.decode(), hashlib.sha256(data).hexdigest()

    def get_text(self, name: str) -> str:
        return self._path(name).read_text("utf-8")

    def open(self, name: str) -> pa.NativeFile:
        return pa.OSFile(str(self._path(name)), "rb")

    def names(self, prefix: str = "") -> list[str]:
        top = self.root / prefix.rpartition("/")[0]
        found: list[str] = []
        for folder, folders, files in os.walk(top):
            folders[:] = [name for name in folders if not MARK.fullmatch(name)]
            inside = Path(folder).relative_to(self.root)
            found += [str(inside / name) for name in files if not MARK.fullmatch(name)]
        return sorted(name for name in found if name.startswith(prefix))

    def size(self, name: str) -> int:
        return self._path(name).stat().st_size

    def delete(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)


def _made(folder: Path) -> None:
    """Make a folder, and flush the names above it that are new."""
    if folder.is_dir():
        return
    _made(folder.parent)
    folder.mkdir(exist_ok=True)
    sync(folder.parent)


@dataclass(frozen=True)
class ObjectStore:
    """A prefix in a bucket; see `Store`."""

    bucket: str  #: `s3://bucket`
    prefix: str

    @property
    def _store(self) -> Any:
        return bucket(self.bucket)

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{_check(name)}".lstrip("/")

    def url(self, name: str = "") -> str:
        return "/".join(part for part in (self.bucket, self.prefix, name) if part)

    def put(self, name: str, save: Save, *, durable: bool = True) -> None:
        with tempfile.TemporaryFile() as file:
            save(file)
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            self._upload(name, file.read() if size <= PART else file, size)

    def put_file(self, name: str, path: Path) -> None:
        size = path.stat().st_size
        self._upload(name, path.read_bytes() if size <= PART else path, size)

    def _upload(self, name: str, content: bytes | Path | IO[bytes], size: int) -> None:
        import obstore

        def upload() -> None:
            if not isinstance(content, bytes | Path):
                content.seek(0)
            obstore.put(
                self._store,
                self._key(name),
                content,
                use_multipart=size > PART,
                chunk_size=max(PART, -(-size // _PARTS)),
                max_concurrency=_AT_ONCE,
            )

        ask(self.url(name), upload)

    def put_text(self, name: str, text: str) -> None:
        data = text.encode()
        self._upload(name, data, len(data))

    def put_new(self, name: str, text: str) -> bool:
        return self._put_if(name, text.encode(), "create")

    def replace(self, name: str, text: str, tag: str) -> bool:
        try:
            return self._put_if(name, text.encode(), {"e_tag": tag})
        except FileNotFoundError:
            return False

    def _put_if(self, name: str, data: bytes, mode: Any) -> bool:
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        try:
            ask(
                self.url(name),
                lambda: obstore.put(self._store, self._key(name), data, mode=mode),
            )
        except (AlreadyExistsError, PreconditionError):
            return False
        return True

    def tagged(self, name: str) -> tuple[str, str]:
        import obstore

        def get() -> tuple[str, str]:
            answer = obstore.get(self._store, self._key(name))
            return bytes(answer.bytes()).decode(), str(answer.meta["e_tag"])

        return ask(self.url(name), get)

    def get_text(self, name: str) -> str:
        return self.tagged(name)[0]

    def open(self, name: str) -> pa.NativeFile:
        return pa.PythonFile(ObjectReader(self.url(_check(name))), mode="r")

    def put_where_none(self, name: str, path: Path) -> bool:
        """`put_file` where no such object is; False where there is one.

        One step where the file has at most 16 MB. A larger one goes up in parts, which cannot be
        made conditional: another program's object that comes while they go up is replaced.
        """
        size = path.stat().st_size
        if size <= PART:
            data = path.read_bytes()
            # Where it is there, it may be ours: the answer was lost on the way.
            return self._put_if(name, data, "create") or self._holds(name, data)
        if self.tag_of(name) is not None:
            return False
        self.put_file(name, path)
        return True

    def _holds(self, name: str, data: bytes) -> bool:
        try:
            with self.open(name) as file:
                return bool(file.size() == len(data) and file.read() == data)
        except FileNotFoundError:
            return False

    def copy(self, name: str, to: str) -> None:
        """Copy an object inside the store."""
        import obstore

        if self.size(name) > _COPIED:
            with self.open(name) as source:
                self.put(to, lambda file: shutil.copyfileobj(source, file, PART))
            return
        ask(self.url(name), lambda: obstore.copy(self._store, self._key(name), self._key(to)))

    def tag_of(self, name: str) -> str | None:
        """The tag of an object's version; None where there is none."""
        try:
            return str(self._head(name)["e_tag"])
        except FileNotFoundError:
            return None

    def _head(self, name: str) -> Any:
        import obstore

        return ask(self.url(name), lambda: obstore.head(self._store, self._key(name)))

    def names(self, prefix: str = "") -> list[str]:
        return [name for name, _ in self.listed(prefix)]

    def listed(self, prefix: str = "") -> list[tuple[str, int]]:
        """The names that begin with `prefix`, sorted, and the bytes of each."""
        import obstore

        start = f"{self.prefix}/" if self.prefix else ""
        # A store lists whole folders.
        folder = (start + prefix).rpartition("/")[0]

        def found_in() -> list[tuple[str, int]]:
            return [
                (str(item["path"]).removeprefix(start), int(item["size"]))
                for batch in obstore.list(self._store, folder or None)
                for item in batch
            ]

        found = ask(self.url(), found_in)
        return sorted(item for item in found if item[0].startswith(prefix))

    def size(self, name: str) -> int:
        return int(self._head(name)["size"])

    def delete(self, name: str) -> None:
        import obstore

        with contextlib.suppress(FileNotFoundError):
            ask(self.url(name), lambda: obstore.delete(self._store, self._key(name)))
