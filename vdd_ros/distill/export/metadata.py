"""What a policy file says about itself: contract, provenance and a golden sample."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import torch

from vdd_ros import __version__
from vdd_ros.distill.export.parity import Arrays
from vdd_ros.distill.training import checkpoint

FORMAT_VERSION = 1


def describe(model: onnx.ModelProto, *, contract: str, provenance: str, golden: str) -> None:
    """Set the three metadata entries of a policy file, replacing all others."""
    del model.metadata_props[:]
    for key, value in (("contract", contract), ("provenance", provenance), ("golden", golden)):
        model.metadata_props.add(key=f"vdd_ros.{key}", value=value)


def origin(
    folder: str | Path, info: checkpoint.RunInfo, evaluation: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return where the weights of a run folder come from, and what they reached."""
    return {
        "format_version": FORMAT_VERSION,
        "method": info.method,
        "teacher": info.teacher,
        "data_source": info.data_source,
        "data_hash": info.data_hash,
        "settings": info.training or info.model,
        "evaluation": dict(evaluation or {}),
        "training_cpu_s": checkpoint.training_cpu_s(folder),
        "vdd_ros_version": __version__,
        "torch_version": torch.__version__,
    }


def tensors(arrays: Arrays) -> dict[str, dict[str, Any]]:
    """Return arrays as JSON has them."""
    return {
        name: {"shape": list(value.shape), "data": value.ravel().tolist()}
        for name, value in arrays.items()
    }
