"""IDX, the file format of MNIST and its successors (LeCun's page: magic, sizes, bytes)."""

import gzip
import zlib
from pathlib import Path

import numpy as np

from nuisance.errors import DataError


def read_idx(path: str | Path) -> np.ndarray:
    """Read a file of unsigned bytes, plain or gzipped.

    Returns
    -------
    uint8 array of the shape that the header states: ``[n]`` for labels, ``[n, h, w]`` for images.

    Raises
    ------
    DataError
        If the file cannot be unpacked, is no IDX file of bytes, or is shorter or longer than
        its header says.
    """
    path = Path(path)
    mend = "delete it and fetch it again"
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, OSError, ValueError, zlib.error) as error:
        raise DataError(f"{path} cannot be unpacked ({error}); {mend}.") from error
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise DataError(f"{path} is not an IDX file of unsigned bytes; {mend}.")
    rank = raw[3]
    shape = tuple(int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(rank))
    body = np.frombuffer(raw, np.uint8, offset=min(4 + 4 * rank, len(raw)))
    if body.size != int(np.prod(shape)):
        raise DataError(f"{path} holds {body.size} values, its header says {shape}; {mend}.")
    return body.reshape(shape)
