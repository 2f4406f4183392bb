"""The README's examples run as they stand; every command there and in the tutorial is one."""

import re
import shlex
from pathlib import Path

import fitsio
import numpy as np
import pytest
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from astroclip.cli.main import app
from astroclip.schema import EmbedFlag

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def code_of(language: str) -> str:
    return "\n".join(re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL))


@pytest.fixture
def folder(tmp_path, rng, monkeypatch) -> Path:
    for name, rows in (("known", 6), ("galaxies", 3)):
        columns = {
            "TARGETID": np.arange(rows),
            "Z": rng.uniform(0, 1, rows),
            "IMAGE": rng.normal(0.1, 0.1, (rows, 3, 152, 152)).astype("f4"),
            "FLUX": rng.normal(2, 1, (rows, 7781)).astype("f4"),
            "IVAR": np.ones((rows, 7781), "f4"),
        }
        fitsio.write(tmp_path / f"{name}.fits", list(columns.values()), names=list(columns))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_examples_run(folder, capsys):
    commands = [shlex.split(line)[1:] for line in code_of("sh").splitlines() if line.startswith("astroclip ")]
    assert len(commands) == 4
    for words in commands:
        assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    for name in ("galaxies-embedded-redshift.fits", "from-known.fits"):
        assert np.isfinite(fitsio.read(folder / name)["Z_PRED_MEAN"]).all()
    exec(compile(code_of("python"), "README.md", "exec"), {})
    assert "torch.Size([3, 128]) torch.Size([3, 128])" in capsys.readouterr().out
    assert (folder / "out.fits").exists()


def test_every_flag_bit_is_explained():
    for bit in EmbedFlag:
        assert re.search(rf"^\|[^|]*\b{bit.value}\b[^|]*\|[^|]*\b{bit.name}\b", README, re.MULTILINE)


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md"])
def test_every_command_and_option_exists(page):
    text = (ROOT / page).read_text().replace("\\\n", " ")
    lines = re.findall(r"^(?:    |\$ )?astroclip (.*)$", text, re.MULTILINE)
    assert len(lines) > 10
    for line in lines:
        words = shlex.split(line, comments=True)
        if "..." not in words:
            parse(get_command(app), words)


def parse(command, words: list[str]) -> None:
    """Read words as the program does, down to the command that they name, and run nothing."""
    context = command.make_context("astroclip", words)
    if isinstance(command, TyperGroup):
        _, inner, rest = command.resolve_command(context, context._protected_args + context.args)
        parse(inner, rest)
