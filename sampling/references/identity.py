"""Keys that compare objects by identity, and digests that compare them by content: for the reference cache."""

import hashlib
import weakref
from collections.abc import Hashable, Mapping
from typing import Any

import torch

_PLAIN = (str, bytes, int, float, complex, bool, type(None), torch.dtype, torch.device)


class IdentityKey:
    """Equal to another key of the very same object while that is alive. Does not keep it alive.

    Keys of objects without weak references never compare equal.
    """

    def __init__(self, thing: Any) -> None:
        self._id = id(thing)
        try:
            self._alive: weakref.ref[Any] | None = weakref.ref(thing)
        except TypeError:
            self._alive = None

    def __hash__(self) -> int:
        return self._id

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, IdentityKey) or self._alive is None or other._alive is None:
            return False
        thing = self._alive()
        return thing is not None and thing is other._alive()


def identity(thing: Any) -> Hashable:
    """A key that compares numbers, texts and containers of them by value, and everything else by identity."""
    if isinstance(thing, _PLAIN):
        return type(thing), thing
    if isinstance(thing, Mapping):
        return tuple((identity(key), identity(value)) for key, value in thing.items())
    if isinstance(thing, list | tuple):
        return tuple(map(identity, thing))
    return IdentityKey(thing)


def content(thing: Any) -> bytes:
    """A digest of everything in an object made of tensors, numbers and texts.

    Raises:
        TypeError: it holds something whose content cannot be read.
    """
    digest = hashlib.sha256()
    _feed(digest, thing)
    return digest.digest()


def _feed(digest: Any, thing: Any) -> None:
    digest.update(type(thing).__qualname__.encode() + b":")
    if torch.is_tensor(thing):
        digest.update(f"{thing.dtype}{tuple(thing.shape)}".encode())
        digest.update(thing.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(thing, _PLAIN):
        digest.update(repr(thing).encode())
    elif isinstance(thing, Mapping):
        for key in thing:
            _feed(digest, key)
            _feed(digest, thing[key])
    elif isinstance(thing, list | tuple):
        for part in thing:
            _feed(digest, part)
    elif hasattr(thing, "__dict__") and not callable(thing):
        _feed(digest, vars(thing))
    else:
        raise TypeError(f"the content of a {type(thing).__qualname__} cannot be read")
    digest.update(b";")
