"""Files of trained agents: by name, what each says of itself, and whether it is what was written."""

import hashlib
import os
import struct
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from hadrl_lightning import __version__
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.files import is_file, load_tensors

SHIPPED = "hadrl.ckpt"
"""The agent for any network, the one file that ships."""
SHIPPED_NAMES = ("es2.ckpt", "es3.ckpt", "es4.ckpt", "es5.ckpt", SHIPPED)
"""What it is found by: its own name, and one for each of these scenarios, in which it then is."""
SUFFIX = ".ckpt"
"""Ending of the files of trained agents."""
FORMAT = 3
"""Of the files that this version writes and reads; a file of another one is refused."""
RECORD = "hadrl"
"""Entry of a file that says what it was made by: format, version, date, data, training, scores, digests."""
AGENT = ("state_dict", "hyper_parameters")
"""Entries that make the agent; all others are for going on with the training."""
BEFORE_ANYTHING = ("best_reward", "seen.least", "seen.most")
"""Endings of the names of numbers that are infinite before anything was seen."""


def find_agent(name: str | Path, what: str = "ckpt_path") -> Path:
    """The file that `name` stands for: a path if there is one, else the agent of that name that ships with the package.

    Under the name of a scenario there is no file: `stored_file` says which one to open.

    Args:
        name: a path, or the name of a shipped agent.
        what: what the error calls it.

    Raises:
        HadrlError: there is neither such a file nor a shipped agent of that name.
    """
    path = Path(name)
    if is_file(path) or is_shipped(path):
        return path
    if str(name) in SHIPPED_NAMES:
        return shipped_folder() / str(name)
    found = "a folder" if os.path.isdir(path) else "no such file"
    raise HadrlError(
        f"{what} must be an existing file or one of the shipped agents ({', '.join(SHIPPED_NAMES)}), "
        f"got {str(name)!r} ({found})"
    )


def shipped_folder() -> Path:
    """Where the shipped agent lies."""
    return Path(str(resources.files("hadrl_lightning.checkpoints")))


def is_shipped(path: Path) -> bool:
    """Whether the path is that of the shipped agent, under any of its names."""
    return path.absolute().parent == shipped_folder() and path.name in SHIPPED_NAMES


def stored_file(path: str | Path) -> Path:
    """The file to open for a path: where none lies at one of the names of the shipped agent, the one that ships."""
    path = Path(path)
    return path.with_name(SHIPPED) if is_shipped(path) and not is_file(path) else path


def settings_of_shipped(path: Path) -> str:
    """The settings file whose scenario a shipped agent is used in where nothing else is said."""
    return "any.yaml" if path.name == SHIPPED else f"{path.stem}.yaml"


def read_agent(path: str | Path, name: str = "ckpt_path") -> dict[str, Any]:
    """The contents of the file of an agent, or of a checkpoint of its training, on the CPU.

    Args:
        path: the file.
        name: what the error calls it.

    Raises:
        HadrlError: it is damaged, of another version, holds code or no agent, or a weight that is not finite.
    """
    contents = load_tensors(stored_file(path), name)
    if not isinstance(contents, dict) or not set(AGENT) <= set(contents):
        raise HadrlError(f"{name} must be a checkpoint saved by hadrl fit, got {path}, which holds no agent")
    check_contents(contents, path, name)
    return contents


def check_contents(contents: Mapping[str, Any], path: str | Path, name: str = "ckpt_path") -> None:
    """Raise a HadrlError unless these are, in the present format, the agent and the training that were written."""
    check_agent(contents, path, name)
    if contents[RECORD]["digests"].get("rest") != digest(_rest(contents)):
        raise _altered(path, name)


def check_agent(contents: Mapping[str, Any], path: str | Path, name: str = "ckpt_path") -> None:
    """Raise a HadrlError unless the contents hold, in the present format, the agent that was written."""
    _check_record(contents, path, name)
    if contents[RECORD]["digests"].get("agent") != digest(_agent(contents)):
        raise _altered(path, name)
    _check_weights(contents["state_dict"], path, name)


def _altered(path: str | Path, name: str) -> HadrlError:
    return HadrlError(f"{name} must be an undamaged checkpoint, got {path} (not what was written: digest)")


def _check_record(contents: Mapping[str, Any], path: str | Path, name: str) -> None:
    """Raise a HadrlError unless the contents are of the format that this version reads."""
    record = contents.get(RECORD)
    if record is None:
        raise HadrlError(
            f"{name} must be made by hadrl-lightning {__version__}, got {path} of an older version: train anew"
        )
    number = record.get("format") if isinstance(record, Mapping) else None
    fields = {"version": str, "made": str, "data": dict, "training": dict, "scores": dict, "digests": dict}
    if isinstance(number, int) and number != FORMAT:
        age = "a newer" if number > FORMAT else "an older"
        raise HadrlError(
            f"{name} must be made by hadrl-lightning {__version__}, got {path} of {age} version, "
            f"{str(record.get('version'))[:40]}{': train anew' if number < FORMAT else ''}"
        )
    if number is None or not all(isinstance(record.get(key), kind) for key, kind in fields.items()):
        raise HadrlError(f"{name} must be an undamaged checkpoint, got {path} (its record is not readable)")


def _check_weights(weights: Mapping[str, Any], path: str | Path, name: str) -> None:
    """Raise a HadrlError if a weight, or a number that an agent has seen, is not finite."""
    for key, value in weights.items():
        broken = value.isnan() if key.endswith(BEFORE_ANYTHING) else ~value.isfinite()
        if bool(broken.any()):
            raise HadrlError(f"{name} must hold finite weights, got {path} with {value[broken][0]} in {key}")


def recorded(
    contents: Mapping[str, Any],
    data: Mapping[str, Any],
    training: Mapping[str, Any],
    scores: Mapping[str, float],
) -> dict[str, Any]:
    """The contents of a file together with the record of what they were made by.

    Args:
        contents: all that the file shall hold.
        data: settings of the data that the agent was trained on.
        training: how far it was trained.
        scores: what it reached, by name.
    """
    record = {
        "format": FORMAT,
        "version": __version__,
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "data": dict(data),
        "training": dict(training),
        "scores": dict(scores),
    }
    whole = {**contents, RECORD: record}
    record["digests"] = {"agent": digest(_agent(whole)), "rest": digest(_rest(whole))}
    return whole


def _agent(contents: Mapping[str, Any]) -> dict[str, Any]:
    """The agent with its record."""
    record = {key: value for key, value in contents[RECORD].items() if key != "digests"}
    return {**{key: contents[key] for key in AGENT}, RECORD: record}


def _rest(contents: Mapping[str, Any]) -> dict[str, Any]:
    """All that only a training needs."""
    return {key: value for key, value in contents.items() if key not in (*AGENT, RECORD)}


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
