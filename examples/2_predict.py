"""Second: embed the pairs, and estimate redshifts, properties and morphologies with their uncertainties.

    python examples/2_predict.py FOLDER

FOLDER is that of `1_make_pairs.py`. The reference, galaxies whose redshifts and labels are known, is the one
that comes with the model; `reference="known.fits"` would be one of yours.
"""

import sys
from pathlib import Path

import fitsio

import astroclip
from astroclip.predict.tasks import predict_catalog
from astroclip.schema import PredictFlag


def main(folder: Path, model: str = "mini") -> None:
    pixels = str(folder / "pairs.h5")
    embedded = folder / "embedded.fits"
    report = astroclip.embed_catalog(
        folder / "pairs.fits", embedded, model=model, images=pixels, spectra=pixels
    )
    print(f"{report.output}: {report.rows} rows, embedded {report.embedded}, flags {report.flags}")
    steps = {  # what is written: what is predicted, from what, by networks (mlp) or neighbours (knn)
        "redshift.fits": ("redshift", "spectrum", "mlp"),
        "photo-z.fits": ("redshift", "image", "mlp"),
        "properties.fits": ("properties", "spectrum", "mlp"),
        "galaxies.fits": ("morphology", "image", "knn"),
    }
    before = embedded
    for name, (task, use, method) in steps.items():
        done = predict_catalog(before, task, folder / name, use=use, method=method, reference=model)
        print(f"{name}: {task} of {done.predicted} rows by {done.method}, flags {done.flags}")
        before = done.output
    table = fitsio.read(before)
    for row in table[table["PREDICT_FLAG"] == 0][:5]:
        redshift = f"{row['Z_PHOT_MEDIAN']:.3f} ({row['Z_PHOT_L68']:.3f} to {row['Z_PHOT_U68']:.3f})"
        shape = str(row["smooth-or-featured_answer"]).strip()
        print(f"{row['TARGETID']}: redshift {row['Z']:.3f}, from its image {redshift}, {shape}")
    odd = (table["PREDICT_FLAG"] & PredictFlag.DISAGREEMENT) > 0
    print(f"image and spectrum disagree, look at them first: {table['TARGETID'][odd].tolist()}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "walk"))
