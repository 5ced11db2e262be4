r"""From a run folder to a policy file: one ONNX model that describes and tests itself.

Normalisation is inside the graph, raw units in and raw units out; metadata carries the contract,
the provenance and a golden sample. A student's graph ends in all experts' proposals (the expert is
chosen outside, seeded, so that a run can be replayed); a teacher's graph holds the denoiser and,
beside it, whole Euler samplers unrolled over the same weights. The runtime prunes the graph to the
outputs it uses, so one file costs nothing at run time.

Nothing is written unless ONNX Runtime computes what torch computes.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from vdd_ros import __version__
from vdd_ros.core.config_io import dump_json, write_atomic
from vdd_ros.core.contract import PolicyContract
from vdd_ros.core.errors import VddError
from vdd_ros.core.schedules import sigma_schedule
from vdd_ros.distill import checkpoint
from vdd_ros.distill.jumps import JumpModel
from vdd_ros.distill.networks.gaussian_head import keep_rows
from vdd_ros.distill.student import GaussianMixtureOfExperts
from vdd_ros.distill.teachers.base import DenoisingTeacher

FORMAT_VERSION = 1
# The newest whose operators every ONNX Runtime we support has; 25 expands attention to 445 nodes.
OPSET = 20
# Largest difference between torch and ONNX Runtime, relative to the scale of an output.
PARITY = 1e-4
# Golden samples: enough rows to notice a wrong graph, few enough to keep the file small.
_N_GOLDEN = 4
_N_RANDOM = 64

Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class ExportResult:
    """A written policy file."""

    path: Path
    """The file."""
    kind: str
    """``moe`` or ``denoiser``."""
    n_bytes: int
    """Its size."""
    parity_max_abs: float
    """Largest difference between torch and ONNX Runtime over all outputs and inputs tried."""


class StudentGraph(nn.Module):
    """Raw observation window to gating logits and raw proposals of all experts.

    Of a chunk only the first ``horizon`` actions are in the graph, and in its weights: a robot
    that never executes the rest need not compute it. Their density is the marginal.
    """

    def __init__(self, student: GaussianMixtureOfExperts, *, horizon: int, density: bool) -> None:
        """Wrap a student; with ``density`` the covariances are an output, too."""
        super().__init__()
        self.student, self.horizon, self.density = student, horizon, density
        steps = torch.arange(student.settings.n_experts * student.horizon)
        kept = steps[steps % student.horizon < horizon]
        self.mean = keep_rows(student.head.mean, kept, len(steps))

    def forward(self, observation: Float[Tensor, "B T O"]) -> tuple[Tensor, ...]:
        """Return gating_logits, expert_actions and, with density, expert_scale."""
        student = self.student
        features = student.features(student.observation.normalize(observation))
        shape = (-1, student.settings.n_experts, self.horizon, student.dim_act)
        mean = self.mean(student.lift_mean(features)).view(shape)
        outputs = (student.gate(features), student.action.unnormalize(mean))
        if not self.density:
            return outputs
        # a_raw = scale * a + offset, so the factor's rows are stretched by the scale.
        stretch = student.action.scale.repeat(self.horizon)
        executed = student.covariance(features).marginal(self.horizon * student.dim_act)
        return (*outputs, executed.stretch(stretch).cholesky())


class TeacherGraph(nn.Module):
    """The denoiser, its result in raw units, and whole samplers unrolled."""

    def __init__(self, teacher: DenoisingTeacher | JumpModel, unroll: Sequence[int]) -> None:
        """Wrap a teacher; each entry of ``unroll`` is a number of Euler steps."""
        super().__init__()
        self.teacher = teacher
        self.schedules = [
            sigma_schedule(
                teacher.schedule,
                n_steps=n,
                sigma_min=teacher.sigma_min,
                sigma_max=teacher.sigma_max,
            ).tolist()
            for n in unroll
        ]

    def forward(
        self,
        noisy_action: Float[Tensor, "B H A"],
        sigma: Float[Tensor, " B"],
        observation: Float[Tensor, "B T O"],
        noise: Float[Tensor, "B H A"] | None = None,
    ) -> tuple[Tensor, ...]:
        """Return denoised, action and one sampled action per schedule."""
        teacher = self.teacher
        obs = teacher.observation.normalize(observation)
        denoised = teacher.denoise(noisy_action, sigma, obs)
        outputs = [denoised, teacher.action.unnormalize(denoised)]
        for sigmas in self.schedules:
            x = noise * sigmas[0]
            for now, following in itertools.pairwise(sigmas):
                # One sigma for the whole batch: its embedding is a constant of the graph.
                clean = teacher.denoise(x, torch.tensor([now]), obs)
                ratio = following / now
                x = clean if following == 0 else ratio * x + (1.0 - ratio) * clean
            outputs.append(teacher.action.unnormalize(x))
        return tuple(outputs)


def export_policy(
    folder: str | Path,
    contract: PolicyContract,
    out: str | Path,
    *,
    density: bool = False,
    unroll: Sequence[int] | None = None,
    n_action_steps: int | None = None,
    evaluation: Mapping[str, Any] | None = None,
) -> ExportResult:
    """Write a run folder, student or teacher, as a policy file.

    A consistency model has the form of a denoiser and is written as one, with one Euler step.

    Args:
        folder: run folder of a distillation or a teacher.
        contract: topics, units and limits; window and chunk are taken from the model.
        out: the file to write.
        density: student: add ``expert_scale`` for log q(a|s).
        unroll: teacher: numbers of Euler steps whose whole samplers the file holds as well; None
            takes 1, 4 and 16, or for a U-Net 1 alone: beside its pass the cost of a call is
            nothing, and 21 copies of its many nodes take minutes to trace.
        n_action_steps: actions of each chunk that will be executed; None takes the contract's.
        evaluation: figures of this model, kept in the provenance.

    Raises:
        VddError: not a run folder, contract and model do not fit, or torch and ONNX Runtime
            disagree; nothing is written.
    """
    info = checkpoint.read_info(folder)
    windows = checkpoint.read_examples(folder)
    provenance = _provenance(folder, info, evaluation)
    if info.kind == "student":
        student = checkpoint.load_student(folder)
        contract = fit_contract(contract, student, n_action_steps)
        provenance |= {
            "kind": "moe",
            "n_experts": student.settings.n_experts,
            "trained_horizon": student.horizon,
        }
        names = ["gating_logits", "expert_actions", *(["expert_scale"] if density else [])]
        samples = [{"observation": w} for w in _windows(student, windows)]
        if density:
            _check_density(student)
        graph: nn.Module = StudentGraph(student, horizon=contract.horizon, density=density)
    else:
        teacher: DenoisingTeacher | JumpModel
        if info.kind == "consistency":
            # The only number of steps that a consistency model's form as a denoiser is good for.
            teacher, unroll = checkpoint.load_consistency(folder), (1,)
            provenance["n_steps"] = 1
        else:
            teacher = checkpoint.load_teacher(folder)
            if unroll is None:
                unroll = (1,) if teacher.settings.backbone == "unet" else (1, 4, 16)
        contract = fit_contract(contract, teacher, n_action_steps)
        provenance |= {
            "kind": "denoiser",
            "sigma_min": teacher.sigma_min,
            "sigma_max": teacher.sigma_max,
            "sigma_schedule": teacher.schedule,
            "unroll": list(unroll),
        }
        names = ["denoised", "action", *(f"sampled_action_{n}" for n in unroll)]
        samples = [
            _denoiser_sample(teacher, w, with_noise=bool(unroll))
            for w in _windows(teacher, windows)
        ]
        graph = TeacherGraph(teacher, unroll)
    return _write(graph.eval(), samples, names, contract, provenance, Path(out))


def _write(
    graph: nn.Module,
    samples: list[Arrays],
    output_names: list[str],
    contract: PolicyContract,
    provenance: dict[str, Any],
    out: Path,
) -> ExportResult:
    """Export, compare, describe, write. The first of ``samples`` becomes the golden one."""
    model = to_onnx(graph, samples[0], output_names)
    parity = check_parity(graph, model.SerializeToString(), samples, output_names)
    golden, outputs = samples[0], _run_torch(graph, samples[0], output_names)
    describe(
        model,
        contract=dump_json(contract),
        provenance=dump_json(provenance),
        golden=dump_json(
            {"inputs": _tensors(golden), "outputs": _tensors(outputs), "atol": PARITY}
        ),
    )
    content = model.SerializeToString()
    write_atomic(out, content)
    return ExportResult(out, provenance["kind"], len(content), parity)


def to_onnx(graph: nn.Module, inputs: Arrays, output_names: list[str]) -> onnx.ModelProto:
    """Trace a graph with a free batch; weights inside, no paths of this machine in it."""
    batch = torch.export.Dim("B")
    with _quietly():
        program = torch.onnx.export(
            graph,
            tuple(torch.from_numpy(value) for value in inputs.values()),
            input_names=list(inputs),
            output_names=output_names,
            dynamic_shapes=tuple({0: batch} for _ in inputs),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None  # dynamo=True always returns one
    model: onnx.ModelProto = program.model_proto
    model.doc_string = ""
    model.graph.doc_string = ""
    # The tracer notes the source line of every node, with absolute paths.
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for entry in (*model.graph.value_info, *model.graph.initializer):
        entry.doc_string = ""
        del entry.metadata_props[:]
    return model


def describe(model: onnx.ModelProto, *, contract: str, provenance: str, golden: str) -> None:
    """Set the three metadata entries of a policy file, replacing all others."""
    del model.metadata_props[:]
    for key, value in (("contract", contract), ("provenance", provenance), ("golden", golden)):
        model.metadata_props.add(key=f"vdd_ros.{key}", value=value)


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
        wanted = _run_torch(graph, sample, output_names)
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


def _run_torch(graph: nn.Module, inputs: Arrays, output_names: list[str]) -> Arrays:
    with torch.no_grad():
        outputs = graph(*(torch.from_numpy(value) for value in inputs.values()))
    return {n: o.numpy() for n, o in zip(output_names, outputs, strict=True)}


def _windows(
    model: GaussianMixtureOfExperts | DenoisingTeacher | JumpModel, examples: NDArray[np.float32]
) -> list[NDArray[np.float32]]:
    """Return two batches of windows: golden ones, then examples and random ones."""
    rng = np.random.default_rng(0)
    golden = examples[np.linspace(0, len(examples) - 1, _N_GOLDEN).astype(int)]
    offset, scale = model.observation.offset.numpy(), model.observation.scale.numpy()
    random = offset + 2.0 * scale * rng.standard_normal((_N_RANDOM, *examples.shape[1:]))
    return [golden, np.concatenate([examples, random]).astype(np.float32)]


def _denoiser_sample(
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


def fit_contract(
    contract: PolicyContract,
    model: GaussianMixtureOfExperts | DenoisingTeacher | JumpModel | checkpoint.RunInfo,
    n_action_steps: int | None = None,
) -> PolicyContract:
    """Return the contract with the model's window and chunk.

    A student's chunk is cut to the actions that are executed, unless overlapping chunks are to be
    blended (``execution``), which takes the rest of the older one.

    Args:
        contract: the robot's.
        model: what will act.
        n_action_steps: actions of each chunk to execute; None takes the contract's, as far as the
            model's chunk goes.

    Raises:
        VddError: the vectors have other lengths, or the chunk is shorter than what was asked for.
    """
    asked = (contract.dim_obs, contract.dim_act)
    if asked != (model.dim_obs, model.dim_act):
        raise VddError(
            f"contract '{contract.name}': {asked[0]} observation and {asked[1]} action values, "
            f"the model has {model.dim_obs} and {model.dim_act}; use the contract of the robot it "
            "was trained for"
        )
    if n_action_steps is not None and not 1 <= n_action_steps <= model.horizon:
        raise VddError(
            f"n_action_steps: got {n_action_steps}, expected 1 to {model.horizon}, the actions "
            "that the model predicts at once"
        )
    executed = n_action_steps or min(contract.n_action_steps, model.horizon)
    if isinstance(model, checkpoint.RunInfo):
        is_student = model.kind == "student"
    else:
        is_student = isinstance(model, GaussianMixtureOfExperts)
    cut = is_student and contract.execution == "latest_only"
    return replace(
        contract,
        n_obs_steps=model.n_obs_steps,
        horizon=executed if cut else model.horizon,
        n_action_steps=executed,
    )


def _check_density(student: GaussianMixtureOfExperts) -> None:
    """Refuse covariances whose way out needs what the policy format cannot say.

    Raises:
        VddError: deblurred blocks of more than two dimensions, whose eigenvalues ONNX lacks.
    """
    size = student.head.block if student.head.kind != "lowrank" else student.settings.rank
    if student.settings.deblur and student.head.kind != "diag" and size > 2:
        raise VddError(
            f"density: the covariances of this student were deblurred, for '{student.head.kind}' "
            f"of size {size} by eigenvalues, which ONNX does not have; distill with "
            "'estimator: diffused' or 'covariance: diag', or export without density"
        )


def _provenance(
    folder: str | Path, info: checkpoint.RunInfo, evaluation: Mapping[str, Any] | None
) -> dict[str, Any]:
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


def _tensors(arrays: Arrays) -> dict[str, dict[str, Any]]:
    return {
        name: {"shape": list(value.shape), "data": value.ravel().tolist()}
        for name, value in arrays.items()
    }


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep the exporter's progress off standard output, which may carry a JSON report."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
