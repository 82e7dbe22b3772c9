"""Digests of nested plain values and tensors: what a file held when it was written, whatever the disk did since."""

import hashlib
import struct
from collections.abc import Mapping
from typing import Any


def digest(contents: Any) -> str:
    """SHA-256, in hexadecimal, of tensors (type, shape, every bit) and plain values, nested in dictionaries and lists.

    The order of a dictionary's entries does not count; lists and tuples are the same.
    """
    found = hashlib.sha256()
    _add(found, contents)
    return found.hexdigest()


def _add(found: Any, value: Any) -> None:
    import torch  # not needed by those who only name files

    if isinstance(value, torch.Tensor):
        whole = value.detach().cpu().contiguous()
        found.update(f"tensor {whole.dtype} {list(whole.shape)};".encode())
        found.update(whole.reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, Mapping):
        found.update(f"dict {len(value)};".encode())
        for key in sorted(value, key=lambda one: (type(one).__name__, repr(one))):
            _add(found, key)
            _add(found, value[key])
    elif isinstance(value, list | tuple):
        found.update(f"list {len(value)};".encode())
        for item in value:
            _add(found, item)
    elif isinstance(value, float):
        found.update(b"float " + struct.pack("<d", value))
    else:  # bool, int, str, bytes, None, and the few others that a checkpoint may hold
        text = value if isinstance(value, bytes) else repr(value).encode()
        found.update(f"{type(value).__name__} {len(text)};".encode())
        found.update(text)
