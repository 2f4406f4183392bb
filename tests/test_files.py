"""Outputs are compared with inputs and each other before anything is written, and appear whole or not."""

from pathlib import Path

import pytest
from catalog_files import names_in

from astroclip.errors import DataError, UsageError
from astroclip.files import check_outputs, is_same_file, scratch_folder, written_beside


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.fits"
    path.write_bytes(b"input")
    return path


def linked(source: Path, how: str) -> Path:
    """Return another name of a file."""
    other = source.with_name(f"{how}.fits")
    if how == "symlink":
        other.symlink_to(source)
    elif how == "hardlink":
        other.hardlink_to(source)
    elif how == "dots":
        other = source.parent / "sub" / ".." / source.name
        (source.parent / "sub").mkdir()
    else:
        other = source
    return other


@pytest.mark.parametrize("how", ["itself", "symlink", "hardlink", "dots"])
def test_an_input_is_no_output(source: Path, how: str) -> None:
    output = linked(source, how)
    with pytest.raises(UsageError, match="is an input of this run"):
        check_outputs([output], [None, "sparcl", source], overwrite=True)
    with pytest.raises(UsageError, match="is an input of this run"):
        check_outputs([None, source.with_name("new.fits"), output], [source], overwrite=True, own=source)
    check_outputs([output], [source], overwrite=True, own=source)  # a superset of its own input
    assert source.read_bytes() == b"input"


@pytest.mark.parametrize("how", ["itself", "symlink", "hardlink", "dots"])
def test_two_outputs_are_two_files(source: Path, how: str) -> None:
    with pytest.raises(UsageError, match="is named for two outputs"):
        check_outputs([source, linked(source, how)], [], overwrite=True)


def test_two_outputs_that_are_not_there_yet(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(UsageError, match="is named for two outputs"):
        check_outputs([tmp_path / "new.fits", tmp_path / "link" / "new.fits"], [], overwrite=False)
    assert not is_same_file(tmp_path / "new.fits", tmp_path / "new.h5")


def test_folders_are_compared_too(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is an input of this run"):
        check_outputs([], [tmp_path], overwrite=True, folders=[tmp_path])
    check_outputs([], [tmp_path], overwrite=True, folders=[tmp_path / "new"])


def test_an_hdu_of_an_input_is_the_input(source: Path) -> None:
    with pytest.raises(UsageError, match="is an input of this run"):
        check_outputs([source], [f"{source}#1"], overwrite=True)
    named = source.with_name("in.fits#1")
    named.touch()
    check_outputs([named], [source], overwrite=True)


def test_files_of_a_folder_that_is_read(source: Path) -> None:
    ours = source.with_name("ours.fits")
    ours.write_bytes(bytes(3 << 20) + b"ACVERS  = '0.1.0' / version of astroclip" + bytes(9))
    for folder in (source.parent, source.parent.parent):
        with pytest.raises(UsageError, match=r"in.fits: lies in .*, which this run reads"):
            check_outputs([source], [folder], overwrite=True)
        check_outputs([ours, source.with_name("new.fits")], [folder], overwrite=True)
    assert source.read_bytes() == b"input"


def test_outputs_that_cannot_be_written(source: Path) -> None:
    with pytest.raises(UsageError, match="exists already"):
        check_outputs([source], [], overwrite=False)
    with pytest.raises(UsageError, match="is a folder"):
        check_outputs([source.parent], [], overwrite=True)
    with pytest.raises(DataError, match="there is no folder"):
        check_outputs([source.parent / "no" / "out.fits"], [], overwrite=True)


def test_what_is_written_beside_gets_its_name_at_the_end(source: Path) -> None:
    source.chmod(0o640)
    with written_beside(source) as beside:
        beside.write_bytes(b"new")
        beside.chmod(0o600)
        assert source.read_bytes() == b"input"
    assert source.read_bytes() == b"new"
    assert source.stat().st_mode & 0o777 == 0o640
    assert names_in(source.parent) == ["in.fits"]


def test_a_new_file_has_the_usual_rights(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    with written_beside(tmp_path / "new") as beside:
        beside.write_bytes(b"new")
        beside.chmod(0o600)
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_link_is_followed(source: Path) -> None:
    link = linked(source, "symlink")
    with written_beside(link) as beside:
        beside.write_bytes(b"new")
    assert link.is_symlink()
    assert source.read_bytes() == b"new"


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError(28, "No space left on device")])
def test_nothing_is_left_after_an_exception(source: Path, error: BaseException) -> None:
    expected = DataError if isinstance(error, OSError) else error
    with pytest.raises(expected), written_beside(source) as beside:  # noqa: PT012
        beside.write_bytes(b"half")
        raise error
    with pytest.raises(expected), scratch_folder(source.parent, "a step") as folder:  # noqa: PT012
        (folder / "file").touch()
        raise expected
    assert names_in(source.parent) == ["in.fits"]
    assert source.read_bytes() == b"input"


def test_what_is_given_up_is_not_written(tmp_path: Path) -> None:
    with written_beside(tmp_path / "new") as beside:
        beside.unlink()
    assert names_in(tmp_path) == []


def test_a_scratch_folder_is_private(tmp_path: Path) -> None:
    with scratch_folder(tmp_path, "a step") as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
    with pytest.raises(DataError, match="a step: cannot write it"), scratch_folder(folder, "a step"):
        pass
