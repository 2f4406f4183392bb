"""Two halves of a spectrum: they share no pixel, look different, and still find each other."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from training_pairs import write_training_pairs

from astroclip.config import ModelConfig
from astroclip.errors import ConfigError
from astroclip.models.clip import build_model
from astroclip.preprocess.spectrum import to_patches
from astroclip.schema import N_WAVE
from astroclip.training.fit import train
from astroclip.training.halves import disturb, draw_halves, embed_halves
from astroclip.training.settings import HalvesSettings, read_training

SPECTRUM = {"section_length": 128, "section_overlap": 0, "max_len": 64, "embed_dim": 16, "num_layers": 1,
            "num_heads": 2}  # fmt: skip
SETTINGS = HalvesSettings()


@given(rows=st.integers(8, 800), seed=st.integers(0, 2**31), overlap=st.booleans())
def test_halves_are_disjoint_and_nearly_equal(rows, seed, overlap):
    torch.manual_seed(seed)
    first, second = (half.tolist() for half in draw_halves(rows, overlap))
    together = sorted(first + second)
    assert len(set(together)) == len(together)
    assert set(together) <= set(range(1, rows))
    assert min(len(first), len(second)) >= (rows - 1) / 8
    if overlap:  # neighbouring rows share pixels: none of the other half is beside one
        assert not {row + 1 for row in first} & set(second)
        assert not {row + 1 for row in second} & set(first)
    else:
        assert together == list(range(1, rows))


def test_a_half_does_not_see_the_other():
    model = build_model(ModelConfig(name="tiny", spectrum=SPECTRUM), 0)
    torch.manual_seed(1)
    patches = to_patches(torch.randn(3, N_WAVE), 128, 0)
    rows = draw_halves(patches.shape[1], False)[0]
    others = torch.ones(patches.shape[1], dtype=torch.bool)
    others[rows] = False
    expected = model.encode_patches(patches, rows).embedding
    torch.testing.assert_close(
        model.encode_patches(patches.masked_fill(others[:, None], 9.0), rows).embedding, expected
    )
    assert (model.encode_patches(patches).embedding - expected).abs().max() > 1e-3


def test_disturbed_spectra_keep_their_lines_and_get_the_noise_that_is_asked_for():
    flux = torch.ones(400, N_WAVE)
    flux[:, 3000] = 50
    ivar = torch.full_like(flux, 0.25)
    ivar[:, :100] = 0  # bad pixels, filled before: no noise
    smooth = disturb(flux, None, SETTINGS)
    assert (smooth[:, 3000] / smooth[:, 2999]).sub(50).abs().max() < 0.1
    spread = smooth[:, 10].log().std().item()
    assert spread == pytest.approx(0.3 * 3**0.5, rel=0.15)  # three terms, each about ±1 at the ends
    noisy = disturb(flux, ivar, SETTINGS.model_copy(update={"calibration": 0.0})) - flux
    assert noisy[:, 200:].std().item() == pytest.approx(2 / 3**0.5, rel=0.1)  # shares uniform in 0 to 1
    assert noisy[:, :100].abs().max() < 1e-5


def test_halves_are_drawn_anew_from_the_global_seed():
    model = build_model(ModelConfig(name="tiny", spectrum=SPECTRUM), 0)
    flux = torch.randn(4, N_WAVE)

    def drawn(seed):
        torch.manual_seed(seed)
        return torch.stack(embed_halves(model, flux, None, SETTINGS))

    torch.testing.assert_close(drawn(3), drawn(3), rtol=0, atol=0)
    assert (drawn(3) - drawn(4)).abs().max() > 1e-4


def test_halves_need_their_settings_and_encoders_that_learn():
    with pytest.raises(ConfigError, match="section 'halves'"):
        read_training("spectrum", "spectrum", ["loss=halves"])
    with pytest.raises(ConfigError, match="train_encoders=false"):
        read_training("clip", "clip", ["image=a", "spectrum=b", "halves.scale=20", "train_encoders=false"])


@pytest.mark.parametrize("kind", ["spectrum", "clip"])
def test_halves_are_learned(tmp_path, kind):
    pairs = write_training_pairs(tmp_path / "pairs.h5", 16, 8)
    small = [f"model.spectrum.{name}={value}" for name, value in SPECTRUM.items()]
    if kind == "clip":
        small += ["model.image.embed_dim=16", "model.image.depth=1", "model.image.num_heads=2",
                  "model.head.embed_dim=16", "halves.scale=20"]  # fmt: skip
    small += ["data.batch_size=16", "run.steps=60", "run.val_every=60", "run.log_every=1", "optim.lr=3e-3"]
    small += ["run.val_batches=null", "optim.warmup_steps=5", "optim.decay_steps=100"]
    report = train(kind, pairs, tmp_path / "run", f"mini-{kind}", small, gpus=0)
    lines = [line.split(",") for line in (tmp_path / "run" / "metrics.csv").read_text().splitlines()]
    column = lines[0].index("train_loss" if kind == "spectrum" else "halves_loss")
    losses = [float(line[column]) for line in lines[1:] if line[column]]
    assert report.steps == 60
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
