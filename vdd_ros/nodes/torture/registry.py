"""All kinds of faults by name; a new one is a line in the file it belongs to."""

from __future__ import annotations

from vdd_ros.nodes.torture.clock_faults import CLOCK_FAULTS
from vdd_ros.nodes.torture.faults import Fault
from vdd_ros.nodes.torture.message_faults import MESSAGE_FAULTS
from vdd_ros.nodes.torture.process_faults import PROCESS_FAULTS
from vdd_ros.nodes.torture.service_faults import SERVICE_FAULTS
from vdd_ros.nodes.torture.stream_faults import STREAM_FAULTS

_ALL: tuple[Fault, ...] = (
    *MESSAGE_FAULTS,
    *STREAM_FAULTS,
    *CLOCK_FAULTS,
    *SERVICE_FAULTS,
    *PROCESS_FAULTS,
)

FAULTS: dict[str, Fault] = {fault.name: fault for fault in _ALL}
"""Every kind, in the order of the table."""

if len(FAULTS) != len(_ALL):
    raise RuntimeError("two kinds of faults have one name")
