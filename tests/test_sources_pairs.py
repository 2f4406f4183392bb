"""Pairs as a source of images and spectra: our file, the published one, its Hugging Face folder."""

import h5py
import numpy as np
import pytest
import torch
from builders import make_image
from builders_hdf5 import write_multimodal_spectra
from builders_pairs import published, save_to_disk, write_published
from source_rows import NO, read_images, read_spectra, rgb_of, write_table
from test_sources_images import spoil_row, with_checksums

from astroclip.data.pairs import is_pairs, open_pairs, write_pairs
from astroclip.data.targetid import encode_targetid
from astroclip.errors import DataError
from astroclip.model.inputs import InputOptions
from astroclip.predict.embed import embed_catalog
from astroclip.schema import EmbedFlag

N = 12
CORE = slice(52, 100)  # the middle 48 of 152 pixels
IDS = encode_targetid(9010, 3, np.arange(N))
NO_IMAGE, NO_SPECTRUM = EmbedFlag.NO_IMAGE, EmbedFlag.NO_SPECTRUM


@pytest.fixture(scope="module")
def galaxies():
    """Pairs: 1 without a pixel, a third of 2 missing, 3 masked in a fifth; 10 and 11 are one target."""
    rng = np.random.default_rng(3)
    image = np.stack([make_image(3, (152, 152), seed) for seed in range(N)]).astype("f4")
    image[1], image[2, :, 60:90, 60:90] = 0, np.nan
    ivar, mask = np.ones((N, 7781), "f4"), np.zeros((N, 7781), "u2")
    ivar[1], mask[3, ::5] = 0, 4
    ids = IDS.copy()
    ids[11] = ids[10]
    return {
        "image": image,
        "flux": rng.normal(2, 1, (N, 7781)).astype("f4"),
        "ivar": ivar,
        "mask": mask,
        "targetid": ids,
        "ra": 10.0 + np.arange(N),
        "dec": np.full(N, -5.0),
    }


@pytest.fixture(scope="module")
def path(galaxies, tmp_path_factory):
    file = tmp_path_factory.mktemp("pairs") / "pairs.h5"
    with write_pairs(file, N) as writer:
        writer.write(galaxies)
    return file


def test_every_flag_by_targetid_then_by_position(tmp_path, path, galaxies):
    ids = np.array([*IDS[[5, 1, 2, 3, 10]], 7, 8, IDS[5], -1])
    ra = np.array([0.0] * 5 + [16.0 + 0.5 / 3600, 16.1] + [0.0] * 2)  # row 6 by position
    table = write_table(tmp_path / "c.fits", TARGETID=ids, RA=ra, DEC=np.full(9, -5.0))
    inputs, flag = read_images(table, path)
    bad, several = EmbedFlag.BAD_IMAGE_PIXELS, EmbedFlag.AMBIGUOUS_IMAGE
    assert list(flag) == [NO, NO_IMAGE, bad, NO, several, NO, NO_IMAGE, NO, NO_IMAGE]
    for row, pair in ((0, 5), (3, 3), (4, 10), (5, 6), (7, 5)):
        assert torch.equal(inputs[row], rgb_of(galaxies["image"][pair, :, CORE, CORE]))
    inputs, flag = read_spectra(table, path)
    bad, several = EmbedFlag.BAD_SPECTRUM_PIXELS, EmbedFlag.AMBIGUOUS_SPECTRUM
    assert list(flag) == [NO, NO_SPECTRUM, NO, bad, several, NO, NO_SPECTRUM, NO, NO_SPECTRUM]
    np.testing.assert_array_equal(inputs[[0, 2, 4, 5, 7]], galaxies["flux"][[5, 2, 10, 6, 5]])
    good = galaxies["mask"][3] == 0
    np.testing.assert_array_equal(inputs[3].numpy()[good], galaxies["flux"][3, good])
    nearer = InputOptions(radius_arcsec=0.1)
    assert read_images(table, path, nearer).flag[5] == NO_IMAGE
    assert read_spectra(table, path, nearer).flag[5] == NO_SPECTRUM


def test_images_by_brick_numbers_and_larger_than_the_stamp(tmp_path, path):
    bricks = {"RELEASE": np.full(3, 9010), "BRICKID": np.full(3, 3), "OBJID": np.array([4, 99, 6])}
    table = write_table(tmp_path / "c.fits", **bricks)
    assert list(read_images(table, path).flag) == [NO, NO_IMAGE, NO]
    padded = EmbedFlag.IMAGE_PADDED
    assert list(read_images(table, path, size=160).flag) == [padded, NO_IMAGE, padded]


def test_damaged_rows_are_told_from_their_neighbours(tmp_path, path):
    file = tmp_path / "pairs.h5"
    file.write_bytes(path.read_bytes())
    for dataset in ("image", "flux"):
        with_checksums(file, dataset)
        spoil_row(file, dataset, 4)
    table = write_table(tmp_path / "c.fits", TARGETID=IDS[[3, 4, 5]])
    assert list(read_images(table, file).flag) == [NO, NO_IMAGE | EmbedFlag.UNREADABLE_IMAGE, NO]
    broken = NO_SPECTRUM | EmbedFlag.UNREADABLE_SPECTRUM
    assert list(read_spectra(table, file).flag) == [EmbedFlag.BAD_SPECTRUM_PIXELS, broken, NO]


@pytest.mark.parametrize("form", ["hdf5", "hugging face"])
def test_published_pairs(tmp_path, form):
    rows = [published(3, 0), published(4, 1)]
    rows[1]["spectra"][2] = np.nan
    file = tmp_path / "astroclip_desi.1.1.5.h5"
    source = write_published(file, rows) if form == "hdf5" else save_to_disk(tmp_path / "data", rows)
    ids = np.concatenate([part["targetids"] for part in rows])
    table = write_table(tmp_path / "c.fits", TARGETID=np.array([ids[6], 5, ids[0], ids[5], ids[1]]))
    inputs, flag = read_images(table, source)
    assert list(flag) == [NO, NO_IMAGE, NO, NO, NO]
    stored = np.concatenate([part["images"] for part in rows])  # x, y, band
    assert torch.equal(inputs[0], rgb_of(stored[6, CORE, CORE].transpose(2, 1, 0)))
    inputs, flag = read_spectra(table, source)
    assert list(flag) == [NO, NO_SPECTRUM, NO, NO_SPECTRUM, NO]
    flux = np.concatenate([part["spectra"] for part in rows])[:, :, 0]
    np.testing.assert_array_equal(inputs[[0, 2, 4]], flux[[6, 0, 1]])
    nameless = write_table(tmp_path / "d.fits", RA=[10.0], DEC=[1.0])
    for read in (read_images, read_spectra):
        with pytest.raises(DataError, match=r"(images|spectra) of .* are found by TARGETID"):
            read(nameless, source)


def test_pairs_that_cannot_be_used_are_refused(tmp_path, path):
    nameless = write_table(tmp_path / "c.fits", MAG=[20.0])
    table = write_table(tmp_path / "d.fits", TARGETID=IDS[:1])
    older = tmp_path / "older.h5"
    older.write_bytes(path.read_bytes())
    with h5py.File(older, "a") as file:
        file.attrs["format_version"] = 0
    write_multimodal_spectra(tmp_path / "other.hdf5", [11])
    assert [is_pairs(p) for p in (older, table, tmp_path / "other.hdf5", tmp_path)] == [True] + [False] * 3
    for read in (read_images, read_spectra):
        with pytest.raises(DataError, match=r"are found by TARGETID.* the table has none"):
            read(nameless, path)
        with pytest.raises(DataError, match=r"format 0, need 1\. Rebuild it"):
            read(table, older)


def test_scattered_rows_are_read_in_stretches(path, galaxies, monkeypatch):
    rows = np.array([7, 2, 3, 11, 2, 4, 0])
    with open_pairs(path) as pairs:
        asked = []
        read = pairs.read

        def note(names, start, stop):
            asked.append((start, stop))
            return read(names, start, stop)

        monkeypatch.setattr(pairs, "read", note)
        taken = pairs.take(["flux", "targetid", "survey"], rows)
        assert asked == [(0, 1), (2, 5), (7, 8), (11, 12)]
        for name in ("flux", "targetid"):
            np.testing.assert_array_equal(taken[name], galaxies[name][rows])
        assert pairs.take(["image"], [])["image"].shape == (0, 3, 152, 152)
        for beyond in (-1, N):
            with pytest.raises(IndexError, match=f"of {N}"):
                pairs.take(["flux"], [0, beyond])


def test_pairs_are_embedded(tmp_path, path, tiny_model):
    table = write_table(tmp_path / "c.fits", TARGETID=IDS[[6, 0, 1, 4]])
    pairs = str(path)
    report = embed_catalog(table, tmp_path / "out.fits", model=tiny_model, images=pairs, spectra=pairs)
    assert report.embedded == {"image": 3, "spectrum": 3}
