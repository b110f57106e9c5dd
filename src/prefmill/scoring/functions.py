"""What decides the values of a Python function, as one hash.

It is of its code and everything that it reaches. Two functions with one hash give the same values
for the same rows, as far as they look at nothing outside of Python. What cannot be told (a lock, an
open file, a connection, `open` or `eval` in the code) is `Unknown`: then nothing of an earlier run
may be used again.
"""

from __future__ import annotations

import builtins
import functools
import hashlib
import logging
import os
import sys
import sysconfig
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

_ATOMS = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented))
#: What an object of one's own may be besides its attributes.
_CONTAINERS = (list, dict, tuple, set, frozenset, str, bytes, int, float)
#: Builtins through which a function reaches what no hash of it covers.
_OUTSIDE = frozenset(
    {"open", "eval", "exec", "globals", "vars", "locals", "__import__", "input", "compile"}
)
#: What Python and dataclasses put into a class; none of it decides a value that its methods and
#: defaults do not.
_OF_CLASS = frozenset(
    {
        "__dict__",
        "__weakref__",
        "__doc__",
        "__module__",
        "__qualname__",
        "__abstractmethods__",
        "_abc_impl",
        "__annotations__",
        "__annotate__",
        "__annotate_func__",
        "__annotations_cache__",
        "__firstlineno__",
        "__static_attributes__",
        "__match_args__",
        "__dataclass_fields__",
        "__dataclass_params__",
        "__parameters__",
        "__orig_bases__",
        "__protocol_attrs__",
        "__non_callable_proto_members__",
        "_is_protocol",
        "_is_runtime_protocol",
    }
)
_NAMED = (
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.MethodWrapperType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    types.ClassMethodDescriptorType,
)


class Unknown(Exception):
    """What decides the values cannot be told; the text says what and where."""


def content_of(function: Callable[..., Any]) -> str:
    """A hash of all that decides what `function` gives. Raises `Unknown`.

    Covered are its code, defaults, closure, attributes and the globals that it names; of bound
    methods and instances all attributes and the code of their class; of partials their arguments;
    and so on, down to arrays and tensors. Packages count by name and version.

    >>> def times(number):
    ...     return lambda batch: [number] * batch.num_rows
    >>> content_of(times(2)) == content_of(times(2)), content_of(times(2)) == content_of(times(3))
    (True, False)
    """
    walk = _Walk()
    try:
        walk.visit(function, "it")
    except RecursionError:
        raise Unknown("it is nested too deep") from None
    return walk.digest.hexdigest()[:32]


class _Walk:
    """One walk over all that can be reached; `seen` numbers visits, so that cycles end."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.seen: dict[int, int] = {}
        self.held: list[Any] = []  # an id is one object's only as long as that lives

    def add(self, *parts: object) -> None:
        for part in parts:
            text = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogatepass")
            self.digest.update(b"%d:" % len(text) + text)

    def visit(self, value: Any, where: str) -> None:
        if isinstance(value, _ATOMS) and type(value) in _ATOMS:
            self.add(type(value).__name__, value if isinstance(value, bytes) else repr(value))
            return
        if id(value) in self.seen:
            self.add("again", self.seen[id(value)])
            return
        self.seen[id(value)] = len(self.seen)
        self.held.append(value)
        self._compound(value, where)

    def _compound(self, value: Any, where: str) -> None:
        kind = type(value)
        if kind in (list, tuple):
            self.add(kind.__name__, len(value))
            self._all(value, where)
        elif kind in (dict, types.MappingProxyType):
            self.add("dict", len(value))
            for key, inner in value.items():
                self.visit(key, where)
                self.visit(inner, f"{where}[{key!r}]" if isinstance(key, str | int) else where)
        elif kind in (set, frozenset):
            self.add(kind.__name__, *sorted(self._alone(inner, where) for inner in value))
        elif isinstance(value, types.FunctionType):
            self._function(value, where)
        elif isinstance(value, types.MethodType):
            self.add("method")
            self.visit(value.__func__, where)
            self.visit(value.__self__, f"{where}.__self__")
        elif isinstance(value, functools.partial):
            self.add("partial")
            self._all((value.func, value.args, value.keywords, vars(value)), where)
        elif isinstance(value, property):
            self._all((value.fget, value.fset, value.fdel), where)
        elif isinstance(value, staticmethod | classmethod):
            self.add(kind.__name__)
            self.visit(value.__func__, where)
        elif isinstance(value, types.CodeType):
            self._code(value, where)
        elif isinstance(value, types.ModuleType):
            self._module(value, (), where)
        elif isinstance(value, _NAMED):
            self.add("builtin", getattr(value, "__module__", ""), value.__qualname__)
            owner = getattr(value, "__self__", None)
            if owner is not None and not isinstance(owner, types.ModuleType):
                self.visit(owner, where)
        elif isinstance(value, type):
            self._class(value, where)
        elif isinstance(value, logging.Logger):
            self.add("logger", value.name)
        elif not self._numbers(value, where):
            self._object(value, where)

    def _all(self, values: Iterable[Any], where: str) -> None:
        for inner in values:
            self.visit(inner, where)

    def _alone(self, value: Any, where: str) -> str:
        """The hash of one element of a set, whose elements have no order."""
        walk = _Walk()
        walk.visit(value, where)
        return walk.digest.hexdigest()

    def _function(self, function: types.FunctionType, where: str) -> None:
        name = f"{function.__module__}.{function.__qualname__}"
        if is_packaged(function.__code__.co_filename, function.__module__):
            self.add("function", name, _version(function.__module__))
        else:
            self.add("function")
            names = _names_in(function.__code__)
            outside = sorted(names & _OUTSIDE - function.__globals__.keys())
            if outside:
                raise Unknown(f"{name} calls {outside[0]}")
            self.visit(function.__code__, name)
            self._all((function.__defaults__, function.__kwdefaults__), name)
            for used in sorted(names & function.__globals__.keys()):
                value = function.__globals__[used]
                self.add("global", used)
                if isinstance(value, types.ModuleType):
                    self._module(value, names, f"{name}: {used}")
                else:
                    self.visit(value, f"{name}: {used}")
        cells = function.__closure__ or ()
        for free, cell in zip(function.__code__.co_freevars, cells, strict=True):
            self.add("cell", free)
            try:
                self.visit(cell.cell_contents, f"{name}: {free}")
            except ValueError:  # not assigned yet
                self.add("empty")
        self.visit(vars(function), where)

    def _code(self, code: types.CodeType, where: str) -> None:
        counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount)
        self.add("code", code.co_code, *counts, code.co_flags)
        names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        self._all((code.co_consts, *names), where)

    def _module(self, module: types.ModuleType, names: Iterable[str], where: str) -> None:
        """A module by name; of one's own the attributes among `names` too."""
        self.add("module", module.__name__, _version(module.__name__))
        if is_packaged(getattr(module, "__file__", None), module.__name__):
            return
        for name in sorted(names):
            if hasattr(module, name):
                value = getattr(module, name)
                self.add("attribute", name)
                if isinstance(value, types.ModuleType) and value is not module:
                    self._module(value, [other for other in names if other != name], where)
                else:
                    self.visit(value, f"{where}.{name}")

    def _class(self, kind: type, where: str) -> None:
        name = f"{kind.__module__}.{kind.__qualname__}"
        module = sys.modules.get(kind.__module__)
        if is_packaged(getattr(module, "__file__", None), kind.__module__):
            self.add("class", name, _version(kind.__module__))
            return
        self.add("class", kind.__qualname__)
        self._all(kind.__bases__, name)
        for attribute, value in sorted(vars(kind).items()):
            if attribute not in _OF_CLASS:
                self.add(attribute)
                self.visit(value, f"{name}.{attribute}")

    def _numbers(self, value: Any, where: str) -> bool:
        """Arrays and tensors by their bytes."""
        module = type(value).__module__.partition(".")[0]
        is_array = module == "numpy" and hasattr(value, "dtype") and hasattr(value, "tobytes")
        if is_array and not value.dtype.hasobject:
            self.add("array", value.dtype.str, value.shape, value.tobytes())
            return True
        if module == "torch" and hasattr(value, "untyped_storage") and not value.is_sparse:
            import torch

            plain = value.detach().cpu().contiguous().reshape(-1)
            content = plain.view(torch.uint8).numpy().tobytes()
            self.add("tensor", value.dtype, tuple(value.shape), content)
            return True
        return False

    def _object(self, value: Any, where: str) -> None:
        """Any other object: its class, and its attributes, or what pickling would keep of it."""
        kind = type(value)
        module = sys.modules.get(kind.__module__)
        fingerprint = getattr(value, "fingerprint", None)
        # A scorer says itself what decides, files of its model among it.
        if isinstance(fingerprint, str | Mapping):
            content = fingerprint if isinstance(fingerprint, str) else dict(fingerprint)
            self.add("fingerprint", f"{kind.__module__}.{kind.__qualname__}")
            self.visit(content, f"{where}.fingerprint")
            return
        own = not is_packaged(getattr(module, "__file__", None), kind.__module__)
        if hasattr(value, "__wrapped__") and callable(value):  # functools.lru_cache and the like
            self.visit(value.__wrapped__, where)
        # All of one's own, whatever its own pickling would leave out.
        if own and (hasattr(value, "__dict__") or _slots(kind)):
            self.add("object")
            self.visit(kind, where)
            for name, inner in sorted(getattr(value, "__dict__", {}).items()):
                self.add(name)
                self.visit(inner, f"{where}.{name}")
            for name in _slots(kind):
                if hasattr(value, name):
                    self.add(name)
                    self.visit(getattr(value, name), f"{where}.{name}")
            if not isinstance(value, _CONTAINERS):
                return
        try:
            kept = value.__reduce_ex__(4)
        except Exception:
            raise Unknown(f"{where} is a {kind.__module__}.{kind.__qualname__}") from None
        if isinstance(kept, str):
            self.add("named", kind.__module__, kept)
            return
        self.add("reduced", len(kept))
        for part in kept:
            self.visit(list(part) if hasattr(part, "__next__") else part, where)


def _slots(kind: type) -> list[str]:
    slots: list[str] = []
    for each in kind.__mro__:
        names = vars(each).get("__slots__", ())
        slots += [names] if isinstance(names, str) else list(names)
    return sorted(name for name in slots if name not in ("__dict__", "__weakref__"))


def _names_in(code: types.CodeType) -> set[str]:
    """All names that the code and the code inside it use, of globals and of attributes."""
    inner = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return set(code.co_names).union(*(_names_in(one) for one in inner))


@functools.cache
def _packaged() -> tuple[str, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = {Path(sysconfig.get_path(name)).resolve() for name in names}
    folders.add(Path(__file__).resolve().parents[1])  # prefmill itself
    return tuple(f"{folder}{os.sep}" for folder in folders)


def is_packaged(file: str | None, module: str | None) -> bool:
    """Whether code is of Python or an installed package, whose version says what it is.

    Else it is one's own.
    """
    if module in ("__main__", None):
        return False
    if file is None:  # built in, or made on the spot
        built_in = module in sys.builtin_module_names or module == builtins.__name__
        return built_in or _is_frozen(module)
    path = Path(file)
    return str(path).startswith("<frozen") or str(path.resolve()).startswith(_packaged())


def _is_frozen(module: str | None) -> bool:
    spec = getattr(sys.modules.get(module or ""), "__spec__", None)
    return spec is not None and spec.origin in ("frozen", "built-in")


def _version(module: str | None) -> str:
    top = (module or "").partition(".")[0]
    if top in sys.stdlib_module_names:
        return f"{sys.version_info[0]}.{sys.version_info[1]}"
    return str(getattr(sys.modules.get(top), "__version__", ""))
