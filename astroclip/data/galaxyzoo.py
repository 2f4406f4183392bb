"""Galaxy Zoo DECaLS: what volunteers saw in images of galaxies (Walmsley+2022, MNRAS 509, 3966).

Data: https://doi.org/10.5281/zenodo.4573248, gz_decals_volunteers_5.csv. Questions and answers are in
`schema.GALAXY_ZOO`; questions after the first are asked only of those whose answers led there.
"""

import numpy as np
from numpy.typing import NDArray

from astroclip.data.labels import Labels
from astroclip.errors import DataError
from astroclip.schema import GALAXY_ZOO, ColumnSpec
from astroclip.tables import Table
from astroclip.tables.missing import to_floats, to_texts
from astroclip.tables.positions import find_position

MATCH_RADIUS_ARCSEC = 0.5  # to join by position
FACTS: dict[str, str | float] = {"LABELSRC": "Galaxy Zoo DECaLS (Walmsley+2022)"}


def read_galaxy_zoo(table: Table) -> Labels:
    """Read an opened table of votes, which is published as CSV.

    Of each question that the file has all answers to, columns are named as the catalogue names them:
    ``<question>_total-votes``, and for each answer ``<question>_<answer>`` (votes),
    ``<question>_<answer>_fraction``, ``<question>_<answer>_debiased`` (corrected for distance; only where the
    file has it). Totals and fractions that the file lacks are computed. A fraction is NaN where nobody was
    asked; votes are NaN in rows without them, as in those that were never asked about merging.

    `Labels.good` are the rows with a vote on any question.

    Raises
    ------
    DataError
        If the table has no position, not all answers to a single question, or text where votes should be.
    """
    position, questions = find_position(table), _find_questions(list(table.columns))
    if position is None or not questions:
        raise DataError(
            f"{table.name}: no columns of a position, or none of votes (found "
            f"{', '.join(list(table.columns)[:12])} ...). Expected ra, dec and for example bar_strong, "
            "bar_weak, bar_no"
        )
    names = [name for q in questions for end in ("", "_fraction", "_debiased") for name in _votes(q, end)]
    names = [name for name in names if name in table.columns]
    name, redshift = table.find("iauname"), table.find("redshift")
    block = table.read(dict.fromkeys([*position.columns, *names, *filter(None, (name, redshift))]))
    columns: dict[str, NDArray] = dict(zip(("RA", "DEC"), position.read(block), strict=True))
    columns |= {"IAUNAME": to_texts(block[name])} if name else {}
    numbers = {
        key: to_floats(block[key], f"{table.name}: column '{key}'")
        for key in [*names, *([redshift] if redshift else [])]
    }
    columns |= {"REDSHIFT": numbers[redshift]} if redshift else {}
    for question in questions:
        columns |= _question(question, numbers)
    good = np.logical_or.reduce([columns[_votes(question)[0]] > 0 for question in questions])
    specs = tuple(_spec(name, values) for name, values in columns.items())
    return Labels(columns, specs, good, FACTS)


def is_galaxy_zoo(table: Table) -> bool:
    """Tell by its columns whether a table is one of votes: a position, and all answers to a question."""
    return bool(_find_questions(list(table.columns))) and find_position(table) is not None


def _find_questions(names: list[str]) -> list[str]:
    """Return the questions all answers to which have a column of votes."""
    return [question for question in GALAXY_ZOO if {*_votes(question)[1:]} <= {*names}]


def _votes(question: str, ending: str = "") -> list[str]:
    """Return the names of a question's columns of one kind; of votes, the total's name too."""
    answers = [f"{question}_{answer}{ending}" for answer in GALAXY_ZOO[question]]
    return answers if ending else [f"{question}_total-votes", *answers]


def _question(question: str, read: dict[str, NDArray]) -> dict[str, NDArray[np.float32]]:
    """Return the columns of one question, with what is missing computed."""
    total_name, *answers = _votes(question)
    votes = [read[name] for name in answers]
    total = read.get(total_name, np.sum(votes, axis=0))
    columns = {total_name: total} | dict(zip(answers, votes, strict=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        for name, count in zip(answers, votes, strict=True):
            columns[f"{name}_fraction"] = read.get(
                f"{name}_fraction", np.where(total > 0, count / total, np.nan)
            )
    columns |= {name: read[name] for name in _votes(question, "_debiased") if name in read}
    return {name: values.astype(np.float32) for name, values in columns.items()}


def _spec(name: str, values: NDArray) -> ColumnSpec:
    """Describe a column."""
    comments = {
        "RA": "ICRS",
        "DEC": "ICRS",
        "IAUNAME": "name in the NASA-Sloan Atlas",
        "REDSHIFT": "from there",
    }
    ending = name.rsplit("_", 1)[-1]
    kind = {"fraction": "fraction of votes", "debiased": "fraction of votes, corrected for distance"}
    comment = comments.get(name) or kind.get(ending, "votes of volunteers")
    return ColumnSpec(
        name, values.dtype.str[1:], unit="deg" if name in ("RA", "DEC") else "", comment=comment
    )
