"""The robot's contract and the model's shape, brought together."""

from __future__ import annotations

from dataclasses import replace

from vdd_ros.core.contract import PolicyContract
from vdd_ros.core.errors import VddError
from vdd_ros.distill.methods.jumps import JumpModel
from vdd_ros.distill.mixtures.student import GaussianMixtureOfExperts
from vdd_ros.distill.teachers.base import DenoisingTeacher
from vdd_ros.distill.training.checkpoint import RunInfo


def fit_contract(
    contract: PolicyContract,
    model: GaussianMixtureOfExperts | DenoisingTeacher | JumpModel | RunInfo,
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
    if isinstance(model, RunInfo):
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
