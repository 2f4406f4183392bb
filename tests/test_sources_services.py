"""Web services as sources: stand-ins on the loopback, every flag bit, the cache, a run that is resumed."""

from io import BytesIO

import fitsio
import numpy as np
import pytest
import torch
from astropy.io import fits
from source_rows import NO, OPTIONS, SIZE, read_images, read_spectra, rgb_of, write_table
from survey_servers import Answer, fits_cutout, serve
from test_sparcl import Sparcl, make_records

from astroclip.data import cutouts, desi, sparcl
from astroclip.data.desi import find_coadds
from astroclip.data.legacysurvey import read_cutout
from astroclip.errors import DataError, UsageError
from astroclip.model.inputs import InputOptions, open_inputs
from astroclip.predict.embed import embed_catalog
from astroclip.schema import EmbedFlag
from astroclip.tables import open_table

pytestmark = pytest.mark.network
BROKEN_IMAGE = EmbedFlag.NO_IMAGE | EmbedFlag.UNREADABLE_IMAGE
BROKEN_SPECTRUM = EmbedFlag.NO_SPECTRUM | EmbedFlag.UNREADABLE_SPECTRUM


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder of the test's own, and services that nobody answers for until a test says which."""
    monkeypatch.setenv("ASTROCLIP_CACHE", str(tmp_path / "cache"))
    for variable in (cutouts.URL_VARIABLE, sparcl.URL_VARIABLE):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    return tmp_path / "cache"


def with_hole(query):
    """Make an image of which a fifth was not observed: 0 in all bands."""
    with fits.open(BytesIO(fits_cutout(query, seed=4))) as hdus:
        hdus[0].data[:, 60:92, 60:92] = 0
        stream = BytesIO()
        hdus.writeto(stream)
    return stream.getvalue()


def sky(server, path, query, body):
    """Answer by declination: 0 an image, 1 outside of the footprint, 2 refused, 3 a web page, 4 a hole."""
    return [
        lambda: Answer(fits_cutout(query)),
        lambda: Answer(fits_cutout(query, seed=None)),
        lambda: Answer(b"no", 404),
        lambda: Answer(b"<html>maintenance</html>"),
        lambda: Answer(with_hole(query)),
    ][round(float(query["dec"]))]()


def test_every_flag_of_cutouts(tmp_path, cache, monkeypatch):
    dec = np.array([0.0, 1.0, 2.0, 3.0, 4.0, np.nan, 0.0])
    path = write_table(tmp_path / "c.fits", TARGETID=np.arange(7), RA=np.full(7, 10.0), DEC=dec)
    nothing = EmbedFlag.NO_IMAGE
    expected = [NO, nothing, BROKEN_IMAGE, BROKEN_IMAGE, EmbedFlag.BAD_IMAGE_PIXELS, nothing, NO]
    with serve(sky) as server:
        monkeypatch.setenv(cutouts.URL_VARIABLE, server.url)
        inputs, flag = read_images(path, "ls-dr9-north")
        assert list(flag) == list(expected)
        assert len(server.asked) == 5
        assert {asked[1]["layer"] for asked in server.asked} == {"ls-dr9-north"}
        again = read_images(path, "ls-dr9-north")
        assert len(server.asked) == 7  # what was refused or rubbish is asked for again
        assert torch.equal(again.inputs, inputs)
        tolerant = read_images(path, "ls-dr9-north", InputOptions(max_bad=0.9))
        assert tolerant.flag[4] == NO
        large = read_images(path, "ls-dr9-north", size=160)
        assert {asked[1]["size"] for asked in server.asked[9:]} == {"160"}
        assert list(large.flag[:2]) == [NO, nothing]
    (image,) = (cache / "cutouts" / "ls-dr9-north-grz-152px-0.262").glob("*/*_0.000000.fits")
    pixels = read_cutout(image).image
    assert torch.equal(inputs[0], rgb_of(pixels[:, 52:100, 52:100]))
    assert torch.equal(inputs[6], inputs[0])


def make_spectra(targets):
    """Make records of targets: of the second a fifth of the pixels is bad, of the third all are."""
    records = make_records(targets)
    for record, bad in zip(records[1:3], (slice(None, None, 5), slice(None)), strict=True):
        mask = np.zeros(len(record["mask"]), int)
        mask[bad] = 1
        record["mask"] = mask.tolist()
    records[3]["ivar"] = None
    return records


def test_every_flag_of_sparcl(tmp_path, cache, monkeypatch):
    targets = [11, 12, 13, 14]
    path = write_table(tmp_path / "c.fits", TARGETID=np.array([14, 11, 99, 12, 13, -1, 11]))
    nothing = EmbedFlag.NO_SPECTRUM
    expected = [BROKEN_SPECTRUM, NO, nothing, EmbedFlag.BAD_SPECTRUM_PIXELS, nothing, nothing, NO]
    records = make_spectra(targets)
    with serve(Sparcl(records)) as server:
        monkeypatch.setenv(sparcl.URL_VARIABLE, server.url)
        inputs, flag = read_spectra(path, "sparcl")
        assert list(flag) == list(expected)
        asked = len(server.asked)
        kept = write_table(tmp_path / "d.fits", TARGETID=np.array([13, 12, 11]))
        again = read_spectra(kept, "sparcl")
        assert len(server.asked) == asked
        assert torch.equal(again.inputs, inputs[[4, 3, 1]])
        assert list(again.flag) == [flag[4], flag[3], flag[1]]
        assert list(read_spectra(kept, "sparcl:DESI-EDR").flag) == [nothing] * 3
        assert server.asked[-1][2]["search"][1] == ["data_release", "DESI-EDR"]
    mask = np.array(records[0]["mask"]) == 0
    np.testing.assert_array_equal(inputs[1].numpy()[mask], np.float32(records[0]["flux"])[mask])
    assert list(read_spectra(path, "sparcl", InputOptions(max_bad=0.5)).flag[[1, 3]]) == [NO, NO]


def test_a_target_that_is_in_the_cache_twice(tmp_path, monkeypatch):
    path = write_table(tmp_path / "c.fits", TARGETID=np.array([11]))
    with serve(Sparcl(make_records([11, 12]))) as server:
        monkeypatch.setenv(sparcl.URL_VARIABLE, server.url)
        first = read_spectra(path, "sparcl")
        (coadd,) = find_coadds(tmp_path / "cache")
        (coadd.parent / "coadd-sparcl_0.fits").write_bytes(coadd.read_bytes())
        assert list(read_spectra(path, "sparcl").flag) == list(first.flag) == [NO]


def test_a_target_without_a_primary_spectrum(tmp_path, monkeypatch):
    path = write_table(tmp_path / "c.fits", TARGETID=np.array([12, 11, 13]))
    records = make_records([11, 12], per_target=2)
    for record in records[2:]:
        record["specprimary"] = False
    with serve(Sparcl(records)) as server:
        monkeypatch.setenv(sparcl.URL_VARIABLE, server.url)
        first, again = read_spectra(path, "sparcl"), read_spectra(path, "sparcl")
    for flag in (first.flag, again.flag):  # the cache knows it too
        assert list(flag) == [EmbedFlag.AMBIGUOUS_SPECTRUM, NO, EmbedFlag.NO_SPECTRUM]
    assert torch.equal(first.inputs, again.inputs)


def test_blocks_share_a_service_and_index_what_is_new(tmp_path, monkeypatch):
    """One service keeps its pace, and what it asked to wait for; each coadd is indexed once."""
    ids = np.arange(11, 17)
    path = write_table(tmp_path / "c.fits", TARGETID=ids, RA=ids.astype(float), DEC=np.zeros(6))
    indexed, file_class = [], desi.FitsFile

    def note(file, **options):
        if options.get("whole") is False:
            indexed.append(file)
        return file_class(file, **options)

    monkeypatch.setattr(desi, "FitsFile", note)
    spectra = sparcl.URL_VARIABLE, Sparcl(make_records(ids.tolist()))
    for (variable, answer), find in (
        (spectra, lambda table: open_inputs(table, "spectrum", "sparcl", options=OPTIONS)),
        ((cutouts.URL_VARIABLE, sky), lambda table: open_inputs(table, "image", "ls-dr9", SIZE, OPTIONS)),
    ):
        with serve(answer) as server, open_table(path) as table:
            monkeypatch.setenv(variable, server.url)
            source = find(table)
            monkeypatch.setenv(variable, "http://127.0.0.1:1")  # another service would not answer
            for start in (0, 2, 4):
                assert list(source.read(start, start + 2).flag) == [NO] * 2
            assert len(server.asked) == 6
    assert len(indexed) == len(set(indexed)) == 3


def test_a_refused_target(tmp_path, monkeypatch):
    path = write_table(tmp_path / "c.fits", TARGETID=np.array([11, 12]))
    with serve(lambda *_: Answer(b"{}", 400)) as server:
        monkeypatch.setenv(sparcl.URL_VARIABLE, server.url)
        assert list(read_spectra(path, "sparcl").flag) == [BROKEN_SPECTRUM] * 2


def test_refused_before_anything_is_asked(tmp_path, monkeypatch):
    path = write_table(tmp_path / "c.fits", MAG=[20.0])
    with open_table(path) as table:
        with pytest.raises(DataError, match="ls-dr10 are found by position, and the table has none"):
            open_inputs(table, "image", "ls-dr10", SIZE, OPTIONS)
        with pytest.raises(DataError, match="spectra of SPARCL DESI-DR1 are found by TARGETID"):
            open_inputs(table, "spectrum", "sparcl", options=OPTIONS)
    path = write_table(tmp_path / "d.fits", TARGETID=np.array([1]), RA=[10.0], DEC=[0.0])
    with open_table(path) as table:
        with pytest.raises(UsageError, match="expected DESI-EDR, DESI-DR1"):
            open_inputs(table, "spectrum", "sparcl:SDSS-DR17", options=OPTIONS)
        with pytest.raises(UsageError, match="nor one of ls-dr9, ls-dr9-north"):
            open_inputs(table, "image", "ls-dr99", SIZE, OPTIONS)
        monkeypatch.setenv(cutouts.URL_VARIABLE, "ftp://host")
        with pytest.raises(UsageError, match="expected an address"):
            open_inputs(table, "image", "ls-dr9", SIZE, OPTIONS)
        monkeypatch.delenv(cutouts.URL_VARIABLE)
        monkeypatch.setenv("ASTROCLIP_CACHE", str(path))
        for find in (
            lambda: open_inputs(table, "image", "ls-dr9", SIZE, OPTIONS),
            lambda: open_inputs(table, "spectrum", "sparcl", options=OPTIONS),
        ):
            with pytest.raises(DataError, match="cannot make the folder"):
                find()


def test_a_service_that_goes_away_and_comes_back(tmp_path, tiny_model, monkeypatch):
    """The run ends with one sentence; resumed, it asks for the rest and ends as if nothing had happened."""
    n = 130
    ids, ra = 1 + np.arange(n) // 16, np.arange(n) // 8.0
    path = write_table(tmp_path / "c.fits", TARGETID=ids, RA=ra, DEC=np.zeros(n))

    def image(server, path, query, body):
        return Answer(fits_cutout(query, seed=int(float(query["ra"]))))

    def embed(output, **options):
        return embed_catalog(
            path, output, model=tiny_model, images="ls-dr9", spectra="sparcl", batch_size=32, **options
        )

    with serve(image) as images, serve(Sparcl(make_records(np.unique(ids).tolist()))) as spectra:
        monkeypatch.setenv(cutouts.URL_VARIABLE, images.url)
        monkeypatch.setenv(sparcl.URL_VARIABLE, spectra.url)
        with monkeypatch.context() as patch:
            fetch, calls = cutouts._fetch_all, []

            def down(*args):
                """Fetch the first block, and then nothing any more."""
                calls.append(args[0])
                patch.setattr(cutouts, "GIVE_UP_AFTER", 10 if len(calls) < 3 else 0)
                return fetch(*args)

            patch.setattr(cutouts, "_fetch_all", down)
            with pytest.raises(DataError, match=r"ls-dr9: the service does not answer .*--resume"):
                embed(tmp_path / "out.fits")
        assert [len(paths) for paths in calls[:3]] == [0, 8, 8]
        report = embed(tmp_path / "out.fits", resume=True)
        assert report.resumed == 64
        assert sorted(float(asked[1]["ra"]) for asked in images.asked) == np.unique(ra).tolist()
        counts = len(images.asked), len(spectra.asked)
        whole = embed(tmp_path / "whole.fits")
        assert (len(images.asked), len(spectra.asked)) == counts  # all is in the cache
    assert whole.embedded == {"image": n, "spectrum": n}
    np.testing.assert_array_equal(fitsio.read(tmp_path / "out.fits"), fitsio.read(tmp_path / "whole.fits"))
