"""The program: what it prints, where, and with which exit code."""

import importlib.resources
import json
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fitsio
import numpy as np
import pytest
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

import astroclip
from astroclip.cli.main import _hoist, app
from astroclip.cli.output import Output

ROOT = Path(__file__).parents[1]


def astroclip_program(*words: object, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "astroclip.cli.main", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.fixture
def catalog(tmp_path, rng) -> Path:
    path = tmp_path / "galaxies.fits"
    flux = rng.normal(2, 1, (3, 7781)).astype("f4")
    fitsio.write(path, [np.arange(3), flux, np.array([0.1, 0.2, 0.3])], names=["TARGETID", "FLUX", "Z"])
    return path


def test_version_and_help():
    assert astroclip_program("--version").stdout == f"astroclip {astroclip.__version__}\n"
    help_text = astroclip_program("--help").stdout
    assert all(verb in help_text for verb in ("embed", "predict", "models"))


def commands(group: TyperGroup, *words: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command and group, with the words that call it."""
    yield words, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, *words, name)


def test_help_ends_with_two_examples_that_exist():
    for words, command in commands(get_command(app)):
        shown = (command.epilog or "").split("\n\n")
        assert shown[0] == "Examples:", words
        assert len(shown) == 3, words
        group = hasattr(command, "commands")
        names = {name for option in command.params for name in option.opts + option.secondary_opts}
        for example in shown[1:]:
            prompt, program, *rest = shlex.split(example)
            assert (prompt, program) == ("$", "astroclip")
            rest = [word for word in rest if word != "--json"]
            called = words[:1] if words == ("evaluate", "table") else words
            assert tuple(rest[: len(called)]) == called
            assert group or {word for word in rest if word.startswith("-")} <= names, example
            assert group or all(parameter.help for parameter in command.params if parameter.name != "help"), (
                words
            )


def test_help_and_import_load_nothing_heavy():
    code = "import sys; from astroclip.cli import main; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "timm", "astropy", "fitsio", "pyarrow", "pydantic", "numpy"} & set(modules)


def test_results_go_to_stdout_as_text_or_json(catalog, tiny_model, tmp_path):
    words = ["embed", str(catalog), "--model", str(tiny_model), "--overwrite"]
    text = CliRunner().invoke(app, words, catch_exceptions=False).stdout
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert {"rows 3", "embedded spectrum 3"} <= set(lines)
    as_json = CliRunner().invoke(app, ["--json", *words], catch_exceptions=False).stdout
    assert json.loads(as_json)["embedded"] == {"spectrum": 3}
    assert CliRunner().invoke(app, ["--quiet", *words], catch_exceptions=False).stdout == ""


def test_redshifts_from_the_command_line(catalog, tiny_model, tmp_path):
    embedded, predicted = tmp_path / "e.fits", tmp_path / "p.fits"
    for words in (
        ["embed", catalog, "--model", tiny_model, "-o", embedded],
        ["predict", "redshift", embedded, "--reference", embedded, "-o", predicted],
    ):
        done = CliRunner().invoke(app, ["-q", *map(str, words)], catch_exceptions=False)
        assert done.exit_code == 0
    np.testing.assert_allclose(fitsio.read(predicted)["Z_PRED_MEAN"], [0.1, 0.2, 0.3], rtol=1e-6)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["embed", "none.fits", "--model", "none"], 5, "none"),
        (["embed"], 2, "Missing argument"),
        (["embed", "none.fits"], 3, "none.fits: cannot read it"),
        (["predict", "redshift", "none.fits", "--reference", "none.fits"], 3, "none.fits"),
        (["models", "init", "mini", "image.num_heads=5", "-o", "m"], 4, "not a multiple of num_heads 5"),
        (["fly"], 2, "No such command"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(words, code, said, tmp_path):
    done = astroclip_program(*words, cwd=tmp_path)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


def test_errors_as_json(tmp_path):
    done = astroclip_program("--json", "embed", "none.fits", cwd=tmp_path)
    assert "none.fits" in json.loads(done.stderr)["error"]


def test_global_flags_work_before_and_after_the_verb():
    assert _hoist(["embed", "c.fits", "--json", "-v"]) == ["--json", "-v", "embed", "c.fits"]
    assert _hoist(["embed", "--", "--json"]) == ["embed", "--", "--json"]


def test_an_interruption_is_130(tmp_path):
    code = """
from astroclip.cli import main
def interrupted(*args, **options): raise KeyboardInterrupt
main.app = interrupted
main.main()
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 130


def test_nobody_watching_means_no_progress_bar(capsys):
    with Output().progress("Embedding") as report:
        assert report is None
    assert capsys.readouterr() == ("", "")


def test_every_room_is_packaged():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {
        "astroclip." + ".".join(path.parent.relative_to(ROOT).parts).removeprefix("astroclip.")
        for top in ("astroclip", "cli", "configs")
        for path in (ROOT / top).rglob("__init__.py")
        if path.parent != ROOT / "astroclip"
    }
    assert set(settings["packages"]) == {"astroclip"} | found
    assert (importlib.resources.files("astroclip.configs") / "models" / "mini.yaml").is_file()
