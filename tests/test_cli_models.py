"""`astroclip models`: what the commands print and make, and how they fail."""

import json

import pytest
from checkpoints import released, small_config
from typer.testing import CliRunner

from astroclip.cli.main import app
from astroclip.errors import CheckpointError, ConfigError, UsageError
from astroclip.model.checkpoint import load_weights, model_hash


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a command in an empty folder with an empty cache; return what it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASTROCLIP_CACHE", str(tmp_path / "cache"))

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, arguments)
        if result.exception:
            raise result.exception
        return result.stdout

    return run


def test_init_info_and_use(run, tmp_path):
    out = run(
        "models", "init", "mini", "image.depth=1", "spectrum.num_layers=1", "-o", "small", "--seed", "3"
    )
    assert "small" in out
    assert load_weights(tmp_path / "small").config.image.depth == 1
    shown = json.loads(run("--json", "models", "info", "small"))
    assert shown["hash"] == model_hash(tmp_path / "small")
    assert shown["source"] == "untrained, seed 3"
    assert shown["config"]["image"]["depth"] == 1
    assert "hash        " + shown["hash"] in run("models", "info", "small")
    with pytest.raises(UsageError, match="--overwrite"):
        run("models", "init", "mini", "-o", "small")
    run("models", "init", "mini", "-o", "small", "image.depth=2", "--overwrite")
    assert load_weights(tmp_path / "small").config.image.depth == 2


def test_init_from_a_file_of_settings(run, tmp_path):
    (tmp_path / "mine.yaml").write_text("name: mine\nspectrum: {embed_dim: 8, num_layers: 1, num_heads: 2}\n")
    run("models", "init", "mine.yaml", "-o", "m")
    assert load_weights(tmp_path / "m").config.name == "mine"
    with pytest.raises(ConfigError, match="no model preset 'huge'; known: mini, paper"):
        run("models", "init", "huge", "-o", "n")


def test_convert(run, tmp_path):
    config = small_config("astrodino")
    released(tmp_path / "x.ckpt", config)
    with pytest.raises(ConfigError, match=r"Add to the command: image\.num_heads=\.\.\."):
        run("models", "convert", "x.ckpt", "-o", "m")
    run("models", "convert", "x.ckpt", "-o", "m", "image.num_heads=3")
    assert load_weights(tmp_path / "m").config == config
    with pytest.raises(UsageError, match="--overwrite"):
        run("models", "convert", "x.ckpt", "image.num_heads=3", "-o", "m")
    run("models", "convert", "x.ckpt", "image.num_heads=6", "-o", "m", "--overwrite")
    assert load_weights(tmp_path / "m").config.image.num_heads == 6
    with pytest.raises(CheckpointError, match=r"models convert x\.ckpt"):
        run("models", "info", "x.ckpt")


def test_list_and_pull_offline(run):
    rows = json.loads(run("--json", "models", "list"))
    assert [row["name"] for row in rows] == ["mini", "astroclip", "astrodino", "specformer"]
    assert rows[1]["path"] == "not pulled"
    assert "polymathic-ai/astroclip" in run("models", "list")
    with pytest.raises(CheckpointError, match="no network is to be used"):
        run("models", "pull", "astroclip", "--offline")
