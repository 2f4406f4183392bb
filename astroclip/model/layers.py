"""What the networks share: the two-layer MLP of SpecFormer and of the heads, and default initialisation."""

import math

from torch import Generator, Tensor, nn


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them and dropout at the end: (..., D) to (..., D)."""

    def __init__(self, embed_dim: int, hidden_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder = nn.Linear(embed_dim, hidden_dim)
        self.activation = nn.GELU()
        self.decoder = nn.Linear(hidden_dim, embed_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return the transformed `x`, without a residual connection."""
        return self.dropout(self.decoder(self.activation(self.encoder(x))))


def init_affine(layer: nn.Linear | nn.Conv2d, generator: Generator) -> None:
    """Fill a linear or convolution layer in place as torch does by default, from `generator`."""
    nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
    if layer.bias is not None:
        bound = 1 / math.sqrt(layer.weight[0].numel())
        nn.init.uniform_(layer.bias, -bound, bound, generator=generator)


def init_norms(module: nn.Module) -> None:
    """Set every LayerNorm inside `module` to the identity, in place."""
    for layer in module.modules():
        if isinstance(layer, nn.LayerNorm):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
