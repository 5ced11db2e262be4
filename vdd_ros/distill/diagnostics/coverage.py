r"""Which modes of a teacher a mixture covers, and whether its gate uses its experts.

Shapes: B states, S actions per state, K experts, C clusters or modes, D flattened chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vdd_ros.core.errors import VddError
from vdd_ros.distill.mixtures.mixture import MixtureParameters, gate_entropy

# Two groups of samples are apart when the gap between them is this many times the usual distance
# of neighbours.
_GAP = 4.0
# Smaller groups are the tails of others.
_MIN_SHARE = 0.05
# A cluster is covered when the experts at it carry this share of what it weighs.
_MIN_MASS = 0.25
# An expert is dead below this share of an even gate.
_DEAD = 0.1


def mode_mass(
    place: Float[Tensor, "B N D"],
    weight: Float[Tensor, "B N"],
    centre: Float[Tensor, "B M D"],
    mode: Int[Tensor, " M"],
    *,
    radius: float,
) -> Float[Tensor, "B C"]:
    """Return the weight near each known mode: of expert means by gate, or of samples.

    A place counts for the mode of the nearest centre if that is within ``radius``; a mode may
    have several centres (an arc, say).
    """
    gap, nearest = torch.cdist(place, centre).min(-1)
    counted = torch.where(gap <= radius, weight, torch.zeros_like(weight))
    mass = weight.new_zeros(len(place), int(mode.max()) + 1)
    return mass.scatter_add_(1, mode[nearest], counted)


@dataclass(frozen=True)
class Clusters:
    """The groups that the samples at each state fall into."""

    label: Int[Tensor, "B S"]
    """Cluster of each sample, -1 for stragglers (groups under a twentieth of the samples)."""
    radius: Float[Tensor, " B"]
    """Largest gap inside a cluster at that state."""

    @property
    def count(self) -> Int[Tensor, " B"]:
        """Clusters per state."""
        return self.label.max(1).values + 1


def cluster_actions(
    action: Float[Tensor, "B S D"], *, min_radius: float = 0.1, radius: float | None = None
) -> Clusters:
    """Group the samples at each state by single linkage (Gower and Ross, 1969).

    Two samples belong together when a chain of samples leads from one to the other without a gap
    wider than the radius. The minimum spanning tree holds all such chains; removing its long
    edges leaves the clusters. No number of clusters has to be known, and an arc is one.

    Args:
        action: samples of the teacher.
        min_radius: lower bound of the radius, in normalised actions: nearer modes are one.
        radius: the same for every state; by default four times the median edge of its tree.

    Raises:
        VddError: fewer than 8 samples per state.
    """
    if action.shape[1] < 8:
        raise VddError(f"clusters: got {action.shape[1]} samples per state, expected at least 8")
    order, parent, edge = _spanning_tree(torch.cdist(action, action))
    if radius is None:
        gap = (_GAP * edge[:, 1:].median(1).values).clamp(min=min_radius)
    else:
        gap = edge.new_full((len(edge),), radius)
    batch = torch.arange(len(action))
    label = torch.zeros(action.shape[:2], dtype=torch.long)
    fresh = torch.zeros(len(action), dtype=torch.long)
    for step in range(1, action.shape[1]):
        joins = edge[:, step] <= gap
        fresh = fresh + (~joins).long()
        label[batch, order[:, step]] = torch.where(joins, label[batch, parent[:, step]], fresh)
    return Clusters(_without_stragglers(label), gap)


@dataclass(frozen=True)
class Coverage:
    """How much of what a teacher does a student can do, averaged over states."""

    clusters: float
    """Clusters of teacher samples per state."""
    covered: float
    """Share of them that experts cover."""
    mass: float
    """Share of the teacher's clustered samples in covered clusters."""


def cluster_coverage(
    action: Float[Tensor, "B S D"], clusters: Clusters, mixture: MixtureParameters
) -> Coverage:
    """Return which clusters of teacher samples have an expert.

    An expert belongs to the cluster of the sample nearest to its mean, if that is within the
    state's radius. A cluster is covered when its experts carry at least a quarter of its share of
    the samples: an expert at the right place that the gate never chooses covers nothing.
    """
    n_clusters = int(clusters.count.max())
    gap, nearest = torch.cdist(mixture.flat_mean, action).min(-1)
    owner = clusters.label.gather(1, nearest)
    owner = torch.where(gap <= clusters.radius[:, None], owner, torch.full_like(owner, -1))
    mass = _sum_by(owner, mixture.log_gate.exp(), n_clusters)
    share = _sum_by(clusters.label, torch.full(action.shape[:2], 1 / action.shape[1]), n_clusters)
    exists = share > 0
    covered = exists & (mass >= _MIN_MASS * share)
    return Coverage(
        clusters=float(clusters.count.float().mean()),
        covered=float((covered.sum(1) / exists.sum(1)).mean()),
        mass=float(((covered * share).sum(1) / share.sum(1)).mean()),
    )


@dataclass(frozen=True)
class GateUse:
    """How the gate uses its experts."""

    perplexity: float
    """exp of the gate's entropy, averaged over states: experts in play at one state."""
    usage: tuple[float, ...]
    """Average gate of each expert."""
    dead: tuple[int, ...]
    """Experts with less than a tenth of an even share of the average gate."""
    never_first: tuple[int, ...]
    """Experts that are nowhere the most likely one."""


def gate_use(gating_logits: Float[Tensor, "B K"]) -> GateUse:
    """Return the use of the experts over a set of states."""
    gate = torch.softmax(gating_logits, dim=-1)
    usage = gate.mean(0)
    first = set(gate.argmax(-1).tolist())
    return GateUse(
        perplexity=float(gate_entropy(gating_logits).exp().mean()),
        usage=tuple(usage.tolist()),
        dead=tuple(torch.nonzero(usage < _DEAD / len(usage))[:, 0].tolist()),
        never_first=tuple(k for k in range(len(usage)) if k not in first),
    )


def _spanning_tree(
    distance: Float[Tensor, "B S S"],
) -> tuple[Int[Tensor, "B S"], Int[Tensor, "B S"], Float[Tensor, "B S"]]:
    """Grow minimum spanning trees (Prim, 1957), all states at once.

    Returns:
        nodes in the order they join, the node each joins, and the length of that edge (0 and
        itself for the first).
    """
    batch, size, _ = distance.shape
    rows = torch.arange(batch)
    order = torch.zeros(batch, size, dtype=torch.long)
    parent, edge = torch.zeros_like(order), distance.new_zeros(batch, size)
    best, via = distance[:, 0].clone(), torch.zeros(batch, size, dtype=torch.long)
    inside: Bool[Tensor, "B S"] = torch.zeros(batch, size, dtype=torch.bool)
    inside[:, 0] = True
    for step in range(1, size):
        length, node = best.masked_fill(inside, torch.inf).min(1)
        order[:, step], parent[:, step], edge[:, step] = node, via[rows, node], length
        inside[rows, node] = True
        nearer = distance[rows, node] < best
        best = torch.where(nearer, distance[rows, node], best)
        via = torch.where(nearer, node[:, None], via)
    return order, parent, edge


def _without_stragglers(label: Int[Tensor, "B S"]) -> Int[Tensor, "B S"]:
    """Number the large clusters from 0 and mark the others with -1."""
    size = _sum_by(label, torch.ones(label.shape), int(label.max()) + 1)
    # The largest always stays: a state has at least one way to act.
    large = (size >= _MIN_SHARE * label.shape[1]) | (size == size.max(1, keepdim=True).values)
    number = torch.where(large, large.long().cumsum(1) - 1, torch.full_like(label[:, :1], -1))
    return number.gather(1, label)


def _sum_by(
    label: Int[Tensor, "B N"], value: Float[Tensor, "B N"], n: int
) -> Float[Tensor, "B C"]:
    """Add up values by label; -1 counts nowhere."""
    padded = value.new_zeros(len(label), n + 1).scatter_add_(1, label + 1, value)
    return padded[:, 1:]
