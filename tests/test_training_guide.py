"""The guide to redshifts: the cross-entropy it claims to be, for the galaxies that have a redshift."""

import numpy as np
import torch
from training_pairs import write_training_pairs

from astroclip.model.checkpoint import load_weights
from astroclip.training.fit import train
from astroclip.training.guide import RedshiftGuide
from astroclip.training.settings import GuideSettings

SETTINGS = GuideSettings(bins=50, highest=1.0, softness=1.5)


def test_the_loss_is_the_cross_entropy_with_a_gaussian_about_the_redshift():
    torch.manual_seed(0)
    guide = RedshiftGuide(8, SETTINGS, seed=3)
    embedding, redshift = torch.randn(5, 8), torch.tensor([0.0, 0.31, torch.nan, 0.999, 1.2]).double()
    weight, bias = (p.detach().double().numpy() for p in (guide.bins.weight, guide.bins.bias))
    edges = np.expm1(np.linspace(0, np.log(2), 51))
    middles = np.log1p(np.expm1((np.log1p(edges[1:]) + np.log1p(edges[:-1])) / 2))
    expected = []
    for k in (0, 1, 3):  # NaN and a redshift beyond the last bin do not count
        scores = weight @ embedding[k].double().numpy() + bias
        logs = scores - np.log(np.exp(scores).sum())
        width = np.log(2) / 50 * 1.5
        target = np.exp(-0.5 * ((middles - np.log1p(redshift[k].item())) / width) ** 2)
        expected.append(-(target / target.sum() * logs).sum())
    np.testing.assert_allclose(guide(embedding, redshift).item(), np.mean(expected), rtol=1e-5)
    nobody = guide(embedding, torch.full((5,), torch.nan))
    assert nobody.item() == 0
    nobody.backward()


def test_a_guide_starts_the_same_from_the_same_seed_and_leaves_the_global_one():
    state = torch.get_rng_state()
    first, same, other = (RedshiftGuide(4, SETTINGS, seed).bins.weight for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_guided_alignment_learns_redshifts_and_ships_without_the_guide(tmp_path):
    pairs = write_training_pairs(tmp_path / "pairs.h5", 24, 8)
    small = ["model.image.embed_dim=16", "model.image.depth=1", "model.image.num_heads=2",
             "model.spectrum.embed_dim=16", "model.spectrum.num_layers=1", "model.spectrum.num_heads=2",
             "model.head.embed_dim=16", "guide.highest=0.5", "guide.bins=20", "guide.softness=0.5",
             "optim.lr=5e-3", "data.batch_size=24", "run.steps=80", "run.val_every=40",
             "run.log_every=1", "optim.warmup_steps=5", "optim.decay_steps=100",
             "run.val_batches=null", "degrade=null", "guide.shifted=0"]  # fmt: skip
    train("clip", pairs, tmp_path / "run", "mini-clip", small, gpus=0)
    lines = [line.split(",") for line in (tmp_path / "run" / "metrics.csv").read_text().splitlines()]
    column = lines[0].index("guide_loss")
    losses = [float(line[column]) for line in lines[1:] if line[column]]
    assert "val_guide_loss" in lines[0]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    assert not [name for name in load_weights(tmp_path / "run").state_dict() if "guide" in name]
