"""A file of pairs for trainings: spectra and images that both tell redshift and brightness."""

from pathlib import Path

import h5py
import numpy as np

from astroclip.data.pairs import write_pairs
from astroclip.schema import Split, desi_wave

LINES = (3728.5, 4862.7, 5008.2, 6564.6)  # Å, vacuum


def write_training_pairs(path: Path, training: int, validation: int, test: int = 1, seed: int = 5) -> Path:
    """Write that many galaxies of each part, in mixed order; some pixels of every spectrum are bad."""
    rng, n = np.random.default_rng(seed), training + validation + test
    redshift, bright = rng.uniform(0, 0.45, n), rng.uniform(0.5, 4, n)
    wave = desi_wave()
    lines = sum(np.exp(-0.5 * ((wave - line * (1 + redshift[:, None])) / 8) ** 2) for line in LINES)
    flux = bright[:, None] * (1 + 3 * lines + 0.3 * np.sin(wave / 900)) + rng.normal(0, 0.3, (n, len(wave)))
    ivar, mask = np.full(flux.shape, 1 / 0.3**2), np.zeros(flux.shape, np.int32)
    ivar[:, 100:130], flux[:, 100:130] = 0, np.nan
    mask[:, 4000:4010] = 1
    row, column = np.mgrid[:152, :152] - 75.5
    size = 3 + 12 * redshift[:, None, None, None]
    colour = np.array([0.4, 1.0, 1.5])[:, None, None] ** (1 + 2 * redshift[:, None, None, None])
    image = bright[:, None, None, None] * colour * np.exp(-np.hypot(row, column) / size)
    galaxies = {
        "image": image + rng.normal(0, 0.01, image.shape),
        "flux": flux, "ivar": ivar, "mask": mask, "targetid": np.arange(n) + 39_627_000_000_000_000,
        "ra": rng.uniform(0, 360, n), "dec": rng.uniform(-60, 60, n), "redshift": redshift,
    }  # fmt: skip
    with write_pairs(path, n) as writer:
        writer.write(galaxies)
    parts = np.repeat([Split.TRAIN, Split.VALIDATION, Split.TEST], [training, validation, test])
    with h5py.File(path, "r+") as file:
        file["SPLIT"][:] = rng.permutation(parts)
    return path
