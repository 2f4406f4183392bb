"""A model ready for use: its weights, its preprocessing, a device and a precision.

Shapes: N galaxies, C band, H W pixels, S wavelength, D width of the embedding.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from astroclip.config import ModelConfig
from astroclip.errors import UsageError
from astroclip.model.checkpoint import load_weights, model_hash
from astroclip.model.clip import AstroCLIP
from astroclip.model.hub import find_model
from astroclip.model.prepare_images import prepare_images
from astroclip.model.prepare_spectra import prepare_spectra

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
BATCH_SIZE = {"cpu": 8, "cuda": 256}  # galaxies a forward pass (benchmarks/encode.py --batch)


class Embedder:
    """A model on a device: survey pixels in, embeddings out.

    Made by `load_model`. Embeddings are float32 and not normalised; compare them by cosine. A galaxy
    without one good pixel gets NaN.

    Attributes
    ----------
    config : ModelConfig
        Sizes of the model.
    name, digest : str
        What provenance cards say of it: its name and the first 16 hex digits of its weights' SHA-256.
    device : torch.device
    precision : str
        ``fp32`` or ``bf16``.
    batch_size : int
        Galaxies a forward pass.
    """

    def __init__(
        self, model: AstroCLIP, name: str, digest: str, device: torch.device, precision: str
    ) -> None:
        self.model = model.eval().requires_grad_(False).to(device=device, dtype=PRECISIONS[precision])
        self.config: ModelConfig = model.config
        self.name, self.digest = name, digest
        self.device, self.precision = device, precision
        self.batch_size = BATCH_SIZE.get(device.type, BATCH_SIZE["cuda"])

    @property
    def image_size(self) -> int:
        """Side in pixels of the crop that the image encoder sees."""
        return self.config.image.image_size if self.config.image else 0

    def width(self, modality: str) -> int:
        """Return the width D of the embeddings of ``image`` or ``spectrum``."""
        encoder = self.config.head or getattr(self.config, modality)
        return encoder.embed_dim

    def encode_image(self, rgb: Tensor) -> Tensor:
        """Encode stretched crops.

        Parameters
        ----------
        rgb : Tensor
            (N, 3, 144, 144), channels z, r, g in [0, 1], as `prepare_images` makes them. No missing data.

        Returns
        -------
        Tensor
            (N, D) float32 on the model's device.
        """
        return self._encode("image", rgb)

    def encode_spectrum(self, flux: Tensor) -> Tensor:
        """Encode spectra on the DESI grid.

        Parameters
        ----------
        flux : Tensor
            (N, 7781), 1e-17 erg/s/cm²/Å, not standardised. No missing data.

        Returns
        -------
        Tensor
            (N, D) float32 on the model's device.
        """
        return self._encode("spectrum", flux)

    def embed_images(self, images: Any) -> Tensor:
        """Embed cut-outs as the survey gives them.

        Parameters
        ----------
        images : array-like
            (N, 3, H, W) g, r, z nanomaggies at 0.262 arcsec/px. Cropped or padded to the model's size;
            bad (NaN) pixels are interpolated over as `astroclip.model.prepare_images.prepare_images` says.

        Returns
        -------
        Tensor
            (N, D) float32 on the CPU; NaN for an image without one finite pixel.
        """
        self.check("image")
        prepared = prepare_images(images, self.image_size)
        return self.embed("image", prepared.rgb, prepared.bad_fraction < 1)

    def embed_spectra(self, flux: Any, ivar: Any = None, mask: Any = None, wave: Any = None) -> Tensor:
        """Embed spectra.

        Parameters
        ----------
        flux : array-like
            (N, S), 1e-17 erg/s/cm²/Å.
        ivar, mask : array-like, optional
            (N, S). Pixels with IVAR ≤ 0 or a mask bit are interpolated over.
        wave : array-like, optional
            (S,) or (N, S), Å in vacuum; without it, the DESI grid of 7781 pixels. Another grid is
            resampled, as `astroclip.model.prepare_spectra.prepare_spectra` says.

        Returns
        -------
        Tensor
            (N, D) float32 on the CPU; NaN for a spectrum without one good pixel.
        """
        self.check("spectrum")
        prepared = prepare_spectra(flux, ivar, mask, wave)
        return self.embed("spectrum", prepared.flux, prepared.bad_fraction < 1)

    def _encode(self, modality: str, inputs: Tensor) -> Tensor:
        """Run the encoder over batches."""
        self.check(modality)
        encode: Callable[[Tensor], Tensor] = getattr(self.model, f"encode_{modality}")
        if not len(inputs):
            return torch.zeros(0, self.width(modality), device=self.device)
        batches = torch.as_tensor(inputs, dtype=torch.float32).split(self.batch_size)
        with torch.inference_mode():
            encoded = [encode(batch.to(self.device, non_blocking=True)).float() for batch in batches]
        return torch.cat(encoded).clone()  # out of inference mode: a tensor like any other

    def embed(self, modality: str, inputs: Tensor, usable: Tensor) -> Tensor:
        """Encode the usable rows of prepared inputs (``image`` or ``spectrum``); the others become NaN."""
        result = torch.full((len(inputs), self.width(modality)), torch.nan)
        if usable.any():
            result[usable] = self._encode(modality, inputs[usable]).cpu()
        return result

    def check(self, modality: str) -> None:
        """Raise `UsageError` if the model does not have the modality (``image`` or ``spectrum``)."""
        if getattr(self.config, modality) is None:
            other = "spectra" if modality == "image" else "images"
            raise UsageError(f"model '{self.name}' embeds {other} only; it has no {modality} encoder")


def load_model(name_or_dir: str | Path, device: str = "auto", precision: str = "auto") -> Embedder:
    """Load a model for embedding.

    Parameters
    ----------
    name_or_dir : str or Path
        A model directory, or the name of a model fetched before (``astroclip models list``).
    device : str
        ``cpu``, ``cuda``, ``cuda:1``, ``mps``; ``auto`` takes a GPU where there is one.
    precision : str
        ``fp32``, ``bf16``, or ``auto``: bf16 on a GPU that has it, else fp32 (the published numbers).

    Raises
    ------
    CheckpointError
        If there is no such model or its files do not fit together.
    UsageError
        If the device or precision does not exist here.
    """
    chosen = choose_device(device)
    directory = find_model(name_or_dir)
    model = load_weights(directory)
    return Embedder(
        model, model.config.name, model_hash(directory), chosen, _choose_precision(precision, chosen)
    )


def choose_device(device: str) -> torch.device:
    """Return the device that ``device`` names; ``auto`` is the first GPU, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"device '{device}' cannot be used here ({reason}); try --device auto or cpu"
        ) from None
    return chosen


def _choose_precision(precision: str, device: torch.device) -> str:
    """Resolve ``auto``."""
    if precision == "auto":
        return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    if precision not in PRECISIONS:
        raise UsageError(f"precision '{precision}' is not one of auto, {', '.join(PRECISIONS)}")
    return precision
