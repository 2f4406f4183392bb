"""The networks of the supervised baselines, with random weights.

Shapes: B galaxies of a batch, L outputs, S = 7781 wavelengths, P places along the wavelength.
"""

import timm
from torch import Tensor, nn

# of the published baseline: channels and widths of the convolutions; a pool as wide follows all but the last
CHANNELS = (8, 16, 16, 32)
KERNELS = (5, 10, 20, 40)


class ConvAttention(nn.Module):
    """Conv+Att: convolutions along the wavelength, then a mean weighted by what half of the channels say.

    After Serrà et al. 2018 (arXiv:1805.03908) and Melchior et al. 2023 (AJ 166, 74), in the sizes that Parker
    et al. 2024 use. Normalising each channel of each spectrum takes the brightness away, as there.
    """

    def __init__(self, outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for into, out, width in zip((1, *CHANNELS), CHANNELS, KERNELS, strict=False):
            layers += [nn.Conv1d(into, out, width, padding=width // 2), nn.InstanceNorm1d(out), nn.PReLU(out)]
            layers.append(nn.MaxPool1d(width, padding=width // 2))
        self.features = nn.Sequential(*layers[:-1])
        self.head = nn.Sequential(
            nn.Linear(CHANNELS[-1] // 2, 32),
            nn.PReLU(32),
            nn.Linear(32, 32),
            nn.PReLU(32),
            nn.Linear(32, outputs),
        )

    def forward(self, flux: Tensor) -> Tensor:
        """Return (B, L) for spectra (B, S)."""
        value, weight = self.features(flux[:, None]).chunk(2, dim=1)  # (B, 16, P) each
        return self.head((value * weight.softmax(dim=2)).sum(dim=2))


def make_resnet(outputs: int) -> nn.Module:
    """Return a ResNet18 (He et al. 2016) for images of three colours, (B, 3, H, W) -> (B, L)."""
    return timm.create_model("resnet18", pretrained=False, num_classes=outputs)


def make_mlp(inputs: int, outputs: int) -> nn.Module:
    """Return the network of the photometric baseline: two hidden layers of 64, ReLU."""
    return nn.Sequential(
        nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, outputs)
    )
