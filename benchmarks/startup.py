"""How long `astroclip --help` and ``import astroclip`` take, against starting Python alone.

    python benchmarks/startup.py [--repeat 10]

The goal is at most 0.3 s each.
"""

import argparse
import statistics
import subprocess
import sys
import time


def seconds(words: list[str], repeat: int) -> float:
    times = []
    for _ in range(repeat + 1):
        start = time.perf_counter()
        subprocess.run(words, capture_output=True, check=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=10)
    repeat = parser.parse_args().repeat
    bare = seconds([sys.executable, "-c", ""], repeat)
    for name, words in {
        "astroclip --help": ["-m", "astroclip.cli.main", "--help"],
        "import astroclip": ["-c", "import astroclip"],
    }.items():
        ours = seconds([sys.executable, *words], repeat)
        print(f"{name:<18} {ours:.3f} s, python alone {bare:.3f} s, ratio {ours / bare:.1f}")


if __name__ == "__main__":
    main()
