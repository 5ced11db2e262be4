"""The self-test: ONNX Runtime computes what torch does, on golden, real and wild inputs."""

from __future__ import annotations

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from vdd_ros.core.errors import VddError
from vdd_ros.distill.methods.jumps import JumpModel
from vdd_ros.distill.mixtures.student import GaussianMixtureOfExperts
from vdd_ros.distill.teachers.base import DenoisingTeacher

# Largest difference between torch and ONNX Runtime, relative to the scale of an output.
PARITY = 1e-4
# Golden samples: enough rows to notice a wrong graph, few enough to keep the file small.
_N_GOLDEN = 4
_N_RANDOM = 64

Arrays = dict[str, NDArray[np.float32]]


def check_parity(
    graph: nn.Module, content: bytes, samples: list[Arrays], output_names: list[str]
) -> float:
    """Compare ONNX Runtime with torch on every sample; return the largest absolute difference.

    Raises:
        VddError: an output is not finite, or differs by more than `PARITY` of its scale.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    worst = 0.0
    for sample in samples:
        wanted = run_torch(graph, sample, output_names)
        got = session.run(output_names, sample)
        for (name, value), found in zip(wanted.items(), got, strict=True):
            scale = max(float(np.abs(value).max()), 1e-6)
            error = float(np.abs(value - found).max())
            # Not "error > bound": a NaN on either side must fail, too.
            if not error <= PARITY * scale:
                raise VddError(
                    f"export: '{name}' differs by {error:.3g} between torch and ONNX Runtime, "
                    f"allowed is {PARITY:g} of its scale {scale:.3g}; nothing was written. Check "
                    "the weights for huge or non-finite values, or another onnxruntime version"
                )
            worst = max(worst, error)
    return worst


def run_torch(graph: nn.Module, inputs: Arrays, output_names: list[str]) -> Arrays:
    """Return what torch computes, by output name."""
    with torch.no_grad():
        outputs = graph(*(torch.from_numpy(value) for value in inputs.values()))
    return {n: o.numpy() for n, o in zip(output_names, outputs, strict=True)}


def trial_windows(
    model: GaussianMixtureOfExperts | DenoisingTeacher | JumpModel, examples: NDArray[np.float32]
) -> list[NDArray[np.float32]]:
    """Return two batches of windows: golden ones, then examples and random ones."""
    rng = np.random.default_rng(0)
    golden = examples[np.linspace(0, len(examples) - 1, _N_GOLDEN).astype(int)]
    offset, scale = model.observation.offset.numpy(), model.observation.scale.numpy()
    random = offset + 2.0 * scale * rng.standard_normal((_N_RANDOM, *examples.shape[1:]))
    return [golden, np.concatenate([examples, random]).astype(np.float32)]


def denoiser_sample(
    teacher: DenoisingTeacher | JumpModel, windows: NDArray[np.float32], *, with_noise: bool
) -> Arrays:
    """Return denoiser inputs that go with windows: every sigma, noise of its size."""
    n = len(windows)
    shape = (n, teacher.horizon, teacher.dim_act)
    noise = np.random.default_rng(n).standard_normal(shape, dtype=np.float32)
    sigma = np.geomspace(teacher.sigma_max, teacher.sigma_min, n, dtype=np.float32)
    sample: Arrays = {"noisy_action": sigma[:, None, None] * noise, "sigma": sigma}
    sample["observation"] = windows
    if with_noise:
        sample["noise"] = noise
    return sample
