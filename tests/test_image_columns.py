"""Images in columns of tables: vectors, lists, and the nested columns of Multimodal Universe and HATS."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from source_rows import NO, SIZE, read_images, rgb_of, write_table

from astroclip.data.pixel_sets import open_pixels
from astroclip.errors import DataError, UsageError
from astroclip.model.inputs import InputOptions, open_inputs
from astroclip.predict.embed import embed_catalog
from astroclip.schema import EmbedFlag
from astroclip.tables import open_table

N, SIDE = 4, 60
CORE = slice(6, 54)
PLANES = pa.list_(pa.list_(pa.list_(pa.float32())))
FIXED = pa.list_(pa.list_(pa.list_(pa.float32(), SIDE), SIDE), 3)
BROKEN = EmbedFlag.NO_IMAGE | EmbedFlag.UNREADABLE_IMAGE


@pytest.fixture
def images(rng):
    return rng.normal(0.1, 0.05, (N, 3, SIDE, SIDE)).astype("f4")


def write(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def nested(images, bands="DES-G DES-R DES-Z", kinds=PLANES, **more):
    """A struct column; `images` (n, bands, H, W), or None in a row without one."""
    names = {"band": pa.list_(pa.string()), "flux": kinds, "ivar": kinds, "scale": pa.list_(pa.float32())}
    rows = [
        None if image is None
        else {"band": bands.split(), "flux": np.asarray(image).tolist()}
        | {name: values[i] for name, values in more.items()}
        for i, image in enumerate(images)
    ]  # fmt: skip
    fields = [(name, kind) for name, kind in names.items() if name in ("band", "flux", *more)]
    return pa.array(rows, pa.struct(fields))


@pytest.mark.parametrize("name", ["IMAGE", "image"])
@pytest.mark.parametrize("kind", [PLANES, FIXED, pa.large_list(pa.list_(pa.list_(pa.float64())))])
def test_lists_of_planes(tmp_path, images, name, kind):
    path = write(tmp_path / "c.parquet", **{name: pa.array(images.tolist(), kind), "Z": np.arange(N)})
    inputs, flag = read_images(path)
    assert list(flag) == [NO] * N
    for one, image in zip(inputs, images, strict=True):
        assert torch.equal(one, rgb_of(image[:, CORE, CORE]))
    embed_catalog(path, tmp_path / "e.parquet")
    assert (
        pq.read_table(tmp_path / "e.parquet").column("EMBED_FLAG").to_pylist() == [EmbedFlag.IMAGE_PADDED] * N
    )


def test_lists_of_unequal_images_and_none(tmp_path, images):
    small = images[1, :, 10:50, 10:50]
    rows = [images[0].tolist(), small.tolist(), None, images[3, :2].tolist()]
    inputs, flag = read_images(write(tmp_path / "c.parquet", IMAGE=pa.array(rows, PLANES)))
    assert list(flag) == [NO, EmbedFlag.IMAGE_PADDED, EmbedFlag.NO_IMAGE, BROKEN]
    assert torch.equal(inputs[1], rgb_of(small))


@pytest.mark.parametrize("bands", ["DES-G DES-R DES-Z", "des-z des-g des-r", "z r g", "a_r a_z a_g"])
@pytest.mark.parametrize("kind", [PLANES, FIXED])
def test_nested_planes_are_chosen_by_name(tmp_path, images, bands, kind):
    order = ["grz".index(name[-1].lower()) for name in bands.split()]
    column = nested(images[:, order], bands, kind, scale=[[0.262] * 3] * N)
    inputs, flag = read_images(write(tmp_path / "c.parquet", stamp=column))
    assert list(flag) == [NO] * N
    for one, image in zip(inputs, images, strict=True):
        assert torch.equal(one, rgb_of(image[:, CORE, CORE]))
    assert torch.equal(read_images(tmp_path / "c.parquet", "STAMP").inputs, inputs)


def test_nested_images_with_more_bands_than_needed_and_with_fewer(tmp_path, images):
    four = images[:, [0, 1, 1, 2]].copy()
    four[:, 2] = 7
    path = write(tmp_path / "a.parquet", image=nested(four, "DES-G DES-R DES-I DES-Z"))
    whole = read_images(path)
    assert list(whole.flag) == [NO] * N
    assert torch.equal(whole.inputs[3], rgb_of(images[3, :, CORE, CORE]))
    path = write(tmp_path / "b.parquet", image=nested(images[:, :2], "DES-G DES-R"))
    assert list(read_images(path).flag) == [EmbedFlag.MISSING_BAND | EmbedFlag.BAD_IMAGE_PIXELS] * N
    for bands in ("hsc-u hsc-i hsc-y", "des-g hsc-g des-z"):
        path = write(tmp_path / "c.parquet", image=nested(images, bands))
        assert list(read_images(path).flag) == [BROKEN] * N


def test_every_flag_of_nested_images(tmp_path, images):
    ivar = np.ones_like(images)
    ivar[0, :, 20:40, 20:40] = 0
    images[1, 2] = 0
    scale = [[0.262] * 3, [0.262] * 3, [0.5] * 3, [0.262] * 3]
    rows = [images[0], images[1], images[2], None]
    path = write(tmp_path / "c.parquet", image=nested(rows, ivar=ivar.tolist(), scale=scale))
    bad, missing = EmbedFlag.BAD_IMAGE_PIXELS, EmbedFlag.MISSING_BAND
    flag = [bad, bad | missing, EmbedFlag.WRONG_PIXSCALE, EmbedFlag.NO_IMAGE]
    assert list(read_images(path).flag) == flag
    assert read_images(path, options=InputOptions(resample=True)).flag[2] == NO
    small = read_images(path, size=64)
    assert small.flag[2] == EmbedFlag.WRONG_PIXSCALE | EmbedFlag.IMAGE_PADDED


def test_two_columns_of_images_are_told_apart_by_name(tmp_path, images):
    other = nested(images[::-1])
    path = write(tmp_path / "c.parquet", a=nested(images), b=other)
    with pytest.raises(DataError, match=r"'a' and 'b' could both be the images.* --images a"):
        read_images(path)
    assert torch.equal(read_images(path, "b").inputs[0], rgb_of(images[-1, :, CORE, CORE]))
    path = write(tmp_path / "d.parquet", IMAGE=pa.array(images.tolist(), FIXED), b=other)
    with pytest.raises(DataError, match="'IMAGE' and 'b' could both be the images"):
        read_images(path)
    path = write(tmp_path / "e.parquet", IMAGE=np.arange(N), b=other)  # a number is no image
    assert list(read_images(path).flag) == [NO] * N


def test_columns_that_are_no_images(tmp_path, images):
    path = write(
        tmp_path / "c.parquet",
        IMAGE=pa.array([{"flux": [1.0], "wave": [2.0]}] * N),
        FLAT=pa.array(images.reshape(N, -1).tolist(), pa.list_(pa.float32())),
        TWO=pa.array(images[:, :2].tolist(), PLANES),
        TEXT=["a"] * N,
    )
    with open_table(path) as table:
        with pytest.raises(DataError, match="has the fields flux, wave; expected band and flux"):
            open_pixels("IMAGE", table, "image")
        for name in ("FLAT", "TWO", "TEXT"):
            with pytest.raises(DataError, match=rf"column '{name}' has shape .*, expected \(3, H, W\)"):
                open_pixels(name, table, "image")
        with pytest.raises(UsageError, match="neither a file"):
            open_pixels("OTHER", table, "image")
    nothing = write_table(tmp_path / "n.fits", Z=np.arange(3))
    with open_table(nothing) as table:
        assert open_inputs(table, "image", None, SIZE) is None


def test_rows_in_any_order(tmp_path, images):
    for column in (pa.array(images.tolist(), PLANES), nested(images), pa.array(images.tolist(), FIXED)):
        with open_table(write(tmp_path / "c.parquet", image=column)) as table:
            pixels = open_pixels(None, table, "image")
            found = pixels.read([3, 0, 2, 3], size=8)
            np.testing.assert_array_equal(found.flux, images[[3, 0, 2, 3], :, 26:34, 26:34])
            assert pixels.read([], size=8).flux.shape == (0, 3, 8, 8)
            assert len(pixels) == N
