"""Files that are never half-written, and that say so when they are damaged."""

import hashlib
import io
import os
import pickle
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def replace_file(path: Path, content: bytes) -> None:
    """Write ``content`` so that ``path`` is at any moment either the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's 0600 would hide the file from other readers
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_checked(path: Path, value: Any) -> None:
    """Write tensors, numbers and containers of them behind their own SHA-256.

    Raises
    ------
    TypeError
        If the value holds anything else, such as NumPy arrays, which would not be read back.
    """
    buffer = io.BytesIO()
    torch.save(value, buffer)
    payload = buffer.getvalue()
    try:
        torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise TypeError(
            "Only tensors, numbers, texts and lists and dicts of them can be kept; "
            "turn NumPy values into these with .tolist() or torch.from_numpy()."
        ) from error
    replace_file(path, hashlib.sha256(payload).digest() + payload)


def read_checked(path: Path) -> Any | None:
    """What `write_checked` wrote; None if there is no such file or it is damaged."""
    try:
        raw = path.read_bytes()
    except OSError:
        return None
    digest, payload = raw[:32], raw[32:]
    if hashlib.sha256(payload).digest() != digest:
        return None
    return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)


class Checkpoint:
    """The state of an unfinished part, for its own use: saved now and then, gone when it is finished."""

    def __init__(self, path: Path, every_seconds: float = 20.0) -> None:
        self.path = path
        self.every_seconds = every_seconds
        self._saved_at = time.monotonic()

    def load(self) -> Any | None:
        """The state that was last saved, or None."""
        return read_checked(self.path)

    def save(self, state: Callable[[], Any]) -> None:
        """Save ``state()`` unless less than ``every_seconds`` have passed since the last time."""
        if time.monotonic() - self._saved_at >= self.every_seconds:
            write_checked(self.path, state())
            self._saved_at = time.monotonic()
