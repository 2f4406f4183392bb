"""Crossmatch under kills, full disks and wrong inputs: one clear error, nothing half done, one result."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import fitsio
import h5py
import pytest
from astropy.table import Table
from builders import truncate, write_cube
from matched_survey import (
    PAIRED,
    Survey,
    make_survey,
    write_catalogue,
)

from astroclip.crossmatch.build import CrossmatchReport, build_pairs
from astroclip.crossmatch.plan import CrossmatchSettings
from astroclip.data.pairs import SplitSettings, open_pairs
from astroclip.errors import DataError, UsageError


@pytest.fixture(scope="module")
def survey(tmp_path_factory) -> Survey:
    return make_survey(tmp_path_factory.mktemp("survey"))


@pytest.fixture(scope="module")
def built(survey, tmp_path_factory) -> tuple[Path, CrossmatchReport]:
    """The survey, matched with all defaults."""
    out = tmp_path_factory.mktemp("built") / "out"
    return out, build_pairs(survey.catalogue, survey.images, out, rejects=out.with_name("rejects.fits"))


def run_killed(survey: Survey, folder: Path, seed: int, kills: int) -> list[int]:
    """Build in processes of which many are killed; return how many bytes each of these left behind."""
    script = Path(__file__).with_name("killed_crossmatch.py")
    command = [sys.executable, str(script), survey.catalogue, survey.images, folder, str(seed), str(kills)]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    return [int(line) for line in done.stdout.split()]


def contents(path: Path) -> dict[str, object]:
    """Return all values and attributes of an HDF5 file, but for the date."""
    found: dict[str, object] = {}
    with h5py.File(path) as file:
        found["/"] = {k: str(v) for k, v in file.attrs.items() if k != "created"}

        def note(name: str, item: object) -> None:
            if isinstance(item, h5py.Dataset):
                found[name] = (item[()].tobytes(), {k: str(v) for k, v in item.attrs.items()})

        file.visititems(note)
    return found


def test_killed_and_resumed_it_is_the_same(survey, tmp_path):
    left = run_killed(survey, tmp_path, seed=1, kills=20)
    assert len(left) == 20
    assert len({*left}) > 3  # at different places
    outs = sorted(path.stem for path in tmp_path.glob("out*.h5"))
    for out in outs:
        assert contents(tmp_path / f"{out}.h5") == contents(tmp_path / "whole.h5")
        found, expected = (fitsio.read(tmp_path / f"{name}.fits") for name in (out, "whole"))
        assert found.tobytes() == expected.tobytes()
    files = [f"{name}.{suffix}" for name in [*outs, "whole"] for suffix in ("fits", "h5")]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)


def test_a_run_is_resumed_with_its_own_settings_only(survey, tmp_path):
    out = tmp_path / "out"
    again = {"resume": True}
    build_pairs(survey.catalogue, survey.images, out)
    first = out.with_suffix(".h5").read_bytes()
    out.with_suffix(".fits").unlink()  # as if killed between the two
    build_pairs(survey.catalogue, survey.images, out, **again)
    assert out.with_suffix(".h5").read_bytes() == first
    assert out.with_suffix(".fits").exists()
    for settings in (CrossmatchSettings(cut="none"), CrossmatchSettings(split=SplitSettings(seed=1))):
        with pytest.raises(UsageError, match="other inputs or settings"):
            build_pairs(survey.catalogue, survey.images, out, settings=settings, **again)
    out.with_suffix(".h5").unlink()
    with pytest.raises(UsageError, match="not of the run to be resumed"):
        build_pairs(survey.catalogue, survey.images, out, **again)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"images": "nothing"}, DataError, "nothing"),
        ({"spectra": "nothing.fits"}, DataError, "nothing.fits"),
        ({"coadds": "nothing"}, DataError, "no such folder of coadds"),
        ({"output": "no/folder/out"}, DataError, "there is no folder"),
        ({"output": "taken"}, UsageError, "exists already"),
        ({"rejects": "o.fits"}, UsageError, "is named for two outputs"),
        ({"rejects": "r.txt"}, UsageError, "r.txt"),
        ({"labels": ["nothing.csv"]}, DataError, "nothing.csv"),
        ({"labels": ["blind.fits"]}, DataError, "by position"),
        ({"settings": CrossmatchSettings(cut="best")}, UsageError, "no cut 'best'"),
        ({"settings": CrossmatchSettings(cut="original")}, DataError, "SV_PRIMARY"),
        ({"settings": CrossmatchSettings(radius_arcsec=0)}, UsageError, "radius_arcsec is 0"),
        ({"settings": CrossmatchSettings(find="some")}, UsageError, "find is 'some'"),
        ({"settings": CrossmatchSettings(join="outer")}, UsageError, "join is 'outer'"),
        ({"settings": CrossmatchSettings(split=SplitSettings((1, 1, 1)))}, UsageError, "fractions"),
        ({"settings": CrossmatchSettings(ra="RRA")}, DataError, "no column 'RRA'"),
        ({"spectra": "blind.fits"}, DataError, "no position columns"),
        ({"spectra": "parsecs.fits"}, DataError, "'pc'"),
        ({"spectra": "inexact.fits"}, DataError, "TARGETID' is float64"),
        ({"spectra": "plain.fits", "coadds": "."}, UsageError, "no TARGETID, SURVEY"),
        ({"spectra": "alone.fits"}, UsageError, "--coadds"),
        ({"spectra": "short.fits"}, DataError, "cut short"),
        ({"images": "empty"}, DataError, "no FITS"),
    ],
)  # fmt: skip
def test_errors_come_before_anything_is_written(survey, tmp_path, monkeypatch, change, error, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    Table({"A": [1.0]}).write("blind.fits")
    Table({"RA": [1.0], "DEC": [2.0]}, units={"RA": "pc", "DEC": "deg"}).write("parsecs.fits")
    inexact = survey.columns | {"TARGETID": survey.columns["TARGETID"].astype(float)}
    write_catalogue(tmp_path / "inexact.fits", inexact)
    Table({"RA": [1.0], "DEC": [2.0]}).write("plain.fits")
    write_catalogue(tmp_path / "alone.fits", survey.columns)
    write_catalogue(tmp_path / "short.fits", survey.columns)
    truncate(tmp_path / "short.fits", 0.5)
    Path("taken.h5").touch()
    before = sorted(tmp_path.rglob("*"))
    given = {"spectra": survey.catalogue, "images": survey.images, "output": "o"} | change
    with pytest.raises(error, match=said):
        build_pairs(**given)
    assert sorted(tmp_path.rglob("*")) == before


def test_other_units_of_images_are_one_error(survey, tmp_path):
    """Nobody's images become nanomaggies by being read."""
    columns = {name: survey.stein[name] for name in ("ra", "dec", "release", "brickid", "objid")}
    Table(columns | {"IMAGE": survey.stein["images"]}, units={"IMAGE": "Jy"}).write(tmp_path / "column.fits")
    Table(columns, units={"ra": "deg", "dec": "pc"}).write(tmp_path / "position.fits")
    path = survey.images / "images_npix152_000000000_000000001.h5"
    shutil.copy(path, tmp_path)
    with h5py.File(tmp_path / path.name, "a") as file:
        file["images"].attrs["unit"] = "Jy"
    write_cube(tmp_path / "cutouts" / f"{survey.columns['TARGETID'][0]}.fits", ra=None, cards={"BUNIT": "Jy"})
    said = {
        "column.fits": "column.fits: column 'IMAGE': image in 'Jy', expected nanomaggy",
        "position.fits": "position.fits: column 'dec' is in 'pc'",
        path.name: f"{path.name}: dataset 'images': image in 'Jy', expected nanomaggy",
        "cutouts": ".fits: image in 'Jy', expected nanomaggy",
    }
    before = sorted(tmp_path.rglob("*"))
    for name, text in said.items():
        with pytest.raises(DataError, match=re.escape(text)):
            build_pairs(survey.catalogue, tmp_path / name, tmp_path / "o")
    assert sorted(tmp_path.rglob("*")) == before


def test_one_cutout_in_other_units_is_one_reject(survey, tmp_path):
    ids = survey.columns["TARGETID"]
    write_cube(tmp_path / "cutouts" / f"{ids[0]}.fits", ra=None, cards={"BUNIT": "Jy"})
    write_cube(tmp_path / "cutouts" / f"{ids[1]}.fits", ra=None)
    report = build_pairs(survey.catalogue, tmp_path / "cutouts", tmp_path / "o")
    assert report.reasons["UNREADABLE_IMAGE"] == report.reasons["PAIRED"] == 1
    assert any("image in 'Jy'" in text for text in report.problems)


def test_inputs_are_named_wherever_one_stands(survey, tmp_path, monkeypatch):
    for place, coadds, images in (("healpix", ".", "../south"), ("south", "../healpix", ".")):
        monkeypatch.chdir(survey.folder / place)
        build_pairs(survey.catalogue, images, tmp_path / place, coadds=coadds)
    told = []
    for place in ("healpix", "south"):
        with open_pairs(tmp_path / f"{place}.h5") as pairs:
            told.append(pairs.provenance["inputs"])
    assert told[0] == told[1]
    assert sorted(name.split(":")[0] for name in told[0]) == ["healpix", "south", "zall.fits"]


def test_broken_votes_are_told(survey, tmp_path):
    """A table of votes that cannot be read is no other table."""
    (tmp_path / "votes.csv").write_text("ra,dec,bar_strong,bar_weak,bar_no\n1.0,2.0,many,3,4\n")
    with pytest.raises(DataError, match=r"votes\.csv: column 'bar_strong', row 0 .*many"):
        build_pairs(survey.catalogue, survey.images, tmp_path / "o", labels=[tmp_path / "votes.csv"])
    assert [path.name for path in tmp_path.iterdir()] == ["votes.csv"]


def test_full_disk_is_told_first(survey, tmp_path, monkeypatch):
    monkeypatch.setattr("astroclip.files.shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(DataError, match="GB free"):
        build_pairs(survey.catalogue, survey.images, tmp_path / "o")
    assert list(tmp_path.iterdir()) == []


def test_coadds_that_vanish_stop_the_run_and_it_goes_on(survey, tmp_path, monkeypatch):
    from astroclip.crossmatch import match_outputs as write
    from astroclip.crossmatch import pair_pixels as pixels

    monkeypatch.setattr(pixels, "BLOCK_PAIRS", 2)
    tree = survey.folder / "healpix"
    hidden = tree.with_name("hidden")
    write_pixels = write.write_pixels

    def hide(reader, writer, progress):
        def vanish(done, total):
            if done == 2:
                tree.rename(hidden)

        write_pixels(reader, writer, vanish)

    monkeypatch.setattr(write, "write_pixels", hide)
    try:
        with pytest.raises(DataError, match="have gone"):
            build_pairs(survey.catalogue, survey.images, tmp_path / "o")
    finally:
        hidden.rename(tree)
    assert not (tmp_path / "o.h5").exists()
    monkeypatch.setattr(write, "write_pixels", write_pixels)
    report = build_pairs(survey.catalogue, survey.images, tmp_path / "o", resume=True)
    assert report.pair_rows == len(PAIRED)
    assert json.loads(h5py.File(tmp_path / "o.h5").attrs["settings"])["cut"] == "galaxy"
