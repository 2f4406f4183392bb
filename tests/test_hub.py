"""Models by name, against a stand-in hub on this machine: fetched once, verified, resumed, explained."""

import shutil
from pathlib import Path

import pytest
import torch
from checkpoints import released, saved, small_config
from hub_server import HubServer

from astroclip.errors import CheckpointError, ConfigError, UsageError
from astroclip.model.checkpoint import load_weights, model_hash, read_info, save_model
from astroclip.model.clip import build_model
from astroclip.model.hub import KNOWN, find_model, list_models, pull_model

pytestmark = pytest.mark.network
SPECFORMER = "polymathic-ai/specformer"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with the published SpecFormer (in small) and a model directory of ours; nothing fetched yet."""
    from huggingface_hub import constants

    server = HubServer()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("ASTROCLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)
    released(tmp_path / "specformer.ckpt", small_config("specformer"))
    server.repos[SPECFORMER] = {
        "specformer.ckpt": (tmp_path / "specformer.ckpt").read_bytes(),
        "README.md": b"x",
    }
    config = small_config("astroclip")
    save_model(build_model(config, seed=2), config, tmp_path / "ours")
    server.repos["someone/ours"] = {p.name: p.read_bytes() for p in (tmp_path / "ours").iterdir()}
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache" / "models"


def test_a_published_checkpoint_is_fetched_once_and_converted(hub, cache):
    directory = pull_model("specformer")
    assert directory == cache / f"polymathic-ai--specformer@{hub.commit(SPECFORMER)}"
    assert load_weights(directory).config == small_config("specformer")
    assert read_info(directory).source == f"{SPECFORMER}@{hub.commit(SPECFORMER)}"
    assert hub.downloads() == [None]
    for name in ("specformer", SPECFORMER, f"specformer@{hub.commit(SPECFORMER)}", "specformer@refs/pr/1"):
        assert pull_model(name) == pull_model(name, offline=True) == find_model(name) == directory
    assert len(hub.downloads()) == 1
    assert [p.name for p in cache.iterdir() if p.is_dir()] == [directory.name]


def test_a_directory_of_ours_is_kept_as_it_is(hub, tmp_path):
    directory = pull_model("someone/ours@main")
    for name, content in hub.repos["someone/ours"].items():
        assert (directory / name).read_bytes() == content
    assert model_hash(directory) == model_hash(tmp_path / "ours")
    assert sorted(p.name for p in directory.iterdir()) == ["README.md", "config.yaml", "model.safetensors"]
    assert len(hub.downloads()) == 3


def test_nothing_but_the_model_is_fetched(hub):
    hub.repos["someone/ours"] |= {
        "reference.safetensors": b"x" * 9,
        "train.py": b"x",
        "sub/config.yaml": b"x",
    }
    directory = pull_model("someone/ours")
    names = {path.name for path in directory.rglob("*")}
    assert names == {"README.md", "config.yaml", "model.safetensors", "reference.safetensors"}
    assert len(hub.downloads()) == 4


def test_a_new_commit_is_another_directory(hub, cache):
    first = pull_model("specformer")
    hub.repos[SPECFORMER]["README.md"] = b"changed"
    second = pull_model("specformer")
    assert first != second
    assert find_model("specformer") == second
    assert find_model(f"specformer@{first.name.split('@')[1]}") == first


def test_a_broken_download_goes_on_where_it_stopped(hub):
    hub.cut_after = [20_000]
    load_weights(pull_model("specformer"))
    first, second = hub.downloads()
    assert first is None
    assert 0 < int(second.removeprefix("bytes=").removesuffix("-")) <= 20_000


def test_an_interrupted_pull_goes_on_in_the_next(hub, cache):
    hub.repos["someone/ours"]["reference.safetensors"] = bytes(200_000)
    before = len(hub.repos["someone/ours"])
    hub.cut_after = [9_000, -1]
    with pytest.raises(CheckpointError, match="what is complete is not fetched again"):
        pull_model("specformer")
    assert list_models()[-1].path is None
    load_weights(pull_model("specformer"))
    waiting = cache / f".someone--ours@{hub.commit('someone/ours')}"
    pull_model("someone/ours").rename(waiting)
    (waiting / "model.safetensors").unlink()
    asked = len(hub.downloads())
    load_weights(pull_model("someone/ours"))
    assert len(hub.downloads()) < asked + before
    assert not list(cache.glob(".*"))


def test_leftovers_that_are_too_long_are_not_used(hub, cache):
    waiting = cache / f".polymathic-ai--specformer@{hub.commit(SPECFORMER)}"
    waiting.mkdir(parents=True)
    (waiting / "specformer.ckpt").write_bytes(bytes(10**7))
    load_weights(pull_model("specformer"))


def test_a_wrong_checksum_is_refused_and_removed(hub, cache):
    hub.corrupt = True
    with pytest.raises(CheckpointError, match=r"has checksum .* the hub says .*removed"):
        pull_model("specformer")
    assert not [p for p in cache.rglob("*") if p.is_file()]
    with pytest.raises(CheckpointError, match="has checksum"):
        pull_model("someone/ours")
    assert not find_or_none("someone/ours")
    hub.corrupt = False
    load_weights(pull_model("specformer"))
    load_weights(pull_model("someone/ours"))


def find_or_none(name: str) -> Path | None:
    try:
        return find_model(name)
    except CheckpointError:
        return None


@pytest.mark.parametrize(
    ("name", "error", "reason"),
    [
        ("someone/nothing", CheckpointError, "no such repository, or a private one.*HF_TOKEN"),
        ("specformer@nothing", CheckpointError, "no such revision; leave '@nothing' out"),
        ("someone/gated", CheckpointError, "gated: ask for access.*HF_TOKEN"),
        ("nothing", UsageError, "expected astroclip, astrodino, specformer or org/repo"),
        ("a/b/c", UsageError, "not a model's name"),
        ("a b", UsageError, "not a model's name"),
        ("some--one/ours", UsageError, "not a repository's name"),
        ("someone/empty", CheckpointError, "found nothing"),
        ("someone/many", CheckpointError, "found a.ckpt, b.ckpt"),
        ("someone/deep", CheckpointError, r"found \.\./x.ckpt, sub/x.ckpt"),
        ("someone/dino", ConfigError, "image.num_heads"),
        ("someone/evil", CheckpointError, "no published model"),
    ],
)
def test_errors_say_what_to_do(hub, tmp_path, name, error, reason):
    class Bomb:
        def __reduce__(self):
            return Path.mkdir, (tmp_path / "marker",)

    hub.gated.add("someone/gated")
    released(tmp_path / "dino.ckpt", small_config("astrodino"))
    saved({"model": Bomb(), "x": torch.ones(1)}, tmp_path / "evil.ckpt")
    hub.repos |= {
        "someone/gated": {},
        "someone/empty": {},
        "someone/many": {"b.ckpt": b"", "a.ckpt": b""},
        "someone/deep": {"sub/x.ckpt": b"", "../x.ckpt": b""},
        "someone/dino": {"x.ckpt": (tmp_path / "dino.ckpt").read_bytes()},
        "someone/evil": {"x.ckpt": (tmp_path / "evil.ckpt").read_bytes()},
    }
    with pytest.raises(error, match=reason):
        pull_model(name)
    assert not (tmp_path / "marker").exists()


def test_a_token_is_sent(hub, monkeypatch):
    hub.gated.add(SPECFORMER)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    pull_model("specformer")
    assert {authorization for *_, authorization in hub.requests} == {"Bearer hf_secret"}


def test_offline(hub, monkeypatch):
    from huggingface_hub import constants

    for offline in (True, False):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", not offline)
        with pytest.raises(
            CheckpointError, match=r"no network is to be used.*astroclip models pull specformer"
        ):
            pull_model("specformer", offline=offline)
    assert not hub.requests
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    directory = pull_model("specformer")
    asked = len(hub.requests)
    assert pull_model("specformer", offline=True) == directory
    assert len(hub.requests) == asked


def test_no_network(hub):
    hub.shutdown()
    hub.server_close()
    with pytest.raises(CheckpointError, match=r"cannot be fetched .*--offline"):
        pull_model("specformer")


def test_a_login_page_instead_of_the_hub(hub):
    hub.not_json = True
    with pytest.raises(CheckpointError, match="cannot be fetched"):
        pull_model("specformer")


def test_what_huggingface_hub_holds_is_not_fetched_again(hub):
    from huggingface_hub import hf_hub_download

    hf_hub_download(SPECFORMER, "specformer.ckpt", endpoint=hub.url)
    before = len(hub.downloads())
    load_weights(pull_model("specformer"))
    assert len(hub.downloads()) == before == 1


def test_a_damaged_file_of_huggingface_hub_is_fetched_anew(hub):
    from huggingface_hub import hf_hub_download

    blob = Path(hf_hub_download(SPECFORMER, "specformer.ckpt", endpoint=hub.url)).resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    load_weights(pull_model("specformer"))
    assert len(hub.downloads()) == 2


def test_find_model_names_what_there_is(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "astroclip").mkdir()  # a folder of this name, as in the sources, does not hide the model
    assert find_model(tmp_path / "ours") == tmp_path / "ours"
    with pytest.raises(CheckpointError, match=r"here: none\).*models pull astroclip\|.*ships: mini"):
        find_model("nothing")
    directory = pull_model("specformer")
    with pytest.raises(CheckpointError, match=f"no model 'astroclip'.*here: {directory.name}"):
        find_model("astroclip")
    with pytest.raises(CheckpointError, match=r"models convert .*specformer\.ckpt -o DIR"):
        find_model(tmp_path / "specformer.ckpt")
    (tmp_path / "ours" / "config.yaml").unlink()
    with pytest.raises(CheckpointError, match=r"lacks config\.yaml"):
        find_model(tmp_path / "ours")


def test_list_models(hub):
    ships, *others = list_models()
    assert (ships.name, ships.path) == ("mini", find_model("mini"))
    assert pull_model("mini", offline=True) == ships.path
    assert [(model.name, model.path) for model in others] == [(name, None) for name in KNOWN]
    directory = pull_model("specformer")
    pulled, *others = list_models()[1:]
    assert (pulled.name, pulled.path, pulled.width) == ("specformer", directory, 16)
    assert [model.name for model in others] == ["astroclip", "astrodino"]
    (directory / "model.safetensors").write_bytes(b"")
    assert list_models()[1].source.startswith("unusable: ")
    shutil.rmtree(directory)
    assert find_or_none("specformer") is None
