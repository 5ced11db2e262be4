"""Which tensors a policy file must have: its contract and kind, compared with its graph.

B is the batch (free), D = horizon * dim_act.

=========  ==========================================  ==========================================
kind       inputs                                      outputs
=========  ==========================================  ==========================================
moe        observation [B, n_obs_steps, dim_obs]       gating_logits [B, n_experts],
                                                       expert_actions [B, n_experts, horizon,
                                                       dim_act], optionally expert_scale
                                                       [B, n_experts, D, D]
denoiser   noisy_action [B, horizon, dim_act],         denoised and action, both
           sigma [B], observation as above, and        [B, horizon, dim_act], and for each n in
           with ``unroll`` noise like noisy_action     ``unroll`` sampled_action_n, the same shape
=========  ==========================================  ==========================================

Observations and actions are in raw units. ``noisy_action``, ``noise`` and ``denoised`` are in
the normalised coordinates the denoiser learned in; ``action`` is ``denoised`` in raw units.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any

from vdd_ros.core.contract import PolicyContract
from vdd_ros.core.errors import VddError
from vdd_ros.core.schedules import ScheduleKind
from vdd_ros.runtime.graph import FLOAT32, TensorSpec

Shape = tuple[int | str, ...]

_HUGE = 1e18  # a sigma is squared in float32, which ends at 3e38


def check_interface(
    kind: str,
    contract: PolicyContract,
    provenance: Mapping[str, Any],
    *,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
) -> None:
    """Compare a graph's tensors with what contract and provenance promise.

    Raises:
        VddError: a tensor is missing, unknown, of another type or of another shape.
    """
    if kind == "moe":
        want_in, want_out = _moe(contract, provenance, {spec.name for spec in outputs})
    else:
        want_in, want_out = _denoiser(contract, provenance)
    _compare("input", inputs, want_in)
    _compare("output", outputs, want_out)


def unrolled_name(n_steps: int) -> str:
    """Return the output that holds the whole Euler sampler of ``n_steps`` steps."""
    return f"sampled_action_{n_steps}"


def _moe(
    contract: PolicyContract, provenance: Mapping[str, Any], present: set[str]
) -> tuple[dict[str, Shape], dict[str, Shape]]:
    k = _positive_int(provenance, "n_experts")
    dim = contract.horizon * contract.dim_act
    outputs: dict[str, Shape] = {
        "gating_logits": ("B", k),
        "expert_actions": ("B", k, contract.horizon, contract.dim_act),
    }
    if "expert_scale" in present:
        outputs["expert_scale"] = ("B", k, dim, dim)
    return {"observation": ("B", contract.n_obs_steps, contract.dim_obs)}, outputs


def _denoiser(
    contract: PolicyContract, provenance: Mapping[str, Any]
) -> tuple[dict[str, Shape], dict[str, Shape]]:
    low, high = (_positive_number(provenance, key) for key in ("sigma_min", "sigma_max"))
    if low > high:
        raise VddError(f"sigma_min {low} is above sigma_max {high}; expected 0 < min <= max")
    _check_schedule(provenance.get("sigma_schedule"))
    if "n_steps" in provenance:
        _positive_int(provenance, "n_steps")
    unroll = provenance.get("unroll", [])
    if not isinstance(unroll, list) or not all(type(n) is int and n > 0 for n in unroll):
        raise VddError(f"unroll: got {unroll!r}, expected a list of positive step counts")
    action: Shape = ("B", contract.horizon, contract.dim_act)
    inputs: dict[str, Shape] = {
        "noisy_action": action,
        "sigma": ("B",),
        "observation": ("B", contract.n_obs_steps, contract.dim_obs),
    }
    if unroll:
        inputs["noise"] = action
    names = ["denoised", "action", *(unrolled_name(n) for n in unroll)]
    return inputs, dict.fromkeys(names, action)


def _check_schedule(schedule: object) -> None:
    """A named schedule, or the noise levels that a discrete-time model was trained at."""
    known = typing.get_args(ScheduleKind)
    if isinstance(schedule, list):
        if schedule and all(type(v) in (int, float) and 0 < v < _HUGE for v in schedule):
            return
        raise VddError("sigma_schedule: got a list, expected positive finite numbers in it")
    if schedule not in known:
        raise VddError(f"sigma_schedule: got {schedule!r}; known: {', '.join(known)}")


def _compare(role: str, specs: tuple[TensorSpec, ...], want: Mapping[str, Shape]) -> None:
    names = [spec.name for spec in specs]
    if sorted(names) != sorted(want):
        raise VddError(
            f"{role}s: the graph has {', '.join(sorted(names)) or 'none'}; the contract expects "
            f"{', '.join(sorted(want))}; export the policy again"
        )
    for spec in specs:
        if spec.elem_type != FLOAT32:
            raise VddError(
                f"{role} '{spec.name}': ONNX element type {spec.elem_type}, expected float32"
            )
        if not _fits(spec.shape, want[spec.name], exact=role == "input"):
            raise VddError(
                f"{role} '{spec.name}': shape {_show(spec.shape)}, the contract expects "
                f"{_show(want[spec.name])} with a free batch B; export the policy again"
            )


def _fits(shape: Shape, want: Shape, *, exact: bool) -> bool:
    """Tell whether a shape has a free batch and the wanted sizes.

    Exporters may leave a size of an output unnamed; the golden sample then settles it.
    """
    if len(shape) != len(want) or not isinstance(shape[0], str):
        return False
    return all(
        got == size or (not exact and isinstance(got, str))
        for got, size in zip(shape[1:], want[1:], strict=True)
    )


def _show(shape: Shape) -> str:
    return f"[{', '.join(str(s) or '?' for s in shape)}]"


def _positive_int(provenance: Mapping[str, Any], key: str) -> int:
    value = provenance.get(key)
    if type(value) is not int or value < 1:
        raise VddError(f"{key}: got {value!r}, expected a positive integer in the provenance")
    return value


def _positive_number(provenance: Mapping[str, Any], key: str) -> float:
    value = provenance.get(key)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < _HUGE:
        return float(value)
    raise VddError(f"{key}: got {value!r}, expected a positive number in the provenance")
