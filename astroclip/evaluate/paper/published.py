"""Published scores on real galaxies, which ours stand beside.

All are from Parker et al. 2024 (MNRAS 531, 4990): R² of redshifts, R² of properties as the mean over stellar
mass, metallicity, age and specific star-formation rate, accuracy of morphology as the mean over questions.
A number that is not here was not at hand: its place stays empty.
"""

SOURCE = "Parker et al. 2024, MNRAS 531, 4990, doi:10.1093/mnras/stae1450"

Key = tuple[str, str, str]  # what it was predicted from, method, target

SUPERVISED: dict[Key, float] = {
    ("photometry", "mlp", "redshift"): 0.68,
    ("photometry", "mlp", "properties"): 0.42,
    ("image", "resnet18", "redshift"): 0.77,
    ("image", "resnet18", "properties"): 0.43,
    ("image", "zoobot", "morphology"): 0.88,  # Walmsley et al. 2022, as Parker et al. quote it
    ("spectrum", "conv+att", "redshift"): 0.99,
    ("spectrum", "conv+att", "properties"): 0.60,
}
# of the aligned model; morphology is never predicted from neighbours there, but by a network
ALIGNED: dict[Key, float] = {
    ("image", "knn", "redshift"): 0.79,
    ("image", "knn", "properties"): 0.47,
    ("image", "mlp", "morphology"): 0.76,
    ("spectrum", "knn", "redshift"): 0.99,
    ("spectrum", "knn", "properties"): 0.63,
}
# of an encoder before it is aligned
ALONE: dict[Key, float] = {
    ("image", "knn", "redshift"): 0.63,
    ("image", "knn", "properties"): 0.37,
    ("image", "mlp", "morphology"): 0.78,
    ("spectrum", "knn", "redshift"): 0.99,
    ("spectrum", "knn", "properties"): 0.64,
}


def published_scores(aligned: bool) -> dict[Key, float]:
    """Return the published scores of a model of aligned encoders, or of one alone, and the baselines'."""
    return (ALIGNED if aligned else ALONE) | SUPERVISED
