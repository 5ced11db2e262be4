"""Small policy files with closed-form answers, built with onnx.helper.

They follow the same layout as an export, but the networks are affine maps whose outputs numpy
can give exactly, and the denoiser is that of a Gaussian, whose sampler has a closed form.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vdd_ros.core.config_io import dump_json
from vdd_ros.core.contract import ActionField, ObservationField, PolicyContract
from vdd_ros.core.schedules import ScheduleKind, sigma_schedule

onnx = pytest.importorskip("onnx")
helper, numpy_helper = onnx.helper, onnx.numpy_helper
FLOAT = onnx.TensorProto.FLOAT

Array = NDArray[np.float32]


def make_contract(
    *, n_obs_steps: int = 2, dim_obs: int = 3, horizon: int = 2, dim_act: int = 2
) -> PolicyContract:
    """Return a contract with one observation and one action field."""
    return PolicyContract(
        name="test",
        rate_hz=100.0,
        observations=(ObservationField(key="state", dim=dim_obs),),
        actions=(ActionField(key="command", dim=dim_act),),
        n_obs_steps=n_obs_steps,
        horizon=horizon,
    )


@dataclass
class Graph:
    """An ONNX graph under construction."""

    nodes: list[Any] = field(default_factory=list)
    constants: dict[str, Any] = field(default_factory=dict)

    def op(self, kind: str, *inputs: str | NDArray[Any], out: str = "", **attributes: Any) -> str:
        """Append a node; arrays become initializers. Returns the output's name."""
        names = []
        for value in inputs:
            if not isinstance(value, str):
                name = f"c{len(self.constants)}"
                self.constants[name] = numpy_helper.from_array(np.asarray(value), name)
                value = name
            names.append(value)
        out = out or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [out], **attributes))
        return out

    def build(
        self, inputs: Mapping[str, Sequence[Any]], outputs: Mapping[str, Sequence[Any]]
    ) -> Any:
        """Return a checked ModelProto."""
        graph = helper.make_graph(
            self.nodes,
            "policy",
            [helper.make_tensor_value_info(n, FLOAT, s) for n, s in inputs.items()],
            [helper.make_tensor_value_info(n, FLOAT, s) for n, s in outputs.items()],
            initializer=list(self.constants.values()),
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
        model.ir_version = 9
        onnx.checker.check_model(model)
        return model


def save(
    path: Path,
    model: Any,
    *,
    contract: PolicyContract,
    provenance: Mapping[str, Any],
    golden: Mapping[str, Any],
) -> Path:
    """Write a model with its three metadata entries."""
    del model.metadata_props[:]
    helper.set_model_props(
        model,
        {
            "vdd_ros.contract": dump_json(contract),
            "vdd_ros.provenance": json.dumps(provenance),
            "vdd_ros.golden": json.dumps(golden),
        },
    )
    path.write_bytes(model.SerializeToString())
    return path


def tensors(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Return arrays as a golden sample stores them."""
    return {
        n: {"shape": list(a.shape), "data": np.asarray(a, np.float64).ravel().tolist()}
        for n, a in arrays.items()
    }


@dataclass(frozen=True)
class MoeTwin:
    """A Mixture of Experts file and the same map in numpy."""

    path: Path
    contract: PolicyContract
    n_experts: int
    model: Any
    provenance: dict[str, Any]
    golden: dict[str, Any]
    outputs: Callable[[Array], dict[str, Array]]

    def save_as(self, path: Path, **changes: Any) -> Path:
        """Write a variation of the file."""
        parts = {"contract": self.contract, "provenance": self.provenance, "golden": self.golden}
        return save(path, self.model, **{**parts, **changes})


def make_moe_file(
    path: Path,
    *,
    n_experts: int = 4,
    contract: PolicyContract | None = None,
    density: bool = False,
    width: int = 0,
    passes: int = 0,
    seed: int = 0,
) -> MoeTwin:
    """Write a student: tanh layer of ``width`` (0: none), then affine gate and experts.

    Its features go through another layer of that width ``passes`` times, which only costs time:
    some 50 us each at a width of 512.
    """
    contract = contract or make_contract()
    rng = np.random.default_rng(seed)
    n_in, k = contract.n_obs_steps * contract.dim_obs, n_experts
    h, a = contract.horizon, contract.dim_act
    n_feature = width or n_in

    def weight(rows: int, columns: int) -> Array:
        return (rng.standard_normal((rows, columns)) / np.sqrt(rows)).astype(np.float32)

    trunk = weight(n_in, n_feature)
    gate, experts = weight(n_feature, k), weight(n_feature, k * h * a)
    again = (weight(n_feature, n_feature) * 0.3).astype(np.float32)
    scale = np.tile(np.tril(np.full((h * a, h * a), 0.1, np.float32)), (k, 1, 1))

    graph = Graph()
    flat = graph.op("Reshape", "observation", np.array([0, -1]))
    if width:
        flat = graph.op("Tanh", graph.op("MatMul", flat, trunk))
    if passes:
        first, graph.constants["again"] = flat, numpy_helper.from_array(again, "again")
        for _ in range(passes):
            around = graph.op("MatMul", flat, "again")
            flat = graph.op("Tanh", graph.op("Add", around, first))
    graph.op("MatMul", flat, gate, out="gating_logits")
    graph.op(
        "Reshape",
        graph.op("MatMul", flat, experts),
        np.array([0, k, h, a]),
        out="expert_actions",
    )
    shapes: dict[str, Sequence[Any]] = {
        "gating_logits": ["B", k],
        "expert_actions": ["B", k, h, a],
    }
    if density:
        zero = graph.op("Mul", "gating_logits", np.float32(0))
        column = graph.op("Unsqueeze", zero, np.array([2, 3]))
        graph.op("Add", column, scale, out="expert_scale")
        shapes["expert_scale"] = ["B", k, h * a, h * a]
    model = graph.build({"observation": ["B", contract.n_obs_steps, contract.dim_obs]}, shapes)

    def outputs(observation: Array) -> dict[str, Array]:
        x = observation.reshape(len(observation), -1)
        x = np.tanh(x @ trunk) if width else x
        first = x
        for _ in range(passes):
            x = np.tanh(x @ again + first)
        found = {
            "gating_logits": x @ gate,
            "expert_actions": (x @ experts).reshape(-1, k, h, a),
        }
        if density:
            found["expert_scale"] = np.broadcast_to(scale, (len(x), *scale.shape))
        return found

    sample = rng.standard_normal((3, contract.n_obs_steps, contract.dim_obs)).astype(np.float32)
    golden = {
        "inputs": tensors({"observation": sample}),
        "outputs": tensors(outputs(sample)),
        "atol": 1e-5,
    }
    provenance = {"format_version": 1, "kind": "moe", "n_experts": k}
    save(path, model, contract=contract, provenance=provenance, golden=golden)
    return MoeTwin(path, contract, k, model, provenance, golden, outputs)


@dataclass(frozen=True)
class DenoiserTwin:
    """A Gaussian's denoiser as a file, and everything about it in closed form."""

    path: Path
    contract: PolicyContract
    model: Any
    provenance: dict[str, Any]
    golden: dict[str, Any]
    mean: Callable[[Array], Array]
    deviation: float
    offset: Array
    scale: Array

    def save_as(self, path: Path, **changes: Any) -> Path:
        """Write a variation of the file."""
        parts = {"contract": self.contract, "provenance": self.provenance, "golden": self.golden}
        return save(path, self.model, **{**parts, **changes})

    def denoise(self, x: Array, sigma: float, observation: Array) -> Array:
        """D(x, sigma) = (s^2 x + sigma^2 m) / (s^2 + sigma^2)."""
        s2 = self.deviation**2
        return (s2 * x + sigma**2 * self.mean(observation)) / (s2 + sigma**2)

    def euler(self, noise: Array, observation: Array, n_steps: int, kind: ScheduleKind) -> Array:
        """Return what Euler's method gives, in raw units: every step shrinks x - m linearly."""
        sigmas = sigma_schedule(
            kind,
            n_steps=n_steps,
            sigma_min=self.provenance["sigma_min"],
            sigma_max=self.provenance["sigma_max"],
        )
        s2, mean = self.deviation**2, self.mean(observation).astype(np.float64)
        here, following = sigmas[:-1], sigmas[1:]
        shrink = 1 + (following - here) * here / (s2 + here**2)
        # The action is the last denoised value, which is where a step to sigma 0 ends.
        end = mean + (noise * sigmas[0] - mean) * np.prod(shrink)
        return (end * self.scale + self.offset).astype(np.float32)


def make_denoiser_file(
    path: Path,
    *,
    contract: PolicyContract | None = None,
    unroll: Sequence[int] = (1, 4, 16),
    deviation: float = 0.4,
    schedule: ScheduleKind = "exponential",
    width: int = 0,
    seed: int = 0,
) -> DenoiserTwin:
    """Write the denoiser of N(m(obs), deviation^2 I), m affine (or through a tanh layer)."""
    contract = contract or make_contract()
    rng = np.random.default_rng(seed)
    n_in, h, a = contract.n_obs_steps * contract.dim_obs, contract.horizon, contract.dim_act
    trunk = (rng.standard_normal((n_in, width or n_in)) / np.sqrt(n_in)).astype(np.float32)
    head = (rng.standard_normal((width or n_in, h * a)) / np.sqrt(n_in)).astype(np.float32)
    offset = rng.standard_normal(a).astype(np.float32)
    scale = rng.uniform(0.5, 2.0, a).astype(np.float32)
    s2 = np.float32(deviation**2)
    provenance = {
        "format_version": 1,
        "kind": "denoiser",
        "sigma_min": 0.01,
        "sigma_max": 2.0,
        "sigma_schedule": schedule,
        "unroll": list(unroll),
    }
    graph = Graph()

    def denoise(x: str, sigma: str | NDArray[Any], out: str = "") -> str:
        """Append D(x, sigma) for x [B, H, A] and sigma a scalar or [B, 1, 1]."""
        flat = graph.op("Reshape", "observation", np.array([0, -1]))
        if width:
            flat = graph.op("Tanh", graph.op("MatMul", flat, trunk))
        mean = graph.op("Reshape", graph.op("MatMul", flat, head), np.array([0, h, a]))
        variance = graph.op("Mul", sigma, sigma)
        top = graph.op("Add", graph.op("Mul", x, s2), graph.op("Mul", mean, variance))
        return graph.op("Div", top, graph.op("Add", variance, s2), out=out)

    sigma = graph.op("Unsqueeze", "sigma", np.array([1, 2]))
    denoise("noisy_action", sigma, out="denoised")
    graph.op("Add", graph.op("Mul", "denoised", scale), offset, out="action")
    for n in unroll:
        sigmas = sigma_schedule(schedule, n_steps=n, sigma_min=0.01, sigma_max=2.0)
        x = graph.op("Mul", "noise", np.float32(sigmas[0]))
        for here, following in itertools.pairwise(sigmas):
            slope = graph.op("Sub", x, denoise(x, np.float32(here)))
            step = graph.op("Mul", slope, np.float32((following - here) / here))
            x = graph.op("Add", x, step)
        graph.op("Add", graph.op("Mul", x, scale), offset, out=f"sampled_action_{n}")
    action = ["B", h, a]
    inputs: dict[str, Sequence[Any]] = {
        "noisy_action": action,
        "sigma": ["B"],
        "observation": ["B", contract.n_obs_steps, contract.dim_obs],
    }
    if unroll:
        inputs["noise"] = action
    names = ["denoised", "action", *(f"sampled_action_{n}" for n in unroll)]
    model = graph.build(inputs, dict.fromkeys(names, action))

    def mean(observation: Array) -> Array:
        x = observation.reshape(len(observation), -1)
        return ((np.tanh(x @ trunk) if width else x) @ head).reshape(-1, h, a)

    twin = DenoiserTwin(path, contract, model, provenance, {}, mean, deviation, offset, scale)
    twin = dataclasses.replace(twin, golden=_golden(twin, unroll, schedule, rng))
    twin.save_as(path)
    return twin


def _golden(
    twin: DenoiserTwin, unroll: Sequence[int], schedule: ScheduleKind, rng: np.random.Generator
) -> dict[str, Any]:
    c = twin.contract
    noisy, noise = (
        rng.standard_normal((3, c.horizon, c.dim_act)).astype(np.float32) for _ in range(2)
    )
    observation = rng.standard_normal((3, c.n_obs_steps, c.dim_obs)).astype(np.float32)
    denoised = twin.denoise(noisy, 0.5, observation)
    inputs = {"noisy_action": noisy, "sigma": np.full(3, 0.5), "observation": observation}
    outputs = {"denoised": denoised, "action": denoised * twin.scale + twin.offset}
    if unroll:
        inputs["noise"] = noise
    for n in unroll:
        outputs[f"sampled_action_{n}"] = twin.euler(noise, observation, n, schedule)
    return {"inputs": tensors(inputs), "outputs": tensors(outputs), "atol": 1e-5}
