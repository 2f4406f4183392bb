"""The viewer's PNG and JPEG cut-outs: found by name, used as they are stretched, flagged."""

import fitsio
import numpy as np
import pytest
import torch
from builders import make_image, truncate, write_cube
from PIL import Image
from source_rows import NO, SIZE, read_images, rgb_of, write_table
from typer.testing import CliRunner

from astroclip.cli.main import app
from astroclip.data.legacysurvey import open_images
from astroclip.data.pictures import open_pictures
from astroclip.errors import DataError, UsageError
from astroclip.model.embedder import load_model
from astroclip.model.inputs import InputOptions
from astroclip.model.prepare_images import STRETCHED_SKY, prepare_images, to_rgb
from astroclip.predict.embed import embed_catalog
from astroclip.schema import EmbedFlag
from astroclip.search import Example, ExampleKind, search_catalog
from astroclip.training.galaxies import Galaxies

STRETCHED = EmbedFlag.STRETCHED_IMAGE
NOTHING, BROKEN = EmbedFlag.NO_IMAGE, EmbedFlag.NO_IMAGE | EmbedFlag.UNREADABLE_IMAGE


def save(path, image, mode="RGB", **options):
    """Save nanomaggies as the viewer does: stretched, z r g, north up."""
    colours = (to_rgb(image).numpy() * 255).round().astype("u1").transpose(1, 2, 0)[::-1]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(colours)).convert(mode).save(path, **options)
    return path


def sky_and_galaxy(seed, size=152):
    """An image with noise as deep as the survey's."""
    noise = np.random.default_rng(seed).normal(0, [[[0.007]], [[0.01]], [[0.025]]], (3, size, size))
    return (make_image(3, (size, size), seed) * 0.3 + noise).astype("f4")


def test_a_png_is_what_the_encoder_sees_of_the_fits_image(tmp_path):
    images = [sky_and_galaxy(i) for i in range(3)]
    for i, image in enumerate(images):
        write_cube(tmp_path / "fits" / f"{i}.fits", image=image)
        save(tmp_path / "png" / f"{i}.png", image)
    table = write_table(tmp_path / "c.fits", TARGETID=np.arange(3))
    wanted, flag = read_images(table, tmp_path / "fits")
    inputs, stretched = read_images(table, tmp_path / "png")
    assert list(flag) == [NO] * 3
    assert list(stretched) == [STRETCHED] * 3
    assert (inputs - wanted).abs().max() <= 0.5 / 255 + 1e-6
    larger = read_images(table, tmp_path / "png", size=160)
    assert list(larger.flag) == [STRETCHED | EmbedFlag.IMAGE_PADDED] * 3
    assert larger.inputs[0, :, 0, 0].tolist() == pytest.approx([STRETCHED_SKY] * 3)


@pytest.mark.parametrize(
    ("suffix", "options", "least"),
    [("png", {}, 0.9999), ("jpg", {"quality": 90}, 0.95), ("JPEG", {"quality": 95, "subsampling": 0}, 0.98)],
)
def test_embeddings_of_pictures_are_those_of_nanomaggies(tmp_path, suffix, options, least):
    images = np.stack([sky_and_galaxy(i) for i in range(6)])
    for i, image in enumerate(images):
        save(tmp_path / "p" / f"{i}.{suffix}", image, **options)
    table = write_table(tmp_path / "c.fits", TARGETID=np.arange(6))
    embed_catalog(table, tmp_path / "e.fits", images=str(tmp_path / "p"))
    found = torch.from_numpy(fitsio.read(tmp_path / "e.fits", columns="IMAGE_EMBEDDING").astype("f4"))
    cosine = torch.nn.functional.cosine_similarity(found, load_model("mini", "cpu").embed_images(images))
    assert cosine.median() > least


def test_pictures_are_found_by_name_or_by_a_column_of_names(tmp_path):
    names = ["39627.png", "a/cut_9010-3-77.png", "cutout_150.1234_-2.2000.jpg", "J100030.00+021200.0.jpeg",
             "cut_210.5000+10.2500.png", "nobody.png"]  # fmt: skip
    images = [sky_and_galaxy(i, 60) for i in range(6)]
    for name, image in zip(names, images, strict=True):
        save(tmp_path / "p" / name, image, **({} if "png" in name else {"quality": 100, "subsampling": 0}))
    pictures = open_pictures(tmp_path / "p")
    order = [[path.name for path in pictures.files].index(name.split("/")[-1]) for name in names]
    expected = pictures.read(order, size=SIZE).flux
    np.testing.assert_array_equal(open_images(tmp_path / "p").read(order, size=SIZE).flux, expected)
    ids = {"TARGETID": np.array([39627, 1, 2, 3, 4, 5])}
    bricks = {"RELEASE": np.full(6, 9010), "BRICKID": np.full(6, 3), "OBJID": 76 + np.arange(6)}
    ra = np.array([0, 0, 150.1234, 150.125, 210.5, 0])
    dec = np.array([0, 0, -2.2, 2.2, 10.25, 0])
    inputs, flag = read_images(
        write_table(tmp_path / "a.fits", RA=ra, DEC=dec, **ids, **bricks), tmp_path / "p"
    )
    assert list(flag) == [STRETCHED] * 5 + [NOTHING]
    np.testing.assert_array_equal(inputs[:5], expected[:5])
    for column in ("FILE", "filename", "png_loc"):
        files = np.array([f"some/where/{name.split('/')[-1]}" for name in names[:5]] + [""])
        by_name = read_images(write_table(tmp_path / "b.fits", **{column: files}), tmp_path / "p")
        assert list(by_name.flag) == [STRETCHED] * 5 + [NOTHING]
        np.testing.assert_array_equal(by_name.inputs[:5], expected[:5])
    one = read_images(write_table(tmp_path / "c.fits", **ids), tmp_path / "p" / names[0])
    assert list(one.flag) == [STRETCHED] + [NOTHING] * 5


def test_a_folder_of_fits_images_is_not_one_of_pictures(tmp_path):
    image = write_cube(tmp_path / "p" / "1.fits")
    save(tmp_path / "p" / "1.png", sky_and_galaxy(5))
    inputs, flag = read_images(write_table(tmp_path / "c.fits", TARGETID=[1]), tmp_path / "p")
    assert list(flag) == [NO]
    assert torch.equal(inputs[0], rgb_of(image[:, 52:100, 52:100]))


def test_pictures_at_another_scale(tmp_path):
    fine = np.kron(sky_and_galaxy(1, 76), np.ones((2, 2))).astype("f4")  # each pixel as four: no flux is lost
    save(tmp_path / "p" / "1.png", fine)
    table = write_table(tmp_path / "c.fits", TARGETID=[1])
    scale = {"pixscale": 0.131}
    wrong = read_images(table, tmp_path / "p", InputOptions(**scale))
    assert list(wrong.flag) == [STRETCHED | EmbedFlag.WRONG_PIXSCALE]
    inputs, flag = read_images(table, tmp_path / "p", InputOptions(resample=True, **scale))
    assert list(flag) == [STRETCHED]
    assert (inputs[0] - rgb_of(sky_and_galaxy(1, 76)[:, 14:62, 14:62])).abs().max() <= 0.5 / 255 + 1e-5
    run = [
        "embed",
        str(table),
        "--images",
        str(tmp_path / "p"),
        "--pixscale",
        "0.5",
        "-o",
        str(tmp_path / "e.fits"),
    ]
    assert CliRunner().invoke(app, run).exit_code == 0
    assert fitsio.read(tmp_path / "e.fits", columns="EMBED_FLAG")[0] & EmbedFlag.WRONG_PIXSCALE


@pytest.mark.parametrize(("suffix", "options"), [("png", {}), ("jpg", {"quality": 90})])
def test_what_a_picture_does_not_show_is_missing(tmp_path, suffix, options):
    """Whole; without z; half of g; nothing at all; half of all; a noiseless galaxy."""
    images = np.stack([sky_and_galaxy(i, 64) for i in range(6)])
    images[1, 2] = images[2, 0, :, :32] = images[3] = images[4, :, :, :32] = 0
    for i, image in enumerate(images):
        save(tmp_path / "p" / f"{i}.{suffix}", image, **options)
    table = write_table(tmp_path / "c.fits", TARGETID=np.arange(6))
    inputs, flag = read_images(table, tmp_path / "p")
    missing = EmbedFlag.MISSING_BAND | EmbedFlag.BAD_IMAGE_PIXELS
    padded = EmbedFlag.IMAGE_PADDED
    assert flag[0] == flag[5] == STRETCHED
    assert flag[3] == NOTHING
    assert flag[4] & padded
    if suffix == "png":  # in a JPEG the colours of one pixel are mixed with those of its neighbours
        assert list(flag[[1, 2, 4]]) == [STRETCHED | missing] * 2 + [STRETCHED | padded]
    assert inputs.isfinite().all()


def test_transparent_pixels_and_other_modes(tmp_path):
    colours = np.full((60, 60, 4), 200, "u1")
    colours[..., :3] -= np.random.default_rng(1).integers(0, 99, (60, 60, 3), "u1")
    colours[:10, :, 3] = 0
    (tmp_path / "p").mkdir()
    Image.fromarray(colours).save(tmp_path / "p" / "1.png")
    Image.fromarray(colours[..., :3]).convert("P", palette=Image.Palette.ADAPTIVE).save(
        tmp_path / "p" / "2.png"
    )
    Image.fromarray(colours[..., 0]).save(tmp_path / "p" / "3.png")
    pictures = open_pictures(tmp_path / "p")
    first, second = pictures.read([0, 1], size=60).flux
    assert np.isnan(first[:, -10:]).all()  # the top is the last row
    assert np.isfinite(first[:, :-10]).all()
    np.testing.assert_array_equal(first[:, 0, 7] * 255, colours[-1, 7, :3])
    assert np.isfinite(second).all()
    table = write_table(tmp_path / "c.fits", TARGETID=[3, 2])
    assert list(read_images(table, tmp_path / "p").flag) == [BROKEN, STRETCHED]
    with pytest.raises(DataError, match=r"3\.png: a PNG picture of mode L, expected PNG or JPEG"):
        open_images(tmp_path / "p" / "3.png")


def test_broken_pictures(tmp_path):
    for i in range(2):
        save(tmp_path / "p" / f"{i}.png", sky_and_galaxy(i))
    truncate(tmp_path / "p" / "1.png", 0.5)
    (tmp_path / "p" / "empty").mkdir()
    table = write_table(tmp_path / "c.fits", TARGETID=[0, 1])
    assert list(read_images(table, tmp_path / "p").flag) == [STRETCHED, BROKEN]
    with pytest.raises(DataError, match=r"1\.png: cannot read the picture .*Fetch it again"):
        read_images(table, tmp_path / "p" / "1.png")
    with pytest.raises(DataError, match="no picture below it"):
        open_pictures(tmp_path / "p" / "empty")
    nobody = write_table(tmp_path / "d.fits", MAG=[20.0])
    with pytest.raises(
        DataError, match="found by TARGETID, by RELEASE, BRICKID, OBJID, by FILE or by position"
    ):
        read_images(nobody, tmp_path / "p")


def test_a_picture_is_searched_for(tmp_path, tiny_model):
    images = np.stack([sky_and_galaxy(i, 24) for i in range(12)])
    path = write_table(tmp_path / "c.fits", IMAGE=images)
    embedded = embed_catalog(path, model=tiny_model).output
    save(tmp_path / "7.png", images[7])
    example = Example(ExampleKind.IMAGE, str(tmp_path / "7.png"))
    report = search_catalog(embedded, [example], tmp_path / "o.fits", model=tiny_model)
    assert report.rows[0] == 7
    assert report.similarity[0] > 0.9999


def test_pictures_do_not_train_nor_make_pairs(tmp_path):
    save(tmp_path / "p" / "1.png", sky_and_galaxy(1))
    with pytest.raises(DataError, match="stretched already, and training stretches nanomaggies"):
        Galaxies(tmp_path / "p")
    table = write_table(tmp_path / "z.fits", TARGETID=[1], TARGET_RA=[10.0], TARGET_DEC=[1.0])
    done = CliRunner().invoke(app, ["crossmatch", str(table), str(tmp_path / "p"), "-o", str(tmp_path / "m")])
    assert isinstance(done.exception, DataError)
    assert "pairs hold nanomaggies" in str(done.exception)


def test_prepare_stretched_images_fills_and_pads(rng):
    colours = rng.random((2, 3, 20, 20)).astype("f4")
    colours[0, 1, 4, 4] = np.nan
    colours[1, 2] = np.nan
    prepared = prepare_images(colours, 24, stretched=True)
    assert prepared.padded
    np.testing.assert_array_equal(prepared.rgb[1, :2, 2:-2, 2:-2], colours[1, :2])
    torch.testing.assert_close(prepared.rgb[1, 2], torch.full((24, 24), STRETCHED_SKY))
    assert prepared.rgb[0, 1, 6, 6] == pytest.approx(np.nanmean(colours[0, 1, 3:6, 3:6]), rel=1e-5)
    assert prepared.rgb[0, 0, 0, 0] == pytest.approx(STRETCHED_SKY)


def test_pictures_are_not_columns(tmp_path):
    with pytest.raises(UsageError, match="neither a file, nor a folder"):
        read_images(write_table(tmp_path / "c.fits", TARGETID=[1]), tmp_path / "nowhere.png")
