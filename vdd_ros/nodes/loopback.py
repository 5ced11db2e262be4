"""How the nodes of one machine find and hear each other: a profile for Fast DDS.

Two traps are behind it, both measured with the Jazzy (Fast DDS 2.14) and the Kilted (3.2) wheels:

* With ``ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST`` the middleware chooses its transports itself,
  UDP and shared memory: neither ``FASTDDS_BUILTIN_TRANSPORTS`` nor a profile's transports have any
  effect, and nothing says so. Who wants no shared memory has to leave that range and to keep to
  the loopback interface by the transport instead.
* Fast DDS 2 reads its profiles from ``FASTRTPS_DEFAULT_PROFILES_FILE``, Fast DDS 3 from
  ``FASTDDS_DEFAULT_PROFILES_FILE``; the other name is ignored, or warned about.
"""

from __future__ import annotations

import os
from pathlib import Path

from rclpy.utilities import get_rmw_implementation_identifier

TRANSPORTS = "FASTDDS_BUILTIN_TRANSPORTS"
RANGE = "ROS_AUTOMATIC_DISCOVERY_RANGE"
_PROFILES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
_PROFILE = """<?xml version="1.0" encoding="UTF-8"?>
<dds xmlns="http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles"><profiles>
{descriptors}<participant profile_name="loopback" is_default_profile="true"><rtps>
<builtin><discovery_config>
<leaseAnnouncement><sec>0</sec><nanosec>200000000</nanosec></leaseAnnouncement>
</discovery_config>{peers}</builtin>{transports}
</rtps></participant>
</profiles></dds>
"""
"""By default participants tell of themselves every 3 s, so nodes that start one after the other
may need that long to find each other; five times a second is nothing on one machine's loopback."""
_DESCRIPTORS = """<transport_descriptors><transport_descriptor>
<transport_id>loopback</transport_id><type>UDPv4</type>
<interfaceWhiteList><address>127.0.0.1</address></interfaceWhiteList>
<maxInitialPeersRange>{participants}</maxInitialPeersRange>
</transport_descriptor></transport_descriptors>
"""
_PEERS = (
    "<initialPeersList><locator><udpv4><address>127.0.0.1</address></udpv4></locator>"
    "</initialPeersList>"
)
_USED = (
    "<userTransports><transport_id>loopback</transport_id></userTransports>"
    "<useBuiltinTransports>false</useBuiltinTransports>"
)
_PARTICIPANTS = 32
"""So many processes of one domain find each other without multicast; ROS does the same."""


def loopback_environment(folder: Path, *, shared_memory: bool = True) -> dict[str, str]:
    """Return the environment in which nodes stay on this machine and find each other at once.

    ``FASTDDS_BUILTIN_TRANSPORTS=UDPv4`` in the present environment means what it says: no shared
    memory. Where the user has a profile already, it is left alone.

    Args:
        folder: where the profile is written; it has to live as long as the nodes.
        shared_memory: whether the nodes may speak through it. A process killed while it holds the
            lock of a shared-memory port blocks the others' ``publish`` for whole seconds (Fast DDS
            issues 5469 and 6117), so whoever kills nodes says no.
    """
    if any(name in os.environ for name in _PROFILES):
        return {RANGE: "LOCALHOST"}
    udp_only = not shared_memory or os.environ.get(TRANSPORTS) == "UDPv4"
    profile = folder / "loopback.xml"
    profile.write_text(
        _PROFILE.format(
            descriptors=_DESCRIPTORS.format(participants=_PARTICIPANTS) if udp_only else "",
            peers=_PEERS if udp_only else "",
            transports=_USED if udp_only else "",
        ),
        encoding="utf-8",
    )
    return {RANGE: "SUBNET" if udp_only else "LOCALHOST", _profiles_variable(): str(profile)}


def _profiles_variable() -> str:
    """Return the name that the installed Fast DDS reads; the libraries of 2 and 3 differ."""
    get_rmw_implementation_identifier()  # loads the middleware's library
    maps = Path("/proc/self/maps")
    old = maps.exists() and "libfastrtps.so" in maps.read_text(encoding="utf-8")
    return _PROFILES[0] if old else _PROFILES[1]
