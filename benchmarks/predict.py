"""Which method is best and calibrated, by the number of labels; how long predictions take.

    python benchmarks/predict.py                         50 and 500 labels, neighbours and ensembles
    python benchmarks/predict.py --labels 1000 5000 --methods knn mlp flow --rows 20000

Made-up embeddings of 6 hidden quantities, with noise that grows with magnitude; the two labels are one
function of several quantities and one quantity with scatter. Times are processor seconds.
"""

import argparse
import time

import numpy as np

from astroclip.evaluate.metrics import crps, probability_transform
from astroclip.predict.heads import HeadSettings
from astroclip.predict.numbers import fit_numbers
from astroclip.predict.posterior import LEVELS

WIDTH = 32


def make_galaxies(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(0).normal(size=(6, WIDTH))
    hidden = rng.normal(size=(rows, 6))
    magnitude = rng.uniform(0, 1, rows)
    redshift = np.exp(0.5 * hidden[:, 0] - 1 + 0.3 * np.tanh(hidden[:, 1] * hidden[:, 2]))
    blurred = hidden + (0.05 + 0.4 * magnitude[:, None]) * rng.normal(size=hidden.shape)
    vectors = np.tanh(blurred @ mixing / 2) + 0.05 * rng.normal(size=(rows, WIDTH))
    vectors[:, 0] = magnitude
    mass = 10 + hidden[:, 3] + 0.3 * rng.normal(size=rows)
    return vectors.astype(np.float32), np.stack([redshift, mass], 1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--labels", type=int, nargs="+", default=[50, 500])
    parser.add_argument("--methods", nargs="+", default=["knn", "mlp"])
    parser.add_argument("--rows", type=int, default=4000)
    args = parser.parse_args()
    new, truths = make_galaxies(args.rows, 2)
    print("labels method label   R^2   CRPS/mean's  68 %  95 %  PIT KS  fit s  us a row")
    for rows in args.labels:
        vectors, labels = make_galaxies(rows, 1)
        for method in args.methods:
            begin = time.process_time()
            fitted = fit_numbers(vectors, labels, method=method, head=HeadSettings((64, 64)))
            made = time.process_time()
            posteriors, _ = fitted.predict(new)
            spent = time.process_time() - made
            for i, posterior in enumerate(posteriors):
                truth = truths[:, i]
                low95, low, high, high95 = posterior.quantile([0.025, 0.16, 0.84, 0.975]).T
                quantiles = posterior.quantile(LEVELS)
                pit = np.sort(probability_transform(truth, quantiles, LEVELS))
                ks = np.abs(pit - (np.arange(len(pit)) + 0.5) / len(pit)).max()
                r2 = 1 - np.mean((truth - posterior.mean) ** 2) / truth.var()
                # the peer: everybody gets the labels' own distribution
                others = np.random.default_rng(0).permutation(truth)
                plain = np.abs(truth[:, None] - truth[None, :500]).mean() - np.abs(truth - others).mean() / 2
                inside, inside95 = ((truth > a) & (truth < b) for a, b in ((low, high), (low95, high95)))
                print(
                    f"{rows:6d} {method:6s} {['z', 'M'][i]:5s} {r2:6.3f} "
                    f"{crps(truth, quantiles, LEVELS).mean() / plain:8.3f}     {inside.mean():6.3f}"
                    f"{inside95.mean():6.3f} {ks:6.3f} {made - begin:7.1f} {1e6 * spent / args.rows:6.0f}"
                )


if __name__ == "__main__":
    main()
