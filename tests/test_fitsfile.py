"""Names of files that mean something to the CFITSIO library, and nothing to anybody else."""

import gzip

import numpy as np
import pytest
from builders import write_coadd
from survey_servers import serve
from test_sparcl import TARGETS, Sparcl, fetch, make_records

from astroclip.data.desi import open_coadd
from astroclip.data.fitsfile import FitsFile, create_fits, plain_path
from astroclip.errors import DataError

NAMES = [
    "run[1]/coadd.fits",
    "cut+10/coadd.fits",
    "J(2)/coadd(a).fits",
    "a[b+c].fits",
    "coadd+1",
    "!coadd.fits",
    "mem:coadd.fits",
    "a;b@c.fits",
    "$HOME.fits",
    "~coadd.fits",
    "Öffnung é 銀河.fits",
    "it's 100% #1, {x}?*.fits",
    "coadd[1].fits.gz",
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_read(tmp_path, name, monkeypatch):
    path = tmp_path / name
    write_coadd(tmp_path / "plain.fits")
    data = (tmp_path / "plain.fits").read_bytes()
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    with open_coadd(tmp_path / "plain.fits") as plain, open_coadd(path) as coadd:
        np.testing.assert_array_equal(coadd.read().flux, plain.read().flux)
    monkeypatch.chdir(path.parent)  # relative names too
    with FitsFile(path.name) as file:
        assert "B_FLUX" in file
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError) as error:
        FitsFile(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_any_name_is_written_to(tmp_path, name):
    path = tmp_path / name / "coadd-1.fits"
    path.parent.mkdir(parents=True)
    for values in ([1, 2], [3]):  # the second overwrites the first
        with create_fits(path) as hdus:
            hdus.write({"A": np.array(values)}, extname="T")
    with FitsFile(path) as file:
        assert file.table("T", ["A"])["A"].tolist() == [3]


def test_a_plain_name_stays_and_links_go(tmp_path):
    with plain_path(tmp_path / "a.fits") as plain:
        assert plain == tmp_path / "a.fits"
    with plain_path(tmp_path / "[a].fits") as plain:
        assert plain.is_symlink()
    assert not plain.parent.exists()


@pytest.mark.network
def test_spectra_are_kept_in_a_folder_of_any_name(tmp_path):
    with serve(Sparcl(make_records())) as server:
        result = fetch(server, TARGETS, tmp_path / "cache[1]+2")
    assert len(result.coadds.files) == 1
    assert len(list(result.folder.iterdir())) == 2
