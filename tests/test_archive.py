"""The file of a checkpoint: tensors are exactly the bytes they claim; other or damaged files are named."""

import struct
import zipfile

import numpy as np
import pytest
import torch
from checkpoints import number, saved, small_checkpoint, text, write_zip
from hypothesis import example, given, settings
from hypothesis import strategies as st

from astroclip.errors import CheckpointError
from astroclip.model.unpickle import read_checkpoint

SIX = {"data/0": np.arange(6, dtype="<f4").tobytes()}

# --- tensors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype",
    ["float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"],
)
def test_dtypes(tmp_path, dtype):
    tensor = torch.arange(6).to(getattr(torch, dtype)).reshape(2, 3)
    found = read_checkpoint(saved({"x": tensor, "empty": tensor[:0]}, tmp_path / "x.ckpt"))
    assert found["x"].dtype == tensor.dtype
    assert torch.equal(found["x"], tensor)
    assert found["empty"].shape == (0, 3)


@given(shape=st.lists(st.integers(1, 4), max_size=4), data=st.data())
@settings(max_examples=25, deadline=None)
def test_views_of_one_storage(tmp_path_factory, shape, data):
    base = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    order = data.draw(st.permutations(range(len(shape))))
    view = base.permute(order)
    if view.ndim:
        view = view[data.draw(st.integers(0, len(view) - 1)) :]
    path = saved({"base": base, "view": view}, tmp_path_factory.mktemp("views") / "x.ckpt")
    found = read_checkpoint(path)
    assert torch.equal(found["view"], view)
    assert found["view"].untyped_storage().data_ptr() - found["base"].data_ptr() == 0


def test_writing_to_a_tensor_leaves_the_file_alone(tmp_path):
    path = saved({"x": torch.zeros(1000)}, tmp_path / "x.ckpt")
    before = path.read_bytes()
    read_checkpoint(path)["x"].fill_(7)
    assert path.read_bytes() == before


def tensor_pickle(
    offset: int, size: tuple[int, ...], stride: tuple[int, ...], count: int = 6, key: str = "0"
) -> bytes:
    """A pickle of one float32 tensor, with numbers as wanted."""
    storage = (
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + number(count) + b"tQ"
    )
    shapes = b"".join(b"(" + b"".join(map(number, numbers)) + b"t" for numbers in (size, stride))
    return b"\x80\2ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset) + shapes + b"\x89}tR."


def test_a_tensor_that_fits(tmp_path):
    path = write_zip(tmp_path / "x.ckpt", tensor_pickle(1, (2, 2), (3, 1)), SIX)
    assert read_checkpoint(path).tolist() == [[1, 2], [4, 5]]


@pytest.mark.parametrize(
    "arguments",
    [
        (0, (7,), (1,)),
        (1, (6,), (1,)),
        (0, (2, 2), (5, 1)),
        (-1, (2,), (1,)),
        (0, (-2,), (1,)),
        (3, (2,), (-1,)),
        (2**62, (1,), (1,)),
        (2**200, (1,), (1,)),
        (0, (2**62, 4), (0, 0)),
        (0, (1000,), (0,)),
        (0, (2,), (2**63,)),
        (0, (0, 2**62), (1, 1)),
        (0, (2,), (1, 1)),
        (0, (1,) * 30, (1,) * 30),
        (0, (2,), (1,), -1),
        (0, (2,), (1,), 7),
        (0, (2,), (1,), 2**62),
        (0, (2,), (1,), 6, "1"),
        (0, (2,), (1,), 6, "../0"),
        (0, (2,), (1,), 6, "/etc/hostname"),
    ],
)
def test_tensors_outside_their_storage_are_refused(tmp_path, arguments):
    with pytest.raises(CheckpointError, match=r"x\.ckpt"):
        read_checkpoint(write_zip(tmp_path / "x.ckpt", tensor_pickle(*arguments), SIX))


ints = st.integers(-2, 8) | st.integers(-(2**70), 2**70)


@given(offset=ints, size=st.lists(ints, max_size=3), stride=st.lists(ints, max_size=3), count=ints)
@example(offset=0, size=[2, 3], stride=[3, 1], count=6)
@settings(max_examples=200, deadline=None)
def test_a_tensor_never_reaches_outside(tmp_path_factory, offset, size, stride, count):
    path = tmp_path_factory.getbasetemp() / "reach.ckpt"
    write_zip(path, tensor_pickle(offset, tuple(size), tuple(stride), count), SIX)
    try:
        tensor = read_checkpoint(path)
    except CheckpointError:
        return
    assert set(tensor.flatten().tolist()) <= set(range(6))
    assert tensor.numel() <= 6


# --- files that are something else, or broken ------------------------------------------------------------


def test_other_files_are_named(tmp_path, rng):
    old = saved({"x": torch.ones(2)}, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    script = write_zip(tmp_path / "script.pt", b"\x80\2}.", {"code/__torch__.py": b"", "constants.pkl": b"."})
    (tmp_path / "empty.ckpt").touch()
    (tmp_path / "text.ckpt").write_text("hello")
    np.savez(tmp_path / "arrays.npz", x=rng.normal(size=3))
    squeezed = write_zip(tmp_path / "z.ckpt", b"\x80\2}." * 100, compression=zipfile.ZIP_DEFLATED)
    foreign = write_zip(tmp_path / "big.ckpt", b"\x80\2}.", {"byteorder": b"big"})
    for path, reason in (
        (old, "before 1.6"),
        (script, "TorchScript"),
        (tmp_path / "empty.ckpt", "not a PyTorch checkpoint"),
        (tmp_path / "text.ckpt", "not a PyTorch checkpoint"),
        (tmp_path / "arrays.npz", "exactly one"),
        (squeezed, "compressed"),
        (foreign, "byte order"),
        (tmp_path / "nothing.ckpt", "No such file"),
        (tmp_path, "not a readable file"),
    ):
        with pytest.raises(CheckpointError, match=reason):
            read_checkpoint(path)


def test_truncated_at_any_point(tmp_path):
    whole = saved(small_checkpoint(), tmp_path / "x.ckpt").read_bytes()
    for length in range(0, len(whole), 97):
        (tmp_path / "cut.ckpt").write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"download it again|not a PyTorch checkpoint"):
            read_checkpoint(tmp_path / "cut.ckpt")


def test_a_flipped_bit_in_a_weight_is_noticed(tmp_path):
    path = saved({"x": torch.ones(1000)}, tmp_path / "x.ckpt")
    content = bytearray(path.read_bytes())
    content[content.index(np.ones(9, "<f4").tobytes()) + 2] ^= 16
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(path)


def test_entries_made_to_overlap_are_refused(tmp_path):
    path = write_zip(tmp_path / "x.ckpt", b"\x80\2}.", {"data/0": bytes(5000)})
    content = path.read_bytes()
    start = content.index(b"PK\1\2")
    record = content[content.rindex(b"PK\1\2") : content.index(b"PK\5\6")]
    copies = b"".join(record.replace(b"data/0", b"data/%d" % i) for i in range(1, 10))
    directory = content[start : content.index(b"PK\5\6")] + copies
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 12, 12, len(directory), start, 0)
    path.write_bytes(content[:start] + directory + end)
    with pytest.raises(CheckpointError, match="overlap"):
        read_checkpoint(path)


def test_a_huge_pickle_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no more than"):
        read_checkpoint(write_zip(tmp_path / "x.ckpt", bytes(1 << 25)))
