"""Time the encoders against this machine's matrix-multiply peak, and bfloat16 against float32.

    python benchmarks/encode.py [preset ...] [--batch N] [--threads N]

Random weights, with LayerScale at 1 so that every block counts. The peak is that of square products, measured
before and after each forward pass; the best of a few passes counts.

What was found on the CPU, preset `paper`, one thread: batches of 4 to 8 are best (in float32 the MLP's
hidden layer of 8 spectra is memory touched anew each time). Projecting the heads' shared query instead of
all tokens saves 1 % (image) and 3 % (spectrum) of the published operations, which are counted here all the
same; torch's MultiheadAttention, called with that query, also copied its weights once a galaxy in bfloat16,
0.2 s each. The fused attention of torch runs no faster in bfloat16 than in float32; two plain products
would make the spectrum encoder 5 % faster there, and slower in float32.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from astroclip.config import HeadConfig, ModelConfig, read_model_config
from astroclip.model.clip import AstroCLIP, build_model
from astroclip.model.prepare_spectra import to_patches

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def count_flops(tokens: int, columns: int, width: int, depth: int, ratio: float, head: HeadConfig) -> float:
    """Return the operations of one galaxy (2 a multiply-add): embedding, blocks, attention, head."""
    D, P = width, tokens
    blocks = depth * (P * (4 + 2 * ratio) * D * D + 2 * P * P * D)
    pooled = (
        2 * P * D * head.embed_dim + 2 * P * head.embed_dim + (2 + 2 * head.mlp_ratio) * head.embed_dim**2
    )
    return 2 * (P * columns * D + blocks + pooled)


def count_model_flops(config: ModelConfig) -> dict[str, float]:
    image, spectrum, head = config.image, config.spectrum, config.head
    patches = to_patches(torch.zeros(1, 7781), spectrum.section_length, spectrum.section_overlap).shape[1]
    return {
        "image": count_flops(
            (image.image_size // image.patch_size) ** 2,
            3 * image.patch_size**2,
            image.embed_dim,
            image.depth,
            image.mlp_ratio,
            head,
        ),
        "spectrum": count_flops(
            patches, spectrum.input_dim, spectrum.embed_dim, spectrum.num_layers, spectrum.mlp_ratio, head
        ),
    }


def measure(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure_peak(dtype: torch.dtype, n: int = 2048) -> float:
    """Return the rate of square matrix products in operations a second, the best of three."""
    a, b = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype)
    return 2 * n**3 / min(measure(lambda: torch.mm(a, b)) for _ in range(3))


def measure_encoding(
    encode: Callable[[Tensor], Tensor], batch: Tensor, dtype: torch.dtype
) -> tuple[float, float]:
    """Return galaxies a second and the peak rate, the best of three passes after a first one."""
    encode(batch[:2])
    peaks, seconds = [measure_peak(dtype)], []
    for _ in range(3):
        seconds.append(measure(lambda: encode(batch)))
        peaks.append(measure_peak(dtype))
    return len(batch) / min(seconds), max(peaks)


def build_loud_model(preset: str) -> AstroCLIP:
    model = build_model(read_model_config(preset), seed=0).requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.endswith(".gamma"):
            parameter.fill_(1)
    return model


@torch.inference_mode()
def benchmark(preset: str, batch: int) -> None:
    model = build_loud_model(preset)
    flops = count_model_flops(model.config)
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "image": torch.rand(batch, 3, 144, 144, generator=generator),
        "spectrum": 3 + torch.randn(batch, 7781, generator=generator),
    }
    rates, embeddings = {}, {}
    for precision, dtype in PRECISIONS.items():
        model.to(dtype)
        for modality, data in inputs.items():
            encode = getattr(model, f"encode_{modality}")
            rate, peak = measure_encoding(encode, data, dtype)
            rates[precision, modality], embeddings[precision, modality] = rate, encode(data[:4])
            speed = rate * flops[modality]
            print(
                f"{preset:6} {modality:9} {precision}  {rate:8.2f}/s  "
                f"{speed / 1e9:6.1f} of {peak / 1e9:6.1f} Gflop/s = {speed / peak:.2f}"
            )
    for modality in inputs:
        cosine = torch.cosine_similarity(*(embeddings[p, modality] for p in PRECISIONS)).min().item()
        speed = rates["bf16", modality] / rates["fp32", modality]
        print(f"{preset:6} {modality:9} bf16 / fp32: {speed:.2f} times as fast, cosine at least {cosine:.5f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("presets", nargs="*", default=["mini", "paper"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for preset in arguments.presets:
        benchmark(preset, arguments.batch)


if __name__ == "__main__":
    main()
