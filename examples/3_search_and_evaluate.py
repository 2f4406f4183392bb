"""Third: galaxies that look like one of them, and how far to trust the estimates.

    python examples/3_search_and_evaluate.py FOLDER

FOLDER is that of `2_predict.py`.
"""

import sys
from pathlib import Path

from astroclip.evaluate import evaluate_table
from astroclip.search import Example, ExampleKind, search_catalog


def main(folder: Path) -> None:
    table, pixels = folder / "galaxies.fits", str(folder / "pairs.h5")
    found = search_catalog(
        table,
        [Example(ExampleKind.ROW, "0")],
        folder / "look-alikes.fits",
        k=5,
        gallery=folder / "look-alikes.html",
        images=pixels,
        spectra=pixels,
    )
    for row, cosine in zip(found.rows, found.similarity, strict=True):
        print(f"row {row} looks like row 0: cosine {cosine:.3f}")
    # the votes' table has redshifts of its own, of few galaxies: name the column
    for name, options in {"redshift": {"truth": "Z"}, "property": {"kind": "property"}}.items():
        report = evaluate_table(table, folder / f"figures-{name}", umap_rows=0, **options)
        for one in report.evaluations:
            metrics, errors = one.scores[0].metrics, one.scores[0].errors
            known = {key: f"{metrics[key]:.3f} ± {errors[key]:.3f}" for key in ("r2", "coverage_68")}
            print(f"{one.name} of {one.counts['scored']} mock galaxies: {known}")
        print(f"{len(report.figures)} figures in {report.metrics.parent}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "walk"))
