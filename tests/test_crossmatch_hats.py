"""HATS catalogues as spectra and as images: the same rows and columns as FITS, with either engine."""

import shutil
from importlib.util import find_spec

import fitsio
import numpy as np
import pytest
from astropy.table import Table
from builders_hats import write_hats
from matched_survey import NAMES, Survey, make_survey

from astroclip.crossmatch.build import build_pairs
from astroclip.crossmatch.plan import CrossmatchSettings
from astroclip.data.pairs import open_pairs
from astroclip.errors import DataError
from astroclip.tables import is_hats, open_table

needs_lsdb = pytest.mark.skipif(find_spec("lsdb") is None, reason="needs lsdb: pip install '.[distributed]'")
ENGINES = ["memory", pytest.param("lsdb", marks=needs_lsdb)]
LAYOUTS = [{}, {"collection": True}, {"parts": True, "crowd": 3}]


@pytest.fixture(scope="module")
def survey(tmp_path_factory) -> Survey:
    return make_survey(tmp_path_factory.mktemp("survey"))


def image_table(survey: Survey) -> dict[str, np.ndarray]:
    return {name: survey.stein[name] for name in ("ra", "dec", "release", "brickid", "objid")}


def match(spectra, images, out, engine="memory", **settings) -> np.ndarray:
    settings = CrossmatchSettings(engine=engine, join="left", **settings)
    report = build_pairs(spectra, images, out, settings=settings, pairs=False)
    assert sum(report.reasons.values()) == report.rows
    return fitsio.read(out.with_suffix(".fits"))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_in_hats_match_as_those_in_fits(survey, tmp_path, layout, engine):
    table = image_table(survey)
    Table(table).write(tmp_path / "images.fits")
    order = write_hats(tmp_path / "hats", table, "ra", "dec", **layout)
    expected = match(survey.catalogue, tmp_path / "images.fits", tmp_path / "a")
    found = match(survey.catalogue, tmp_path / "hats", tmp_path / "b", engine)
    assert found.dtype.names == expected.dtype.names
    matched = found["IMAGE_ROW"] >= 0
    assert matched.sum() > 10
    for name in set(found.dtype.names) - {"IMAGE_FILE", "IMAGE_ROW"}:
        np.testing.assert_array_equal(found[name], expected[name])
    with open_table(tmp_path / "hats") as hats:
        files = [path.relative_to(tmp_path / "hats").as_posix() for path in hats.files]
    number = [files.index(name.strip()) for name in found["IMAGE_FILE"][matched]]
    row = hats.first[number] + found["IMAGE_ROW"][matched]
    np.testing.assert_array_equal(order[row], expected["IMAGE_ROW"][matched])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_spectra_in_hats_are_paired_as_those_in_fits(survey, tmp_path, layout, engine):
    order = write_hats(tmp_path / "hats", survey.columns, "TARGET_RA", "TARGET_DEC", **layout)
    reports = {}
    for name, spectra in (("fits", survey.catalogue), ("hats", tmp_path / "hats")):
        settings = CrossmatchSettings(engine=engine, join="left")
        reports[name] = build_pairs(
            spectra, survey.images, tmp_path / name, coadds=survey.folder, settings=settings,
            rejects=tmp_path / f"{name}-rejects.fits",
        )  # fmt: skip
    assert reports["fits"].reasons == reports["hats"].reasons
    expected, found = (fitsio.read(tmp_path / f"{name}.fits") for name in ("fits", "hats"))
    for name in found.dtype.names:  # texts are as wide as the longest
        assert found.dtype[name].kind == "U" or found.dtype[name] == expected.dtype[name]
    assert found.dtype.names == expected.dtype.names
    np.testing.assert_array_equal(found["SPECTRA_ROW"], np.arange(len(NAMES)))
    for name in set(found.dtype.names) - {"SPECTRA_ROW", "PAIR"}:
        np.testing.assert_array_equal(found[name], expected[name][order])
    with open_pairs(tmp_path / "fits.h5") as ours, open_pairs(tmp_path / "hats.h5") as theirs:
        paired = found["PAIR"] >= 0
        pairs = [
            file.read(["targetid", "image", "flux"], 0, file.nrows)["targetid"][table["PAIR"][rows]]
            for file, table, rows in ((ours, expected, order[paired]), (theirs, found, paired))
        ]
    np.testing.assert_array_equal(*pairs)
    rejected = fitsio.read(tmp_path / "hats-rejects.fits")
    np.testing.assert_array_equal(rejected["TARGETID"], survey.columns["TARGETID"][order][rejected["ROW"]])
    assert not list(tmp_path.glob(".*"))  # no scratch left


@pytest.mark.parametrize("engine", ENGINES)
def test_moving_objects_missing_ids_and_other_names(tmp_path, engine, rng):
    n = 60
    east, north = rng.uniform(10, 40, n), rng.uniform(-20, 20, n)
    Table({"RA": east, "DEC": north}).write(tmp_path / "left.fits")
    ids = np.ma.array(np.arange(n), mask=rng.random(n) < 0.5)
    write_hats(
        tmp_path / "hats",
        {"x": east, "y": north - 1 / 3600, "RA": np.zeros(n), "RELEASE": ids, "BRICKID": ids, "OBJID": ids}
        | {"PMRA": np.zeros(n), "PMDEC": np.full(n, 200.0), "REF_EPOCH": np.full(n, 2011.0)},
        "x",
        "y",
    )
    found = match(tmp_path / "left.fits", tmp_path / "hats", tmp_path / "declared", engine)
    np.testing.assert_allclose(found["SEPARATION"], 0, atol=1e-6)
    assert set(found["REASON"].astype(str)) == {"PAIRED"}
    known = ~np.ma.getmaskarray(ids) & (np.arange(n) > 0)  # release 0 is none
    assert sorted(found["IMAGE_OBJID"]) == sorted([*ids[known], *[-1] * (~known).sum()])
    found = match(tmp_path / "left.fits", tmp_path / "hats", tmp_path / "named", engine, image_ra="ra")
    assert not (found["IMAGE_ROW"] >= 0).any()


def test_columns_that_fits_cannot_hold_are_left_alone(survey, tmp_path):
    nested = np.zeros(len(NAMES), object)
    nested[:] = [[1.0] * i for i in range(len(NAMES))]
    columns = survey.columns | {"LIGHTCURVE": nested, "NOTE": np.full(len(NAMES), "x")}
    write_hats(tmp_path / "hats", columns, "TARGET_RA", "TARGET_DEC")
    assert match(tmp_path / "hats", survey.images, tmp_path / "o").size == len(NAMES)


def test_folders_that_cannot_be_used(survey, tmp_path):
    table = image_table(survey)
    write_hats(tmp_path / "hats", table, "ra", "dec")
    assert is_hats(tmp_path / "hats")
    assert not is_hats(tmp_path)
    files = open_table(tmp_path / "hats").files
    cases = {
        "damaged": lambda path: path.write_bytes(path.read_bytes()[:100]),
        "files are missing": lambda path: path.unlink(),
        "no column objid": lambda path: shutil.copy(other, path),
    }
    write_hats(tmp_path / "few", {k: v for k, v in table.items() if k != "objid"}, "ra", "dec")
    other = open_table(tmp_path / "few").files[0]
    for said, spoil in cases.items():
        victim, kept = files[2], files[2].read_bytes()
        spoil(victim)
        with pytest.raises(DataError, match="cannot be read as a table" if said == "damaged" else said):
            build_pairs(survey.catalogue, tmp_path / "hats", tmp_path / "o", pairs=False)
        victim.write_bytes(kept)
    shutil.rmtree(tmp_path / "few" / "dataset")
    with pytest.raises(DataError, match="without a file"):
        build_pairs(tmp_path / "few", survey.images, tmp_path / "o", pairs=False)
    (tmp_path / "hats" / "hats.properties").unlink()
    (tmp_path / "hats" / "collection.properties").write_text("hats_primary_table_url=gone\n")
    with pytest.raises(DataError, match=r"expected hats\.properties in"):
        open_table(tmp_path / "hats")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["few", "hats"]


def test_nested_images_are_paired(survey, tmp_path):
    """Planes in another order of bands, in a struct column, as the Multimodal Universe has them in HATS."""
    images = np.empty(len(survey.stein["images"]), object)
    images[:] = [
        {"band": ["DES-Z", "DES-G", "DES-R"], "flux": image[[2, 0, 1]].tolist(), "scale": [0.262] * 3}
        for image in survey.stein["images"]
    ]
    write_hats(tmp_path / "hats", image_table(survey) | {"image": images}, "ra", "dec")
    expected = build_pairs(survey.catalogue, survey.images, tmp_path / "a")
    found = build_pairs(survey.catalogue, tmp_path / "hats", tmp_path / "b")
    assert (found.reasons, found.pair_rows) == (expected.reasons, expected.pair_rows)
    read = []
    for name in "ab":
        with open_pairs(tmp_path / f"{name}.h5") as pairs:
            read.append(pairs.read(["targetid", "image"]))
    np.testing.assert_array_equal(read[0]["targetid"], read[1]["targetid"])
    np.testing.assert_allclose(read[0]["image"], read[1]["image"], rtol=1e-6)
