"""Cheaper imports: modules that run at first use, and libraries without optional parts."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

_LOCK = "__lazy_lock__"
_RUNNING = "__lazy_running__"


class _LazyModule(ModuleType):
    """Runs its code at the first access to a member that the import system has not set.

    The standard ``importlib.util.LazyLoader`` does not serve: an ``import`` of the module from elsewhere
    reads its ``__spec__``, and so runs it.
    """

    def __getattr__(self, name: str) -> Any:
        members = self.__dict__
        with members[_LOCK]:  # other threads wait until the module is complete
            if type(self) is _LazyModule and not members.get(_RUNNING):
                spec = self.__spec__
                if spec is None or spec.loader is None:  # ``lazy_module`` makes no such module
                    raise ImportError(self.__name__)
                members[_RUNNING] = True
                try:
                    spec.loader.exec_module(self)
                finally:
                    del members[_RUNNING]
                self.__class__ = ModuleType  # type: ignore[assignment]
        if name in members:
            return members[name]
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


def lazy_module(name: str) -> ModuleType:
    """Return the top-level module ``name``; its code runs at the first access to one of its members.

    For libraries that others import without need and that are slow to import. Every later ``import name`` of
    this process gets the same module. Raises ModuleNotFoundError.
    """
    loaded = sys.modules.get(name)
    if loaded is not None:
        return loaded
    spec = find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    module = module_from_spec(spec)
    module.__dict__[_LOCK] = threading.RLock()
    module.__class__ = _LazyModule
    return sys.modules.setdefault(name, module)


@contextmanager
def without_modules(*names: str) -> Iterator[None]:
    """Make imports inside the block find the optional packages ``names`` not installed.

    For libraries that import a package for a part of theirs that this service does not use. Packages that
    are loaded already stay as they are.
    """
    hidden = [name for name in names if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # it cannot be found
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def import_structlog_without_rich() -> None:
    """Import structlog as it is where rich is not installed.

    It imports rich to show stack traces, which our logs never contain: 0.1 s of CPU. For processes of our
    own only, as a program that uses this package may want them.
    """
    with without_modules("rich"):
        import_module("structlog")
