"""Training of images: the original's steps, equal results after a resume, and learning."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from image_trainings import SIZES, TINY, draw_galaxies, tiny
from lightning import Callback, Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from torch import Tensor, nn
from torch.utils.data import DataLoader
from training_pairs import write_training_pairs

from astroclip.config import make_settings
from astroclip.errors import ConfigError
from astroclip.model.checkpoint import load_weights, save_model
from astroclip.training.callbacks import StepSeed
from astroclip.training.devices import Devices, make_trainer, quiet
from astroclip.training.dino_optim import rates_at
from astroclip.training.fit import train
from astroclip.training.recipes import read_training
from astroclip.training.self_distillation import ImageModule
from astroclip.training.settings import ImageTraining

CPU = Devices("cpu", 1, 1, LightningEnvironment())


def fit(
    module: ImageModule, images: Tensor, folder: Path, steps: int, *watch: Callback, **options
) -> Trainer:
    """Train on the CPU for `steps` steps in all, with batches in the order of the images."""
    settings = module.settings
    settings = settings.model_copy(update={"run": settings.run.model_copy(update={"steps": steps})})
    with quiet():
        trainer = make_trainer(settings, folder, CPU, [StepSeed(7), *watch], validates=False)
        trainer.fit(module, make_loader(images, settings.data.batch_size), **options)
    return trainer


def make_loader(images: Tensor, batch: int) -> DataLoader:
    return DataLoader([{"image": image} for image in images], batch_size=batch)


def relative(result: Tensor, expected: Tensor | np.ndarray) -> float:
    expected = torch.as_tensor(expected)
    return float((result.detach() - expected).abs().max() / expected.abs().max())


@pytest.fixture(scope="module")
def golden_step(golden) -> tuple[ImageModule, dict[str, np.ndarray]]:
    """The original's tiny student and teacher in our module, and what its two steps gave."""
    with np.load(golden / "ssl_step.npz") as file:
        arrays = dict(file)
    config = json.loads(str(arrays["config"]))
    sizes = ("embed_dim", "depth", "num_heads", "mlp_ratio")
    settings = make_settings(
        ImageTraining,
        {
            "model": {"image": {"image_size": 72} | {k: config[k] for k in sizes}},
            "views": {"global_size": 72, "local_size": 36, "local_count": config["n_local"]},
            "hiding": {},
            "prototypes": {
                "hidden_dim": config["head"]["head_hidden_dim"],
                "bottleneck_dim": config["head"]["head_bottleneck_dim"],
                "count": config["head"]["head_n_prototypes"],
            },
            "distillation": {
                name: config[name]
                for name in ("dino_weight", "ibot_weight", "koleo_weight", "center_momentum")
            },
            "optim": {"lr": 1e-3, "decay_steps": 10},
            "data": {"batch_size": config["batch"]},
            "run": {"steps": 1},
        },
        "ssl_step.npz",
    )
    module = ImageModule(settings)
    for name, state in torch.load(golden / "ssl_step.ckpt", weights_only=True).items():
        getattr(module, name).load_state_dict(
            {re.sub(r"blocks\.\d+\.(\d+)", r"blocks.\1", key): value for key, value in state.items()}
        )
    return module, arrays


def test_golden_two_steps(golden_step):
    """Every term of the loss, every gradient's norm and the centres, as of the original's two calls."""
    module, arrays = golden_step
    global_views, local_views = (
        torch.from_numpy(arrays[f"{name}_crops_u8"]).float().transpose(0, 1).flatten(0, 1) / 255
        for name in ("global", "local")
    )
    masks = torch.from_numpy(arrays["collated_masks"])
    for step, temperature in enumerate(arrays["teacher_temps"].tolist()):
        module.zero_grad()
        loss, terms, _ = module.distil(global_views, local_views, masks, temperature)
        loss.backward()
        for ours, theirs in (
            (terms.globals, "dino_global_crops_loss"),
            (terms.local, "dino_local_crops_loss"),
            (terms.ibot / 2, "ibot_loss"),  # logged per global view there
            (0.1 * terms.koleo / 2, "koleo_loss"),
        ):
            assert ours.item() == pytest.approx(arrays[f"step{step}_{theirs}"], rel=1e-5), theirs
        parameters = {
            re.sub(r"blocks\.\d+\.(\d+)", r"blocks.\1", name): norm
            for name, norm in zip(
                arrays["param_names"].tolist(), arrays[f"step{step}_grad_norms"], strict=True
            )
        }
        ours = dict(module.student.named_parameters())
        assert ours.keys() == parameters.keys()
        norms = torch.tensor([ours[name].grad.norm().item() for name in parameters])
        assert relative(norms, np.array(list(parameters.values()), np.float32)) < 1e-5
        for token in ("cls_token", "mask_token"):
            gradient = getattr(module.student.backbone, token).grad
            assert relative(gradient, arrays[f"step{step}_grad_{token}"]) < 1e-5
        for part in ("backbone", "dino_head"):
            norm = nn.utils.get_total_norm([p.grad for p in getattr(module.student, part).parameters()])
            assert norm.item() == pytest.approx(arrays[f"step{step}_total_grad_norm_{part}"], rel=1e-5)
    # the original updates a centre when it is next used: its arrays are those after two updates
    assert relative(module.loss.cls_targets.center, arrays["dino_center"]) < 1e-5
    assert relative(module.loss.patch_targets.center, arrays["ibot_center"][0]) < 1e-5


def test_clipping_is_of_encoder_and_head_each(golden_step):
    module, _ = golden_step
    module.configure_gradient_clipping(None, 3.0)
    for part in ("backbone", "dino_head"):
        parameters = getattr(module.student, part).parameters()
        assert nn.utils.get_total_norm([p.grad for p in parameters]).item() == pytest.approx(3, rel=1e-5)


class Watch(Callback):
    """Keeps the logged values and the teacher after each step."""

    def __init__(self) -> None:
        self.logged, self.teachers, self.rates = [], [], []

    def on_train_batch_end(self, trainer, pl_module, *_) -> None:
        self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})
        self.teachers.append(nn.utils.parameters_to_vector(pl_module.teacher.parameters()).clone())
        self.rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])


def test_step_by_step(tmp_path):
    """The teacher follows after the step, the last layer waits, and all rates are those of the schedule."""
    settings, watch = tiny(), Watch()
    module = ImageModule(settings)
    students = []

    class Before(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            students.append(nn.utils.parameters_to_vector(pl_module.student.parameters()).clone())

    start = nn.utils.parameters_to_vector(module.teacher.parameters()).clone()
    torch.testing.assert_close(start, nn.utils.parameters_to_vector(module.student.parameters()))
    last_layer = module.student.dino_head.last_layer.weight_v.clone()
    fit(module, draw_galaxies(12), tmp_path, 3, watch, Before())
    teacher = start
    for step, student in enumerate(students):
        rates = rates_at(step, settings, 4)
        teacher = rates.momentum * teacher + (1 - rates.momentum) * student
        torch.testing.assert_close(watch.teachers[step], teacher)
        assert max(watch.rates[step]) == pytest.approx(rates.lr)
    assert not torch.equal(students[0], students[2])
    assert not torch.equal(last_layer, module.student.dino_head.last_layer.weight_v)  # frozen in step 0 alone
    assert {
        "train_loss",
        "dino_global",
        "dino_local",
        "ibot",
        "koleo",
        "teacher_entropy",
        "embedding_std",
    } <= (watch.logged[0].keys())
    assert not module.teacher.training
    assert module.student.training


def test_validation_is_the_same_each_time_and_moves_nothing(tmp_path):
    module = ImageModule(tiny())
    before = {name: value.clone() for name, value in module.state_dict().items()}
    loader = make_loader(draw_galaxies(8), 4)
    with quiet():
        trainer = make_trainer(module.settings, tmp_path, CPU, [StepSeed(7)], validates=True)
        results = [trainer.validate(module, loader, verbose=False)[0] for _ in range(2)]
    assert results[0] == results[1]
    assert {"val_loss", "val_teacher_entropy", "val_embedding_std"} <= results[0].keys()
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_resumed_equals_uninterrupted(tmp_path):
    """4 steps = 2 + resume + 2, bit by bit and in mid-epoch: teacher, centres and optimiser are kept."""
    pairs = write_training_pairs(tmp_path / "pairs.h5", training=10, validation=2)
    overrides = [f"{a}.{b}={json.dumps(value)}" for a, part in TINY.items() for b, value in part.items()]
    overrides += ["model.image.drop_path=0.3", "data.batch_size=3", "run.val_every=2", "run.log_every=1"]
    for name, steps in (("whole", 4), ("parts", 2), ("parts", 4)):
        train(
            "image",
            pairs,
            tmp_path / name,
            "mini-image",
            [*overrides, f"run.steps={steps}"],
            gpus=0,
            resume=name == "parts" and steps == 4,
        )
    whole, parts = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)
        for name in ("whole", "parts")
    )
    assert whole["state_dict"].keys() == parts["state_dict"].keys()
    assert {"loss.cls_targets.center", "teacher.dino_head.last_layer.weight_g"} <= whole["state_dict"].keys()
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, parts["state_dict"][name]), name
    moments = [run["optimizer_states"][0]["state"][0]["exp_avg_sq"] for run in (whole, parts)]
    assert torch.equal(*moments)
    model = load_weights(tmp_path / "parts")
    assert model.encode_image(torch.rand(1, 3, 48, 48)).shape == (1, 16)


def test_learns_a_handful_of_galaxies_without_collapse(tmp_path):
    """The loss falls to the teacher's entropy, embeddings part, the teacher becomes surer, not certain."""
    watch = Watch()
    module = ImageModule(
        tiny(
            model={"image": {**SIZES, "layer_scale": 1.0}},
            views={"blur": (0, 0, 0), "noise": (0, 0, 0)},
            distillation={
                "targets": "sinkhorn",
                "teacher_temperature": (0.04, 0.04),
                "teacher_momentum": (0.9, 1.0),
            },
            optim={"lr": 0.01, "warmup_steps": 10, "decay_steps": 60},
            data={"batch_size": 8},
        )
    )
    fit(module, draw_galaxies(8).repeat(60, 1, 1, 1), tmp_path, 60, watch)
    first, last = (
        {name: np.mean([row[name] for row in rows]) for name in watch.logged[0]}
        for rows in (watch.logged[:5], watch.logged[-5:])
    )
    assert last["train_loss"] < 0.7 * first["train_loss"]
    assert last["dino_global"] + last["dino_local"] < last["teacher_entropy"] + 0.5
    assert 0.5 < last["teacher_entropy"] < first["teacher_entropy"]
    assert last["embedding_std"] > max(0.5, 2 * first["embedding_std"])


def test_trained_model_is_the_teacher(tmp_path):
    settings = tiny(model={"image": {**SIZES, "drop_path": 0.3}})
    module = ImageModule(settings)
    nn.init.normal_(module.student.backbone.cls_token)
    nn.init.normal_(module.teacher.backbone.cls_token)
    config, model = module.trained_model()
    assert config.image.drop_path == 0
    save_model(model, config, tmp_path / "model")
    loaded = load_weights(tmp_path / "model")
    pixels = torch.rand(2, 3, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(loaded.encode_image(pixels), module.teacher.backbone(pixels).cls)
    assert all(name.startswith("image_encoder.backbone.") for name in loaded.state_dict())


def test_one_published_step_runs_at_reduced_size():
    """ViT-L's width and the published views, with fewer blocks, prototypes and galaxies."""
    recipe = read_training(
        "image",
        overrides=[
            "model.image.depth=1",
            "prototypes.count=128",
            "prototypes.hidden_dim=64",
            "data.batch_size=2",
        ],
    )
    module = ImageModule(recipe)
    module._trainer = type("Trainer", (), {"world_size": 20, "global_step": 0})
    batch = {"image": draw_galaxies(2, 152)}
    loss, logs = module._step(batch)
    loss.backward()
    assert all(value.isfinite() for value in (loss, *logs.values()))
    assert all(p.grad is not None for p in module.student.parameters())
    assert all(p.grad is None for p in module.teacher.parameters())
    # 2 + 8 views of 65536 prototypes each: all alike at the start
    assert logs["teacher_entropy"].item() == pytest.approx(np.log(128), rel=0.2)


def test_recipes_and_their_errors():
    published, mini = read_training("image"), read_training("image", "mini-image")
    assert published.run.steps == 200 * 1250
    assert published.optim.warmup_steps == 32 * 1250
    assert published.distillation.temperature_steps == 30 * 1250
    assert published.model.image.drop_path == 0.3
    count = sum(p.numel() for p in ImageModule(mini).student.backbone.parameters())
    assert 1e6 < count < 3e6
    for override, message in (
        ("views.local_size=61", "local_size 61 is not a multiple of patch_size 12"),
        ("views.global_size=120", "global_size 120 is not the model's image_size 144"),
        ("views.local_size=156", "larger than the images"),
        ("views.blur=[0, 2, 0]", "views.blur.1"),
        ("distillation.targets=softmax", "'center' or 'sinkhorn'"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_training("image", overrides=[override])
