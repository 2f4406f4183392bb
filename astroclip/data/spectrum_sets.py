"""Open spectra, whatever holds them: files, a folder, a release, columns of a table, a service."""

from pathlib import Path

from astroclip.data.coadd_sets import CoaddRows, open_coadd_files
from astroclip.data.coadd_tree import COADD_KEY, CoaddTree, is_tree
from astroclip.data.kinds import Kind, find_kind
from astroclip.data.multimodal_spectra import open_multimodal_spectra
from astroclip.data.nested_spectra import NestedSpectra, find_nested
from astroclip.data.pairs.paired_spectra import PairedSpectra
from astroclip.data.pixels import PixelFiles, PixelSet
from astroclip.data.sdss import SpecRow, open_specs
from astroclip.data.sparcl_set import SPARCL, SPARCL_RELEASE, SparclService
from astroclip.data.spectrum_columns import SpectrumColumns
from astroclip.errors import DataError, UsageError
from astroclip.schema import FLUX
from astroclip.tables import Table

COADDS = (Kind.COADD, Kind.SPECTRA, Kind.COADDS)


def open_spectrum_files(path: str | Path) -> PixelFiles:
    """Open a file, or a folder, of spectra in whichever format they are.

    DESI's coadd-*.fits, else spectra-*.fits, whatever they are called; SDSS's spec-*.fits; HDF5 of Multimodal
    Universe; a set of pairs.

    Raises
    ------
    DataError
        If the path does not exist, is damaged, or holds no spectra of galaxies; it says what to use instead
        of a frame of one camera.
    """
    source, name = Path(path), Path(path).name
    kind = find_kind(source, "spectrum")
    if kind in COADDS:
        return open_coadd_files(source, f"coadds of {name}")
    if kind in (Kind.SPEC, Kind.SPECS):
        return open_specs(source, f"spectra of {name}")
    if kind is Kind.MULTIMODAL_SPECTRA:
        return open_multimodal_spectra(source)
    if kind is Kind.PAIRS:
        return PairedSpectra(source)
    if kind.instead:
        raise DataError(f"{path}: a {kind}: {kind.instead}")
    raise DataError(
        f"{path}: a {kind}, expected spectra: DESI coadd-*.fits or spectra-*.fits, SDSS spec-*.fits, HDF5 of "
        "Multimodal Universe, or pairs"
    )


def open_spectrum_set(table: Table, wanted: str | None = None) -> PixelSet | None:
    """Open the spectra of a table's rows.

    Parameters
    ----------
    table
    wanted
        A file or a folder, see `open_spectrum_files`; the tree of a DESI release, which is never indexed, if
        the table has TARGETID, SURVEY, PROGRAM and HEALPIX; ``sparcl``, or ``sparcl:<data set>``, for that
        web service; a column of fluxes, or a nested one. By default the spectra of the table itself: of a
        coadd whose FIBERMAP it is, of an SDSS spectrum, in the column FLUX, in nested columns. None is
        returned if there are none.

    Raises
    ------
    UsageError, DataError
        If what is wanted does not exist, or is not spectra.
    """
    if wanted is None:
        return _own_spectra(table)
    path = Path(wanted)
    if path.exists():
        if path.is_dir() and all(table.find(name) for name in COADD_KEY) and is_tree(path):
            return CoaddTree(path)
        return _by_row(table, open_spectrum_files(path))
    service, _, release = wanted.partition(":")
    if service == SPARCL:
        return SparclService(release or SPARCL_RELEASE)
    column = table.find(wanted)
    if column is None:
        raise UsageError(
            f"--spectra {wanted}: neither a file, nor a folder, nor a column of {table.name}, nor {SPARCL}"
        )
    return NestedSpectra(table, [column]) if table.column(column).fields else SpectrumColumns(table, column)


def _by_row(table: Table, spectra: PixelFiles) -> PixelFiles:
    """Return spectra; those of a coadd without FIBERMAP if there are as many as rows."""
    if isinstance(spectra, CoaddRows) and len(spectra) != table.nrows:
        raise DataError(
            f"{spectra.files[0]}: no FIBERMAP, so that its {len(spectra)} spectra are those of as many rows; "
            f"{table.name} has {table.nrows}. Embed the file itself"
        )
    return spectra


def _own_spectra(table: Table) -> PixelSet | None:
    """Return the spectra that a table holds, or none."""
    kind = find_kind(table.source)
    if kind in COADDS and table.header.get("EXTNAME") == "FIBERMAP":
        return CoaddRows(table.source)
    if kind is Kind.SPEC:
        return SpecRow(table.source)
    if kind.instead:
        raise DataError(f"{table.name}: a {kind}: {kind.instead}")
    flux, nested = table.find(FLUX), find_nested(table)
    if flux and not (table.column(flux).shape or table.column(flux).lists):
        flux = None
    if flux and nested:
        raise DataError(
            f"{table.name}: the columns '{flux}' and '{nested[0]}' could both be the spectra. Say which: "
            f"--spectra {flux}"
        )
    if flux:
        return SpectrumColumns(table, flux)
    return NestedSpectra(table, nested) if nested else None
