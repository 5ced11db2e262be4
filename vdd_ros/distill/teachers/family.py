"""The teacher that belongs to settings."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from vdd_ros.distill.networks.normalization import Affine
from vdd_ros.distill.teachers.base import DenoisingTeacher
from vdd_ros.distill.teachers.ddpm import DdpmTeacher
from vdd_ros.distill.teachers.edm import EdmTeacher
from vdd_ros.distill.teachers.flow import FlowTeacher
from vdd_ros.distill.teachers.settings import Family, TeacherSettings

_FAMILIES: dict[Family, type[DenoisingTeacher]] = {
    "edm": EdmTeacher,
    "ddpm": DdpmTeacher,
    "flow": FlowTeacher,
}


def make_teacher(
    settings: TeacherSettings,
    *,
    dim_obs: int,
    dim_act: int,
    observation: Affine | None = None,
    action: Affine | None = None,
    sigma_data: float = 1.0,
    action_box: Float[Tensor, "2 A"] | None = None,
) -> DenoisingTeacher:
    """Build the teacher of the family that the settings name; see `DenoisingTeacher`.

    Raises:
        VddError: a network or a noise schedule that cannot be built.
    """
    return _FAMILIES[settings.family](
        settings,
        dim_obs=dim_obs,
        dim_act=dim_act,
        observation=observation,
        action=action,
        sigma_data=sigma_data,
        action_box=action_box,
    )
