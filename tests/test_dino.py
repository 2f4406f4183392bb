"""DINOv2's losses, head, masks, schedules and groups: against the original's numbers and plain NumPy."""

import json
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from torch import Tensor

from astroclip.config import ImageEncoderConfig
from astroclip.model.checkpoint import convert_checkpoint, load_weights
from astroclip.training.blockmask import block_masks, draw_masks
from astroclip.training.dino import (
    DinoHead,
    DinoLoss,
    DinoNetwork,
    DinoOutput,
    TeacherTargets,
    sinkhorn_knopp,
)
from astroclip.training.dino_optim import make_optimizer, parameter_groups, rates_at, set_rates
from astroclip.training.recipes import read_training
from astroclip.training.settings import ImageTraining

K = 32  # prototypes of the reference numbers
CLOSE = 1e-5


@pytest.fixture(scope="module")
def losses(golden) -> dict[str, Tensor]:
    with np.load(golden / "losses.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.fixture(scope="module")
def published() -> ImageTraining:
    recipe = read_training("image")
    assert isinstance(recipe, ImageTraining)
    return recipe


def relative(result: Tensor, expected: Tensor | np.ndarray) -> float:
    expected = torch.as_tensor(expected)
    return float((result.detach() - expected).abs().max() / expected.abs().max())


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_golden_centred_targets(losses):
    targets = TeacherTargets(K)
    temperatures = losses["teacher_temps"].tolist()
    for i, temperature in enumerate(temperatures):
        assert relative(targets.center + 1, losses[f"dino_center_used_{i}"] + 1) < CLOSE
        probabilities = targets(losses[f"dino_teacher_{i}"], temperature)
        assert relative(probabilities, losses[f"dino_teacher_softmax_{i}"]) < CLOSE
    assert relative(targets.center, losses["dino_center_final"]) < CLOSE

    targets = TeacherTargets(K)
    for i, temperature in enumerate(temperatures[:2]):
        probabilities = targets(losses[f"ibot_teacher_{i}"], temperature)
        assert relative(probabilities, losses[f"ibot_teacher_softmax_{i}"]) < CLOSE
    assert relative(targets.center, losses["ibot_center_final"][0]) < CLOSE


def test_golden_sinkhorn(losses):
    for i, temperature in enumerate(losses["teacher_temps"].tolist()):
        for name in ("dino", "ibot")[: 1 if i == 2 else 2]:
            result = sinkhorn_knopp(losses[f"{name}_teacher_{i}"], temperature)
            expected = losses[f"{name}_sinkhorn_{i}"]
            torch.testing.assert_close(result.sum(1), torch.ones(len(result)))
            if expected.isfinite().all():  # the original overflows at the lowest temperature
                assert relative(result, expected) < CLOSE


@pytest.mark.parametrize("kind", ["center", "sinkhorn"])
def test_golden_dino_terms(losses, kind):
    """The original's mean over views and galaxies, as sum over pairs of views, by the number of pairs."""
    loss = DinoLoss(K, targets=kind)
    students = losses["dino_student"]  # views, galaxies, prototypes
    views = len(students)
    names = ("dino_loss", "dino_loss_global_flat") if kind == "center" else ("dino_sinkhorn_loss", None)
    nothing = torch.zeros(0, K)
    cls = draw(12, 8)
    masks, hidden = torch.zeros(12, 9, dtype=torch.bool), torch.zeros(0, dtype=torch.long)
    for i, temperature in enumerate(losses["teacher_temps"].tolist()):
        logits = losses[f"dino_teacher_{i}"]
        # the reference repeats the student's first view for both global ones; here they swap places
        student = DinoOutput(cls, students[:1].repeat(2, 1, 1).flatten(0, 1), students.flatten(0, 1), nothing)
        terms = loss(student, DinoOutput(cls, logits, nothing, nothing), masks, hidden, temperature)
        pairs = 2 + 2 * views
        expected = losses[f"{names[0]}_{i}"].item()
        if math.isfinite(expected):  # Sinkhorn-Knopp of the original overflows
            assert terms.local.item() * pairs == pytest.approx(expected, rel=CLOSE)
        if names[1]:
            expected = 2 * losses[f"{names[1]}_{i}"].item()
            assert terms.globals.item() * pairs == pytest.approx(expected, rel=CLOSE)
        assert terms.ibot == 0


@pytest.mark.parametrize("kind", ["center", "sinkhorn"])
def test_golden_ibot(losses, kind):
    loss = DinoLoss(K, targets=kind)
    masks = losses["ibot_mask"]
    hidden = masks.flatten().nonzero().squeeze(1)
    weights = 1 / masks.sum(1).clamp(min=1)
    assert relative(weights[hidden // masks.shape[1]], losses["ibot_masks_weight"]) < CLOSE
    cls, logits = draw(6, 8), torch.zeros(6, K)
    for i, temperature in enumerate(losses["teacher_temps"].tolist()[:2]):
        student = DinoOutput(cls, logits, logits[:0], losses["ibot_student"])
        teacher = DinoOutput(cls, logits, logits[:0], losses[f"ibot_teacher_{i}"])
        terms = loss(student, teacher, masks, hidden, temperature)
        name = "ibot_loss_masked" if kind == "center" else "ibot_sinkhorn_loss"
        expected = losses[f"{name}_{i}"].item()
        if math.isfinite(expected):  # Sinkhorn-Knopp of the original overflows
            assert terms.ibot.item() == pytest.approx(expected, rel=CLOSE)


def test_golden_koleo_and_its_gradient(losses):
    loss = DinoLoss(K)
    view = losses["koleo_input"].requires_grad_()
    value = loss.koleo(view)
    (gradient,) = torch.autograd.grad(value, view)
    assert value.item() == pytest.approx(losses["koleo_loss"].item(), rel=CLOSE)
    assert relative(gradient, losses["koleo_grad"]) < CLOSE


def test_golden_head(losses, golden, tmp_path):
    state = {k.removeprefix("head_state::"): v for k, v in losses.items() if k.startswith("head_state::")}
    head = DinoHead(16, 32, 8, K)
    head.load_state_dict(state)
    assert relative(head(losses["head_in"]), losses["head_out"]) < CLOSE

    teacher = torch.load(golden / "astrodino.ckpt", weights_only=True)["teacher"]
    network = DinoNetwork(ImageEncoderConfig(embed_dim=48, depth=4, num_heads=3), 48, 24, 64)
    network.load_state_dict(unchunk(teacher), assign=True)
    arrays = np.load(golden / "astrodino.npz")
    assert relative(network.dino_head(torch.from_numpy(arrays["cls"])), arrays["dino_head_of_cls"]) < CLOSE
    local = network.backbone(torch.from_numpy(arrays["local_images_60"]))
    assert relative(local.cls, arrays["local_cls_60"]) < CLOSE
    convert_checkpoint(golden / "astrodino.ckpt", tmp_path / "m", ["image.num_heads=3"])
    assert load_weights(tmp_path / "m").image_encoder.backbone.state_dict().keys() == (
        network.backbone.state_dict().keys()
    )


def unchunk(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take the chunk numbers out of the names of blocks."""
    return {re.sub(r"blocks\.\d+\.(\d+)", r"blocks.\1", name): value for name, value in state.items()}


@pytest.mark.parametrize(("devices", "key"), [(1, "world_size_1"), (20, "world_size_20")])
def test_golden_schedules(golden, published, devices, key):
    expected = json.loads((golden / "schedules.json").read_text())
    rates = [rates_at(step, published, 72 * devices) for step in expected["iterations"]]
    for ours, theirs in (
        ("lr", "lr"),
        ("last_layer_lr", "last_layer_lr"),
        ("weight_decay", "wd"),
        ("momentum", "momentum"),
        ("temperature", "teacher_temp"),
    ):
        result = [getattr(rate, ours) for rate in rates]
        assert result == pytest.approx(expected[key][theirs], rel=1e-9, abs=1e-18), ours
    assert max(rate.lr for rate in rates) == pytest.approx(expected[key]["scaled_peak_lr"])


def test_golden_parameter_groups(golden, published):
    expected = json.loads((golden / "param_groups.json").read_text())
    network = DinoNetwork(ImageEncoderConfig(embed_dim=48, depth=4, num_heads=3), 20, 8, 16)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    found = {
        names[id(parameter)]: [group["lr_factor"], group["decay_factor"], group["last_layer"]]
        for group in parameter_groups(network, 0.9, 0.2)
        for parameter in group["params"]
    }
    theirs = {f"backbone.{name}": rest for name, *rest in expected["backbone_chunks0"]}
    theirs |= {f"dino_head.{name}": rest for name, *rest in expected["dino_head"]}
    assert found.keys() == theirs.keys()
    shapes = {name: list(p.shape) for name, p in network.named_parameters()}
    for name, (lr, decay, last, shape) in theirs.items():
        assert found[name] == [pytest.approx(lr), decay, last], name
        assert shapes[name] == shape

    optimizer = make_optimizer(network, published)
    rates = rates_at(1000, published, 72)
    set_rates(optimizer, rates)
    for group in optimizer.param_groups:
        assert group["lr"] == (0 if group["last_layer"] else pytest.approx(rates.lr * group["lr_factor"]))
        assert group["weight_decay"] == rates.weight_decay * group["decay_factor"]


def test_golden_mask_statistics(golden):
    """Numbers of hidden patches as the original's 600 draws of each target have them."""
    expected = json.loads((golden / "manifest.json").read_text())["losses_data_etc"]["masking"]
    for target in (0, 3, 4, 14, 36, 57, 72, 100, 144):
        theirs = expected[f"target_{target}"]
        masks = block_masks(torch.full((2000,), target), 12, torch.Generator().manual_seed(target))
        counts = masks.sum((1, 2)).double()
        error = 5 * max(theirs["std"], 1e-9) / math.sqrt(600)
        assert counts.mean().item() == pytest.approx(theirs["mean"], abs=error)
        assert (counts == target).double().mean().item() == pytest.approx(theirs["fraction_exact"], abs=0.06)
        assert np.percentile(counts, 5) == pytest.approx(theirs["p5"], abs=max(1, 0.5 * theirs["std"]))
    collated = expected["collate_8samples_150draws"]
    generator = torch.Generator().manual_seed(1)
    draws = [draw_masks(16, 12, 0.5, (0.1, 0.5), generator) for _ in range(150)]
    hidden = torch.stack([masks.sum() for masks in draws]).double()
    assert hidden.mean().item() == pytest.approx(collated["n_masked_mean"], abs=4)
    assert hidden.std().item() == pytest.approx(collated["n_masked_std"], rel=0.4)
    assert {int(masks.any(1).sum()) for masks in draws} == set(collated["images_with_mask_unique"])


def test_masks_are_made_of_rectangles(golden):
    """Hidden patches lie beside hidden ones as often as in the original's masks, and everywhere alike."""
    with np.load(golden / "masking.npz") as arrays:
        theirs = np.stack([arrays[f"mask_first_target{target}"] for target in (36, 57, 72)])
    wanted = torch.tensor([36, 57, 72]).repeat(400)
    ours = block_masks(wanted, 12, torch.Generator().manual_seed(0)).numpy()
    for axis in (1, 2):
        beside = [
            (np.take(m, range(11), axis) & np.take(m, range(1, 12), axis)).sum() / m.sum()
            for m in (ours, theirs)
        ]
        assert beside[0] == pytest.approx(beside[1], abs=0.1)
        assert beside[0] > 0.65
    by_place = ours.mean(0)
    np.testing.assert_allclose(by_place, by_place[::-1, ::-1].T, atol=0.1)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 9), side=st.integers(2, 14), probability=st.floats(0, 1), low=st.floats(0, 0.5))
def test_masks_never_hide_more_than_wanted(n, side, probability, low):
    masks = draw_masks(n, side, probability, (low, 0.5), torch.Generator().manual_seed(n))
    assert masks.shape == (n, side**2)
    assert (masks.sum(1) <= 0.5 * side**2).all()
    assert masks.any(1).sum() <= int(n * probability)


def plain_terms(student, teacher, masks, cls, student_temperature, temperature, locals_of):
    """DINO, iBOT and KoLeo in loops, with centres of zero."""
    first, second = np.split(softmax(teacher["global"] / temperature, axis=1), 2)
    views = [*np.split(student["global"], 2), *np.split(student["local"], locals_of)]
    across, local = 0.0, 0.0
    pairs = 2 + 2 * locals_of
    for t, targets in enumerate((first, second)):
        for v, logits in enumerate(views):
            if v == t:
                continue
            value = -(targets * log_softmax(logits / student_temperature, axis=1)).sum(1).mean() / pairs
            across, local = (across + value, local) if v < 2 else (across, local + value)
    ibot, at = 0.0, 0
    for mask in masks:
        of_view = []
        for _ in range(mask.sum()):
            targets = softmax(teacher["patch"][at] / temperature)
            of_view.append(-(targets * log_softmax(student["patch"][at] / student_temperature)).sum())
            at += 1
        ibot += np.mean(of_view) / len(masks) if of_view else 0.0
    koleo = 0.0
    for view in np.split(cls, 2):
        unit = view / np.linalg.norm(view, axis=1, keepdims=True)
        for i, x in enumerate(unit):
            nearest = min(np.linalg.norm(x - y) for j, y in enumerate(unit) if j != i)
            koleo -= np.log(nearest) / len(unit)
    return across, local, ibot, koleo


@pytest.mark.parametrize(("galaxies", "local_views"), [(2, 1), (3, 4), (5, 8)])
def test_loss_against_numpy(galaxies, local_views):
    masks = torch.rand(2 * galaxies, 9, generator=torch.Generator().manual_seed(galaxies)) < 0.4
    masks[1] = False
    hidden = masks.flatten().nonzero().squeeze(1)
    sizes = {"global": 2 * galaxies, "local": local_views * galaxies, "patch": len(hidden)}
    student = {name: draw(n, 7, seed=n) for name, n in sizes.items()}
    teacher = {name: 0.2 * draw(n, 7, seed=n + 100) for name, n in sizes.items()}
    cls = draw(2 * galaxies, 5, seed=3)
    loss = DinoLoss(7, student_temperature=0.2).eval()
    terms = loss(
        DinoOutput(cls, student["global"], student["local"], student["patch"]),
        DinoOutput(cls, teacher["global"], student["local"][:0], teacher["patch"]),
        masks,
        hidden,
        temperature=0.05,
    )
    as_numpy = [{name: x.double().numpy() for name, x in side.items()} for side in (student, teacher)]
    expected = plain_terms(*as_numpy, masks.numpy(), cls.double().numpy(), 0.2, 0.05, local_views)
    np.testing.assert_allclose([float(x) for x in terms[:4]], expected, rtol=1e-4)
    probabilities = softmax(as_numpy[1]["global"] / 0.05, axis=1)
    entropy = -(probabilities * np.log(probabilities)).sum(1).mean()
    assert terms.teacher_entropy.item() == pytest.approx(entropy, rel=1e-4)
    assert not loss.cls_targets.center.any()  # validation moves no centre


def test_no_hidden_patch_is_no_error():
    for kind in ("center", "sinkhorn"):
        targets = TeacherTargets(5, kind)
        assert targets(torch.zeros(0, 5), 0.07).shape == (0, 5)
        assert targets.center.isfinite().all()


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 20), k=st.integers(2, 12), seed=st.integers(0, 99))
def test_sinkhorn_rows_are_probabilities(n, k, seed):
    result = sinkhorn_knopp(draw(n, k, seed=seed), 0.5)
    torch.testing.assert_close(result.sum(1), torch.ones(n))
    assert (result >= 0).all()


def test_full_size_step_on_the_meta_device(golden, published):
    """The published recipe: parameter counts of the released teacher, and a step of shapes alone."""
    counts = json.loads((golden / "manifest_full.json").read_text())["parameter_counts"]
    sizes = published.prototypes
    networks = [
        DinoNetwork(published.model.image, sizes.hidden_dim, sizes.bottleneck_dim, sizes.count)
        for _ in range(2)
    ]
    student, teacher = networks
    assert sum(p.numel() for p in student.backbone.parameters()) == counts["astrodino_backbone"]
    assert sum(p.numel() for p in student.dino_head.parameters()) == counts["astrodino_dino_head"]
    released = {
        name: tuple(shape)
        for name, shape, _ in json.loads((golden / "manifest_full.json").read_text())["astrodino.ckpt"][
            "teacher"
        ]
    }
    ours = {name: tuple(p.shape) for name, p in student.state_dict().items()}
    assert unchunk(released) == ours

    B, views = published.data.batch_size, published.views
    masks = draw_masks(2 * B, 12, published.hiding.views, published.hiding.patches)
    hidden = masks.flatten().nonzero().squeeze(1).to("meta")
    with torch.device("meta"):
        global_views = torch.empty(2 * B, 3, views.global_size, views.global_size)
        local_views = torch.empty(views.local_count * B, 3, views.local_size, views.local_size)
        loss = DinoLoss(sizes.count)
    with torch.no_grad():
        targets = teacher(global_views, hidden)
    output = student(global_views, hidden, masks.to("meta"), local_views)
    assert output.local_logits.shape == (8 * B, 65536)
    terms = loss(output, targets, masks.to("meta"), hidden, 0.04)
    optimizer = make_optimizer(student, published)
    (terms.globals + terms.local + terms.ibot + 0.1 * terms.koleo).backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in student.parameters())
    set_rates(optimizer, rates_at(0, published, 72 * 20))
    optimizer.step()
    rates = [block.drop_path1.drop_prob for block in student.backbone.blocks]
    assert rates == [0.3] * 24
