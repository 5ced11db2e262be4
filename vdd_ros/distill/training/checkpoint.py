"""A run folder: everything one training run leaves behind, readable without running anything.

::

    settings.json        kind, dimensions, settings, data, teacher: what was asked for
    weights.safetensors  the network that acts (averaged weights, normalisers)
    state.safetensors    raw weights, optimisers, random state: what resuming needs
    metrics.jsonl        figures along the way
    examples.safetensors a few observation windows in raw units: the policy file's self-test

Every file is written atomically, none is a pickle.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vdd_ros.core.config_io import dump_json, from_dict, to_dict, write_atomic
from vdd_ros.core.errors import VddError

FORMAT_VERSION = 1
N_EXAMPLES = 64
SETTINGS = "settings.json"
WEIGHTS = "weights.safetensors"
STATE = "state.safetensors"
METRICS = "metrics.jsonl"
EXAMPLES = "examples.safetensors"


@dataclass(frozen=True)
class RunInfo:
    """What ``settings.json`` says about a run."""

    format_version: int
    """Version of this layout."""
    kind: str
    """``teacher``, ``student`` (a mixture of experts) or ``consistency`` (a consistency model)."""
    method: str
    """How it was trained: ``edm``, or the method of the distillation."""
    dim_obs: int
    """Length of one observation."""
    dim_act: int
    """Length of one action."""
    n_obs_steps: int
    """Observations in the window."""
    horizon: int
    """Actions in the chunk."""
    model: dict[str, Any]
    """Settings of the network."""
    training: dict[str, Any]
    """Settings of the training."""
    data_source: str
    """Where the demonstrations come from."""
    data_hash: str
    """SHA-256 of their contents."""
    teacher: dict[str, Any]
    """The teacher's own settings and hash; empty where there is none."""
    vdd_ros_version: str
    """Version that trained it."""


def write_info(folder: Path, info: RunInfo) -> None:
    """Write ``settings.json``."""
    write_atomic(folder / SETTINGS, dump_json(info, indent=2) + "\n")


def read_info(folder: str | Path) -> RunInfo:
    """Read ``settings.json`` of a run folder.

    Raises:
        VddError: no such folder, not a run folder, or of another version.
    """
    path = Path(folder) / SETTINGS
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise VddError(
            f"{folder}: not a run folder (no {SETTINGS}); expected a folder that "
            "'vdd train-teacher' or 'vdd distill' made"
        ) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise VddError(
            f"{path}: cannot be read ({error}); the run folder is damaged, train again"
        ) from None
    version = raw.get("format_version") if isinstance(raw, dict) else None
    if version != FORMAT_VERSION:
        raise VddError(
            f"{path}: format version {version}, this program reads {FORMAT_VERSION}; train again "
            "or use the version that made it"
        )
    return from_dict(RunInfo, raw, where=str(path))


def claim(folder: Path, info: RunInfo, windows: NDArray[np.float32], *, resume: bool) -> None:
    """Take ``folder`` for this run, without ever mixing two runs in one folder.

    Raises:
        VddError: the folder holds another run, or a run that nobody asked to resume.
    """
    if (folder / SETTINGS).exists():
        if not resume:
            raise VddError(
                f"{folder}: already holds a run; resume it, remove it or choose another folder"
            )
        found = read_info(folder)
        if info.training:
            # A pruned student is smaller than its training settings say; those decide.
            found = replace(found, model=info.model)
        if found != info:
            names = list(_differences(asdict(found), asdict(info)))
            raise VddError(
                f"{folder}: holds a run with other settings or data: {', '.join(names)}; "
                "resume with the same ones or choose another folder"
            )
    elif resume:
        raise VddError(f"{folder}: nothing to resume (no {SETTINGS}); start it first")
    write_info(folder, info)
    write_examples(folder, windows)


def _differences(found: object, wanted: object, name: str = "") -> Iterator[str]:
    """Yield the dotted names of the settings in which two runs differ."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted(found.keys() | wanted.keys()):
            inner = f"{name}.{key}" if name else str(key)
            yield from _differences(found.get(key), wanted.get(key), inner)
    elif found != wanted:
        yield name


def write_tensors(path: Path, tensors: dict[str, Tensor], **notes: str) -> None:
    """Write tensors atomically, with notes in the file's header.

    Raises:
        VddError: the file cannot be written; an older one stays as it was.
    """
    plain = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    write_atomic(path, safetensors.torch.save(plain, metadata=notes))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and notes.

    Raises:
        VddError: missing, truncated or foreign file.
    """
    if not path.is_file():
        raise VddError(
            f"{path}: no such file; the run was stopped before its first checkpoint, train again"
        )
    try:
        with safe_open(path, framework="pt") as file:
            notes = file.metadata() or {}
            return {name: file.get_tensor(name) for name in file.keys()}, notes  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise VddError(
            f"{path}: not a readable safetensors file ({error}); it is truncated or foreign: "
            "copy it again or train again"
        ) from None


def write_examples(folder: Path, windows: NDArray[np.float32]) -> None:
    """Keep evenly spaced observation windows [N, T, O], so that export needs no data set."""
    rows = np.linspace(0, len(windows) - 1, min(len(windows), N_EXAMPLES)).astype(int)
    write_tensors(folder / EXAMPLES, {"observation": torch.from_numpy(windows[rows])})


def read_examples(folder: str | Path) -> NDArray[np.float32]:
    """Return the example windows [N, T, O] of a run folder, in raw units.

    Raises:
        VddError: missing or damaged.
    """
    path = Path(folder) / EXAMPLES
    tensors, _ = read_tensors(path)
    if "observation" not in tensors:
        raise VddError(f"{path}: holds no 'observation'; the run folder is damaged, train again")
    return tensors["observation"].numpy()


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimiser's state as named tensors (groups come from the settings)."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{key}": value for index, v in state.items() for key, value in v.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put the state of `optimizer_tensors` back."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def training_cpu_s(folder: str | Path) -> float:
    """Return the processor seconds the weights of a run folder cost."""
    _, notes = read_tensors(Path(folder) / WEIGHTS)
    return float(notes.get("training_cpu_s", "nan"))


def settings_tree(settings: object) -> dict[str, Any]:
    """Return settings as the plain tree that `RunInfo` carries."""
    return dict(to_dict(settings))
