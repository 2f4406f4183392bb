"""The one reader of positions: names, units, text, motions."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy import units
from astropy.coordinates import FK5, Angle, SkyCoord
from astropy.io import fits
from astropy.table import QTable, Table
from builders_hats import write_hats
from numpy.testing import assert_allclose, assert_array_equal

from astroclip.errors import DataError, UsageError
from astroclip.tables import open_table
from astroclip.tables.angles import parse_angles, parse_position
from astroclip.tables.positions import find_position, need_position

RA, DEC = np.array([150.1, 0.002, 359.99]), np.array([2.2, -89.5, 45.25])


def table_of(path: Path, columns: dict[str, Any], tunits: dict[str, str] | None = None) -> Path:
    """Write a FITS table, with any text as units."""
    Table(columns).write(path, overwrite=True)
    with fits.open(path, mode="update") as hdus:
        for name, unit in (tunits or {}).items():
            hdus[1].header[f"TUNIT{list(columns).index(name) + 1}"] = unit
    return path


def read(path: Path, **named: Any) -> tuple[np.ndarray, np.ndarray]:
    """Read all positions of a table."""
    with open_table(path) as table:
        reader = need_position(table, **named)
        return reader.read(table.read(reader.columns))


@pytest.mark.parametrize(
    "pair",
    [
        ("RA", "DEC"), ("ra", "dec"), ("TARGET_RA", "TARGET_DEC"), ("coord.ra", "coord.dec"),
        ("sky.ra", "sky.dec"),
        ("PLUG_RA", "PLUG_DEC"), ("PLUGRA", "PLUGDEC"), ("RACAT", "DECCAT"), ("RA_ICRS", "DE_ICRS"),
        ("RAJ2000", "DEJ2000"), ("ra", "decl"), ("ALPHAWIN_J2000", "DELTAWIN_J2000"), ("RA_d", "DEC_d"),
        ("coord_ra", "coord_dec"), ("i_ra", "i_dec"), ("raMean", "decMean"),
        ("Right_Ascension", "Declination"),
        ("RA_1", "DEC_1"), ("FIBER_RA", "FIBER_DEC"),
    ],
)  # fmt: skip
def test_positions_are_found_by_the_names_in_use(tmp_path: Path, pair: tuple[str, str]) -> None:
    path = table_of(tmp_path / "t.fits", {"ID": np.arange(3), pair[0]: RA, pair[1]: DEC})
    assert_array_equal(read(path), (RA, DEC))


def test_both_names_are_of_one_pair(tmp_path: Path) -> None:
    path = table_of(tmp_path / "t.fits", {"RA": RA + 1, "TARGET_RA": RA, "TARGET_DEC": DEC})
    assert_array_equal(read(path), (RA, DEC))


def test_named_columns_win(tmp_path: Path) -> None:
    columns = {"RA": RA + 1, "DEC": DEC / 2, "myra": RA, "mydec": DEC}
    path = table_of(tmp_path / "t.fits", columns)
    assert_array_equal(read(path, ra="MYRA", dec="mydec"), (RA, DEC))
    assert_array_equal(read(path, ra="myra"), (RA, DEC / 2))
    with pytest.raises(DataError, match="no column 'nowhere'"):
        read(path, ra="nowhere", dec="mydec")


def test_a_table_without_positions_says_where_it_looked(tmp_path: Path) -> None:
    hdus = [fits.PrimaryHDU(), fits.BinTableHDU(Table({"A": [1]}), name="ONE")]
    fits.HDUList([*hdus, fits.BinTableHDU(Table({"RA": RA, "DEC": DEC}), name="TWO")]).writeto(
        tmp_path / "t.fits"
    )
    with open_table(tmp_path / "t.fits", hdu="ONE") as table:
        assert find_position(table) is None
        with pytest.raises(DataError, match=r"HDU 1 \(ONE\) .* A; .*TWO.*Name them: --ra NAME --dec NAME"):
            need_position(table)


@pytest.mark.parametrize(
    ("unit", "scale"),
    [
        *(
            (unit, 1.0)
            for unit in (
                "",
                "deg",
                "degree",
                "Degrees",
                "degs",
                "deg.",
                "Angle[deg]",
                "deg (J2000)",
                "d",
            )
        ),
        *((unit, 1 / 15) for unit in ("h", "hr", "Hours", "hour", "hourangle", "hour angle", "'h'")),
        *((unit, np.pi / 180) for unit in ("rad", "radian", "Radians", "angle[rad]")),
        *((unit, 3600.0) for unit in ("arcsec", "arcseconds", '"', "asec")),
        *((unit, 60.0) for unit in ("arcmin", "arcminutes", "'")),
        ("mas", 3.6e6),
        ("uas", 3.6e9),
    ],
)
def test_units_of_right_ascension(tmp_path: Path, unit: str, scale: float) -> None:
    both = scale != 1 / 15
    columns = {"RA": RA * scale, "DEC": DEC * scale if both else DEC}
    path = table_of(
        tmp_path / "t.fits", columns, {"RA": unit, "DEC": unit if both else "deg"} if unit else {}
    )
    assert_allclose(read(path), (RA, DEC), rtol=1e-14)


@pytest.mark.parametrize("unit", ["furlong", "pix", "s", "mag", "1e-17 erg/s"])
@pytest.mark.parametrize("column", ["RA", "DEC"])
def test_an_unknown_unit_is_refused(tmp_path: Path, column: str, unit: str) -> None:
    path = table_of(tmp_path / "t.fits", {"RA": RA, "DEC": DEC}, {column: unit})
    with pytest.raises(DataError, match=f"column '{column}' is in '{unit}'.*--ra NAME"):
        read(path)


def test_a_declination_is_not_in_hours(tmp_path: Path) -> None:
    path = table_of(tmp_path / "t.fits", {"RA": RA, "DEC": DEC / 15}, {"DEC": "h"})
    with pytest.raises(DataError, match="column 'DEC' is in 'h'"):
        read(path)


def test_radians_beside_no_unit_are_refused(tmp_path: Path) -> None:
    path = table_of(tmp_path / "t.fits", {"RA": np.radians(RA), "DEC": np.radians(DEC)}, {"RA": "rad"})
    with pytest.raises(DataError, match="column 'DEC' states no unit, and 'RA' is in 'rad'"):
        read(path)


@pytest.mark.parametrize(("unit", "degrees"), [("h", "deg"), ("rad", "rad")])
def test_a_unit_that_the_values_contradict_is_refused(tmp_path: Path, unit: str, degrees: str) -> None:
    path = table_of(tmp_path / "t.fits", {"RA": RA, "DEC": DEC}, {"RA": unit, "DEC": degrees})
    with pytest.raises(DataError, match=rf"column 'RA' holds 150.1 \(row 0, from 0\) and is in '{unit}'"):
        read(path)


def test_a_right_ascension_in_degrees_may_be_on_any_turn(tmp_path: Path) -> None:
    path = table_of(tmp_path / "t.fits", {"RA": [-10.0, 370.0], "DEC": [0.0, 0.0]}, {"RA": "deg"})
    assert_array_equal(read(path)[0], [-10.0, 370.0])


def test_positions_off_the_sky_are_missing(tmp_path: Path) -> None:
    columns = {"RA": [1.0, 2.0, np.nan, np.inf, 5.0], "DEC": [90.0, 90.1, 0.0, 0.0, np.nan]}
    ra, dec = read(table_of(tmp_path / "t.fits", columns))
    assert_array_equal(ra, [1.0] + [np.nan] * 4)
    assert_array_equal(dec, [90.0] + [np.nan] * 4)


def test_integers_with_a_null_are_positions(tmp_path: Path) -> None:
    path = table_of(tmp_path / "t.fits", {"RA": np.array([10, -1]), "DEC": np.array([-5, 7])})
    with fits.open(path, mode="update") as hdus:
        hdus[1].header["TNULL1"] = -1
    ra, dec = read(path)
    assert_array_equal(ra, [10, np.nan])
    assert_array_equal(dec, [-5, np.nan])


def test_a_skycoord_of_astropy_is_found(tmp_path: Path) -> None:
    QTable({"id": [1, 2, 3], "coord": SkyCoord(RA, DEC, unit="deg")}).write(tmp_path / "t.fits")
    assert_allclose(read(tmp_path / "t.fits"), (RA, DEC))


@pytest.mark.parametrize(
    "style",
    [
        {"sep": ":", "precision": 4}, {"sep": " ", "precision": 4}, {"sep": "hms", "precision": 4},
        {"sep": ":", "precision": 4, "pad": True}, {"sep": " ", "precision": 1},
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", ["fits", "csv", "parquet"])
def test_sexagesimal_text_is_read_as_skycoord_does(
    tmp_path: Path, style: dict[str, Any], suffix: str
) -> None:
    sky = SkyCoord(RA, DEC, unit="deg")
    ra = sky.ra.to_string("hour", **style)
    dec_style = style | ({"sep": "dms"} if style["sep"] == "hms" else {})
    dec = sky.dec.to_string("deg", alwayssign=True, **dec_style)
    Table({"RA": ra, "DEC": dec}).write(tmp_path / f"t.{suffix}")
    want = SkyCoord(ra, dec, unit=(units.hourangle, units.deg))
    assert_allclose(read(tmp_path / f"t.{suffix}"), (want.ra.deg, want.dec.deg), rtol=1e-13)


ANGLES = [
    "10:41:02.5", "+10:41:02.5", "-10:41:02.5", "-00:00:01", "10 41 02.5", "10 41", "10:41", "10:41.5",
    "1h2m3s", "1h2m3.5s", "1h2m", "1h", "1.5h", "1d2m3s", "-1d2m3.25s",
    "12°30'15\"", "-0d30m", "1h 2m 3s", "7:0:0.0",
    " 5:06:07 ",
    "00:00:00.000001", "23:59:59.999", "1d", "1.25d", "10h41m2.",
]  # fmt: skip


@pytest.mark.parametrize("unit", [units.hourangle, units.deg])
def test_angles_in_text_agree_with_astropy(unit: units.Unit) -> None:
    want = [Angle(text.strip(), unit=unit).deg for text in ANGLES]
    got, bad = parse_angles(np.array(ANGLES), sexagesimal=float((1 * unit).to_value(units.deg)))
    assert not bad.any()
    assert_allclose(got, want, rtol=1e-14, atol=1e-15)


def test_random_angles_agree_with_astropy() -> None:
    rng = np.random.default_rng(0)
    degrees = rng.uniform(-90, 90, 300)
    for precision in range(6):
        for sep in (":", " ", "dms"):
            texts = np.array([Angle(d, "deg").to_string(sep=sep, precision=precision) for d in degrees])
            got, bad = parse_angles(texts, sexagesimal=1.0)
            assert not bad.any()
            assert_allclose(got, Angle(texts, unit="deg").deg, rtol=1e-14)


@pytest.mark.parametrize(
    "text", ["NGC 4993", "10:61:00", "1:2:61", "10:x:3", "1:2:3:4", "12:", "h", "1.5:30:00", "1 2 3 4"]
)
def test_text_that_is_no_angle(text: str) -> None:
    got, bad = parse_angles(np.array([text]))
    assert bad.all()
    assert np.isnan(got).all()


def test_text_of_another_kind_is_one_sentence(tmp_path: Path) -> None:
    path = table_of(tmp_path / "t.fits", {"RA": ["10:00:00", "NGC 4993"], "DEC": ["1:0:0", "2:0:0"]})
    with pytest.raises(
        DataError, match=r"column 'RA', row 1 \(from 0\): 'NGC 4993' is no position.*--ra NAME"
    ) as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_numbers_in_text_are_degrees_and_declared_units_win(tmp_path: Path) -> None:
    text = {"RA": ["150.1", "1.5e2", ""], "DEC": ["2.2", "-3", "4"]}
    assert_array_equal(read(table_of(tmp_path / "t.fits", text))[0], [150.1, 150.0, np.nan])
    path = table_of(tmp_path / "h.fits", {"RA": ["10.0", "2"], "DEC": ["2.2", "-3"]}, {"RA": "h"})
    assert_array_equal(read(path)[0], [150.0, 30.0])
    path = table_of(tmp_path / "d.fits", {"RA": ["150:30:00"], "DEC": ["2:0:0"]}, {"RA": "deg"})
    assert_array_equal(read(path), ([150.5], [2.0]))
    path = table_of(
        tmp_path / "v.fits", {"RA": ["10 30 00"], "DEC": ["-2 0 0"]}, {"RA": '"h:m:s"', "DEC": '"d:m:s"'}
    )
    assert_array_equal(read(path), ([157.5], [-2.0]))


@pytest.mark.parametrize("missing", ["", "--", "nan", "N/A"])
def test_text_that_is_missing_is_no_position(tmp_path: Path, missing: str) -> None:
    path = table_of(tmp_path / "t.fits", {"RA": ["10:00:00", missing], "DEC": ["1:0:0", "2:0:0"]})
    assert_array_equal(read(path), ([150.0, np.nan], [1.0, np.nan]))


def test_sexagesimal_degrees_taken_for_hours_are_refused(tmp_path: Path) -> None:
    path = table_of(tmp_path / "t.fits", {"RA": ["150:30:00"], "DEC": ["2:0:0"]})
    with pytest.raises(DataError, match=r"read as hours.*State its unit"):
        read(path)


@pytest.mark.parametrize(
    ("unit", "scale"),
    [
        ("", 1.0), ("mas/yr", 1.0), ("mas yr-1", 1.0), ("mas.yr**-1", 1.0), ("mas / year", 1.0),
        ("mas yr^-1", 1.0),
        ("arcsec/yr", 1e-3), ("arcsec yr**(-1)", 1e-3), ("deg/yr", 1 / 3.6e6), ("uas/yr", 1e3),
        ("mas.yr-1", 1.0),
    ],
)  # fmt: skip
def test_motions_are_applied_in_their_units(tmp_path: Path, unit: str, scale: float) -> None:
    columns = {
        "RA": RA,
        "DEC": [0.0, 10.0, 60.0],
        "PMRA": np.full(3, 5e3 * scale),
        "PMDEC": np.full(3, -2e3 * scale),
    }
    columns |= {"REF_EPOCH": [2000.0, 0.0, 2015.5]}
    tunits = {"PMRA": unit, "PMDEC": unit, "REF_EPOCH": "yr"} if unit else {}
    path = table_of(tmp_path / "t.fits", columns, tunits)
    still = read(path)
    assert_array_equal(still, (RA, columns["DEC"]))
    ra, dec = read(path, epoch=2020.0)
    east, north = (
        ((ra - RA + 180) % 360 - 180) * np.cos(np.radians(dec)) * 3600,
        (dec - columns["DEC"]) * 3600,
    )
    assert_allclose(east, [100.0, 0.0, 22.5], atol=0.05)
    assert_allclose(north, [-40.0, 0.0, -9.0], atol=0.05)


@pytest.mark.parametrize(
    ("unit", "epoch"), [("d", 57388.5), ("MJD", 57388.5), ("JD", 2457389.0), ("Julian years", 2016.0)]
)
def test_epochs_in_days(tmp_path: Path, unit: str, epoch: float) -> None:
    columns = {"RA": [10.0], "DEC": [0.0], "pmra": [1000.0], "pmdec": [0.0], "ref_epoch": [epoch]}
    path = table_of(tmp_path / "t.fits", columns, {"ref_epoch": unit})
    assert_allclose((read(path, epoch=2026.0)[0] - 10) * 3600, 10.0, atol=1e-3)


@pytest.mark.parametrize("epoch", ["J2016.0", "2016", 57388.5, 2457389.0])
def test_epochs_without_a_unit(tmp_path: Path, epoch: Any) -> None:
    columns = {"RA": [10.0], "DEC": [0.0], "pmra": [1000.0], "pmdec": [0.0], "ref_epoch": [epoch]}
    path = table_of(tmp_path / "t.fits", columns)
    assert_allclose((read(path, epoch=2026.0)[0] - 10) * 3600, 10.0, atol=1e-3)


@pytest.mark.parametrize("epoch", [3, 9999.0, "B1950", "now"])
def test_what_is_no_epoch(tmp_path: Path, epoch: Any) -> None:
    columns = {"RA": [10.0], "DEC": [0.0], "PMRA": [1000.0], "PMDEC": [0.0], "EPOCH": [epoch]}
    path = table_of(tmp_path / "t.fits", columns)
    with pytest.raises(DataError, match="column 'EPOCH'"):
        read(path, epoch=2016.0)


@pytest.mark.parametrize(("column", "unit"), [("PMRA", "km/s"), ("PMDEC", "pix"), ("REF_EPOCH", "km")])
def test_an_unknown_unit_of_motion_is_refused(tmp_path: Path, column: str, unit: str) -> None:
    columns = {"RA": [10.0], "DEC": [0.0], "PMRA": [1.0], "PMDEC": [0.0], "REF_EPOCH": [2000.0]}
    path = table_of(tmp_path / "t.fits", columns, {column: unit})
    with pytest.raises(DataError, match=f"column '{column}' is .*'{unit}'"):
        read(path, epoch=2016.0)
    read(path)  # unused


@pytest.mark.parametrize(
    "text",
    [
        "150.1 2.2", "150.1,2.2", " 150.1 , +2.2 ", "10:00:24 +02:12:00", "10:00:24,2:12:0",
        "10 00 24 +02 12 00",
        "10 00 24 02 12 00", "10h00m24s 2d12m", "10h 00m 24s +2d 12m 0s", "10:00:24 2.2", "10h0.4m +2d12m",
        "-209.9 2.2",
    ],
)  # fmt: skip
def test_positions_that_users_write(text: str) -> None:
    ra, dec = parse_position(text)
    assert_allclose((ra % 360, dec), (150.1, 2.2), rtol=1e-12)


@pytest.mark.parametrize("text", ["", "150.1", "north pole", "1 2 3", "10 95", "25:00:00 1:0:0", "1,2,3"])
def test_what_is_no_position(text: str) -> None:
    with pytest.raises(UsageError, match=f"position '{text}'"):
        parse_position(text)


@pytest.mark.parametrize("suffix", ["fits", "parquet"])
@pytest.mark.parametrize(
    ("frame", "refused"),
    [("icrs", False), ("fk5", False), ("fk4", True), (FK5(equinox="J1975"), True)],
)
def test_only_icrs_is_read_as_icrs(tmp_path: Path, frame: Any, refused: bool, suffix: str) -> None:
    path, sky = tmp_path / f"t.{suffix}", SkyCoord(RA, DEC, unit="deg")
    QTable({"coord": sky.transform_to(frame), "sky": sky}).write(path)
    if refused:
        with pytest.raises(DataError, match=r"column 'coord\.ra' is in the frame fk"):
            read(path)
    else:
        assert SkyCoord(*read(path), unit="deg").separation(sky).max() < 0.1 * units.arcsec
    assert_allclose(read(path, ra="sky.ra", dec="sky.dec"), (RA, DEC))


def test_galactic_coordinates_are_no_position(tmp_path: Path) -> None:
    QTable({"coord": SkyCoord(RA, DEC, unit="deg").galactic}).write(tmp_path / "t.fits")
    with pytest.raises(DataError, match=r"no position columns.*coord\.l, coord\.b"):
        read(tmp_path / "t.fits")


def test_a_frame_in_the_header_is_checked(tmp_path: Path) -> None:
    path = table_of(tmp_path / "t.fits", {"RA": RA, "DEC": DEC})
    for frame in ("ICRS", "FK5", "FK4"):
        fits.setval(path, "RADESYS", value=frame, ext=1)
        if frame == "FK4":
            with pytest.raises(DataError, match="column 'RA' is in the frame fk4, expected ICRS"):
                read(path)
        else:
            assert_array_equal(read(path), (RA, DEC))


def test_columns_that_hats_declares_win(tmp_path: Path) -> None:
    columns = {"ra": RA + 1, "dec": DEC / 2, "lon": RA, "lat": DEC}
    write_hats(tmp_path / "hats", columns, "lon", "lat")
    ra, dec = read(tmp_path / "hats")
    order = np.argsort(ra)
    assert_array_equal((ra[order], dec[order]), (np.sort(RA), DEC[np.argsort(RA)]))
