"""What a file or folder is: told by its content, for every command alike."""

import gzip
import shutil

import h5py
import numpy as np
import pytest
from astropy.io import fits
from builders import truncate, write_coadd, write_cube, write_redrock, write_spec
from builders_hats import write_hats
from builders_hdf5 import write_hdf5, write_multimodal_images, write_multimodal_spectra, write_stein

from astroclip.data.describe import inspect_file
from astroclip.data.kinds import Kind, find_kind
from astroclip.errors import DataError

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
JPEG = b"\xff\xd8\xff\xe0" + bytes(20)


def write_frame(path, n=3):
    """Write a DESI frame of one camera as the pipeline does: no arm in the names of its HDUs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (n, 2751)
    hdus = [fits.PrimaryHDU(np.ones(shape, "f4")), fits.ImageHDU(np.ones(shape, "f4"), name="IVAR")]
    hdus += [
        fits.ImageHDU(np.zeros(shape, "i4"), name="MASK"),
        fits.ImageHDU(np.arange(2751.0), name="WAVELENGTH"),
    ]
    columns = [fits.Column("TARGETID", "K", array=np.arange(n))]
    hdus.append(fits.BinTableHDU.from_columns(columns, name="FIBERMAP"))
    fits.HDUList(hdus).writeto(path)
    return path


def write_texts(folder):
    """Write tables as text in the forms that people have."""
    texts = {
        "a.csv": "RA,DEC\n1,2\n", "a.tsv": "RA\tDEC\n1\t2\n", "a.ecsv": "# %ECSV 1.0\n# ---\nRA DEC\n1 2\n",
        "ecsv.txt": "# %ECSV 1.0\n# ---\nRA DEC\n1 2\n", "a.vot": '<?xml version="1.0"?>\n<VOTABLE/>\n',
        "old.dat": "<VOTABLE/>\n",
    }  # fmt: skip
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "b.csv.gz").write_bytes(gzip.compress(texts["a.csv"].encode()))
    return [*texts, "b.csv.gz"]


def test_text_tables_are_catalogues(tmp_path):
    assert {find_kind(tmp_path / name) for name in write_texts(tmp_path)} == {Kind.CATALOGUE}


def test_files_of_spectra_whatever_they_are_called(tmp_path):
    write_coadd(tmp_path / "mine.fits")
    write_coadd(tmp_path / "one_arm.fits", arms=["BRZ"], omit=["FIBERMAP"])
    write_coadd(tmp_path / "exposures.fits", columns={"EXPID": np.arange(4)})
    write_coadd(tmp_path / "spectra-sv3-dark-1.fits")
    write_spec(tmp_path / "sdss.fits")
    kinds = [find_kind(tmp_path / f"{name}.fits") for name in ("mine", "one_arm", "exposures", "sdss")]
    assert kinds == [Kind.COADD, Kind.COADD, Kind.SPECTRA, Kind.SPEC]
    assert find_kind(tmp_path / "spectra-sv3-dark-1.fits") == Kind.SPECTRA
    for name, kind in (("mine", Kind.COADDS), ("exposures", Kind.COADDS), ("sdss", Kind.SPECS)):
        (tmp_path / name).mkdir()
        shutil.copy(tmp_path / f"{name}.fits", tmp_path / name)
        assert find_kind(tmp_path / name) == kind


@pytest.mark.parametrize("name", ["cframe-b0-00081833.fits", "sframe-z9-00081833.fits"])
def test_a_frame_is_named_with_what_to_use_instead(tmp_path, name):
    write_frame(tmp_path / "f" / name)
    assert (find_kind(tmp_path / "f" / name), find_kind(tmp_path / "f")) == (Kind.FRAME, Kind.FRAMES)
    for path in (tmp_path / "f" / name, tmp_path / "f"):
        (problem,) = inspect_file(path).problems
        assert "Use the coadd-*.fits or spectra-*.fits" in problem


def test_pictures(tmp_path):
    (tmp_path / "a.jpg").write_bytes(JPEG)
    (tmp_path / "b.dat").write_bytes(PNG)
    assert {find_kind(tmp_path / name) for name in ("a.jpg", "b.dat")} == {Kind.PICTURE}
    assert find_kind(tmp_path) == Kind.IMAGES


def test_a_template_with_an_image_called_redshifts_is_no_redrock_file(tmp_path):
    write_redrock(tmp_path / "r.fits", [1], [0.1])
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.ones((2, 2)), name="REDSHIFTS")]).writeto(
        tmp_path / "t.fits"
    )
    assert (find_kind(tmp_path / "r.fits"), find_kind(tmp_path / "t.fits")) == (Kind.REDROCK, Kind.IMAGE)


def test_a_folder_of_several_surveys_is_what_is_asked_for(tmp_path):
    write_cube(tmp_path / "a" / "x.fits")
    write_coadd(tmp_path / "b" / "coadd-1.fits")
    write_spec(tmp_path / "c" / "spec-0266-51602-0007.fits")
    assert find_kind(tmp_path) == find_kind(tmp_path, "spectrum") == Kind.COADDS
    assert find_kind(tmp_path, "image") == Kind.IMAGES
    assert find_kind(tmp_path / "c", "image") == Kind.SPECS  # nothing else is there
    write_stein(tmp_path / "d" / "images_npix152_000000000_001000000.h5", 2)
    assert find_kind(tmp_path, "image") == Kind.STEIN


def test_folders_of_hdf5_files_of_any_name(tmp_path):
    write_multimodal_spectra(tmp_path / "s" / "001-of-001.hdf5", [11, 12])
    write_multimodal_images(tmp_path / "i" / "some.h5", np.array(["a", "b"]))
    write_stein(tmp_path / "x" / "renamed.h5", 2)
    write_hdf5(tmp_path / "o.h5", {"a": np.ones(2)})
    kinds = [find_kind(tmp_path / name) for name in ("s", "i", "x", "o.h5")]
    assert kinds == [Kind.MULTIMODAL_SPECTRA, Kind.MULTIMODAL_IMAGES, Kind.STEIN, Kind.HDF5]


def test_folders_of_tables(tmp_path, rng):
    (tmp_path / "f").mkdir()
    write_redrock(tmp_path / "f" / "r.fits", [1], [0.1])
    (tmp_path / "t").mkdir()
    write_texts(tmp_path / "t")
    write_hats(tmp_path / "h", {"x": rng.uniform(0, 9, 20), "y": rng.uniform(0, 9, 20)}, "x", "y")
    kinds = [find_kind(tmp_path / name) for name in "fth"]
    assert kinds == [Kind.CATALOGUES, Kind.CATALOGUES, Kind.HATS]


def test_spectra_beside_their_redrock_file_are_no_folder_of_catalogues(tmp_path):
    write_redrock(tmp_path / "redrock-1.fits", [1], [0.1])
    write_coadd(tmp_path / "spectra-1.fits")
    assert find_kind(tmp_path) == find_kind(tmp_path, "spectrum") == Kind.COADDS


def test_folders_with_brackets_and_damaged_files(tmp_path):
    folder = tmp_path / "run[1] (2)"
    write_cube(folder / "a.fits")
    truncate(shutil.copy(folder / "a.fits", folder / "0.fits"), 0.001)
    assert find_kind(folder) == Kind.IMAGES


def test_nothing_that_is_known(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("hello")
    with h5py.File(tmp_path / "e.h5", "w"):
        pass
    for name, words in (
        ("empty", "no FITS"),
        ("a.txt", "expected FITS, HDF5"),
        ("nowhere", "no such file or folder"),
    ):
        with pytest.raises(DataError, match=words):
            find_kind(tmp_path / name)
    assert find_kind(tmp_path / "e.h5") == Kind.HDF5
