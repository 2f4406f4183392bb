"""Redshifts from templates as columns of a catalogue, for rows whose spectra are at hand.

Shapes: n rows of a block.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroclip.data.pixel_catalogue import open_catalogue
from astroclip.data.pixel_part import Paths, are_pixels, list_paths
from astroclip.errors import UsageError
from astroclip.files import check_outputs
from astroclip.model.inputs import InputOptions, PixelInputs, open_inputs
from astroclip.predict.template import CLASSES, TemplateFit, TemplateSet, fit_templates, load_templates
from astroclip.schema import ColumnSpec, TemplateFlag
from astroclip.tables import append_columns
from astroclip.tables.outputs import default_output, output_format

BLOCK = 256  # rows read, fitted and written at a time
COLUMNS = (
    ColumnSpec("Z_TEMPLATE", "f8", (), "", "redshift of the best template fit"),
    ColumnSpec("Z_TEMPLATE_ERR", "f4", (), "", "its error, 68 %"),
    ColumnSpec("Z_TEMPLATE_DELTACHI2", "f4", (), "", "to the best fit beyond 1000 km/s, all classes"),
    ColumnSpec("Z_TEMPLATE_CLASS", "S6", (), "", "GALAXY, QSO, STAR, or NONE"),
    ColumnSpec("Z_TEMPLATE_FLAG", "i4", (), "", "bit mask, see astroclip TemplateFlag"),
)


class TemplateReport(NamedTuple):
    """What was done: rows written, rows of each class, rows with each bit of `TemplateFlag`."""

    output: Path
    rows: int
    classes: dict[str, int]
    flags: dict[str, int]


def predict_from_templates(
    catalog: Paths,
    output: str | Path | None = None,
    *,
    spectra: str | None = None,
    templates: str | Path | None = None,
    options: InputOptions = InputOptions(),  # noqa: B008 (immutable)
    hdu: str | int | None = None,
    drop: Sequence[str] = (),
    device: str = "cpu",
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> TemplateReport:
    """Write the catalogue again with redshifts that templates give its spectra.

    Added are the `COLUMNS`. A row without a spectrum, or without a good pixel, has NaN, the class NONE and
    `TemplateFlag.NO_SIGNAL`.

    Parameters
    ----------
    catalog : str or Path, or several
        A table, or spectra: a coadd, spec files, a folder of them.
    output : str or Path, optional
        By default ``<catalog>-template.fits`` beside the catalogue.
    spectra : str, optional
        Where the spectra are, as in `data.open_pixels`; by default the catalogue's own.
    templates : str or Path, optional
        Folder of templates in Redrock's format; by default those that ship.
    options : InputOptions
        How spectra are found.
    hdu, drop, overwrite
        As in `predict_catalog`.
    device : str
        Where torch computes.
    progress : callable, optional
        Called with (rows done, rows in all).

    Raises
    ------
    UsageError, DataError
        Before anything is written, if the catalogue has no spectra, or the templates cannot be read.
    """
    paths = list_paths(catalog)
    output = Path(output) if output else default_output(paths[0], "template")
    output_format(output)
    own = None if are_pixels(paths) or drop else paths[0]
    check_outputs([output], [*paths, spectra, templates], overwrite, own=own)
    sets = load_templates(templates)
    with ExitStack() as stack:
        found = open_catalogue(paths, hdu, output.parent)
        table = stack.enter_context(found.table)
        for pixels in found.pixels.values():
            stack.callback(pixels.close)
        mine = found.pixels.get("spectrum") if spectra is None else None
        source = (
            PixelInputs(mine, 0, options) if mine else open_inputs(table, "spectrum", spectra, 0, options)
        )
        if source is None:
            raise UsageError(
                f"{table.name}: no spectra to fit templates to: no vector column FLUX, not a coadd or spec "
                "file. Say where they are with --spectra"
            )
        settings = {"spectra": source.name, "templates": str(templates or "shipped"), **options._asdict()}
        bits = ", ".join(f"{bit.value} {bit.name}" for bit in TemplateFlag)
        appender = stack.enter_context(
            append_columns(
                table, output, COLUMNS, settings=settings, drop=drop, overwrite=overwrite,
                overwrite_columns=overwrite,
                history=[f"astroclip: Z_TEMPLATE_FLAG bits: {bits}"],
            )
        )  # fmt: skip
        classes, flags = Counter[str](), Counter[str]()
        for start in range(0, table.nrows, BLOCK):
            fit = _fit_rows(source, start, min(start + BLOCK, table.nrows), sets, device)
            appender.write(_to_columns(fit))
            classes.update(fit.spectype.tolist())
            flags.update({str(bit.name): int((fit.flag & bit > 0).sum()) for bit in TemplateFlag})
            if progress:
                progress(appender.done, table.nrows)
    told = {kind: classes[kind] for kind in (*CLASSES, "NONE") if classes[kind]}
    return TemplateReport(output, appender.done, told, {name: n for name, n in flags.items() if n})


def _fit_rows(
    source: PixelInputs, start: int, stop: int, sets: Sequence[TemplateSet], device: str
) -> TemplateFit:
    """Fit the spectra of rows; those without one are flagged."""
    n = stop - start
    nothing, no_signal = np.full(n, np.nan), np.full(n, TemplateFlag.NO_SIGNAL, np.int32)
    fit = TemplateFit(nothing, nothing.copy(), nothing.copy(), np.full(n, "NONE", "U6"), no_signal)
    columns: tuple[NDArray[Any], ...] = fit
    for rows, spectra in source.read_spectra(start, stop):
        for column, values in zip(columns, fit_templates(spectra, sets, device), strict=True):
            column[rows] = values
    return fit


def _to_columns(fit: TemplateFit) -> dict[str, NDArray[Any]]:
    """Return a fit as it is stored."""
    columns: tuple[NDArray[Any], ...] = fit
    return {spec.name: values.astype(spec.dtype) for spec, values in zip(COLUMNS, columns, strict=True)}
