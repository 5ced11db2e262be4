r"""A Gaussian mixture in numpy: the readable reference for everything the networks do.

.. math:: q(a) = \sum_z g_z \, N(a; \mu_z, L_z L_z^T)

Everything stays in log space and ends in one log-sum-exp. Exponentiating first and adding a small
constant is wrong by 81 % of the gradient at nine dimensions in float32, and -inf at a hundred.
Shapes: batch B in front, K experts, D dims; ``scale_tril`` is the lower Cholesky factor L.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_LOG_2PI = float(np.log(2 * np.pi))


def log_sum_exp(values: NDArray[np.floating], axis: int = -1) -> NDArray[np.floating]:
    """Return log(sum(exp(values))) along an axis without overflow; all -inf gives -inf."""
    top = np.max(values, axis=axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        total = np.log(np.sum(np.exp(values - top), axis=axis, keepdims=True))
    return np.squeeze(total + top, axis=axis)


def log_softmax(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return log probabilities of logits [..., K]."""
    return logits - log_sum_exp(logits)[..., None]


@dataclass(frozen=True)
class GaussianMixture:
    """Batch of mixtures.

    Attributes:
        log_gate: [B, K] normalised log weights.
        mean: [B, K, D].
        scale_tril: [B, K, D, D] lower Cholesky factors.
    """

    log_gate: NDArray[np.floating]
    mean: NDArray[np.floating]
    scale_tril: NDArray[np.floating]

    def expert_log_prob(self, action: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return log N(a; mu_z, L_z L_z^T) for action [B, D] as [B, K]."""
        difference = (action[:, None, :] - self.mean)[..., None]
        whitened = np.linalg.solve(self.scale_tril, difference)[..., 0]
        log_det = np.log(np.diagonal(self.scale_tril, axis1=-2, axis2=-1)).sum(-1)
        return -0.5 * (whitened**2).sum(-1) - log_det - 0.5 * self.mean.shape[-1] * _LOG_2PI

    def log_prob(self, action: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return log q(a) for action [B, D] as [B]."""
        return log_sum_exp(self.expert_log_prob(action) + self.log_gate)

    def log_responsibilities(self, action: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return log q(z|a) for action [B, D] as [B, K]."""
        joint = self.expert_log_prob(action) + self.log_gate
        return joint - log_sum_exp(joint)[:, None]

    def score(self, action: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return the gradient of log q(a) by a, [B, D]."""
        difference = action[:, None, :] - self.mean
        precision = np.linalg.inv(self.scale_tril @ np.swapaxes(self.scale_tril, -1, -2))
        pull = -np.einsum("bkij,bkj->bki", precision, difference)
        weight = np.exp(self.log_responsibilities(action))
        return np.einsum("bk,bki->bi", weight, pull)

    def diffuse(self, sigma: float) -> GaussianMixture:
        """Return the mixture after adding N(0, sigma^2 I) noise: covariances grow by sigma^2."""
        dim = self.mean.shape[-1]
        covariance = self.scale_tril @ np.swapaxes(self.scale_tril, -1, -2)
        return GaussianMixture(
            self.log_gate, self.mean, np.linalg.cholesky(covariance + sigma**2 * np.eye(dim))
        )

    def deblur(self, sigma: float, min_std: float) -> GaussianMixture:
        """Return the mixture with sigma^2 taken out of every eigenvalue of the covariances.

        What is left is at least ``min_std`` wide in every direction; undoes `diffuse`.
        """
        covariance = self.scale_tril @ np.swapaxes(self.scale_tril, -1, -2)
        values, vectors = np.linalg.eigh(covariance)
        narrower = np.maximum(values - sigma**2, min_std**2)[..., None, :] * vectors
        covariance = narrower @ np.swapaxes(vectors, -1, -2)
        return GaussianMixture(self.log_gate, self.mean, np.linalg.cholesky(covariance))

    def sample(
        self, rng: np.random.Generator, *, mean_only: bool = False
    ) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
        """Draw one action per mixture; return (action [B, D], expert [B]).

        With ``mean_only`` the expert's mean is returned, as the method acts (Zhou et al., 2024).
        """
        expert = sample_categorical(self.log_gate, rng)
        rows = np.arange(len(expert))
        action = self.mean[rows, expert]
        if not mean_only:
            noise = rng.standard_normal(action.shape)
            action = action + np.einsum("bij,bj->bi", self.scale_tril[rows, expert], noise)
        return action, expert


def sample_categorical(
    log_gate: NDArray[np.floating], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw an index per row of log weights [B, K] by inverting the cumulative distribution."""
    cumulative = np.cumsum(np.exp(log_softmax(log_gate.astype(np.float64))), axis=-1)
    uniform = rng.random((len(log_gate), 1)) * cumulative[:, -1:]
    return np.minimum((cumulative <= uniform).sum(-1), log_gate.shape[-1] - 1).astype(np.int64)


def entropy(log_gate: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the entropy in nats of log weights [..., K] (log-softmax is applied)."""
    log_p = log_softmax(log_gate)
    # 0 log 0 is 0: the limit, where the product of floats would be NaN.
    return -np.sum(np.exp(log_p) * np.where(np.isfinite(log_p), log_p, 0.0), axis=-1)
