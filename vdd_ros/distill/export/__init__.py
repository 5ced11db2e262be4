"""The way out: a run folder becomes a policy file that describes and tests itself."""

from vdd_ros.distill.export.fitting import fit_contract
from vdd_ros.distill.export.policy import ExportResult, export_policy

__all__ = ["ExportResult", "export_policy", "fit_contract"]
