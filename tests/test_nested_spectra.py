"""Spectra in nested columns of Parquet, in lists of unequal length, and in SPARCL's own tables."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import ARM_SLICES
from test_desi import stack_arms

from astroclip.data.pixel_sets import open_pixels
from astroclip.errors import DataError
from astroclip.schema import N_WAVE, desi_wave
from astroclip.tables import open_table

N = 3
GRID = desi_wave()


def read(path, wanted=None, rows=range(N)):
    with open_table(path) as table:
        spectra = open_pixels(wanted, table, "spectrum")
        return spectra.name, spectra.read(np.array(rows))


def write(path, **columns):
    pq.write_table(pa.table({"object_id": [str(i) for i in range(N)], **columns}), path)
    return path


def nested(form, rows):
    """Make a column of rows, a dict of arrays each: a struct of lists, or a list of structs."""
    plain = [None if row is None else {k: np.asarray(v).tolist() for k, v in row.items()} for row in rows]
    if form == "struct of lists":
        return pa.array(plain)
    pixels = [
        None if row is None else [dict(zip(row, one, strict=True)) for one in zip(*row.values(), strict=True)]
        for row in plain
    ]
    return pa.array(pixels)


def arm(name, seed, n=N, **names):
    """Make rows of one DESI arm, with bad pixels; names of its fields may be other ones."""
    rng = np.random.default_rng(seed)
    wave = GRID[ARM_SLICES[name]]
    rows = []
    for _ in range(n):
        row = {
            "wavelength": wave.astype("f4"),
            "flux": rng.normal(2, 1, wave.size).astype("f4"),
            "ivar": rng.uniform(0.5, 2, wave.size).astype("f4"),
            "mask": (rng.random(wave.size) < 0.02).astype("i4") * 4,
        }
        row["ivar"][rng.random(wave.size) < 0.02] = 0
        rows.append({names.get(k, k): v for k, v in row.items()})
    return rows


FORMS = ["struct of lists", "list of structs"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("wave", ["lambda", "wavelength", "wave", "WAVE"])
@pytest.mark.parametrize("truth", [True, False])
def test_one_structure(tmp_path, form, wave, truth):
    """As Multimodal Universe has it: a mask of truth values, or of numbers; any name of the column."""
    rows = arm("BRZ", 1, wavelength=wave)
    for row in rows:
        row["lsf_sigma"] = np.ones(N_WAVE, "f4")
        row["mask"] = row["mask"] > 0 if truth else row["mask"]
    path = write(tmp_path / "t.parquet", spectrum=nested(form, rows), Z=np.zeros(N))
    name, spectra = read(path, rows=[2, 0])
    assert name == "column spectrum"
    for i, row in enumerate((rows[2], rows[0])):
        good = (row["mask"] == 0) & (row["ivar"] > 0)
        np.testing.assert_array_equal(spectra.good[i], good)
        np.testing.assert_array_equal(spectra.flux[i], np.where(good, row["flux"], 0))
        np.testing.assert_array_equal(spectra.ivar[i], np.where(good, row["ivar"], 0))
    np.testing.assert_allclose(spectra.wave, GRID, atol=1e-3)


@pytest.mark.parametrize("form", FORMS)
def test_arms_are_combined_by_inverse_variance(tmp_path, form):
    """Three columns whose names tell nothing, in any order, against the loops of the coadds' test."""
    arms = {name: arm(name, seed) for seed, name in enumerate("ZBR")}
    columns = {f"column_{i}": nested(form, rows) for i, rows in enumerate(arms.values())}
    _, spectra = read(write(tmp_path / "t.parquet", **columns))
    np.testing.assert_array_equal(spectra.wave, GRID)
    for row in range(N):
        flux, ivar, _ = stack_arms(
            (a[row]["wavelength"], a[row]["flux"], a[row]["ivar"], a[row]["mask"]) for a in arms.values()
        )
        np.testing.assert_allclose(spectra.flux[row], flux, rtol=2e-7, atol=1e-12)
        np.testing.assert_allclose(spectra.ivar[row], ivar, rtol=2e-7)


def test_rows_that_lack_an_arm(tmp_path):
    arms = {name: arm(name, seed) for seed, name in enumerate("BRZ")}
    arms["R"][0] = None
    for name in "BRZ":
        arms[name][2] = None
    columns = {f"spectra_{name}": nested(FORMS[0], rows) for name, rows in arms.items()}
    _, spectra = read(write(tmp_path / "t.parquet", **columns))
    covered = np.isfinite(spectra.wave)
    assert covered.sum(axis=1).tolist() == [2751 + 2881, N_WAVE, 0]
    assert not spectra.good[~covered].any()
    assert (spectra.good.sum(axis=1) > [5000, 7000, -1]).all()


def test_a_column_of_several_that_is_named(tmp_path):
    one, two = (nested(FORMS[0], arm("BRZ", seed)) for seed in (1, 2))
    path = write(tmp_path / "t.parquet", desi=one, sdss=two)
    with pytest.raises(DataError, match=r"'desi' and 'sdss' could both be the spectra.*--spectra desi"):
        read(path)
    assert read(path, "sdss")[0] == "column sdss"
    flux = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(N * N_WAVE, "f4")), N_WAVE)
    path = write(tmp_path / "t.parquet", desi=one, flux=flux)
    with pytest.raises(DataError, match=r"'flux' and 'desi' could both be .*--spectra flux"):
        read(path)
    assert read(path, "desi")[0] == "column desi"
    assert read(path, "flux")[0] == "column flux"


def test_what_is_no_spectrum(tmp_path):
    image = pa.array([{"band": ["g"], "flux": [[[1.0]]], "scale": [0.262]}] * N)
    light_curve = pa.array([{"time": [1.0, 2.0], "flux": [1.0, 2.0]}] * N)
    path = write(tmp_path / "t.parquet", image=image, lc=light_curve)
    with open_table(path) as table:
        assert open_pixels(None, table, "spectrum") is None
    with pytest.raises(DataError, match="'lc' has the fields time, flux; expected flux and one of wave"):
        read(path, "lc")


def test_wavelengths_that_are_refused(tmp_path):
    rows = arm("BRZ", 1, wavelength="wavelength_air")
    path = write(tmp_path / "t.parquet", spectrum=nested(FORMS[0], rows))
    for wanted in (None, "spectrum"):
        with pytest.raises(DataError, match=r"'spectrum' has wavelengths in air \('wavelength_air'\)"):
            read(path, wanted)
    rows = [row | {"wavelength": row["wavelength"] / 10} for row in arm("BRZ", 1)]
    path = write(tmp_path / "t.parquet", spectrum=nested(FORMS[0], rows))
    with pytest.raises(DataError, match=r"column spectrum: wavelengths run from 360.*is it in nm"):
        read(path)


def test_log_wavelengths_and_errors_of_unequal_length(tmp_path):
    rng = np.random.default_rng(4)
    rows = []
    for n in (3800, 3900, 4000):
        flux = rng.normal(size=n)
        rows.append({"flux": flux, "loglam": 3.58 + 1e-4 * np.arange(n), "sigma": np.full(n, 2.0)})
    _, spectra = read(write(tmp_path / "t.parquet", s=nested(FORMS[0], rows)))
    assert np.isfinite(spectra.wave).sum(axis=1).tolist() == [3800, 3900, 4000]
    for i, row in enumerate(rows):
        n = len(row["flux"])
        np.testing.assert_allclose(spectra.wave[i, :n], 10 ** row["loglam"])
        np.testing.assert_allclose(spectra.ivar[i, :n], 0.25)


def test_arms_on_other_grids(tmp_path):
    """One behind the other where they do not overlap; where they do, they are refused."""

    def rows(first, last):
        wave = np.arange(first, last, 1.3)
        return [{"wave": wave, "flux": wave / 1000, "ivar": np.ones(wave.size)}] * N

    path = tmp_path / "t.parquet"
    write(path, red=nested(FORMS[0], rows(6000, 8000)), blue=nested(FORMS[0], rows(4000, 5990)))
    _, spectra = read(path, rows=[1])
    wave = np.ravel(spectra.wave)
    assert (np.diff(wave) > 0).all()
    np.testing.assert_allclose(spectra.flux[0], wave / 1000, rtol=1e-6)
    write(path, red=nested(FORMS[0], rows(6000, 8000)), blue=nested(FORMS[0], rows(4000, 6100)))
    with pytest.raises(DataError, match="arms of a spectrum overlap on other grids"):
        read(path)


def sparcl(lengths, wave):
    """Make what SPARCL's client retrieves, as pandas writes it."""
    rng = np.random.default_rng(7)
    n = len(lengths)
    flux = [rng.normal(size=k) for k in lengths]
    return flux, {
        "sparcl_id": [f"u{i}" for i in range(n)],
        "specid": list(range(n)),
        "data_release": ["DESI-DR1"] * n,
        "flux": [row.tolist() for row in flux],
        "ivar": [[1.0] * k for k in lengths],
        "mask": [[0] * k for k in lengths],
        "model": [[0.0] * k for k in lengths],
        "wave_sigma": [[1.0] * k for k in lengths],
        "wavelength": [wave[:k].tolist() for k in lengths],
    }


@pytest.mark.parametrize(
    ("lengths", "wave"),
    [([N_WAVE] * 3, GRID), ([4600, 4611, 4590], 3600 * 10 ** (1e-4 * np.arange(4611)))],
    ids=["DESI", "BOSS"],
)
def test_sparcls_own_tables(tmp_path, lengths, wave):
    flux, columns = sparcl(lengths, wave)
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    _, spectra = read(tmp_path / "t.parquet", rows=[2, 0])
    for i, row in enumerate((2, 0)):
        n = lengths[row]
        np.testing.assert_array_equal(spectra.flux[i, :n], flux[row].astype("f4"))
        np.testing.assert_allclose(np.broadcast_to(spectra.wave, spectra.flux.shape)[i, :n], wave[:n])
        assert spectra.good[i].sum() == n


def test_wavelengths_of_another_name_in_parquet(tmp_path):
    _, columns = sparcl([N_WAVE] * 3, GRID)
    columns["angs"] = columns.pop("wavelength")
    del columns["wave_sigma"]
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="column 'angs' could hold the wavelengths"):
        read(tmp_path / "t.parquet")
