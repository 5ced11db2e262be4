"""The topics that the committed layouts show, and the fields they pick by number."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import yaml

from vdd_ros.nodes.audit import AUDIT_FIELDS
from vdd_ros.nodes.diagnostics import LATENCY_FIELDS, STATUS_FIELDS

FOLDER = Path(__file__).resolve().parents[2] / "config/layouts"
FIELDS = {"status": STATUS_FIELDS, "latency": LATENCY_FIELDS, "audit": AUDIT_FIELDS}
TYPES = {"MarkerArray": "visualization_msgs/msg/MarkerArray"} | {
    "PointStamped": "geometry_msgs/msg/PointStamped"
}


def field(topic: str, index: str) -> str:
    """Name of a value in a labelled message of a node."""
    return FIELDS[topic.rpartition("/")[2]][int(index)]


def rviz() -> dict[str, str]:
    """Topics of the RViz layout with the message type their display takes."""
    layout = yaml.safe_load((FOLDER / "vdd.rviz").read_text(encoding="utf-8"))
    shown = layout["Visualization Manager"]["Displays"]
    topics = {d["Topic"]["Value"]: d["Class"].rpartition("/")[2] for d in shown if "Topic" in d}
    return {topic: TYPES[name] for topic, name in topics.items()}


def plotjuggler() -> list[tuple[str, list[str], list[str]]]:
    """Every plot of the PlotJuggler layout: topic, titles, names of the fields it draws."""
    plots = []
    root = ElementTree.parse(FOLDER / "plotjuggler.xml").getroot()
    for area in root.iter("DockArea"):
        topic, _, titles = area.attrib["name"].partition(": ")
        drawn = []
        for curve in area.iter("curve"):
            found = re.fullmatch(r"(.+)/data\[(\d+)\]", curve.attrib["name"])
            assert found, curve.attrib
            assert found[1] == topic
            drawn.append(field(topic, found[2]))
        plots.append((topic, titles.split(", "), drawn))
    return plots


def foxglove() -> tuple[set[str], list[tuple[str, str]], set[str], set[str]]:
    """Topics, (label, field) of every curve, panels that exist, panels that are laid out."""
    layout = json.loads((FOLDER / "foxglove.json").read_text(encoding="utf-8"))
    panels = layout["configById"]
    topics, curves = set(), []
    for panel in panels.values():
        for path in panel.get("paths", []):
            found = re.fullmatch(r"(.+)\.data\[(\d+)\]", path["value"])
            assert found, path
            topics.add(found[1])
            curves.append((path["label"], field(found[1], found[2])))
        topics |= set(panel.get("topics", {}))
        topics |= {panel[key] for key in ("topicPath", "topicToRender") if key in panel}
    return topics, curves, set(panels), _leaves(layout["layout"])


def _leaves(tree: Any) -> set[str]:
    if isinstance(tree, str):
        return {tree}
    return _leaves(tree["first"]) | _leaves(tree["second"])
