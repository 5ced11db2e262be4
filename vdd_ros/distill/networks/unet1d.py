r"""A U-Net along the steps of an action chunk (Chi et al., 2023, "Diffusion Policy", CNN variant).

After Janner et al. (2022): two residual blocks per level, each level but the last halves the
chunk, a middle, and the way back with skip connections. Noise levels and observations act on
every block by FiLM; the convolutions see actions alone. Here the condition passes two layers
first, and activations are SiLU (Mish costs eleven times as much on a CPU).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vdd_ros.distill.networks.film import Condition, Film


class _Convolution(nn.Module):
    """Convolution of unchanged length, group normalisation, SiLU."""

    def __init__(self, dim_in: int, dim_out: int, kernel_size: int, n_groups: int) -> None:
        super().__init__()
        self.convolve = nn.Conv1d(dim_in, dim_out, kernel_size, padding=kernel_size // 2)
        self.norm = nn.GroupNorm(n_groups, dim_out)

    def forward(self, x: Float[Tensor, "B I H"]) -> Float[Tensor, "B O H"]:
        return functional.silu(self.norm(self.convolve(x)))


class _Block(nn.Module):
    """Two convolutions with FiLM between them, around a skip connection."""

    def __init__(
        self, dim_in: int, dim_out: int, dim_condition: int, kernel_size: int, n_groups: int
    ) -> None:
        super().__init__()
        self.first = _Convolution(dim_in, dim_out, kernel_size, n_groups)
        self.film = Film(dim_condition, dim_out)
        self.second = _Convolution(dim_out, dim_out, kernel_size, n_groups)
        self.skip = nn.Conv1d(dim_in, dim_out, 1) if dim_in != dim_out else nn.Identity()

    def forward(
        self, x: Float[Tensor, "B I H"], condition: Float[Tensor, "B C"]
    ) -> Float[Tensor, "B O H"]:
        scale, shift = self.film(condition)
        inner = scale[..., None] * self.first(x) + shift[..., None]
        return self.second(inner) + self.skip(x)


class _Level(nn.Module):
    """Two blocks, the second one followed by a change of length."""

    def __init__(self, first: _Block, second: _Block, resize: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.resize = first, second, resize

    def forward(
        self, x: Float[Tensor, "B I H"], condition: Float[Tensor, "B C"]
    ) -> tuple[Float[Tensor, "B O H"], Float[Tensor, "B O G"]]:
        """Return the features before and after the change of length."""
        before = self.second(self.first(x, condition), condition)
        return before, self.resize(before)


class Unet1d(nn.Module):
    """A conditional U-Net over sequences.

    Args:
        dim: components per step, in and out.
        dim_condition: length of the raw condition.
        width: length of the condition's features.
        down_dims: channels per level; the length must be a multiple of 2^(levels - 1).
        kernel_size: odd.
        n_groups: groups of the normalisation; divides every entry of ``down_dims``.
    """

    def __init__(
        self,
        dim: int,
        *,
        dim_condition: int,
        width: int,
        down_dims: tuple[int, ...],
        kernel_size: int,
        n_groups: int,
    ) -> None:
        super().__init__()

        def block(dim_in: int, dim_out: int) -> _Block:
            return _Block(dim_in, dim_out, width, kernel_size, n_groups)

        self.condition = Condition(dim_condition, width)
        last = len(down_dims) - 1
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, (before, here) in enumerate(
            zip((dim, *down_dims[:-1]), down_dims, strict=True)
        ):
            halve = nn.Conv1d(here, here, 3, stride=2, padding=1) if level < last else None
            self.down.append(
                _Level(block(before, here), block(here, here), halve or nn.Identity())
            )
        self.middle = nn.ModuleList([block(down_dims[-1], down_dims[-1]) for _ in range(2)])
        for above, here in zip(down_dims[-2::-1], down_dims[:0:-1], strict=True):
            double = nn.ConvTranspose1d(above, above, 4, stride=2, padding=1)
            self.up.append(_Level(block(2 * here, above), block(above, above), double))
        self.final = _Convolution(down_dims[0], down_dims[0], kernel_size, n_groups)
        self.output = nn.Conv1d(down_dims[0], dim, 1)
        # Zero, so that a fresh denoiser is the best linear one, as with the other backbones.
        nn.init.zeros_(self.output.weight)
        assert self.output.bias is not None
        nn.init.zeros_(self.output.bias)

    def forward(
        self, x: Float[Tensor, "B H D"], condition: Float[Tensor, "B C"]
    ) -> Float[Tensor, "B H D"]:
        """Return one output per entry of x."""
        features = self.condition(condition)
        h, kept = x.transpose(1, 2), []
        for level in self.down:
            before, h = level(h, features)
            kept.append(before)
        for block in self.middle:
            h = block(h, features)
        for level in self.up:
            _, h = level(torch.cat([h, kept.pop()], dim=1), features)
        return self.output(self.final(h)).transpose(1, 2)
