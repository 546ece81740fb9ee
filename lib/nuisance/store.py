"""The store: finished parts of runs on disk, found again by all that determines them.

A *part* is one call of a plain function (one training, one scoring). Its key is a hash of the function's
code and of all the library code that it can reach, its arguments, the data's checksums, the
versions of what computes, and the kind of device. So a part is found again by papermill, by
nbval and by later runs, and is computed anew as soon as anything that could change it has changed.

Files are replaced in one step and carry their own checksum: a kill leaves the old state, and a damaged
file counts as absent. Two runs that want the same part compute it once; the second waits.
"""

import ast
import hashlib
import importlib.util
import inspect
import json
import os
import platform
import sys
import textwrap
import time
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from nuisance import paths
from nuisance.files import Checkpoint, read_checked, write_checked

PACKAGE = __name__.partition(".")[0]
PLAIN = (str, int, float, bool, type(None), tuple, list, dict, set, frozenset)


@dataclass(frozen=True)
class Part:
    """What a part returned, and what it cost when it was computed."""

    value: Any
    seconds: float


def find(key: str) -> Part | None:
    """The finished part of that key, or None."""
    saved = read_checked(paths.store() / f"{key}.part")
    return None if saved is None else Part(saved["value"], saved["seconds"])


def compute(function: Callable[..., Any], arguments: Mapping[str, Any], key: str) -> Part:
    """The part of that key: from the store, else computed on one core of this machine and kept.

    ``function`` is given a `Checkpoint` too if it has a parameter of that name.
    """
    folder = paths.store()
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{key}.lock"):
        found = find(key)
        if found is not None:
            return found
        with _core(folder):
            started = time.perf_counter()
            checkpoint = Checkpoint(folder / f"{key}.partial")
            takes = "checkpoint" in inspect.signature(function).parameters
            value = function(**arguments, **({"checkpoint": checkpoint} if takes else {}))
            seconds = time.perf_counter() - started
        write_checked(folder / f"{key}.part", {"value": value, "seconds": seconds})
        checkpoint.path.unlink(missing_ok=True)
    return Part(value, seconds)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _core(folder: Path) -> Iterator[None]:
    """Hold one of this machine's cores, so that chapters side by side do not compute more parts than it has."""
    while True:
        for core in range(cores()):
            lock = FileLock(folder / f"core-{core}.lock")
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            try:
                yield
            finally:
                lock.release()
            return
        time.sleep(0.05)


def part_key(
    function: Callable[..., Any], arguments: Mapping[str, Any], data: Mapping[str, str], device: str
) -> str:
    """The key under which a part is kept: a hash of all that determines it."""
    kind = torch.device(device).type
    everything = {
        "function": f"{function.__module__}.{function.__qualname__}",
        "code": code_digest(function),
        # Where the data lie does not matter; what they are, the checksums say.
        "arguments": _plain({name: value for name, value in arguments.items() if name != "data_root"}),
        "data": dict(sorted(data.items())),
        "versions": versions(),
        "device": torch.cuda.get_device_name(device) if kind == "cuda" else kind,
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }
    text = json.dumps(everything, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _plain(value: Any) -> Any:
    """Arguments as JSON can hold them; tensors by their digest."""
    if isinstance(value, torch.Tensor):
        content = value.detach().cpu().contiguous()
        digest = hashlib.sha256(content.view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
        return [str(content.dtype), list(content.shape), digest]
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


@cache
def versions() -> dict[str, str]:
    """Versions of what computes."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def code_digest(function: Callable[..., Any]) -> str:
    """Hash of the code that a function can reach.

    For a function of the library: its module and all modules of the library that this imports,
    directly or not. For one that was written in a notebook: its source, and so on through
    every function, module and plain value that it names. For one of another package: the package's
    version, or, where it has none, the source of its module.

    Raises
    ------
    TypeError
        If a notebook's function uses what cannot be told apart, such as an object or a local variable.
    """
    pieces: dict[str, str] = {}
    _collect(function, pieces)
    return hashlib.sha256(json.dumps(pieces, sort_keys=True).encode()).hexdigest()


def _collect(thing: Any, pieces: dict[str, str]) -> None:
    module = thing.__name__ if isinstance(thing, types.ModuleType) else getattr(thing, "__module__", "")
    if isinstance(module, str) and module.partition(".")[0] == PACKAGE:
        for name in _reachable(module):
            pieces[name] = _module_source(name)
    elif isinstance(module, str) and module not in ("", "__main__", "builtins"):
        pieces[module] = _version_or_source(module)
    elif isinstance(thing, type) and module == "__main__":
        raise TypeError(f"the class {thing.__qualname__} is the notebook's own; put it into a module")
    elif isinstance(thing, types.FunctionType) and module == "__main__":
        name = f"__main__.{thing.__qualname__}"
        if name in pieces:
            return
        pieces[name] = textwrap.dedent(inspect.getsource(thing))
        if thing.__closure__:
            raise TypeError(f"{thing.__qualname__} closes over local variables; pass them as arguments")
        for used in _names(thing.__code__):
            if used in thing.__globals__:
                value = thing.__globals__[used]
                if isinstance(value, PLAIN):
                    pieces[f"__main__.{used}"] = repr(value)
                elif isinstance(value, types.ModuleType | types.FunctionType | type):
                    _collect(value, pieces)
                elif getattr(type(value), "__module__", "").partition(".")[0] != "builtins":
                    kind = type(value).__name__
                    raise TypeError(
                        f"{thing.__qualname__} uses the variable {used!r}, a {kind}, which cannot be part of "
                        "its key; pass what it needs as arguments."
                    )


def _version_or_source(module: str) -> str:
    """What tells apart the states of somebody else's module: its package's version, else its own source."""
    try:
        return metadata.version(module.partition(".")[0])
    except metadata.PackageNotFoundError:
        return inspect.getsource(sys.modules[module])


def _names(code: types.CodeType) -> set[str]:
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*(_names(constant) for constant in inner))


@cache
def _reachable(module: str) -> frozenset[str]:
    """A module of the library and all others of the library that it imports, directly or not."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(_imports(name))
    return frozenset(found)


def _imports(module: str) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(_module_source(module))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    ours = {name for name in names if name.partition(".")[0] == PACKAGE}
    return {name for name in ours if _is_module(name)}


@cache
def _is_module(name: str) -> bool:
    if name in sys.modules:
        return True
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@cache
def _module_source(name: str) -> str:
    spec = importlib.util.find_spec(name)
    assert spec is not None  # only modules of the library come here
    assert spec.origin is not None
    return Path(spec.origin).read_text(encoding="utf-8")
