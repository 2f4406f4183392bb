"""Settings: strict, frozen, and clear about what is wrong."""

import pytest

from astroclip.config import ModelConfig, apply_overrides, make_settings, read_model_config, read_yaml
from astroclip.errors import ConfigError


def test_paper_is_the_published_model():
    config = read_model_config("paper")
    assert (config.image.embed_dim, config.image.depth, config.image.num_heads) == (1024, 24, 16)
    assert (config.spectrum.embed_dim, config.spectrum.num_layers, config.spectrum.input_dim) == (768, 6, 22)
    assert (config.head.embed_dim, config.head.num_heads, config.logit_scale) == (1024, 4, 15.5)


def test_overrides_change_one_value_and_leave_the_rest():
    config = read_model_config("mini", ["image.num_heads=4", "name=mine", "spectrum.dropout=0.1"])
    assert (config.name, config.image.num_heads, config.spectrum.dropout) == ("mine", 4, 0.1)
    assert config.head == read_model_config("mini").head


def test_a_config_file(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text("name: small\nspectrum: {embed_dim: 32, num_heads: 2, num_layers: 1}\n")
    config = read_model_config(path)
    assert config.image is None
    assert config.head is None
    assert config.spectrum.max_len == 800


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("image.num_hads=4", r"mini.*'image.num_hads'.*not permitted"),
        ("image.num_heads=5", r"embed_dim 128 is not a multiple of num_heads 5"),
        ("image.num_heads=four", r"'image.num_heads'.*integer.*'four'"),
        ("image.depth=0", r"'image.depth'.*greater than 0"),
        ("image.image_size=100", r"image_size 100 is not a multiple of patch_size 24"),
        ("spectrum.section_overlap=128", r"section_overlap 128 is not smaller"),
        ("head=null", r"needs a 'head' section"),
        ("num_heads", r"expected key=value"),
        ("=3", r"expected key=value"),
        ("name.first=3", r"'name' is a value, not a section"),
        ("name=[", r"not readable YAML"),
    ],
)
def test_wrong_settings_are_one_clear_error(override, said):
    with pytest.raises(ConfigError, match=said):
        read_model_config("mini", [override])


def test_no_encoder_and_unknown_preset():
    with pytest.raises(ConfigError, match="needs an 'image' or a 'spectrum' section"):
        make_settings(ModelConfig, {"name": "empty"}, "here")
    with pytest.raises(ConfigError, match="no model preset 'huge'; known: mini, paper"):
        read_model_config("huge")


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match=r"list\.yaml: expected a mapping"):
        read_yaml(tmp_path / "list.yaml")
    (tmp_path / "code.yaml").write_text("x: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ConfigError, match=r"code\.yaml"):
        read_yaml(tmp_path / "code.yaml")


def test_settings_are_frozen_and_overrides_leave_the_input_alone():
    config = read_model_config("mini")
    with pytest.raises(ValueError, match="frozen"):
        config.name = "other"
    values = {"image": {"depth": 2}}
    assert apply_overrides(values, ["image.depth=3"]) == {"image": {"depth": 3}}
    assert values == {"image": {"depth": 2}}
