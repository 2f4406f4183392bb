"""Neighbours against scikit-learn: processor time a query, equality, memory.

    python benchmarks/knn.py                      20,000 x 256, a few seconds
    python benchmarks/knn.py --rows 200000 --width 1024
    python benchmarks/knn.py --rows 1000000 --width 1024 --alone      memory only

Vectors lie near a surface of 12 dimensions, as embeddings do, or are plain noise (--noise).
"""

import argparse
import resource
import time

import numpy as np
import torch

from astroclip.predict.knn import Neighbours, weigh


def make_vectors(rows: int, width: int, noise: bool, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if noise:
        return rng.standard_normal((rows, width), np.float32)
    surface = np.random.default_rng(0).standard_normal((12, width)).astype(np.float32)
    vectors = np.empty((rows, width), np.float32)
    for start in range(0, rows, 65_536):
        part = vectors[start : start + 65_536]
        part[:] = np.tanh(rng.standard_normal((len(part), 12), np.float32) @ surface / 3)
        part += 0.1 * rng.standard_normal(part.shape, np.float32)
    return vectors


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--queries", type=int, default=4096)
    parser.add_argument("--noise", action="store_true")
    parser.add_argument("--alone", action="store_true", help="without scikit-learn")
    args = parser.parse_args()
    reference = make_vectors(args.rows, args.width, args.noise, 1)
    queries = make_vectors(args.queries, args.width, args.noise, 2)
    labels = np.random.default_rng(3).normal(size=args.rows)
    print(f"{args.rows} x {args.width}, {args.queries} queries, {torch.get_num_threads()} threads")
    seconds, predicted = {}, {}
    for name, bf16 in (("bfloat16 shortlist", True), ("float32 shortlist", False)):
        begin = time.process_time()
        neighbours = Neighbours(reference, 64, bf16=bf16)
        made = time.process_time()
        distance, index = neighbours.query(queries)
        predicted[name] = (weigh(distance) * labels[index]).sum(1)
        seconds[name] = time.process_time() - made
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{name}: {1e6 * seconds[name] / args.queries:.0f} us a query, made in {made - begin:.1f} s, "
              f"peak memory {peak:.2f} GiB")  # fmt: skip
    if args.alone:
        return
    from sklearn.neighbors import KNeighborsRegressor
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(reference)
    model = KNeighborsRegressor(64, weights="distance", algorithm="brute", n_jobs=-1)
    model.fit(scaler.transform(reference), labels)
    begin = time.process_time()
    theirs = model.predict(scaler.transform(queries))
    peer = time.process_time() - begin
    print(f"scikit-learn: {1e6 * peer / args.queries:.0f} us a query")
    for name, ours in seconds.items():
        worst = np.abs(predicted[name] - theirs).max()
        print(f"{name}: {peer / ours:.2f}x scikit-learn, largest difference {worst:.1e}")


if __name__ == "__main__":
    main()
