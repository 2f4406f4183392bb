"""What Galaxy Zoo DECaLS volunteers would vote for a galaxy of known morphology.

Questions, answers and the order in which they are asked: Walmsley et al. 2022, MNRAS 509, 3966, figure 4.
"""

import numpy as np
from numpy.typing import NDArray

from astroclip.schema import GALAXY_ZOO

Array = NDArray[np.floating]

# The answer that leads to a question; the first is asked of everybody, merging of all but artifacts.
PARENTS = {
    "disk-edge-on": ("smooth-or-featured", "featured-or-disk"),
    "how-rounded": ("smooth-or-featured", "smooth"),
    "edge-on-bulge": ("disk-edge-on", "yes"),
    "bar": ("disk-edge-on", "no"),
    "has-spiral-arms": ("disk-edge-on", "no"),
    "bulge-size": ("disk-edge-on", "no"),
    "spiral-winding": ("has-spiral-arms", "yes"),
    "spiral-arm-count": ("has-spiral-arms", "yes"),
}


def vote_columns() -> list[str]:
    """Return the columns of the votes, in the order of the published table."""
    columns = []
    for question, answers in GALAXY_ZOO.items():
        columns.append(f"{question}_total-votes")
        for answer in answers:
            columns += [f"{question}_{answer}{end}" for end in ("", "_fraction", "_debiased")]
    return columns


def visibility(row: np.void) -> float:
    """Return how much of its structure a galaxy shows (0 to 1), from its size in units of the seeing."""
    resolved = float(row["DISK_RADIUS"]) / (0.5 * float(row["PSFSIZE"][1]))
    mag = 22.5 - 2.5 * np.log10(float(row["FLUX"][1]))
    return float(1 / (1 + np.exp(-2.2 * (resolved - 2.2))) / (1 + np.exp(1.5 * (mag - 18.8))))


def leanings(row: np.void, seen: float) -> dict[str, Array]:
    """Return the probability of each answer of each question, where `seen` is the visibility of structure."""
    axis_ratio, bulge = float(row["AXIS_RATIO"]), float(row["BULGE_FRACTION"])
    strength = max(float(row["ARM_STRENGTH"]), float(row["BAR_STRENGTH"]), 0.8 * float(axis_ratio < 0.3))
    disk = float(row["FEATURED"]) * (0.25 + 0.72 * max(strength, 0.6 * float(row["ROUGHNESS"])))
    featured = 0.06 + 0.9 * disk * seen
    edge_on = 1 / (1 + np.exp((axis_ratio - 0.29) / 0.035)) * float(row["FEATURED"])
    arms = (0.08 + 0.9 * seen * min(1.0, 1.6 * float(row["ARM_STRENGTH"]))) if row["ARMS"] else 0.10
    bar = seen * float(row["BAR_STRENGTH"])
    pitch = np.rad2deg(float(row["PITCH"]))
    count = np.full(6, 0.05)
    count[5] = 0.10 + 0.5 * (1 - seen)
    count[max(int(row["ARMS"]), 1) - 1] += 0.2 + 0.9 * seen
    merger = np.array([0.88, 0.07, 0.03, 0.02])
    merger[row["MERGER"]] += 2.0 * (0.3 + 0.7 * seen) * (row["MERGER"] > 0)
    return {
        "smooth-or-featured": _normal([0.96 - featured, featured, 0.12]),
        "disk-edge-on": _normal([0.02 + edge_on, 1.0 - 0.97 * edge_on]),
        "has-spiral-arms": _normal([arms, 1.0 - 0.98 * arms]),
        "bar": _normal([0.03 + bar**1.5, 0.10 + 1.2 * bar * (1 - bar), 0.9 * (1 - bar) ** 2]),
        "bulge-size": _near(bulge, [0.75, 0.45, 0.22, 0.08, 0.0], 0.09),
        "how-rounded": _near(axis_ratio, [0.92, 0.6, 0.22], 0.14),
        "edge-on-bulge": _normal([0.08, 0.15 + 0.7 * (bulge < 0.08), 0.15 + 2.5 * bulge]),
        "spiral-winding": _near(pitch, [9.0, 18.0, 29.0], 6.0),
        "spiral-arm-count": _normal(count),
        "merging": _normal(merger),
    }


def draw_votes(row: np.void, rng: np.random.Generator) -> dict[str, float]:
    """Draw one galaxy's votes: counts, fractions, and fractions debiased for what distance hides.

    Volunteers answer along the decision tree, so that deep questions get few votes; opinions differ from
    galaxy to galaxy beyond counting noise (Dirichlet, concentration 14). `_debiased` gives the leaning of the
    galaxy as seen perfectly, with half the noise of the fraction; where nobody was asked it is missing.
    """
    seen = visibility(row)
    blurred, clear = leanings(row, seen), leanings(row, 1.0)
    volunteers = int(rng.choice([rng.integers(4, 12), rng.integers(34, 46)], p=[0.35, 0.65]))
    counts: dict[str, NDArray[np.int64]] = {}
    found: dict[str, float] = {}
    for question in ("smooth-or-featured", *PARENTS, "merging"):
        if question == "merging":
            asked = int(counts["smooth-or-featured"][:2].sum())
        elif question in PARENTS:
            parent, answer = PARENTS[question]
            asked = int(counts[parent][GALAXY_ZOO[parent].index(answer)])
        else:
            asked = volunteers
        opinion = rng.dirichlet(14 * blurred[question] + 0.02)
        counts[question] = rng.multinomial(asked, opinion / opinion.sum())
        fractions = counts[question] / asked if asked else np.full(len(opinion), np.nan)
        debiased = np.clip(clear[question] + 0.5 * (fractions - blurred[question]), 0, None)
        debiased = debiased / debiased.sum()
        found[f"{question}_total-votes"] = asked
        for k, answer in enumerate(GALAXY_ZOO[question]):
            found[f"{question}_{answer}"] = int(counts[question][k])
            found[f"{question}_{answer}_fraction"] = float(fractions[k])
            found[f"{question}_{answer}_debiased"] = float(debiased[k])
    return found


def _normal(weights: list[float] | Array) -> Array:
    """Return weights as probabilities."""
    w = np.maximum(np.asarray(weights, float), 0.005)
    return w / w.sum()


def _near(value: float, centres: list[float], width: float) -> Array:
    """Return the probability of each class on a scale: those whose centre is near `value`."""
    return _normal(np.exp(-0.5 * ((value - np.array(centres)) / width) ** 2))
