"""Galaxy Zoo DECaLS: what volunteers saw in images of galaxies (Walmsley+2022, MNRAS 509, 3966).

Data: https://doi.org/10.5281/zenodo.4573248, gz_decals_volunteers_5.csv. Questions and answers are in
`schema.GALAXY_ZOO`; questions after the first are asked only of those whose answers led there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv

from astroclip.data.labels import Labels
from astroclip.errors import DataError
from astroclip.schema import DEC_NAMES, GALAXY_ZOO, RA_NAMES, ColumnSpec

MATCH_RADIUS_ARCSEC = 0.5  # to join by position
FACTS: dict[str, str | float] = {"LABELSRC": "Galaxy Zoo DECaLS (Walmsley+2022)"}


def read_galaxy_zoo(path: str | Path) -> Labels:
    """Read a table of votes, .csv or .csv.gz.

    Of each question that the file has all answers to, columns are named as the catalogue names them:
    ``<question>_total-votes``, and for each answer ``<question>_<answer>`` (votes),
    ``<question>_<answer>_fraction``, ``<question>_<answer>_debiased`` (corrected for distance; only where the
    file has it). Totals and fractions that the file lacks are computed. A fraction is NaN where nobody was
    asked; votes are NaN in rows without them, as in those that were never asked about merging.

    `Labels.good` are the rows with a vote on any question.

    Raises
    ------
    DataError
        If the file is not CSV or cut short, has no position, or not all answers to a single question.
    """
    path = Path(path)
    names = _read_names(path)
    ra, dec, questions = _find(names, RA_NAMES), _find(names, DEC_NAMES), _find_questions(names)
    if not (ra and dec and questions):
        raise DataError(
            f"{path}: no columns of a position, or none of votes (found {', '.join(names[:12])} ...). "
            "Expected ra, dec and for example bar_strong, bar_weak, bar_no"
        )
    wanted = [ra, dec, "iauname", "redshift"]
    wanted += [name for q in questions for end in ("", "_fraction", "_debiased") for name in _votes(q, end)]
    read = _read_columns(path, [name for name in wanted if name in names])
    columns = {"RA": read[ra], "DEC": read[dec]}
    columns |= {name.upper(): read[name] for name in ("iauname", "redshift") if name in read}
    for question in questions:
        columns |= _question(question, read)
    good = np.logical_or.reduce([columns[_votes(question)[0]] > 0 for question in questions])
    specs = tuple(_spec(name, values) for name, values in columns.items())
    return Labels(columns, specs, good, FACTS)


def is_galaxy_zoo(path: str | Path) -> bool:
    """Tell by its header whether a CSV file is a table of votes: a position, all answers to a question.

    Raises
    ------
    DataError
        If the file cannot be read, or has no header.
    """
    names = _read_names(Path(path))
    return bool(_find(names, RA_NAMES) and _find(names, DEC_NAMES) and _find_questions(names))


def _read_names(path: Path) -> list[str]:
    """Return the names of the columns."""
    options = csv.ParseOptions(newlines_in_values=True)  # the file may be anybody's
    with _reading(path), csv.open_csv(path, parse_options=options) as reader:
        return list(reader.schema.names)


def _find_questions(names: list[str]) -> list[str]:
    """Return the questions all answers to which have a column of votes."""
    return [question for question in GALAXY_ZOO if {*_votes(question)[1:]} <= {*names}]


def _read_columns(path: Path, names: list[str]) -> dict[str, NDArray]:
    """Return columns by name: text for iauname, numbers for all others."""
    types = {name: pa.string() if name == "iauname" else pa.float64() for name in names}
    options = csv.ConvertOptions(include_columns=names, column_types=types)
    with _reading(path):
        table = csv.read_csv(path, convert_options=options)
    texts = [name for name in names if name == "iauname"]
    columns = {name: table[name].to_numpy() for name in names if name not in texts}
    return columns | {name: np.array(table[name].fill_null("").to_pylist(), str) for name in texts}


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


def _find(names: list[str], wanted: tuple[str, ...]) -> str:
    """Return the first of the wanted names that is there, in any case; "" if none is."""
    present = {name.upper(): name for name in names}
    return next((present[name] for name in wanted if name in present), "")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what the CSV library raises into one sentence."""
    try:
        yield
    except (OSError, pa.ArrowInvalid) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{path}: cannot read the table ({reason}). Not CSV, or cut short") from error
