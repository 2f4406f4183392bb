"""Evaluate the predictions of a table: score it whole and in parts, write metrics and figures."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import yaml

from astroclip.errors import DataError, UsageError
from astroclip.evaluate.figures import draw_evaluation, draw_maps
from astroclip.evaluate.find import find_targets, finds_retrieval
from astroclip.evaluate.retrieval_gallery import draw_galleries, find_pixels
from astroclip.evaluate.rows import Held, read_rows
from astroclip.evaluate.score import Evaluation, Score, score_retrieval, score_target
from astroclip.evaluate.splits import Splits
from astroclip.evaluate.targets import PUBLISHED_VOTES
from astroclip.files import check_outputs, written_beside
from astroclip.plots import write_figure
from astroclip.schema import VERSION, redshift_names
from astroclip.search.query_pixels import PixelPlaces
from astroclip.tables import Table, open_table
from astroclip.tables.missing import Taken, sentinel_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)
METRICS_FILE = "metrics.yaml"
NO_GALLERY = "no gallery of retrieval: the table has no pixels. Say where they are: --images, --spectra"
UMAP_ROWS = 2000  # galaxies of a map; more would take UMAP minutes


class Report(NamedTuple):
    """All evaluations of a table, the files that were written, and what was left out, and why."""

    table: str
    evaluations: list[Evaluation]
    metrics: Path
    figures: list[Path]
    notes: list[str]


def evaluate_table(
    table: str | Path,
    output: str | Path,
    *,
    truth: str | None = None,
    predicted: str | None = None,
    kind: str | None = None,
    magnitude: str | None = None,
    snr: str | None = None,
    redshift: str | None = None,
    ra: str | None = None,
    dec: str | None = None,
    images: str | None = None,
    spectra: str | None = None,
    min_votes: int = PUBLISHED_VOTES,
    unflagged: bool = False,
    resamples: int = 200,
    seed: int = 0,
    figures: bool = True,
    umap_rows: int = UMAP_ROWS,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Score the predictions of a table against its truth; write ``metrics.yaml`` and figures into a folder.

    Rows without a truth or without a prediction cannot be scored: they are counted. Rows with a bit of
    PREDICT_FLAG or EMBED_FLAG set are scored like the others, and also on their own as a part; with
    `unflagged` they are left out. The table is read once, in blocks; of a row only some numbers are kept.

    Parameters
    ----------
    table
        Any catalogue; what can be scored is found by the names that ``astroclip predict`` gives.
    output
        Folder, made if it is not there.
    truth
        Column of the truth. By default a usual redshift column, and for a property the column of its name. Of
        morphology the ending of the columns, by default ``debiased``, else ``fraction``.
    predicted
        Prefix of the prediction's columns: ``Z_PHOT`` for ``Z_PHOT_MEAN``, ``_STD``, ``_L68`` ...; a single
        column's name does too. Of morphology what stands before the question.
    kind
        redshift, property, morphology or retrieval; by default all that is found.
    magnitude, snr, redshift, ra, dec
        Columns that split the table; by default guessed from usual names.
    images, spectra
        Where the pixels of a gallery of retrieval are, see `gallery.find_pixels`; without any there is none.
    min_votes
        A question is scored on galaxies with more votes on it.
    resamples, seed
        Of the bootstrap; the seed is that of UMAP too.
    umap_rows
        Galaxies on maps of the embeddings, at most; 0: principal components instead of UMAP.

    Raises
    ------
    UsageError
        If results exist without `overwrite`, or options do not fit together.
    DataError
        If columns are missing, or no row has both a prediction and a truth.
    """
    output = Path(output)
    if resamples < 2:
        raise UsageError(f"{resamples} resamples: errors need at least 2")
    check_outputs([], [table, images, spectra], overwrite, folders=[output])
    with open_table(table) as catalog:
        targets = find_targets(catalog, truth, predicted, kind, min_votes)
        retrieves = finds_retrieval(catalog, kind, bool(truth or predicted))
        if not targets and not retrieves:
            raise DataError(
                f"{catalog.name}: nothing to evaluate: no predictions beside their truth, no embeddings of "
                f"both images and spectra. It has {', '.join(list(catalog.columns)[:30])}. Predict first "
                "(astroclip predict --help), or name columns: --truth COLUMN --predicted PREFIX"
            )
        known = [target.against for target in targets if target.kind == "redshift"]
        usual = catalog.find("Z_TRUE", *redshift_names(catalog.columns))
        splits = Splits(catalog, magnitude, snr, redshift or next(iter(known), usual), ra, dec)
        check_folder(output, overwrite)
        pixels = (
            find_pixels(catalog, PixelPlaces(images, spectra, ra, dec)) if retrieves and figures else None
        )
        held = read_rows(catalog, targets, splits, retrieves, unflagged, progress)
        found = [score_target(*one, resamples, seed) for one in zip(targets, held.scored, strict=True)]
        if held.pairs:
            found.append(score_retrieval(held.pairs, resamples, seed))
        _check_scored(catalog, found)
        settings = {
            "unflagged": unflagged, "min_votes": min_votes, "resamples": resamples, "seed": seed,
            "split by": splits.described,
        }  # fmt: skip
        described = {"astroclip": VERSION, **_describe(catalog), "settings": settings}
        output.mkdir(parents=True, exist_ok=True)
        drawn = _draw(catalog, found, held, pixels, None if kind else (seed, umap_rows)) if figures else []
        paths = write_figures(output, drawn)
    write_yaml(output / METRICS_FILE, {**described, "evaluations": [_as_dict(one) for one in found]})
    notes = sentinel_lines(sum((target.taken for target in targets), Taken()))
    for note in notes:
        logger.info(note)
    notes += [NO_GALLERY] if retrieves and figures and not pixels else []
    return Report(str(table), found, output / METRICS_FILE, paths, notes)


def _draw(
    catalog: Table,
    found: list[Evaluation],
    held: Held,
    pixels: PixelPlaces | None,
    maps: tuple[int, int] | None,
) -> Iterator[tuple[str, "Figure"]]:
    """Yield all figures and the stems of their files; `maps` are the seed and the number of rows of maps."""
    for one in found:
        yield from draw_evaluation(one)
    if maps:
        yield from draw_maps(held.vectors, *maps)
    if pixels and held.pairs and held.pairs.counts["scored"]:
        yield from draw_galleries(catalog, held.pairs.rows, found[-1].rows, pixels)


def check_folder(output: Path, overwrite: bool, name: str = METRICS_FILE) -> None:
    """Refuse a folder for the results `name` that cannot be written, before anything is read."""
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output}: a file; expected a folder for metrics and figures")
    if (output / name).exists() and not overwrite:
        raise UsageError(f"{output / name}: exists already. Choose another folder, or --overwrite it")
    if not (output if output.exists() else output.absolute().parent).is_dir():
        raise DataError(f"{output}: there is no folder {output.absolute().parent}. Make it first")


def _check_scored(catalog: Table, found: list[Evaluation]) -> None:
    """Refuse a table in which not one row can be scored."""
    if any(one.scores for one in found):
        return
    said = "; ".join(
        f"{one.name}: " + ", ".join(f"{number} {name}" for name, number in one.counts.items())
        for one in found
    )
    raise DataError(
        f"{catalog.name}: no row has both a prediction and its truth ({said}). "
        "Name other columns with --truth and --predicted, or predict again"
    )


def _describe(catalog: Table) -> dict[str, Any]:
    """Say which table it was, and which model embedded it."""
    table = {"name": catalog.name, "rows": catalog.nrows, "sha256": catalog.fingerprint["sha256"]}
    model = {key.lower(): catalog.header[key] for key in ("ACMODEL", "ACHASH") if key in catalog.header}
    return {"table": table | model}


def _as_dict(found: Evaluation) -> dict[str, Any]:
    """Return an evaluation as YAML and JSON hold it."""
    whole = {"kind": found.kind, "name": found.name, "truth": found.truth, "unit": found.unit}
    splits: dict[str, list[dict[str, Any]]] = {}
    for score in found.scores[1:]:
        edges = {} if score.low is None else {"low": score.low, "high": score.high}
        splits.setdefault(score.split, []).append({"part": score.part, **edges, **_metrics(score)})
    return {
        **whole,
        "counts": found.counts,
        **(_metrics(found.scores[0]) if found.scores else {}),
        "splits": splits,
    }


def _metrics(score: Score) -> dict[str, Any]:
    """Return metrics and their errors, None where there is none."""
    values = {
        name: {
            "value": value if np.isfinite(value) else None,
            "error": score.errors[name] if np.isfinite(score.errors.get(name, np.nan)) else None,
        }
        for name, value in score.metrics.items()
    }
    return {"rows": score.rows, "metrics": values}


def write_figures(output: Path, figures: Iterable[tuple[str, "Figure"]]) -> list[Path]:
    """Write figures by the stems of their names; return their paths."""
    paths = []
    for stem, figure in figures:
        paths.append(output / f"{stem}.png")
        write_figure(figure, paths[-1])
    return paths


def write_yaml(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file beside its target and rename it."""
    text = yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)
    with written_beside(path) as beside:
        beside.write_text(text, encoding="utf-8")
