"""Objects behind URLs: which schemes, whose credentials, how they are read, what an error says.

`obstore` speaks to the stores: the Rust library that Polars uses too. Endpoint and credentials come
from the environment variables of each store (`AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, ...), and
from nowhere else. Neither a URL here nor an error holds a secret.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, TypeVar

from prefmill.errors import BadArgument, MissingPackage, StoreFailed

T = TypeVar("T")

#: Schemes of object stores: S3 and its like, Google, Azure.
SCHEMES = ("s3", "gs", "gcs", "az", "abfs", "abfss")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
#: Variables that say where a store is and who may ask.
_VARIABLES = ("AWS_", "GOOGLE_", "AZURE_")
_KEYS = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS",
}
_AZURE = "AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY"
#: The end of an object that its opening fetches: a footer, mostly.
_TAIL = 64 << 10
#: What one request fetches at least.
_AHEAD = 256 << 10
_KEPT = 4
#: Seconds without a byte after which a request is tried again.
STALLED = 30


def scheme_of(target: object) -> str | None:
    """The scheme that a target names, in lower case; None of a path.

    >>> scheme_of("s3://bucket/x"), scheme_of("./s3:/x"), scheme_of("C:/x")
    ('s3', None, None)
    """
    found = _SCHEME.match(str(target))
    return found[1].lower() if found else None


def is_object(target: object) -> bool:
    """Whether `target` names a place in an object store.

    >>> is_object("s3://bucket/x.parquet"), is_object("https://host/x.parquet")
    (True, False)
    """
    return scheme_of(target) in SCHEMES


def url_of(target: object) -> str:
    """The URL, or the path, that a target names: a `Path` takes one slash of a URL away.

    >>> url_of("s3:/bucket/x"), url_of("out/x")
    ('s3://bucket/x', 'out/x')
    """
    text = str(target)
    if not is_object(text):
        return text
    scheme, _, rest = text.partition(":")
    return f"{scheme.lower()}://{rest.lstrip('/')}"


def refuse_unknown(target: object, where: str, also: tuple[str, ...] = ()) -> None:
    """Raise `BadArgument` for a URL of another scheme, with those that are known.

    also   schemes that are known there as well
    """
    scheme = scheme_of(target)
    if scheme is not None and scheme not in (*SCHEMES, *also):
        shown = str(target).partition("?")[0]
        hint = f"a local folder of that name is './{scheme}:/...'."
        if scheme == "file":
            hint = "name the path itself, without file://."
        raise BadArgument(
            f"{where}: no store of the scheme {scheme!r}; got {shown!r}, expected a path or one of"
            f" {', '.join(f'{name}://' for name in (*SCHEMES, *also))}.",
            hint=hint,
        )


def split_url(url: str) -> tuple[str, str]:
    """The bucket's URL, and the key in it.

    >>> split_url("s3://bucket/a/b.parquet")
    ('s3://bucket', 'a/b.parquet')
    """
    scheme, _, rest = url_of(url).partition("://")
    name, _, key = rest.partition("/")
    if not name or "@" in name:
        raise BadArgument(
            f"store: cannot use {scheme}://{name.rpartition('@')[2]}/{key}; expected"
            f" {scheme}://BUCKET/KEY."
        )
    return f"{scheme}://{name}", key.strip("/")


def bucket(root: str, where: str = "store") -> Any:
    """The `obstore` store of a bucket's URL, one for each environment.

    Raises `MissingPackage`, and `BadArgument` where the variables make no sense.
    """
    try:
        import obstore  # noqa: F401
    except ImportError:
        raise MissingPackage.for_extra(f"{where}: {root}", "obstore", "s3") from None
    variables = tuple(
        (name, value) for name, value in sorted(os.environ.items()) if name.startswith(_VARIABLES)
    )
    return _bucket(root, variables)


def store_options() -> dict[str, str]:
    """What other libraries that use `object_store` are told besides the environment's variables."""
    endpoints = [
        value
        for name, value in os.environ.items()
        if name.startswith(_VARIABLES) and ("ENDPOINT" in name or "BASE_URL" in name)
    ]
    plain = any(value.startswith("http://") for value in endpoints)
    return {"allow_http": "true"} if plain else {}


@lru_cache(32)
def _bucket(root: str, variables: tuple[tuple[str, str], ...]) -> Any:
    from obstore import store

    from_url: Any = store.from_url  # its overloads want every variable by name
    endpoints = [value for name, value in variables if "ENDPOINT" in name or "BASE_URL" in name]
    options: dict[str, Any] = {
        "allow_http": any(value.startswith("http://") for value in endpoints),
        # A stalled server is noticed; a long answer is not.
        "timeout": "10 minutes",
        "read_timeout": f"{STALLED} seconds",
    }
    config: dict[str, Any] = {}
    if (
        root.startswith("s3://")
        and not {"AWS_REGION", "AWS_DEFAULT_REGION"} & dict(variables).keys()
    ):
        config["region"] = "us-east-1"
    try:
        return from_url(
            root.replace("gcs://", "gs://", 1), config=config or None, client_options=options
        )
    except Exception as error:
        scheme = root.partition(":")[0]
        raise BadArgument(
            f"store: {root!r} cannot be used; {_first_line(error)}.",
            hint=f"see {_KEYS.get(scheme, _AZURE)}.",
        ) from None


def _first_line(error: BaseException) -> str:
    """The first line of a message, without what a URL holds after its path."""
    return re.sub(r"\?[^\s)]*", "", str(error).strip().partition("\n")[0]).rstrip(".")


@contextlib.contextmanager
def told(url: str, where: str = "store") -> Iterator[None]:
    """Errors of a store as ours; what is absent is a `FileNotFoundError`.

    Raises `StoreFailed`: no such bucket, no right to it, no answer after all retries.
    """
    from obstore import exceptions

    try:
        yield
    except FileNotFoundError as error:
        if not is_about_bucket(error):
            raise FileNotFoundError(f"{url}: no such object") from None
        raise _failed(error, url, where) from None
    except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
        raise
    except exceptions.BaseError as error:
        raise _failed(error, url, where) from None


def ask(url: str, call: Callable[[], T]) -> T:
    """What `call` asks of a store; once more where an answer broke off, up to three times.

    The store's own client tries again after all else. A put on a condition may have been done
    before its answer broke off: asked again, it then says that the condition does not hold.
    Raises what `told` raises.
    """
    from obstore.exceptions import BaseError

    with told(url):
        for wait in (0.1, 0.5, 2.0):
            try:
                return call()
            except BaseError as error:
                if "response body error" not in str(error):
                    raise
                time.sleep(wait)
        return call()


def is_about_bucket(error: BaseException) -> bool:
    """Whether what is absent is the bucket, not an object in it."""
    return any(word in str(error) for word in ("NoSuchBucket", "ContainerNotFound"))


def _failed(error: BaseException, url: str, where: str) -> StoreFailed:
    text = str(error)
    if is_about_bucket(error):
        return StoreFailed(
            f"{where}: {url}: there is no such bucket.",
            hint="make the bucket, or mend its name; AWS_ENDPOINT_URL says whose it is.",
        )
    status = re.search(r"\bstatus: (\d{3})|status code: (\d{3})", text)
    code = re.search(r"<Code>(\w+)</Code>", text)
    number = int(status[1] or status[2]) if status else None
    scheme = url.partition(":")[0]
    keys = _KEYS.get(scheme, _AZURE)
    family = keys.partition("_")[0]
    said = ", ".join(
        word for word in (f"status {number}" if number else "", code[1] if code else "") if word
    )
    from obstore import exceptions

    # Without a key in the environment the machine is asked for one.
    asked_machine = re.search(r"/latest/(api/token|meta-data)|computeMetadata", text)
    refused = (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)
    if asked_machine:
        return StoreFailed(
            f"{where}: {url}: there are no credentials for this store.",
            hint=f"set {keys}; {family}_SKIP_SIGNATURE=true reads public buckets.",
        )
    if isinstance(error, refused) or number in (401, 403):
        return StoreFailed(
            f"{where}: {url}: the store refuses access; got {said or 'no reason'}.",
            hint=f"set the credentials: {keys}.",
        )
    if number is not None and number < 500 and number != 429:
        return StoreFailed(f"{where}: {url}: the store refuses the request; got {said}.")
    return StoreFailed(
        f"{where}: {url}: the store gives no answer after all retries;"
        f" got {said or 'no connection'}.",
        hint="run the same command again later, or mend the endpoint: AWS_ENDPOINT_URL.",
        again=True,
    )


class ObjectReader(io.RawIOBase):
    """One object, for reading at random; it is read as it was when it was opened.

    Opening costs one request, which fetches the last 64 kB too. A read costs one request or none:
    small ones fetch `ahead` bytes at once, and the last few pieces are kept. Every thread has its
    own place in it, as engines seek and read in two steps.
    Raises `FileNotFoundError`, `StoreFailed`; the latter too where the object changes meanwhile.
    """

    def __init__(self, url: str, *, ahead: int = _AHEAD) -> None:
        super().__init__()
        self.url, self._ahead = url, ahead
        root, self._key = split_url(url)
        self._bucket = bucket(root)
        self._places = threading.local()
        self._pieces: list[tuple[int, memoryview]] = []
        meta, start, data = self._first()
        self.size: int = meta["size"]
        self.tag: str | None = meta["e_tag"]
        if data:
            self._pieces.append((start, memoryview(data)))

    @property
    def _place(self) -> int:
        return getattr(self._places, "at", 0)

    @_place.setter
    def _place(self, place: int) -> None:
        self._places.at = place

    def _first(self) -> tuple[Any, int, bytes]:
        import obstore

        def tail() -> tuple[Any, int, bytes]:
            try:
                answer = obstore.get(self._bucket, self._key, options={"range": {"suffix": _TAIL}})
                return answer.meta, answer.range[0], bytes(answer.bytes())
            except obstore.exceptions.BaseError as error:
                if "416" not in str(error) and "range" not in str(error).lower():
                    raise
                # Of an empty object no range can be had.
                return obstore.head(self._bucket, self._key), 0, b""

        return ask(self.url, tail)

    def _fetch(self, start: int, end: int) -> memoryview:
        import obstore

        options: Any = {"range": (start, end)}
        if self.tag is not None:
            options["if_match"] = self.tag

        def part() -> bytes:
            return bytes(obstore.get(self._bucket, self._key, options=options).bytes())

        try:
            return memoryview(ask(self.url, part))
        except obstore.exceptions.PreconditionError:
            raise StoreFailed(
                f"store: {self.url}: the object was replaced while it was read.",
                hint="run the same command again.",
                again=True,
            ) from None

    def piece(self, start: int, end: int) -> memoryview:
        """The bytes from `start` to `end`, which must be in it; several threads may ask."""
        for first, data in self._pieces:
            if first <= start and end <= first + len(data):
                return data[start - first : end - first]
        return self._fetch(start, end)

    def _at(self, start: int, end: int) -> memoryview:
        for first, data in reversed(self._pieces):
            if first <= start and end <= first + len(data):
                return data[start - first : end - first]
        last = min(self.size, max(end, start + self._ahead))
        data = self._fetch(start, last)
        if len(data) <= 4 * _AHEAD:
            self._pieces = [*self._pieces[-_KEPT + 1 :], (start, data)]
        return data[: end - start]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self.size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def read(self, size: int | None = -1) -> bytes:
        end = self.size if size is None or size < 0 else min(self.size, self._place + size)
        if end <= self._place:
            return b""
        data = bytes(self._at(self._place, end))
        self._place = end
        return data

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
