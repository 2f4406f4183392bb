"""Masked modelling: losses and gradients of the original, and the weights by inverse variance by hand."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from training_pairs import write_training_pairs

from astroclip.model.prepare_spectra import find_good_pixels, prepare_spectra, to_patches
from astroclip.model.released import read_released
from astroclip.model.specformer import masked_mse
from astroclip.training.masked_spectra import SpectrumModule, ivar_patches, weighted_mse
from astroclip.training.optim import make_optimizer
from astroclip.training.recipes import read_training
from astroclip.training.settings import OptimSettings, SpectrumTraining

SIZES = ("embed_dim=32", "num_layers=2", "num_heads=2")


def make_module(*overrides: str) -> SpectrumModule:
    sizes = [f"model.spectrum.{size}" for size in SIZES]
    settings = read_training("spectrum", None, [*sizes, *overrides])
    assert isinstance(settings, SpectrumTraining)
    return SpectrumModule(settings)


def mask_rows(patches: Tensor, rows: np.ndarray) -> Tensor:
    return patches.masked_fill(torch.from_numpy(rows)[..., None], 0)


@pytest.fixture(scope="module")
def batch(tmp_path_factory) -> dict[str, Tensor]:
    path = write_training_pairs(tmp_path_factory.mktemp("data") / "pairs.h5", training=4, validation=0)
    with h5py.File(path) as file:
        return {name: torch.from_numpy(file[name][:3].astype(file[name].dtype.str.replace("u2", "i4")))
                for name in ("flux", "ivar", "mask")}  # fmt: skip


# --- against the original ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def released(golden: Path) -> SpectrumModule:
    """A module with the reference weights."""
    config, tensors, _ = read_released(golden / "specformer.ckpt", None)
    module = make_module(f"model.spectrum.max_len={config.spectrum.max_len}")
    module.model.load_state_dict(tensors)
    return module.eval()


def test_masked_loss_and_its_gradients(golden: Path, released: SpectrumModule):
    spectra = torch.from_numpy(np.load(golden / "specformer.npz")["spectra"][:2])
    reference = np.load(golden / "grads.npz")
    patches = to_patches(spectra)
    masked = mask_rows(patches, reference["specformer_first2_mask_rows"])
    loss = masked_mse(released.encoder(masked).reconstruction, patches, masked)
    released.zero_grad()
    loss.backward()
    assert loss.item() == pytest.approx(reference["specformer_first2_masked_loss"], rel=1e-5)
    norms = [dict(released.encoder.named_parameters())[str(name)].grad.norm().item()
             for name in reference["specformer_param_names"]]  # fmt: skip
    expected = reference["specformer_first2_grad_norms"]
    np.testing.assert_allclose(norms, expected, rtol=1e-4, atol=1e-5 * expected.max())


def test_a_step_of_the_optimiser(golden: Path, released: SpectrumModule):
    """The reference gradient is that after clipping the norm of all gradients to 1."""
    reference = np.load(golden / "grads.npz")
    bias = torch.nn.Parameter(released.encoder.head.bias.detach().clone())
    settings = OptimSettings(lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, decay_steps=10)
    bias.grad = torch.from_numpy(reference["specformer_grad_head_bias"])
    made = make_optimizer([("bias", bias)], settings)
    made["optimizer"].step()
    after = torch.from_numpy(reference["specformer_head_bias_after_adamw_lr1e-3_clip1"])
    assert_close(bias.data, after, rtol=0, atol=1e-5 * after.abs().max().item())


# --- what a step does -------------------------------------------------------------------------------------


def test_a_step_is_the_masked_loss_of_prepared_spectra(batch):
    module = make_module("masking.chunks=2", "masking.width=100")
    torch.manual_seed(3)
    loss = module.loss(batch)
    torch.manual_seed(3)
    starts = torch.randint(778 // 2 - 100, (3, 2)).numpy() + np.array([0, 389])
    rows = np.zeros((3, 778), bool)
    for i, chunks in enumerate(starts):
        for start in chunks:
            rows[i, start : start + 100] = True
    patches = to_patches(prepare_spectra(**batch).flux)
    masked = mask_rows(patches, rows)
    squares = (module.encoder(masked).reconstruction - patches).square().detach().numpy()
    hidden = rows[..., None] & (patches.numpy() != 0)
    assert loss.item() == pytest.approx(squares[hidden].mean(), rel=1e-5)


def test_other_slicings_and_spectra_without_errors(batch):
    slicing = ("model.spectrum.section_length=50", "model.spectrum.section_overlap=0", "masking.width=10")
    module = make_module(*slicing)
    flux = prepare_spectra(**batch).flux
    assert module.loss({"flux": flux}).isfinite()


@pytest.mark.parametrize("loss", ["mse", "ivar"])
def test_a_spectrum_without_a_good_pixel_spoils_nothing(batch, loss):
    module = make_module(f"loss={loss}")
    dead = {"flux": torch.full((1, 7781), torch.nan), "ivar": torch.zeros(1, 7781),
            "mask": torch.ones(1, 7781, dtype=torch.int32)}  # fmt: skip
    for both in (dead, {name: torch.cat([batch[name], dead[name]]) for name in dead}):
        value = module.loss(both)
        value.backward()
        assert value.isfinite()
    assert all(weights.grad.isfinite().all() for weights in module.parameters())


# --- weights by inverse variance --------------------------------------------------------------------------


def test_weights_are_inverse_variances_of_the_standardised_flux(batch):
    good = find_good_pixels(**batch)
    flux = prepare_spectra(**batch).flux
    weights = ivar_patches(flux, batch["ivar"].where(good, 0), 20, 10).numpy()
    assert weights.shape == (3, 778, 22)
    np.testing.assert_array_equal(weights[:, 0], np.eye(22)[:2].sum(axis=0)[None].repeat(3, axis=0))
    np.testing.assert_array_equal(weights[:, 1:, :2], 0)
    for galaxy, row, column in [(0, 1, 2), (1, 200, 7), (2, 777, 21), (0, 11, 5), (1, 401, 4)]:
        pixel = 10 * (row - 1) + column - 2
        expected = batch["ivar"][galaxy, pixel] * flux[galaxy].std() ** 2 * good[galaxy, pixel]
        assert weights[galaxy, row, column] == pytest.approx(expected.item(), rel=1e-5)
    assert weights[0, 11, 5] == 0  # ivar is 0 there
    assert weights[1, 401, 4] == 0  # the mask is set there


def test_bad_pixels_do_not_matter_to_the_weighted_loss(batch):
    module = make_module("loss=ivar")
    losses = []
    for value in (torch.nan, -3e4):
        flux = batch["flux"].masked_fill(~find_good_pixels(**batch), value)
        torch.manual_seed(1)
        losses.append(module.loss(batch | {"flux": flux}).item())
    assert losses[0] == losses[1]


def test_weighted_loss_by_hand(rng):
    a, b, weights = (torch.from_numpy(rng.random((2, 3, 4))) for _ in range(3))
    total = sum(w * (x - y) ** 2 for w, x, y in zip(weights.flatten(), a.flatten(), b.flatten(), strict=True))
    assert weighted_mse(a, b, weights).item() == pytest.approx((total / weights.sum()).item())
    assert weighted_mse(a, b, torch.zeros_like(weights)).item() == 0
