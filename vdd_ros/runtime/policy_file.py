"""PolicyFile: one self-describing ONNX file, checked in full before anything moves.

The file carries three metadata entries beside its network: the contract (topics, units, rates),
the provenance (what it was made from, and which kind of policy it is), and a golden sample
(recorded inputs with the outputs that training computed for them). Opening a file reads it once,
looks through the bytes, compares tensors with the contract, and then replays the golden sample.
Whatever does not fit is a `VddError`; nothing of a refused file is run on a robot.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vdd_ros.core.config_io import load_json
from vdd_ros.core.contract import PolicyContract
from vdd_ros.core.errors import VddError
from vdd_ros.core.mixture import log_softmax
from vdd_ros.runtime.graph import Summary, TensorSpec, prune, scan
from vdd_ros.runtime.interface import check_interface
from vdd_ros.runtime.session import (
    Choice,
    InferenceSession,
    SessionSettings,
    max_abs_error,
    open_session,
)

Array = NDArray[np.float32]
Kind = Literal["moe", "denoiser"]

FORMAT_VERSION = 1
"""The layout of metadata and tensors this code reads and writes."""
MAX_BYTES = 512 * 2**20
"""Larger files are refused unread; the largest policy this project trains has 40 MB."""

_KEYS = ("vdd_ros.contract", "vdd_ros.provenance", "vdd_ros.golden")
# A golden sample compared with a coarser tolerance than this share of its outputs checks nothing.
_MAX_ATOL = 1e-2
_HOW_TO_MAKE = "a policy file is made by `vdd export`"


@dataclass(frozen=True, eq=False)
class Golden:
    """Recorded inputs and the outputs to reproduce, float32, batch first."""

    inputs: dict[str, Array]
    """By tensor name."""
    outputs: dict[str, Array]
    """By tensor name."""
    atol: float
    """Largest difference allowed, as a share of the largest recorded value of each output."""


@dataclass(frozen=True, eq=False)
class PolicyFile:
    """A policy file that has been read and checked."""

    path: Path
    """Where it was read from."""
    contract: PolicyContract
    """What the policy reads and writes."""
    provenance: dict[str, Any]
    """What the policy was made from, as recorded at export."""
    kind: Kind
    """moe: one pass gives every expert's action; denoiser: a sampler runs it many times."""
    inputs: tuple[TensorSpec, ...]
    """Graph inputs."""
    outputs: tuple[TensorSpec, ...]
    """Graph outputs."""
    golden: Golden
    """The self-test."""
    sha256: str
    """Hex digest of the file: which policy a log line speaks of."""
    model: bytes = field(repr=False)
    """The ONNX bytes, read once: what was checked is what runs."""

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = True) -> PolicyFile:
        """Read and check a policy file.

        Args:
            path: the ``.onnx`` file.
            verify: also replay the golden sample on the CPU.

        Raises:
            VddError: not a readable, complete, unchanged policy file of a known format.
        """
        path = Path(path)
        model = _read(path)
        try:
            file = _parse(path, model)
            if verify:
                file.verify()
        except VddError as error:
            raise VddError(f"{path}: {error}") from None
        return file

    @property
    def n_experts(self) -> int:
        """Number of experts; 0 for a denoiser."""
        return int(self.provenance["n_experts"]) if self.kind == "moe" else 0

    @property
    def n_steps(self) -> int | None:
        """Sampler steps a denoiser is made for: 1 for a consistency model; None for any number."""
        return self.provenance.get("n_steps") if self.kind == "denoiser" else None

    def verify(self) -> float:
        """Replay the golden sample through the whole graph on the CPU; return the largest error.

        Raises:
            VddError: an output differs from the recorded one by more than the sample allows.
        """
        choice = self.session(tuple(self.golden.outputs), SessionSettings(warm_up_runs=0))
        return self.golden_error(choice.session)

    def golden_error(self, session: InferenceSession) -> float:
        """Return the largest absolute difference between a session and the recorded outputs.

        Gating logits are compared as the probabilities they stand for: they are defined up to a
        constant, and one of -200 (a probability of nothing) has no digits left for 1e-5.
        """
        inputs = {n: self.golden.inputs[n] for n in session.input_names}
        got = dict(
            zip(session.output_names, session.run(inputs, session.output_names), strict=True)
        )
        return max(
            max_abs_error(_as_used(name, values), _as_used(name, self.golden.outputs[name]))
            for name, values in got.items()
        )

    def session(self, outputs: tuple[str, ...], settings: SessionSettings) -> Choice:
        """Open a session that computes ``outputs`` and nothing else, verified and warmed up.

        Raises:
            VddError: the provider is missing or does not reproduce the golden sample.
        """
        model = prune(self.model, outputs)
        needed = {spec.name for spec in scan(model).inputs}
        return open_session(
            model,
            settings,
            sample_inputs={n: a for n, a in self.golden.inputs.items() if n in needed},
            sample_outputs={n: self.golden.outputs[n] for n in outputs},
            atol=self.golden.atol,
        )


def _as_used(name: str, values: Array) -> NDArray[np.floating]:
    return np.exp(log_softmax(values.astype(np.float64))) if name == "gating_logits" else values


def _read(path: Path) -> bytes:
    try:
        # Not blocking: opening a named pipe would otherwise wait for somebody who writes to it.
        with open(path, "rb", opener=_open_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise VddError(f"{path}: not a regular file; {_HOW_TO_MAKE}")
            if status.st_size > MAX_BYTES:
                raise VddError(
                    f"{path}: {status.st_size / 2**20:.0f} MiB; expected a policy file of at "
                    f"most {MAX_BYTES // 2**20} MiB; {_HOW_TO_MAKE}"
                )
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise VddError(f"{path}: no such file; expected a policy file; {_HOW_TO_MAKE}") from None
    except OSError as error:
        raise VddError(
            f"{path}: cannot be read ({error.strerror}); expected a policy file"
        ) from None


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _parse(path: Path, model: bytes) -> PolicyFile:
    if not model:
        raise VddError(f"the file is empty; {_HOW_TO_MAKE}")
    try:
        summary = scan(model)
    except VddError as error:
        raise VddError(f"{error}; {_HOW_TO_MAKE}") from None
    missing = [key for key in _KEYS if key not in summary.metadata]
    if missing:
        raise VddError(
            f"an ONNX model without '{missing[0]}' in its metadata: cut off, or not a policy "
            f"file; {_HOW_TO_MAKE}"
        )
    provenance = _load(summary.metadata, "vdd_ros.provenance", _provenance)
    kind = _kind(provenance)
    contract = _load(
        summary.metadata,
        "vdd_ros.contract",
        lambda text: load_json(PolicyContract, text, where="vdd_ros.contract"),
    )
    check_interface(kind, contract, provenance, inputs=summary.inputs, outputs=summary.outputs)
    golden = _load(summary.metadata, "vdd_ros.golden", lambda text: _golden(text, summary))
    return PolicyFile(
        path=path,
        contract=contract,
        provenance=provenance,
        kind=kind,
        inputs=summary.inputs,
        outputs=summary.outputs,
        golden=golden,
        sha256=hashlib.sha256(model).hexdigest(),
        model=model,
    )


def _load(metadata: Mapping[str, str], key: str, parse: Callable[[str], Any]) -> Any:  # noqa: ANN401
    try:
        return parse(metadata[key])
    except VddError:
        raise
    except RecursionError:
        raise VddError(f"{key}: nested too deeply; expected what `vdd export` writes") from None
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise VddError(f"{key}: {error}; expected what `vdd export` writes") from None


def _provenance(text: str) -> dict[str, Any]:
    raw = json.loads(text)
    if not isinstance(raw, dict):
        raise VddError(f"vdd_ros.provenance: got {type(raw).__name__}, expected a JSON object")
    version = raw.get("format_version")
    if type(version) is not int or version < 1:
        raise VddError(f"format_version: got {version!r}, expected {FORMAT_VERSION}")
    if version > FORMAT_VERSION:
        raise VddError(
            f"format_version: got {version}, this vdd_ros reads up to {FORMAT_VERSION}; install "
            "the vdd_ros that wrote the file, or a newer one"
        )
    return raw


def _kind(provenance: Mapping[str, Any]) -> Kind:
    kind = provenance.get("kind")
    if kind == "moe":
        return "moe"
    if kind == "denoiser":
        return "denoiser"
    raise VddError(f"kind: got {kind!r}; known: moe, denoiser")


def _golden(text: str, summary: Summary) -> Golden:
    raw = json.loads(text)
    inputs, outputs = _tensors(raw["inputs"]), _tensors(raw["outputs"])
    for role, got, specs in (
        ("inputs", inputs, summary.inputs),
        ("outputs", outputs, summary.outputs),
    ):
        names = [spec.name for spec in specs]
        if sorted(got) != sorted(names):
            raise VddError(f"golden {role}: got {sorted(got)}, the graph has {sorted(names)}")
        for spec in specs:
            _check_sample(spec, got[spec.name])
    rows = {len(a) for a in (*inputs.values(), *outputs.values())}
    if len(rows) != 1:
        raise VddError(f"golden sample: batch sizes {sorted(rows)}; expected one for all tensors")
    atol = raw["atol"]
    if type(atol) not in (int, float) or not 0 < atol <= _MAX_ATOL:
        raise VddError(
            f"golden atol: got {atol!r}, expected a positive number of at most {_MAX_ATOL:g}"
        )
    return Golden(inputs, outputs, float(atol))


def _tensors(raw: Any) -> dict[str, Array]:  # noqa: ANN401 - whatever the JSON held
    if not isinstance(raw, dict):
        raise VddError(f"golden sample: got {type(raw).__name__}, expected tensors by name")
    tensors = {}
    for name, entry in raw.items():
        shape = entry["shape"]
        if not isinstance(shape, list) or not all(type(s) is int and s > 0 for s in shape):
            raise VddError(f"golden '{name}': shape {shape!r}, expected positive integers")
        data = np.asarray(entry["data"])
        if data.dtype.kind not in "fi" or data.size != math.prod(shape):
            raise VddError(
                f"golden '{name}': {data.size} values of type {data.dtype}, expected "
                f"{math.prod(shape)} numbers for shape {shape}"
            )
        with np.errstate(over="ignore"):
            tensor = np.ascontiguousarray(data.reshape(shape), dtype=np.float32)
        if not np.isfinite(tensor).all():
            raise VddError(f"golden '{name}': holds values that are not finite in float32")
        tensors[name] = tensor
    return tensors


def _check_sample(spec: TensorSpec, sample: Array) -> None:
    fits = len(sample.shape) == len(spec.shape) and all(
        isinstance(want, str) or got == want
        for got, want in zip(sample.shape, spec.shape, strict=True)
    )
    if not fits:
        raise VddError(f"golden '{spec.name}': shape {sample.shape}, the graph has {spec.shape}")
