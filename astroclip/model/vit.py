"""The image encoder: DINOv2's vision transformer, pre-trained on galaxies as AstroDINO.

Sources: Oquab et al. 2024 (arXiv:2304.07193), Parker et al. 2024 (MNRAS 531, 4990). State-dict names are
those of the released teacher, without the chunk number of its blocks.

Shapes: B batch, H W pixels, h w rows and columns of patches, P = h w patches, D width.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers.norm import LayerNorm
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import Block
from torch import Generator, Tensor, nn

from astroclip.config import ImageEncoderConfig
from astroclip.errors import DataError
from astroclip.model.layers import init_affine, init_norms


class ImageTokens(NamedTuple):
    """Tokens after the final LayerNorm: `cls` (B, D) and, row by row, `patches` (B, P, D)."""

    cls: Tensor
    patches: Tensor


class ImageEncoder(nn.Module):
    """Vision transformer with a CLS token, learned positions and LayerScale.

    It is built on the meta device, without values: load a state dict with ``assign=True``, or call
    ``to_empty`` and `init_weights`. In training `config.drop_path` holds for every block alike.
    """

    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        self.config = config
        D, size, patch = config.embed_dim, config.image_size, config.patch_size
        with torch.device("meta"):
            self.cls_token = nn.Parameter(torch.empty(1, 1, D))
            self.pos_embed = nn.Parameter(torch.empty(1, 1 + (size // patch) ** 2, D))
            self.mask_token = nn.Parameter(torch.empty(1, D))
            self.patch_embed = PatchEmbed(size, patch, in_chans=3, embed_dim=D, strict_img_size=False)
            self.blocks = nn.Sequential(
                *(
                    Block(
                        D,
                        config.num_heads,
                        config.mlp_ratio,
                        qkv_bias=True,
                        init_values=config.layer_scale,
                        drop_path=config.drop_path,
                        norm_layer=LayerNorm,  # timm's, eps 1e-6
                    )
                    for _ in range(config.depth)
                )
            )
            self.norm = LayerNorm(D, eps=1e-6)

    def forward(self, pixels: Tensor, masks: Tensor | None = None) -> ImageTokens:
        """Encode images as DINOv2 does, with CLS token and position embedding.

        Parameters
        ----------
        pixels
            (B, 3, H, W) z, r, g from `prepare_images`; H and W multiples of the patch size. For
            sizes other than the model's own the position embedding is interpolated.
        masks
            (B, P) bool, optional: patches to hide behind the mask token (iBOT).

        Raises
        ------
        DataError
            If H or W is not a multiple of the patch size.
        """
        tokens = self._embed(pixels)  # (B, P, D)
        if masks is not None:
            tokens = torch.where(masks[..., None], self.mask_token, tokens)
        cls = self.cls_token.expand(len(tokens), -1, -1)
        tokens = torch.cat([cls, tokens], dim=1) + self.interpolate_positions(*pixels.shape[-2:])
        tokens = self.norm(self.blocks(tokens))  # (B, 1 + P, D)
        return ImageTokens(tokens[:, 0], tokens[:, 1:])

    def patch_tokens(self, pixels: Tensor) -> Tensor:
        """Encode images as the CLIP image head sees them: (B, 3, H, W) to (B, P, D).

        There is neither CLS token nor position embedding: the released head was trained this way, so the
        order of the patches does not matter to it.
        """
        tokens: Tensor = self.norm(self.blocks(self._embed(pixels)))
        return tokens

    def interpolate_positions(self, height: int, width: int) -> Tensor:
        """Return the position embedding of CLS and patches for an image size in pixels: (1, 1 + P, D)."""
        size, patch = self.config.image_size, self.config.patch_size
        if (height, width) == (size, size):
            return self.pos_embed
        side = size // patch
        positions = self.pos_embed[:, 1:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
        # DINOv2 passes a scale factor, not a size, with 0.1 patch added against rounding down; the factor
        # enters the sampling positions, so that the released weights need the very same numbers.
        scale = ((height // patch + 0.1) / side, (width // patch + 0.1) / side)
        positions = F.interpolate(positions, scale_factor=scale, mode="bicubic")
        positions = positions.flatten(2).transpose(1, 2).to(self.pos_embed.dtype)
        return torch.cat([self.pos_embed[:, :1], positions], dim=1)

    def init_weights(self, generator: Generator) -> None:
        """Fill all weights in place as DINOv2 starts training."""
        nn.init.normal_(self.cls_token, std=1e-6, generator=generator)
        nn.init.trunc_normal_(self.pos_embed, std=0.02, generator=generator)
        nn.init.zeros_(self.mask_token)
        init_affine(self.patch_embed.proj, generator)
        init_norms(self)
        for linear in (m for m in self.blocks.modules() if isinstance(m, nn.Linear)):
            nn.init.trunc_normal_(linear.weight, std=0.02, generator=generator)
            nn.init.zeros_(linear.bias)
        for name, parameter in self.blocks.named_parameters():
            if name.endswith(".gamma"):
                nn.init.constant_(parameter, self.config.layer_scale)

    def _embed(self, pixels: Tensor) -> Tensor:
        """Cut (B, 3, H, W) into patches and embed them: (B, P, D)."""
        patch = self.config.patch_size
        if pixels.ndim != 4 or pixels.shape[1] != 3 or pixels.shape[2] % patch or pixels.shape[3] % patch:
            raise DataError(
                f"image batch of shape {tuple(pixels.shape)}: expected (B, 3, H, W) with H and W multiples of"
                f" {patch} px. Crop it with astroclip.model.prepare_images.prepare_images."
            )
        tokens: Tensor = self.patch_embed(pixels)
        return tokens
