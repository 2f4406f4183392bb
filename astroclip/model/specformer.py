"""The spectrum encoder: SpecFormer, a pre-norm transformer over patches of a galaxy spectrum.

Source: Parker et al. 2024 (MNRAS 531, 4990), section 3.2; state-dict names are those of the release.

Shapes: B batch, P patch rows (778 for a DESI spectrum), F columns of a row (22), D width.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from astroclip.config import SpectrumEncoderConfig
from astroclip.errors import DataError
from astroclip.model.layers import Mlp, init_norms


class SpectrumTokens(NamedTuple):
    """`tokens` (B, P, D) after the final LayerNorm, and the `reconstruction` (B, P, F) where asked for."""

    tokens: Tensor
    reconstruction: Tensor | None


class SelfAttention(nn.Module):
    """Multi-head self-attention with one projection for query, key and value: (B, P, D) to (B, P, D)."""

    def __init__(self, embed_dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention = nn.Linear(embed_dim, 3 * embed_dim)
        self.projection = nn.Linear(embed_dim, embed_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return what each row gathers from all rows."""
        qkv = self.attention(x).unflatten(-1, (3, self.num_heads, -1))  # (B, P, 3, heads, D / heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        dropout = self.dropout.p if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        return self.dropout(self.projection(x.transpose(1, 2).flatten(2)))


class Block(nn.Module):
    """Pre-norm transformer block: (B, P, D) to (B, P, D)."""

    def __init__(self, config: SpectrumEncoderConfig) -> None:
        super().__init__()
        D = config.embed_dim
        self.layernorm1 = nn.LayerNorm(D)
        self.attention = SelfAttention(D, config.num_heads, config.dropout)
        self.layernorm2 = nn.LayerNorm(D)
        self.mlp = Mlp(D, int(config.mlp_ratio * D), config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` after attention and MLP, each with its residual connection."""
        x = x + self.attention(self.layernorm1(x))
        return x + self.mlp(self.layernorm2(x))


class SpectrumEncoder(nn.Module):
    """SpecFormer: patches of a spectrum in, one token a patch out.

    It is built on the meta device, without values: load a state dict with ``assign=True``, or call
    ``to_empty`` and `init_weights`.
    """

    def __init__(self, config: SpectrumEncoderConfig) -> None:
        super().__init__()
        self.config = config
        with torch.device("meta"):
            self.data_embed = nn.Linear(config.input_dim, config.embed_dim)
            self.position_embed = nn.Embedding(config.max_len, config.embed_dim)
            self.dropout = nn.Dropout(config.dropout)
            self.blocks = nn.Sequential(*(Block(config) for _ in range(config.num_layers)))
            self.final_layernorm = nn.LayerNorm(config.embed_dim)
            self.head = nn.Linear(config.embed_dim, config.input_dim)

    def forward(self, patches: Tensor, reconstruct: bool = True) -> SpectrumTokens:
        """Encode patches (B, P, F) of `astroclip.model.prepare_spectra.to_patches`.

        Parameters
        ----------
        patches
            (B, P, F), in the weights' dtype.
        reconstruct
            Whether to also predict the patches from the tokens, as masked modelling needs it.

        Raises
        ------
        DataError
            If the shape does not fit the model, or P is larger than its position embedding.
        """
        limit, columns = self.config.max_len, self.config.input_dim
        if patches.ndim != 3 or patches.shape[1] > limit or patches.shape[2] != columns:
            raise DataError(
                f"patches of shape {tuple(patches.shape)}: this spectrum encoder takes (B, P, {columns}) with"
                f" at most P = {limit} rows. Make them with astroclip.model.prepare_spectra.to_patches."
            )
        x = self.data_embed(patches) + self.position_embed.weight[: patches.shape[1]]  # (B, P, D)
        tokens = self.final_layernorm(self.blocks(self.dropout(x)))
        return SpectrumTokens(tokens, self.head(tokens) if reconstruct else None)

    def init_weights(self, generator: Generator) -> None:
        """Fill all weights in place as the published training starts: truncated normals, zero biases."""
        D, layers = self.config.embed_dim, self.config.num_layers
        for linear in (m for m in self.modules() if isinstance(m, nn.Linear)):
            _init_normal(linear.weight, 1 / math.sqrt(2 * linear.in_features * layers), generator)
            nn.init.zeros_(linear.bias)
        _init_normal(self.data_embed.weight, 1 / math.sqrt(D), generator)
        _init_normal(self.position_embed.weight, 1 / math.sqrt(D), generator)
        _init_normal(self.head.weight, 1 / math.sqrt(D), generator)
        init_norms(self)


def masked_mse(reconstruction: Tensor, target: Tensor, masked_input: Tensor) -> Tensor:
    """Return the masked-modelling loss: the mean squared error over the entries that were masked.

    An entry counts as masked where `masked_input` differs from `target`; all three are (B, P, F). Patches
    that were zero before they were masked do not count. Without one masked entry (an all-zero spectrum) the
    loss is 0. Source: Parker et al. 2024, section 3.2.
    """
    masked = masked_input != target
    squares = (reconstruction - target).square() * masked
    return squares.sum() / masked.sum().clamp(min=1)


def _init_normal(weight: Tensor, std: float, generator: Generator) -> None:
    """Fill `weight` from a normal distribution cut at 3 standard deviations."""
    nn.init.trunc_normal_(weight, std=std, a=-3 * std, b=3 * std, generator=generator)
