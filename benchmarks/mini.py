"""How good the model that ships is on mock galaxies it never saw; with --card, written into its model card.

    python benchmarks/mini.py mini/pairs-embedded.fits mini/sky/truth.fits --model mini [--card]

The table is a mock's pairs, embedded with the model; of it, the test part of the sky is taken, and the
reference is the model's own, the validation part of the sky. How exact estimates are is seen on BGS and LRG,
whether intervals hold on all, as they are calibrated on galaxies of all kinds. `make mini` calls this; goals
are in the last column.
"""

import argparse
import tempfile
from pathlib import Path

import fitsio
import numpy as np

from astroclip.evaluate import evaluate_table
from astroclip.evaluate.score import Evaluation
from astroclip.model.checkpoint import CARD
from astroclip.model.hub import find_model
from astroclip.predict.tasks import predict_catalog

TEST = 2  # in SPLIT
# task, from, method, what is scored, metric: at least (or, of sigma_nmad, at most)
GOALS = {
    ("redshift", "spectrum", "knn", "Z", "r2"): 0.97,
    ("redshift", "spectrum", "auto", "Z", "sigma_nmad"): 0.005,
    ("redshift", "image", "knn", "Z", "r2"): 0.75,
    ("properties", "spectrum", "auto", "LOGMSTAR", "r2"): 0.85,
}
RUNS = {
    "redshift": (("spectrum", "knn"), ("spectrum", "auto"), ("image", "knn"), ("image", "auto")),
    "properties": (("spectrum", "knn"), ("spectrum", "auto"), ("image", "auto")),
    "morphology": (("image", "auto"),),
}
SHOWN = (
    "r2", "sigma_nmad", "outliers", "coverage_68", "coverage_95", "pit_ks", "worst bin's 68",
    "worst bin's 95", "accuracy", "f1", "x chance",
)  # fmt: skip
SPLITS = ("magnitude", "redshift")
TIMES_CHANCE = 10  # goal of retrieval
BIN_ROWS = 500  # of a bin of magnitude or redshift in which coverage is looked at
CAUTION = """**Trained on mock galaxies, for learning and testing, not for publication.** The released
weights are one command away: `astroclip models pull astroclip`.

Real spectra are not like mock ones in all respects: of four DESI galaxies tried, three redshifts came out
within 0.01, and of three SDSS galaxies two. Its reference set is another part of the same mock sky.
"""


def choose_test(table: Path, truth: Path, out: Path) -> np.ndarray:
    """Write the paired rows of the test part; return which DESI targeted as BGS or LRG."""
    known = fitsio.read(truth, columns=["TARGETID", "SAMPLE"])
    known = known[np.isin(np.char.strip(known["SAMPLE"].astype(str)), ["BGS", "LRG"])]
    with fitsio.FITS(table) as file:
        place = file[1].read(columns=["TARGETID", "SPLIT", "PAIR"])
        chosen = np.flatnonzero((place["SPLIT"] == TEST) & (place["PAIR"] >= 0))
        _write(out, file[1], chosen)
    return np.isin(place["TARGETID"][chosen], known["TARGETID"])


def take(table: Path, rows: np.ndarray, out: Path) -> Path:
    """Write some rows of a table."""
    with fitsio.FITS(table) as file:
        _write(out, file[1], np.flatnonzero(rows))
    return out


def _write(out: Path, table: fitsio.hdu.TableHDU, rows: np.ndarray) -> None:
    values, header = table.read(rows=rows), table.read_header()
    units = [header.get(f"TUNIT{i + 1}", "") for i in range(len(values.dtype.names))]
    fitsio.write(out, values, units=units, header={card: header[card] for card in ("ACMODEL", "ACHASH")})


def measure(
    test: Path, bright: np.ndarray, model: str, folder: Path
) -> dict[tuple[str, str, str, str], dict[str, float]]:
    """Predict and evaluate: metrics by task, modality, method and what is scored."""
    found: dict[tuple[str, str, str, str], dict[str, float]] = {}
    for task, runs in RUNS.items():
        for use, method in runs:
            name = f"{task}-{use}-{method}"
            everyone = folder / f"{name}.fits"
            predict_catalog(test, task, everyone, reference=model, use=use, method=method)
            kind = "property" if task == "properties" else task
            exact = evaluate_table(
                take(everyone, bright, folder / f"{name}-bright.fits"), folder / f"{name}-bright",
                kind=kind, figures=False,
            )  # fmt: skip
            for one in exact.evaluations:
                if one.scores:
                    found[task, use, method, one.name.split("_")[0]] = dict(one.scores[0].metrics)
            for one in evaluate_table(everyone, folder / name, kind=kind, figures=False).evaluations:
                if one.scores:
                    found[task, use, method, one.name.split("_")[0]] |= _calibration(one)
    nearest = take(test, bright, folder / "bright.fits")
    retrieval = evaluate_table(nearest, folder / "retrieval", kind="retrieval", figures=False).evaluations[0]
    for direction in ("image_to_spectrum", "spectrum_to_image"):
        ranks = retrieval.rows[direction]
        share = float((ranks < 0.01 * len(ranks)).mean())  # the partner is among the nearest 1 %
        found["retrieval", direction.split("_")[0], "cosine", "top 1 %"] = {"x chance": share / 0.01}
    return found


def _calibration(one: Evaluation) -> dict[str, float]:
    """Return how well intervals hold, and by how much coverage is off in the worst bin."""
    whole = one.scores[0].metrics
    bins = [s.metrics for s in one.scores if s.split in SPLITS and s.rows >= BIN_ROWS]
    found = {name: whole[name] for name in ("coverage_68", "coverage_95", "pit_ks") if name in whole}
    for level in (68, 95):
        if off := [abs(m[f"coverage_{level}"] - level / 100) for m in bins if f"coverage_{level}" in m]:
            found[f"worst bin's {level}"] = max(off)
    return found


def make_rows(found: dict[tuple[str, str, str, str], dict[str, float]], bright: np.ndarray) -> list[str]:
    """Return a Markdown table."""
    lines = [
        f"On {bright.sum():,} mock galaxies (BGS and LRG) of a part of the sky it never saw; coverage and "
        f"PIT on all {len(bright):,} there. Worst bin: by how much coverage is off in bins of magnitude or "
        f"redshift of at least {BIN_ROWS} galaxies.",
        "",
    ]
    lines += ["| what | from | method | metrics | goal |", "|---|---|---|---|---|"]
    for (task, use, method, name), metrics in found.items():
        shown = ", ".join(f"{key} {metrics[key]:.4g}" for key in SHOWN if key in metrics)
        goals = [f"{key[4]} {goal}" for key, goal in GOALS.items() if key[:4] == (task, use, method, name)]
        goal = f"x chance {TIMES_CHANCE}" if task == "retrieval" else ", ".join(goals)
        lines.append(f"| {task} {name} | {use} | {method} | {shown} | {goal} |")
    return lines


def write_card(card: Path, lines: list[str]) -> None:
    """Put the caution under the card's title and the result before its sizes, in place of an earlier one."""
    said = card.read_text(encoding="utf-8").replace(CAUTION + "\n", "")
    head, sizes = said.split("## Sizes")
    title, training = head.split("## Measured")[0].split("\n\n", 2)[1:]
    front = head.split("\n\n", 1)[0]
    result = "\n".join(lines)
    text = (
        f"{front}\n\n{title}\n\n{CAUTION}\n{training.strip()}\n\n## Measured\n\n{result}\n\n## Sizes{sizes}"
    )
    card.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("table", type=Path)
    parser.add_argument("truth", type=Path)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--card", action="store_true", help="write the result into the model's card")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        test = Path(folder, "test.fits")
        bright = choose_test(args.table, args.truth, test)
        found = measure(test, bright, args.model, Path(folder))
        lines = make_rows(found, bright)
    print("\n".join(lines))
    if args.card:
        write_card(find_model(args.model) / CARD, lines)


if __name__ == "__main__":
    main()
