"""A comparison's state as bytes and back: the numbers of its parts, found by walking them."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np

from models.errors import InvalidInput

_NAMES: Final = "names"


def pack(roots: Mapping[str, object], names: Mapping[str, list[str]]) -> bytes:
    """Return the arrays and numbers of `roots`, and `names`, as bytes."""
    arrays = {path: np.asarray(getattr(owner, name)) for path, owner, name in _walk(roots)}
    buffer = io.BytesIO()
    arrays[_NAMES] = np.frombuffer(json.dumps(names).encode(), dtype=np.uint8)
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type] # numpy's stub takes every keyword for its own switch
    return buffer.getvalue()


def unpack(data: bytes, roots: Mapping[str, object]) -> dict[str, list[str]]:
    """Put the saved numbers into `roots`; return the names.

    Raises:
        InvalidInput: the bytes are none of ours, or of another version of the code; nothing was changed.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as saved:
            arrays = {name: saved[name] for name in saved.files}
        names: dict[str, list[str]] = json.loads(arrays.pop(_NAMES).tobytes())
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidInput(
            f"the saved state of a canary cannot be read ({error})", hint="its evidence starts anew"
        ) from error
    places = {path: (owner, name) for path, owner, name in _walk(roots)}
    fits = places.keys() == arrays.keys() and all(
        np.ndim(getattr(*places[path])) == arrays[path].ndim for path in arrays
    )
    if not fits:
        raise InvalidInput("the saved state of a canary is of another version", hint="its evidence starts anew")
    for path, array in arrays.items():
        owner, name = places[path]
        setattr(owner, name, array.copy() if array.ndim else float(array))
    return names


def _walk(roots: Mapping[str, object]) -> Iterator[tuple[str, object, str]]:
    """Yield (path, owner, attribute) of every public array and float below `roots`."""
    for root, owner in roots.items():
        for name in _attributes(owner):
            value = getattr(owner, name)
            if isinstance(value, (np.ndarray, float)):
                yield f"{root}.{name}", owner, name
            elif type(value).__module__.startswith("models.canary"):
                yield from _walk({f"{root}.{name}": value})


def _attributes(owner: object) -> list[str]:
    names = getattr(type(owner), "__slots__", None) or vars(owner)
    return [name for name in names if not name.startswith("_")]
