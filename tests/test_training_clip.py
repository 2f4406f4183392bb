"""Alignment: the published loss and gradients, the same for any number of ranks; frozen stays frozen."""

import math
import multiprocessing
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from astroclip.config import ModelConfig, make_settings
from astroclip.data.pairs import SplitSettings, write_pairs
from astroclip.errors import CheckpointError, ConfigError
from astroclip.model.checkpoint import convert_checkpoint, load_weights, save_model
from astroclip.model.clip import build_model
from astroclip.schema import Split
from astroclip.training.alignment import ClipModule
from astroclip.training.batches import make_loader
from astroclip.training.galaxies import Galaxies
from astroclip.training.ranks import gather_rows
from astroclip.training.retrieval import find_ranks, measure_retrieval
from astroclip.training.settings import ClipTraining

SIZES = {
    "image": {"patch_size": 36, "embed_dim": 24, "depth": 2, "num_heads": 2},
    "spectrum": {
        "section_length": 200, "section_overlap": 0, "max_len": 40, "embed_dim": 16, "num_layers": 1,
        "num_heads": 2, "dropout": 0.5,
    },
    "head": {"embed_dim": 32, "num_heads": 2, "dropout": 0.0},
}  # fmt: skip


def make_clip(model: dict | None = None, **changes) -> ClipTraining:
    values = {
        "model": {**SIZES, **(model or {})},
        "train_encoders": True,
        "optim": {"lr": 1e-3, "decay_steps": 1000, "weight_decay": 0.05},
        "data": {"batch_size": 4},
        "run": {"steps": 10, "seed": 3},
    }
    return make_settings(ClipTraining, values | changes, "test")


def make_batch(n: int, seed: int = 0) -> dict[str, Tensor]:
    """Galaxies of noise with some bad pixels; the last one is bad all over."""
    rng = np.random.default_rng(seed)
    image = rng.normal(0, 0.1, (n, 3, 152, 152)).astype(np.float32)
    image[rng.random(image.shape) < 1e-3] = np.nan
    ivar = rng.uniform(0, 2, (n, 7781)).astype(np.float32)
    ivar[ivar < 0.1] = 0
    image[-1], ivar[-1] = np.nan, 0
    return {
        "image": torch.from_numpy(image),
        "flux": torch.from_numpy(rng.normal(2, 1, (n, 7781)).astype(np.float32)),
        "ivar": torch.from_numpy(ivar),
        "mask": torch.from_numpy((rng.random((n, 7781)) < 0.01).astype(np.int32)),
        "rows": torch.arange(n),
    }


def listen(module: ClipModule) -> dict[str, float]:
    """Take the place of the Trainer's log."""
    logged: dict[str, float] = {}
    module.log = lambda name, value, **_: logged.update({name: value.item()})
    module.log_dict = lambda values, **_: logged.update(values)
    return logged


def gradients(module: ClipModule) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


@pytest.fixture(scope="module")
def encoders(tmp_path_factory) -> dict[str, str]:
    """Directories of an image and of a spectrum encoder that stand alone."""
    folder = tmp_path_factory.mktemp("encoders")
    for name in ("image", "spectrum"):
        config = make_settings(ModelConfig, {name: SIZES[name]}, "test")
        save_model(build_model(config, seed=8), config, folder / name)
    return {name: str(folder / name) for name in ("image", "spectrum")}


# --- the published numbers --------------------------------------------------------------------------------


def test_golden_loss_and_gradients(golden, tmp_path):
    config = convert_checkpoint(golden / "astroclip.ckpt", tmp_path / "model")
    directories = {"image": str(tmp_path / "model"), "spectrum": str(tmp_path / "model")}
    settings = make_clip(config.model_dump(), train_encoders=False, **directories)
    module = ClipModule(settings).eval()
    expected = np.load(golden / "grads.npz")
    learning = [name.removeprefix("model.") for name, p in module.named_parameters() if p.requires_grad]
    assert sorted(learning) == sorted(expected["clip_trainable_names"])
    pixels = torch.from_numpy(np.load(golden / "preprocessing.npz")["collated"])
    flux = torch.from_numpy(np.load(golden / "specformer.npz")["spectra"])
    embeddings = module.model.encode_image(pixels), module.model.encode_spectrum(flux)
    listen(module)
    with pytest.MonkeyPatch.context() as patch:
        none = torch.zeros(())
        patch.setattr(module, "_learn", lambda batch: (*embeddings, none))  # the inputs are prepared
        loss = module.training_step({}, 0)
    assert loss.item() == pytest.approx(float(expected["clip_train_loss_eval_mode"]), rel=1e-5)
    loss.backward()
    found = gradients(module)
    norms = torch.stack([found[f"model.{name}"].norm() for name in expected["clip_trainable_names"]])
    np.testing.assert_allclose(norms, expected["clip_grad_norms"], rtol=0, atol=1e-5 * norms.max().item())
    for side in ("image", "spectrum"):
        query = found[f"model.{side}_encoder.cross_attention.query"].numpy()
        wanted = expected[f"clip_grad_{side}_query"]
        np.testing.assert_allclose(query, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_golden_ranks(golden):
    arrays = np.load(golden / "astroclip.npz")
    image, spectrum = (torch.from_numpy(arrays[f"big_{side}"]) for side in ("image", "spectrum"))
    np.testing.assert_array_equal(find_ranks(image, spectrum), arrays["big_rank_image_to_spectrum"])
    np.testing.assert_array_equal(find_ranks(spectrum, image), arrays["big_rank_spectrum_to_image"])


# --- many ranks -------------------------------------------------------------------------------------------

CASES = [
    {"scale": "learned", "loss": "global"},
    {"scale": "fixed", "loss": "global", "train_encoders": False},
    {"scale": "learned", "loss": "local"},
]
NO_DROPOUT = {"spectrum": SIZES["spectrum"] | {"dropout": 0.0}}


class Step(nn.Module):
    """What DDP wraps: calling it is a training step."""

    def __init__(self, module: ClipModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.module.training_step(batch, 0)


def run_rank(rank: int, world: int, folder: Path, encoders: dict[str, str]) -> None:
    """Take a step with DDP and validate, on this rank's half of the batch; save what comes out."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    batch = make_batch(8)
    results = []
    for case in CASES:
        module = ClipModule(make_clip(NO_DROPOUT, **encoders, **case))
        logged = listen(module)
        mine = {name: values[4 * rank : 4 * rank + 4] for name, values in batch.items()}
        averaged = DistributedDataParallel(Step(module))  # averages as long as it lives
        loss = averaged(mine)
        loss.backward()
        uneven = slice(0, 3) if rank else slice(3, 8)  # not in the order of rows
        with torch.no_grad():
            module.eval().validation_step({name: values[uneven] for name, values in batch.items()}, 0)
            module.on_validation_epoch_end()
        results.append((loss.detach(), gradients(module), logged))
    rows = gather_rows(torch.arange(3 + 2 * rank) + 10 * rank)
    torch.save((results, rows), folder / f"{rank}.pt")
    dist.destroy_process_group()


def run_ranks(folder: Path, encoders: dict[str, str], world: int = 2) -> list:
    spawn = multiprocessing.get_context("spawn")
    ranks = [spawn.Process(target=run_rank, args=(rank, world, folder, encoders)) for rank in range(world)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
    assert [rank.exitcode for rank in ranks] == [0] * world
    return [torch.load(folder / f"{rank}.pt") for rank in range(world)]


def test_two_processes_are_one_with_the_double_batch(encoders, tmp_path):
    ranks = run_ranks(tmp_path, encoders)
    batch = make_batch(8)
    for i, case in enumerate(CASES):
        module = ClipModule(make_clip(NO_DROPOUT, data={"batch_size": 8}, **encoders, **case))
        logged = listen(module)
        whole = [slice(0, 8)] if case["loss"] == "global" else [slice(0, 4), slice(4, 8)]
        losses = [module.training_step({k: v[part] for k, v in batch.items()}, 0) for part in whole]
        torch.stack(losses).mean().backward()
        expected = gradients(module)
        for rank, (results, _) in enumerate(ranks):
            loss, found, metrics = results[i]
            assert loss.item() == pytest.approx(losses[rank % len(losses)].item(), rel=1e-5)
            assert found.keys() == expected.keys()
            for name, gradient in expected.items():
                atol = 1e-5 * max(gradient.abs().max().item(), 1e-3)
                assert_close(found[name], gradient, rtol=0, atol=atol, msg=lambda m, n=name: f"{n}: {m}")
            module.settings = make_clip(data={"batch_size": 8 if case["loss"] == "global" else 4})
            with torch.no_grad():
                module.eval().validation_step(batch, 0)
                module.on_validation_epoch_end()
            for name in metrics.keys() - {"train_loss"}:
                assert metrics[name] == pytest.approx(logged[name], rel=1e-5), name
    for _, rows in ranks:
        assert rows.tolist() == [0, 1, 2, 10, 11, 12, 13, 14]


# --- what learns, and from where --------------------------------------------------------------------------


def step(module: ClipModule, batch: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    """One update of the weights."""
    optimizer.zero_grad()
    module.training_step(batch, 0).backward()
    optimizer.step()


def make_optimizer(module: ClipModule) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], 3e-4)


@pytest.mark.parametrize("train_encoders", [False, True])
def test_frozen_encoders_stay_and_see_no_dropout(encoders, train_encoders):
    module = ClipModule(make_clip(train_encoders=train_encoders, **encoders)).train()
    before = {name: tensor.clone() for name, tensor in module.model.state_dict().items()}
    for side, directory in encoders.items():
        for name, tensor in load_weights(directory).state_dict().items():
            assert_close(before[name], tensor, rtol=0, atol=0, msg=f"{side}: {name}")
    batch = make_batch(4)
    with torch.no_grad():
        twice = [module._learn(batch)[1] for _ in range(2)]
    assert torch.equal(*twice) != train_encoders  # the spectrum encoder has dropout, the heads have none
    listen(module)
    step(module, batch, make_optimizer(module))
    moved = {
        name for name, tensor in module.model.state_dict().items() if not torch.equal(tensor, before[name])
    }
    heads = {name for name, _ in module.model.named_parameters() if ".backbone." not in name}
    assert moved >= heads
    assert bool(moved - heads) == train_encoders
    unused = ("cls_token", "pos_embed", "mask_token", "backbone.head.")
    assert not [name for name in moved if any(part in name for part in unused)]


def test_every_weight_that_learns_gets_a_gradient():
    module = ClipModule(make_clip(scale="learned"))
    listen(module)
    module.training_step(make_batch(4), 0).backward()
    assert not [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]


def test_a_head_of_the_same_sizes_comes_along(tmp_path):
    config = make_settings(ModelConfig, SIZES, "test")
    save_model(build_model(config, seed=9), config, tmp_path / "clip")
    trained = load_weights(tmp_path / "clip").image_encoder
    same = ClipModule(make_clip(image=str(tmp_path / "clip"))).model
    assert_close(same.image_encoder.state_dict(), trained.state_dict(), rtol=0, atol=0)
    fresh = build_model(same.config, seed=3)
    assert_close(same.spectrum_encoder.state_dict(), fresh.spectrum_encoder.state_dict(), rtol=0, atol=0)
    narrow = {"head": {"embed_dim": 8, "num_heads": 2}}
    other = ClipModule(make_clip(narrow, image=str(tmp_path / "clip"))).model.image_encoder
    assert_close(other.backbone.state_dict(), trained.backbone.state_dict(), rtol=0, atol=0)


def test_encoders_that_do_not_fit_are_named(encoders, tmp_path):
    sizes = {"image": SIZES["image"] | {"embed_dim": 48, "depth": 3}}
    with pytest.raises(ConfigError, match=r"image=.*embed_dim 24, not 48, depth 2, not 3\. .*model\.image"):
        ClipModule(make_clip(sizes, image=encoders["image"]))
    with pytest.raises(ConfigError, match="has no spectrum encoder"):
        ClipModule(make_clip(spectrum=encoders["image"]))
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        ClipModule(make_clip(image=str(tmp_path)))
    dropout = {"spectrum": SIZES["spectrum"] | {"dropout": 0.1}}
    assert ClipModule(make_clip(dropout, **encoders)).model.config.spectrum.dropout == 0.1


def test_a_learned_scale_is_kept_in_bounds_and_goes_into_the_model(tmp_path):
    module = ClipModule(make_clip(scale="learned"))
    assert module.trained_model()[0].logit_scale == pytest.approx(15.5)
    optimizer = torch.optim.SGD([module.log_scale], lr=1.0)
    for gradient, scale in ((-50.0, 100.0), (90.0, 1.0), (-math.log(7), 7.0)):
        module.log_scale.grad = torch.tensor([gradient])
        module.optimizer_step(0, 0, LightningLike(optimizer), None)
        config, model = module.trained_model()
        assert config.logit_scale == pytest.approx(scale)
    save_model(model, config, tmp_path / "model")
    loaded = load_weights(tmp_path / "model")
    assert loaded.config.logit_scale == pytest.approx(7)
    assert_close(loaded.state_dict(), dict(module.model.state_dict()), rtol=0, atol=0)
    assert ClipModule(make_clip()).trained_model()[0].logit_scale == 15.5


class LightningLike:
    """Steps an optimiser as Lightning's wrapper does."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.step = lambda closure=None: optimizer.step()


# --- what the model is shown ------------------------------------------------------------------------------


def test_bad_pixels_are_filled_and_missing_columns_do_without():
    module = ClipModule(make_clip()).eval()
    batch = make_batch(4)
    assert all(embedding.isfinite().all() for embedding in module._learn(batch))
    published = {name: batch[name] for name in ("image", "flux", "rows")}
    _, spectrum, _ = module._learn(published)
    assert not torch.equal(spectrum, module._learn(batch)[1])


# --- retrieval --------------------------------------------------------------------------------------------


def test_retrieval_is_that_of_a_loop_over_galaxies():
    rng = np.random.default_rng(5)
    spectrum = rng.normal(0, 1, (250, 6))
    image = spectrum + rng.normal(0, 1.2, spectrum.shape)
    found = measure_retrieval(torch.from_numpy(image), torch.from_numpy(spectrum))
    for direction, (a, b) in {
        "image_to_spectrum": (image, spectrum), "spectrum_to_image": (spectrum, image)
    }.items():  # fmt: skip
        ranks = []
        for i in range(250):
            cosine = b @ a[i] / np.linalg.norm(b, axis=1) / np.linalg.norm(a[i])
            ranks.append(np.count_nonzero(cosine > cosine[i]))
        for name, k in {"recall1": 1, "top1pct": 2, "top5pct": 12, "top10pct": 25}.items():
            assert found[f"{direction}_{name}"] == pytest.approx(np.mean(np.array(ranks) < k))
            assert found[f"chance_{name}"] == k / 250


def test_a_collapsed_model_is_no_better_than_chance():
    same, other = torch.ones(50, 4), torch.randn(50, 4)
    broken = torch.full((50, 4), torch.nan)
    for image, spectrum in ((same, same), (same, other), (broken, broken), (broken, other)):
        metrics = measure_retrieval(image, spectrum)
        for name, value in metrics.items():
            assert value <= 2 * metrics[f"chance_{name.split('_')[-1]}"] + 0.02, name


# --- altogether -------------------------------------------------------------------------------------------


def test_a_handful_of_pairs_is_learnt_by_heart(tmp_path):
    rng = np.random.default_rng(6)
    n, wave = 16, np.arange(7781)
    kind = np.arange(n)
    disk = np.hypot(*(np.mgrid[:152, :152] - 75.5)) < 20
    colour = rng.uniform(0.02, 0.3, (n, 3, 1, 1))
    line = 20 * np.exp(-0.5 * ((wave - 300 - 450 * kind[:, None]) / 40) ** 2)
    galaxies = {
        "image": (disk * colour).astype(np.float32),
        "flux": (2 + line + rng.normal(0, 0.1, line.shape)).astype(np.float32),
        "ivar": np.ones(line.shape, np.float32),
        "mask": np.zeros(line.shape, np.uint16),
        "targetid": kind,
        "ra": np.zeros(n),
        "dec": np.zeros(n),
    }
    with write_pairs(tmp_path / "pairs.h5", n, split=SplitSettings((1, 0, 0))) as writer:
        writer.write(galaxies)
    source, same = Galaxies(tmp_path / "pairs.h5"), Galaxies(tmp_path / "pairs.h5")
    same.split[:] = Split.VALIDATION
    sizes = NO_DROPOUT | {"image": SIZES["image"] | {"layer_scale": 0.3}}
    module = ClipModule(make_clip(sizes, augment=True, scale="learned", data={"batch_size": 16}))
    loader = make_loader(source, ClipModule.columns, Split.TRAIN, 16, seed=1)
    again = make_loader(same, ClipModule.columns, Split.VALIDATION, 8)
    metrics, optimizer = listen(module), make_optimizer(module)
    torch.manual_seed(0)
    for batch in islice(loader, 250):
        step(module, batch, optimizer)
    with torch.no_grad():
        for batch in again:
            module.eval().validation_step(batch, 0)
        module.on_validation_epoch_end()
    assert metrics["val_loss"] < 1  # of log(16) = 2.8
    assert metrics["val_image_to_spectrum_recall1"] > 0.7
    assert metrics["val_spectrum_to_image_recall1"] > 0.7
