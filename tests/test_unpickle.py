"""Reading checkpoints: everything torch.save writes comes back, and nothing in a file is ever executed."""

import contextlib
import copyreg
import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import number, saved, small_checkpoint, text, write_zip
from hypothesis import given, settings
from hypothesis import strategies as st

from astroclip.errors import CheckpointError
from astroclip.model.unpickle import Placeholder, read_checkpoint

PARAMETER = b"ctorch._utils\n_rebuild_parameter\n"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
SIX = {"data/0": np.arange(6, dtype="<f4").tobytes()}


class Trap:
    """Makes a directory when it is made or given a state."""

    def __new__(cls, path: str | None = None):
        if path is not None:
            Path(path).mkdir()
        return super().__new__(cls)

    def __setstate__(self, path: str) -> None:
        Path(path).mkdir()


# --- what comes back -------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_returns_what_was_saved(tmp_path, protocol):
    original = small_checkpoint()
    path = saved(original, tmp_path / "x.ckpt", pickle_protocol=protocol)
    found = read_checkpoint(path)
    assert list(found) == list(original)
    assert (found["epoch"], found["version"]) == (3, "2.6")
    for name, tensor in original["state_dict"].items():
        torch.testing.assert_close(found["state_dict"][name], tensor, rtol=0, atol=0)
    assert found["optimizer_states"][0]["state"][0]["step"] == 3
    assert found["hyper_parameters"]["scale"] == 15.5
    dtype, device, size, members, frozen, raw, big = found["kinds"]
    assert (dtype, size, raw, big) == (torch.float16, (2, 3), b"\0\1" if protocol > 2 else raw, -(2**70))
    assert (device.module, device.name, device.args) == ("torch", "device", ("cpu",))
    if protocol >= 4:
        assert (members, frozen) == ({1, 2}, {"a"})


def test_pickled_modules_become_placeholders_with_their_attributes(tmp_path):
    found = read_checkpoint(saved(small_checkpoint(), tmp_path / "x.ckpt"))
    encoder = found["hyper_parameters"]["encoder"]
    assert isinstance(encoder, Placeholder)
    assert repr(encoder) == "<torch.nn.modules.container.Sequential>"
    assert encoder.attribute("inner.num_heads") == 7
    assert encoder.attribute("inner.in_features") == 3
    assert encoder.attribute("inner.nothing.at_all") is None
    weight = encoder.attribute("inner._parameters")["weight"]
    torch.testing.assert_close(weight, found["state_dict"]["weight"])


def test_published_checkpoints(golden):
    for name in ("specformer", "astrodino"):
        found = read_checkpoint(golden / f"{name}.ckpt")
        expected = torch.load(golden / f"{name}.ckpt", weights_only=True)
        part = "state_dict" if name == "specformer" else "teacher"
        assert list(found[part]) == list(expected[part])
        assert all(torch.equal(found[part][key], value) for key, value in expected[part].items())
    heads = read_checkpoint(golden / "astroclip.ckpt")["hyper_parameters"]
    assert heads["image_encoder"].attribute("backbone.num_heads") == 3
    assert heads["spectrum_encoder"].attribute("backbone._hparams.num_heads") == 2


# --- what must not happen --------------------------------------------------------------------------------

# Each leaves one object on the stack of Python's own unpickler, and a directory on the disk.
ATTACKS = {
    "reduce": lambda p: b"cos\nmkdir\n" + text(p) + b"\x85R",
    "reduce dotted": lambda p: text("pathlib") + text("os.mkdir") + b"\x93" + text(p) + b"\x85R",
    "stack global": lambda p: text("os") + text("mkdir") + b"\x93" + text(p) + b"\x85R",
    "memoized global": lambda p: b"cos\nmkdir\nq\x070h\x07" + text(p) + b"\x85R",
    "eval": lambda p: b"cbuiltins\neval\n" + text(f"__import__('os').mkdir({p!r})") + b"\x85R",
    "newobj": lambda p: f"c{__name__}\nTrap\n".encode() + text(p) + b"\x85\x81",
    "newobj_ex": lambda p: f"c{__name__}\nTrap\n".encode() + text(p) + b"\x85}\x92",
    "build": lambda p: f"c{__name__}\nTrap\n".encode() + b")\x81" + text(p) + b"b",
    "inst": lambda p: b"(" + text(p) + b"ios\nmkdir\n",
    "inst class": lambda p: b"(" + text(p) + f"i{__name__}\nTrap\n".encode(),
    "obj": lambda p: f"(c{__name__}\nTrap\n".encode() + text(p) + b"o",
    "ext": lambda p: b"\x82\xf0" + text(p) + b"\x85R",
    "reduce in args": lambda p: b"cbuiltins\nstr\n" + b"cos\nmkdir\n" + text(p) + b"\x85R\x85R",
    "state of a real object": lambda p: (
        b"ccollections\nOrderedDict\n)R}" + text("x") + b"cos\nmkdir\n" + text(p) + b"\x85Rsb"
    ),
    "appends": lambda p: b"](cos\nmkdir\n" + text(p) + b"\x85Re",
}
PLACES = {
    "top": lambda a: a,
    "state_dict": lambda a: b"}" + text("state_dict") + b"}" + text("w") + a + b"ss",
    "teacher": lambda a: b"}" + text("teacher") + b"}" + text("backbone.cls_token") + a + b"ss",
    "hyper_parameters": lambda a: b"}" + text("hyper_parameters") + b"}" + text("image_encoder") + a + b"ss",
    "dictionary key": lambda a: b"}" + a + b"Ns",
    "parameter": lambda a: PARAMETER + a + b"\x89N\x87R",
    "storage": lambda a: TENSOR + b"(" + a + b"K\0)tR",
    "persistent id": lambda a: a + b"Q",
    "storage type": lambda a: b"(" + text("storage") + a + text("0") + text("cpu") + b"K\1tQ",
    "storage key": lambda a: b"(" + text("storage") + b"ctorch\nFloatStorage\n" + a + text("cpu") + b"K\1tQ",
    "ordered dict": lambda a: b"ccollections\nOrderedDict\n" + a + b"\x85R",
    "size": lambda a: b"ctorch\nSize\n" + a + b"\x85R",
}


@pytest.fixture
def extension():
    copyreg.add_extension("os", "mkdir", 0xF0)
    yield
    copyreg.remove_extension("os", "mkdir", 0xF0)


class Obedient(pickle.Unpickler):
    """Python's unpickler, which also accepts persistent ids."""

    def persistent_load(self, pid: object) -> None:
        return None


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_attacks_are_real(tmp_path, attack, extension):
    marker = tmp_path / "marker"
    Obedient(io.BytesIO(b"\x80\4" + ATTACKS[attack](str(marker)) + b".")).load()
    assert marker.is_dir()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("attack", ATTACKS)
def test_hostile_pickles_are_refused_or_inert(tmp_path, attack, place, extension):
    marker = tmp_path / "marker"
    pickled = b"\x80\4" + PLACES[place](ATTACKS[attack](str(marker))) + b"."
    path = write_zip(tmp_path / "x.ckpt", pickled, {"data/0": bytes(4)})
    with contextlib.suppress(CheckpointError):
        assert isinstance(read_checkpoint(path), Placeholder | dict | list | tuple)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("protocol", range(6))
def test_hostile_objects_of_every_protocol(tmp_path, protocol):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "marker"),)

    pickled = pickle.dumps({"state_dict": OrderedDict(w=Bomb()), "hyper_parameters": [Bomb()]}, protocol)
    path = write_zip(tmp_path / "x.ckpt", pickled)
    if protocol == 0:
        with pytest.raises(CheckpointError, match="not allowed"):
            read_checkpoint(path)
    else:
        found = read_checkpoint(path)["state_dict"]["w"]
        assert (found.module, found.name, found.args) == (
            os.mkdir.__module__,
            "mkdir",
            (str(tmp_path / "marker"),),
        )
    assert not (tmp_path / "marker").exists()


def test_a_called_global_is_not_a_rule(tmp_path):
    """The result of a call can pose as no rule, whatever its name."""
    twice = b"ccollections\nOrderedDict.x\n)R" + b")R."
    found = read_checkpoint(write_zip(tmp_path / "x.ckpt", b"\x80\2" + twice))
    assert isinstance(found, Placeholder)


# --- damaged pickles --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pickled", "reason"),
    [
        (b"", "not allowed"),
        (b"\x80\2", "not allowed"),
        (b"\x80\2.", "stack is empty"),
        (b"\x80\2(.", "stack is empty"),
        (b"\x80\2t.", "no mark"),
        (b"\x80\2h\0.", "nothing was stored"),
        (b"\x80\2NNNs.", "without a dictionary"),
        (b"\x80\2}(Nu.", "without a dictionary"),
        (b"\x80\2NNa.", "without a list"),
        (b"\x80\2N(N\x90.", "without a set"),
        (b"\x80\2NN\x93.", "not text"),
        (b"\x80\2N)R.", "not a class"),
        (b"\x80\2}]Ns.", "as a dictionary key"),
        (b"\x80\2X\xff\xff\xff\x7fab.", "damaged pickle"),
        (b"\x80\2X\2\0\0\0\xff\xff.", "damaged pickle"),
        (b"\x80\2cos\nmkdir\n(K\1tR" + b"X", "damaged pickle"),
        (b"\x80\2S'\\d'\n.", "not allowed"),
        (b"\x80\2cos\nmkdir", "without its name"),
        (b"\x80\2NQ.", "persistent id"),
        (b"\x80\2P0\n.", "not allowed"),
        (b"\x80\2" + TENSOR + b")R.", "without its shape"),
        (b"\x80\2" + PARAMETER + b")R.", "not a tensor"),
        (b"\x80\2ctorch\nSize\nK\1\x85R.", "not a tuple"),
        (b"\x80\2ccollections\nOrderedDict\n]\x85R.", "with arguments"),
    ],
)
def test_damaged_pickles_are_explained(tmp_path, pickled, reason):
    with pytest.raises(CheckpointError, match=reason):
        read_checkpoint(write_zip(tmp_path / "x.ckpt", pickled))


def test_hashing_nested_tuples_is_refused_and_deep_nesting_survives(tmp_path):
    doubling = b"K\1" + b"q\0h\0\x86" * 60
    with pytest.raises(CheckpointError, match="tuple as a dictionary key"):
        read_checkpoint(write_zip(tmp_path / "x.ckpt", b"\x80\2}" + doubling + b"Ns."))
    deep = b"\x80\2" + b"]" * 200_000 + b"a" * 199_999 + b"."
    assert isinstance(read_checkpoint(write_zip(tmp_path / "deep.ckpt", deep)), list)
    objects = b"\x80\2" + b"cx\ny\n" * 50_000 + b"b" * 49_999 + b"."
    assert isinstance(read_checkpoint(write_zip(tmp_path / "deep.ckpt", objects)), Placeholder)


def test_names_of_globals_are_taken_as_they_are(tmp_path):
    found = read_checkpoint(write_zip(tmp_path / "x.ckpt", b"\x80\2c\\K\\x41\nb\xc3\xa9 c\n."))
    assert (found.module, found.name) == ("\\K\\x41", "bé c")


# --- anything at all -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A small checkpoint's bytes, its entries, and an empty folder to read damaged ones in."""
    folder = tmp_path_factory.mktemp("fuzz")
    path = saved(small_checkpoint(), folder / "x.ckpt")
    with zipfile.ZipFile(path) as archive:
        entries = {name.removeprefix("x/"): archive.read(name) for name in archive.namelist()}
    return path.read_bytes(), entries, folder


def reads_or_refuses(path: Path) -> None:
    with contextlib.suppress(CheckpointError):
        read_checkpoint(path)
    assert list(path.parent.iterdir()) == [path]


damage = st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=5)


def damaged(content: bytes, places: list[tuple[int, int]], keep: float) -> bytes:
    result = bytearray(content)
    for place, change in places:
        result[place % len(result)] ^= change
    return bytes(result[: max(1, round(keep * len(result)))])


@given(places=damage, keep=st.sampled_from([1.0, 1.0, 1.0, 0.9, 0.5]))
@settings(max_examples=200, deadline=None)
def test_a_damaged_file_is_read_or_refused(base, places, keep):
    content, _, folder = base
    path = folder / "x.ckpt"
    path.write_bytes(damaged(content, places, keep))
    reads_or_refuses(path)


@given(places=damage, keep=st.sampled_from([1.0, 1.0, 1.0, 0.9, 0.5]))
@settings(max_examples=400, deadline=None)
def test_a_damaged_pickle_is_read_or_refused(base, places, keep):
    _, entries, folder = base
    pickled = damaged(entries["data.pkl"], places, keep)
    reads_or_refuses(write_zip(folder / "x.ckpt", pickled, {**entries, "data.pkl": pickled}))


@given(
    instructions=st.lists(
        st.sampled_from(
            [*(bytes([i]) for i in b"()]}NQRbtaues\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x93\x94012")]
        )
        | st.sampled_from(
            [TENSOR, PARAMETER, b"cos\nmkdir\n", b"ctorch\nSize\n", b"ccollections\nOrderedDict\n"]
        )
        | st.sampled_from(
            [text("storage"), text("0"), text("x"), b"ctorch\nFloatStorage\n", number(1), b"K\0"]
        ),
        max_size=40,
    )
)
@settings(max_examples=400, deadline=None)
def test_any_instructions_are_read_or_refused(base, instructions):
    folder = base[2]
    reads_or_refuses(write_zip(folder / "x.ckpt", b"\x80\4" + b"".join(instructions) + b".", SIX))
