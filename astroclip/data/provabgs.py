"""PROVABGS: stellar masses of DESI's bright galaxies from spectrum and photometry (Hahn+2023, Kwon+2023).

Data model: https://data.desi.lbl.gov/doc/releases/edr/vac/provabgs
File: BGS_ANY_full.provabgs.sv3.v0.hdf5 of the early data release, about 221,000 rows.

Stellar masses assume a Chabrier (2003) initial mass function and the Planck 2013 cosmology, h = 0.6777; they
are not divided by h. Scales of other codes differ by up to 0.5 dex: do not mix them.
Metallicity, age and star-formation rate are *not* in the published file: the provabgs package computes them
from the parameters in PROVABGS_THETA_BF. Tables to which somebody has added them are read with them.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astroclip.data.hdf5file import Hdf5File
from astroclip.data.labels import Labels
from astroclip.errors import DataError
from astroclip.schema import TARGETID, ColumnSpec

# column here -> names in files, the first that is there is taken
_SPECS = (
    (ColumnSpec(TARGETID, "i8", comment="DESI target"), (TARGETID,)),
    (ColumnSpec("RA", "f8", unit="deg", comment="ICRS"), ("RA", "TARGET_RA")),
    (ColumnSpec("DEC", "f8", unit="deg", comment="ICRS"), ("DEC", "TARGET_DEC")),
    (ColumnSpec("Z_HP", "f8", comment="Redrock redshift"), ("Z_HP",)),
    (ColumnSpec("ZERR", "f8", comment="error of Z_HP"), ("ZERR",)),
    (ColumnSpec("MAG_G", "f4", unit="mag", comment="AB, corrected for extinction"), ("MAG_G",)),
    (ColumnSpec("MAG_R", "f4", unit="mag", comment="AB, corrected for extinction"), ("MAG_R",)),
    (ColumnSpec("MAG_Z", "f4", unit="mag", comment="AB, corrected for extinction"), ("MAG_Z",)),
    (ColumnSpec("MAG_W1", "f4", unit="mag", comment="AB, corrected for extinction"), ("MAG_W1",)),
    (
        ColumnSpec("LOG_MSTAR", "f4", unit="dex(solMass)", comment="stellar mass, best fit"),
        ("PROVABGS_LOGMSTAR_BF", "LOG_MSTAR", "PROVABGS_LOGMSTAR"),
    ),
    (
        ColumnSpec("Z_MW", "f4", comment="metallicity, mass-weighted mass fraction"),
        ("Z_MW", "PROVABGS_Z_MW_BF", "PROVABGS_Z_MW"),
    ),
    (
        ColumnSpec("TAGE_MW", "f4", unit="Gyr", comment="age, mass-weighted"),
        ("TAGE_MW", "PROVABGS_TAGE_MW_BF", "PROVABGS_TAGE_MW"),
    ),
    (
        ColumnSpec("AVG_SFR", "f4", unit="solMass/yr", comment="star-formation rate, mean of 1 Gyr"),
        ("AVG_SFR", "PROVABGS_AVGSFR_1GYR_BF", "PROVABGS_AVGSFR_1GYR"),
    ),
    (
        ColumnSpec("THETA_BF", "f4", (13,), comment="parameters of the best fit"),
        ("PROVABGS_THETA_BF", "THETA_BF"),
    ),
)
NEEDED = (TARGETID, "RA", "DEC", "MAG_G", "MAG_R", "MAG_Z", "LOG_MSTAR")
FACTS: dict[str, str | float] = {
    "LABELSRC": "PROVABGS (Hahn+2023, Kwon+2023)",
    "IMF": "Chabrier 2003",
    "HUBBLE": 0.6777,  # h of Planck 2013
}


def read_provabgs(path: str | Path) -> Labels:
    """Read a PROVABGS table: HDF5 as astropy writes it, any one dataset of records, or one dataset a column.

    `Labels.good` are the rows of the usual cuts: LOG_MSTAR > 0 and MAG_G, MAG_R, MAG_Z > 0. Samples of the
    posterior (PROVABGS_MCMC) are not read. All rows are kept.

    Raises
    ------
    DataError
        If the file is cut short, or lacks TARGETID, a position, a magnitude or the stellar mass.
    """
    columns: dict[str, NDArray] = {}
    with Hdf5File(path) as h5:
        table = next((name for name in h5.names if h5.dtype(name).names), None)
        found = list(h5.dtype(table).names or ()) if table else h5.names
        present = {name.upper(): name for name in found}
        for spec, names in _SPECS:
            name = next((present[name] for name in names if name in present), None)
            if name is None:
                continue
            values = h5.read_field(table, name) if table else h5.read(name)
            if values.shape[1:] == spec.shape:  # a table of samples may have a column of the same name
                columns[spec.name] = values.astype(spec.dtype)
    if missing := [name for name in NEEDED if name not in columns]:
        raise DataError(
            f"{path}: no column {', '.join(missing)} (found {', '.join(sorted(found)) or 'none'})"
        )
    if len(lengths := {len(values) for values in columns.values()}) > 1:
        raise DataError(f"{path}: columns of different lengths {sorted(lengths)}. Fetch the file again")
    good = np.logical_and.reduce([columns[name] > 0 for name in NEEDED[3:]])
    return Labels(columns, tuple(spec for spec, _ in _SPECS if spec.name in columns), good, FACTS)
