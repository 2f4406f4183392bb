"""AstroCLIP: an image and a spectrum encoder, led into one embedding space by cross-attention heads.

Source: Parker et al. 2024 (MNRAS 531, 4990), section 3.3; state-dict names are those of the release. A model
may have both encoders with their heads, or one encoder that stands alone and gives its own embedding.

Shapes: B batch, H W pixels, S spectral pixels, P tokens, D width of the embedding.
"""

import math
from collections.abc import Iterable
from typing import Generic, Literal, NamedTuple, TypeVar, overload

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from astroclip.config import HeadConfig, ModelConfig
from astroclip.errors import UsageError
from astroclip.model.layers import Mlp, init_affine, init_norms
from astroclip.model.prepare_spectra import to_patches
from astroclip.model.specformer import SpectrumEncoder
from astroclip.model.vit import ImageEncoder


class Encoding(NamedTuple):
    """What an encoder made of a batch, float32.

    `embedding` (B, D) is not normalised. `tokens` (B, P, width) are the encoder's after its final LayerNorm,
    without CLS. `attention` (B, heads, P) are the weights, adding up to 1, by which the head's query gathers
    the tokens; None without a head.
    """

    embedding: Tensor
    tokens: Tensor
    attention: Tensor | None


class CrossAttention(nn.Module):
    """One learned query gathers any number of tokens into one vector: (B, P, width) to (B, D)."""

    def __init__(self, config: HeadConfig, width: int) -> None:
        super().__init__()
        D = config.embed_dim
        self.query = nn.Parameter(torch.empty(1, 1, D))
        # holds the parameters under their published names; `forward` computes the same in fewer steps
        self.multihead_attn = nn.MultiheadAttention(D, config.num_heads, kdim=width, vdim=width)
        self.layernorm = nn.LayerNorm(D)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors (B, D) and the attention maps (B, heads, P).

        The query is the same for every galaxy, so the projections of keys and values are applied to it and
        to what it gathers instead of to each token. A bias of the keys would add the same to all scores.
        """
        attention = self.multihead_attn
        weights_q, weights_k, weights_v = self._projections()
        bias_q, _, bias_v = attention.in_proj_bias.chunk(3)
        query = F.linear(self.query[0], weights_q, bias_q).view(attention.num_heads, 1, -1)  # (heads, 1, d)
        keys = weights_k.unflatten(0, (attention.num_heads, -1))  # (heads, d, width)
        values = weights_v.unflatten(0, (attention.num_heads, -1))
        probes = (query @ keys).squeeze(1) / math.sqrt(query.shape[-1])  # (heads, width)
        maps = (tokens @ probes.T).softmax(dim=1).mT  # (B, heads, P)
        x = torch.einsum("bhw,hdw->bhd", maps @ tokens, values).flatten(1) + bias_v
        return self.layernorm(self.dropout(attention.out_proj(x))), maps

    def _projections(self) -> Iterable[Tensor]:
        """Return the projections of query, key and value, fused by torch where the widths agree."""
        attention = self.multihead_attn
        if attention.in_proj_weight is not None:
            return attention.in_proj_weight.chunk(3)
        return attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight


Backbone = TypeVar("Backbone", ImageEncoder, SpectrumEncoder)


class Head(nn.Module, Generic[Backbone]):
    """An encoder (`backbone`) and its way into the shared space: cross-attention, then an MLP.

    With `config` None there is only the backbone. `residual` adds the MLP's input to its output: the
    published spectrum head does, the image head does not.
    """

    def __init__(self, backbone: Backbone, config: HeadConfig | None, residual: bool) -> None:
        super().__init__()
        self.backbone: Backbone = backbone
        self.residual = residual
        if config is not None:
            D = config.embed_dim
            self.cross_attention = CrossAttention(config, backbone.config.embed_dim)
            self.mlp = Mlp(D, int(config.mlp_ratio * D), config.dropout)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Lead the backbone's tokens (B, P, width) to embeddings (B, D) and attention maps (B, heads, P)."""
        x, maps = self.cross_attention(tokens)
        return (x + self.mlp(x) if self.residual else self.mlp(x)), maps

    def init_weights(self, generator: Generator) -> None:
        """Fill the backbone's weights as its own training starts, the head's as torch does by default."""
        self.backbone.init_weights(generator)
        if not hasattr(self, "cross_attention"):
            return
        attention = self.cross_attention.multihead_attn
        nn.init.normal_(self.cross_attention.query, generator=generator)
        for name, parameter in attention.named_parameters():
            if name.endswith("proj_weight"):
                nn.init.xavier_uniform_(parameter, generator=generator)
        init_affine(attention.out_proj, generator)
        nn.init.zeros_(attention.in_proj_bias)
        nn.init.zeros_(attention.out_proj.bias)
        init_norms(self.cross_attention)
        init_affine(self.mlp.encoder, generator)
        init_affine(self.mlp.decoder, generator)


class AstroCLIP(nn.Module):
    """Embed galaxy images and spectra.

    It is built on the meta device, without values: load a state dict with ``assign=True`` or call
    `build_model`. The image side is `image_encoder`, the spectrum side `spectrum_encoder`; the side that
    `config` does not describe is None.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.image_encoder: Head[ImageEncoder] | None = None
        self.spectrum_encoder: Head[SpectrumEncoder] | None = None
        with torch.device("meta"):
            if config.image is not None:
                self.image_encoder = Head(ImageEncoder(config.image), config.head, residual=False)
            if config.spectrum is not None:
                self.spectrum_encoder = Head(SpectrumEncoder(config.spectrum), config.head, residual=True)

    @overload
    def encode_image(self, rgb: Tensor, details: Literal[False] = False) -> Tensor: ...
    @overload
    def encode_image(self, rgb: Tensor, details: Literal[True]) -> Encoding: ...
    def encode_image(self, rgb: Tensor, details: bool = False) -> Tensor | Encoding:
        """Embed images: (B, 3, H, W) z, r, g in [0, 1] to (B, D) float32, not normalised.

        With a head the tokens carry neither CLS nor position (see `ImageEncoder.patch_tokens`); without one
        the embedding is the CLS token after the final LayerNorm.

        Parameters
        ----------
        rgb
            From `astroclip.model.prepare_images.prepare_images`, on the model's device.
        details
            Return an `Encoding` with tokens and attention maps instead of the embeddings alone.

        Raises
        ------
        UsageError
            If the model has no image encoder.
        DataError
            If the shape does not fit.
        """
        head = self._require(self.image_encoder, "image")
        rgb = rgb.to(_dtype(head))
        attention = None
        if self.config.head is None:
            embedding, tokens = head.backbone(rgb)
        else:
            tokens = head.backbone.patch_tokens(rgb)
            embedding, attention = head(tokens)
        return _as_float32(embedding, tokens, attention) if details else embedding.float()

    @overload
    def encode_spectrum(self, flux: Tensor, details: Literal[False] = False) -> Tensor: ...
    @overload
    def encode_spectrum(self, flux: Tensor, details: Literal[True]) -> Encoding: ...
    def encode_spectrum(self, flux: Tensor, details: bool = False) -> Tensor | Encoding:
        """Embed spectra: (B, S) or (B, S, 1) to (B, D) float32, not normalised.

        The flux is standardised and cut into patches here, in float32; then it is cast to the weights'
        dtype. Without a head the embedding is the mean over tokens.

        Parameters
        ----------
        flux
            1e-17 erg/s/cm²/Å on DESI's grid, S = 7781, every pixel finite: from
            `astroclip.model.prepare_spectra.prepare_spectra`, on the model's device.
        details
            Return an `Encoding` with tokens and attention maps instead of the embeddings alone.

        Raises
        ------
        UsageError
            If the model has no spectrum encoder.
        DataError
            If the shape does not fit.
        """
        head = self._require(self.spectrum_encoder, "spectrum")
        slicing = head.backbone.config
        patches = to_patches(flux, slicing.section_length, slicing.section_overlap)
        tokens = head.backbone(patches.to(_dtype(head)), reconstruct=False).tokens
        if self.config.head is None:
            embedding, attention = tokens.float().mean(dim=1), None
        else:
            embedding, attention = head(tokens)
        return _as_float32(embedding, tokens, attention) if details else embedding.float()

    def init_weights(self, generator: Generator) -> None:
        """Fill all weights in place, as the published training starts."""
        for head in (self.image_encoder, self.spectrum_encoder):
            if head is not None:
                head.init_weights(generator)

    def _require(self, head: Head[Backbone] | None, modality: str) -> Head[Backbone]:
        """Return the head of a modality, or explain that the model has none."""
        if head is None:
            raise UsageError(
                f"model '{self.config.name}' has no {modality} encoder. "
                f"Use a model whose config.yaml has a section '{modality}'."
            )
        return head


def build_model(config: ModelConfig, seed: int) -> AstroCLIP:
    """Build a model with fresh random weights, on the CPU, in evaluation mode.

    The same `seed` gives the same weights; the global random state is neither used nor changed.
    """
    model = AstroCLIP(config).to_empty(device="cpu")
    model.init_weights(Generator().manual_seed(seed))
    return model.eval()


def clip_logits(image: Tensor, spectrum: Tensor, scale: float | Tensor) -> Tensor:
    """Return `scale` times the cosine similarity of images (N, D) with spectra (M, D): (N, M) float32.

    A vector shorter than 1e-3 is divided by 1e-3 instead of its length, as in the published system.
    """
    return scale * F.normalize(image.float(), eps=1e-3) @ F.normalize(spectrum.float(), eps=1e-3).T


def clip_loss(image: Tensor, spectrum: Tensor, scale: float | Tensor) -> Tensor:
    """Return the symmetric InfoNCE loss of matching rows.

    For `image` and `spectrum` (N, D), row i of the one belonging to row i of the other, it is the mean of
    two cross-entropies: find the spectrum of each image among the N, and the image of each spectrum. `scale`
    is the inverse temperature. Source: Radford et al. 2021; Parker et al. 2024, equation 1.

    Raises
    ------
    UsageError
        If the two do not have the same number of rows.
    """
    if len(image) != len(spectrum):
        raise UsageError(f"{len(image)} images and {len(spectrum)} spectra: the loss needs matching rows")
    logits = clip_logits(image, spectrum, scale)
    pairs = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype


def _as_float32(embedding: Tensor, tokens: Tensor, attention: Tensor | None) -> Encoding:
    return Encoding(embedding.float(), tokens.float(), None if attention is None else attention.float())
