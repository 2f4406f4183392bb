"""The networks: against the original's numbers, and against the same maths in plain NumPy."""

import json
import math
import re

import numpy as np
import pytest
import torch
from scipy.special import erf, softmax

from astroclip.config import (
    HeadConfig,
    ImageEncoderConfig,
    ModelConfig,
    SpectrumEncoderConfig,
    read_model_config,
)
from astroclip.errors import DataError, UsageError
from astroclip.model.checkpoint import convert_checkpoint, load_weights
from astroclip.model.clip import AstroCLIP, CrossAttention, build_model, clip_logits, clip_loss
from astroclip.model.layers import Mlp
from astroclip.model.specformer import Block, SpectrumEncoder, masked_mse
from astroclip.model.vit import ImageEncoder

IMAGE = ImageEncoderConfig(image_size=24, embed_dim=16, depth=2, num_heads=2, layer_scale=0.5)
SPECTRUM = SpectrumEncoderConfig(embed_dim=12, num_layers=2, num_heads=3, max_len=60, dropout=0.1)
HEAD = HeadConfig(embed_dim=20, num_heads=4)
CLIP = ModelConfig(name="tiny", image=IMAGE, spectrum=SPECTRUM, head=HEAD)


def fill_randomly(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Give every parameter, also those that training starts at 0 or 1, a random value."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.to_empty(device="cpu").parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return module.eval().requires_grad_(False)


def draw(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def relative(result: torch.Tensor, expected: np.ndarray) -> float:
    return float((result.detach() - torch.from_numpy(expected)).abs().max() / np.abs(expected).max())


@pytest.fixture(scope="module")
def released(golden, tmp_path_factory):
    """The original's small checkpoints as models, by name."""
    models = {}
    for name, settings in (("specformer", []), ("astrodino", ["image.num_heads=3"]), ("astroclip", [])):
        directory = tmp_path_factory.mktemp(name) / "model"
        convert_checkpoint(golden / f"{name}.ckpt", directory, settings)
        models[name] = load_weights(directory)
    return models


def read_arrays(golden, name: str) -> dict[str, np.ndarray]:
    with np.load(golden / f"{name}.npz") as arrays:
        return dict(arrays)


def test_golden_specformer(golden, released):
    arrays, model = read_arrays(golden, "specformer"), released["specformer"]
    with torch.no_grad():
        tokens, reconstruction = model.spectrum_encoder.backbone(torch.from_numpy(arrays["preprocess"]))
        embedding = model.encode_spectrum(torch.from_numpy(arrays["spectra"]))
    assert relative(tokens, arrays["embedding"]) < 5e-5
    assert relative(reconstruction, arrays["reconstructions"]) < 5e-5
    assert relative(embedding, arrays["embedding_mean_over_tokens"]) < 5e-5


def test_golden_astrodino(golden, released):
    arrays, model = read_arrays(golden, "astrodino"), released["astrodino"]
    pixels = torch.from_numpy(read_arrays(golden, "preprocessing")["collated"])
    backbone = model.image_encoder.backbone
    with torch.no_grad():
        encoding = model.encode_image(pixels, details=True)
        local = backbone(torch.from_numpy(arrays["local_images_60"]))
        assert relative(encoding.embedding, arrays["cls"]) < 1e-5
        assert relative(encoding.tokens, arrays["patch_tokens"]) < 1e-5
        assert encoding.attention is None
        assert relative(backbone.patch_tokens(pixels), arrays["imagehead_tokens"]) < 1e-5
        assert relative(backbone.interpolate_positions(60, 60), arrays["local_pos_embed_60"]) < 1e-5
        assert relative(local.cls, arrays["local_cls_60"]) < 1e-5
        assert relative(local.patches, arrays["local_patch_tokens_60"]) < 1e-5


def test_golden_astroclip(golden, released):
    arrays, model = read_arrays(golden, "astroclip"), released["astroclip"]
    pixels = torch.from_numpy(read_arrays(golden, "preprocessing")["collated"])
    spectra = torch.from_numpy(read_arrays(golden, "specformer")["spectra"])
    with torch.no_grad():
        image, spectrum = model.encode_image(pixels), model.encode_spectrum(spectra)
        pooled, _ = model.image_encoder.cross_attention(model.image_encoder.backbone.patch_tokens(pixels))
    assert relative(image, arrays["image_embedding"]) < 1e-5
    assert relative(spectrum, arrays["spectrum_embedding"]) < 5e-5
    assert relative(pooled[:, None], arrays["image_cross_attention_output"]) < 1e-5
    logits = clip_logits(image, spectrum, 15.5)
    assert relative(logits, arrays["logits_per_image_15p5"]) < 5e-5
    assert (logits.argsort(dim=1, descending=True).numpy() == arrays["order_image_to_spectrum"]).all()
    for scale, name in ((15.5, "loss_15p5"), (math.log(15.5), "loss_log15p5")):
        assert clip_loss(image, spectrum, scale).item() == pytest.approx(arrays[name], rel=1e-5)


def test_golden_loss_of_a_large_batch(golden):
    arrays = read_arrays(golden, "astroclip")
    image, spectrum = (torch.from_numpy(arrays[f"big_{side}"]) for side in ("image", "spectrum"))
    for scale, name in ((15.5, "big_loss_15p5"), (math.log(15.5), "big_loss_log15p5")):
        assert clip_loss(image, spectrum, scale).item() == pytest.approx(arrays[name], rel=1e-5)
    assert relative(clip_logits(image, spectrum, 1), arrays["big_cosine_eps1e-3"]) < 1e-5


def test_golden_gradients(golden, released):
    arrays = read_arrays(golden, "grads")
    backbone = released["specformer"].spectrum_encoder.backbone
    target = torch.from_numpy(read_arrays(golden, "specformer")["preprocess"][:2])
    masked = target.masked_fill(torch.from_numpy(arrays["specformer_first2_mask_rows"])[..., None], 0)
    loss = masked_mse(backbone(masked).reconstruction, target, masked)
    assert loss.item() == pytest.approx(arrays["specformer_first2_masked_loss"], rel=1e-5)
    names = arrays["specformer_param_names"].tolist()
    parameters = dict(backbone.named_parameters())
    gradients = torch.autograd.grad(loss, [parameters[name] for name in names])
    assert relative(torch.stack([g.norm() for g in gradients]), arrays["specformer_first2_grad_norms"]) < 1e-5

    model = released["astroclip"]
    pixels = torch.from_numpy(read_arrays(golden, "preprocessing")["collated"])
    spectra = torch.from_numpy(read_arrays(golden, "specformer")["spectra"])
    loss = clip_loss(model.encode_image(pixels), model.encode_spectrum(spectra), 15.5)
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(loss, [parameters[name] for name in arrays["clip_trainable_names"]])
    assert relative(torch.stack([g.norm() for g in gradients]), arrays["clip_grad_norms"]) < 1e-5


def test_published_names_shapes_and_counts(golden):
    """The preset `paper` has the released tensors, once the chunk numbers of image blocks are taken out."""
    full = json.loads((golden / "manifest_full.json").read_text())
    model = AstroCLIP(read_model_config("paper"))
    ours = {name: tuple(p.shape) for name, p in model.state_dict().items()}
    released = {
        re.sub(r"(image_encoder\.backbone\.blocks)\.\d+", r"\1", name): tuple(shape)
        for name, shape, _ in full["astroclip.ckpt"]["state_dict"]
    }
    assert ours == released
    counts = full["parameter_counts"]
    assert sum(p.numel() for p in model.parameters()) == counts["astroclip_total"]
    for side in ("image", "spectrum"):
        encoder = getattr(model, f"{side}_encoder")
        assert sum(p.numel() for p in encoder.parameters()) == counts[f"{side}_encoder"]
        assert sum(p.numel() for p in encoder.backbone.parameters()) == counts[f"{side}_backbone"]
    assert not list(model.buffers())


def affine(layer: torch.nn.Module, x: np.ndarray) -> np.ndarray:
    return x @ layer.weight.numpy().T + layer.bias.numpy()


def normalise(layer: torch.nn.LayerNorm, x: np.ndarray) -> np.ndarray:
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + layer.eps)
    return x * layer.weight.numpy() + layer.bias.numpy()


def mlp(layer: Mlp, x: np.ndarray) -> np.ndarray:
    x = affine(layer.encoder, x)
    return affine(layer.decoder, x * (1 + erf(x / np.sqrt(2))) / 2)


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, heads: int) -> tuple[np.ndarray, np.ndarray]:
    """Attention of one galaxy, head by head: q (Q, D), k and v (P, D)."""
    parts = [np.split(x, heads, axis=1) for x in (q, k, v)]
    weights = [softmax(a @ b.T / np.sqrt(a.shape[1]), axis=1) for a, b in zip(*parts[:2], strict=True)]
    return np.hstack([w @ c for w, c in zip(weights, parts[2], strict=True)]), np.stack(weights)


def test_specformer_block_against_numpy():
    block = fill_randomly(Block(SPECTRUM))
    batch = draw(3, 9, 12)
    result = block(batch)
    for x, got in zip(batch.numpy(), result, strict=True):
        q, k, v = np.split(affine(block.attention.attention, normalise(block.layernorm1, x)), 3, axis=1)
        y = x + affine(block.attention.projection, attend(q, k, v, 3)[0])
        expected = y + mlp(block.mlp, normalise(block.layernorm2, y))
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("width", [20, 12])
def test_cross_attention_against_numpy(width):
    """With the width of the tokens that of the space (one fused projection), and with another."""
    attention = fill_randomly(CrossAttention(HEAD, width))
    inner = attention.multihead_attn
    if width == 20:
        weights = np.split(inner.in_proj_weight.numpy(), 3)
        assert {n for n, _ in inner.named_parameters()} >= {"in_proj_weight"}
    else:
        weights = [w.numpy() for w in (inner.q_proj_weight, inner.k_proj_weight, inner.v_proj_weight)]
    biases = np.split(inner.in_proj_bias.numpy(), 3)
    tokens = draw(2, 7, width)
    result, maps = attention(tokens)
    assert maps.shape == (2, 4, 7)
    for x, got, got_map in zip(tokens.numpy(), result, maps, strict=True):
        inputs = (attention.query[0].numpy(), x, x)
        q, k, v = (i @ w.T + b for i, w, b in zip(inputs, weights, biases, strict=True))
        gathered, expected_map = attend(q, k, v, 4)
        expected = normalise(attention.layernorm, affine(inner.out_proj, gathered))[0]
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(got_map, expected_map[:, 0], rtol=1e-4, atol=1e-5)
    query = attention.query.expand(2, 1, 20)
    expected, expected_maps = inner(
        *(x.transpose(0, 1) for x in (query, tokens, tokens)), average_attn_weights=False
    )
    torch.testing.assert_close(result, attention.layernorm(expected[0]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(maps, expected_maps.squeeze(2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("n", "width", "scale"), [(1, 4, 15.5), (2, 3, 1.0), (9, 5, 2.74)])
def test_infonce_against_numpy(n, width, scale):
    image, spectrum = draw(n, width, seed=2), draw(n, width, seed=3)
    image[0] *= 1e-5  # shorter than eps
    vectors = [
        x.numpy() / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-3) for x in (image, spectrum)
    ]
    logits = scale * vectors[0] @ vectors[1].T
    losses = [-np.log(softmax(logits, axis=axis)[i, i]) for axis in (0, 1) for i in range(n)]
    assert clip_loss(image, spectrum, scale).item() == pytest.approx(np.mean(losses), rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(clip_logits(image, spectrum, scale), logits, rtol=1e-4, atol=1e-6)
    with pytest.raises(UsageError, match="matching rows"):
        clip_loss(image, torch.cat([spectrum, spectrum]), scale)


def test_masked_mse_counts_masked_entries_only():
    target = draw(2, 4, 3)
    masked = target.clone()
    masked[0, 1] = 0
    masked[1, 2:] = 0
    reconstruction = draw(2, 4, 3, seed=5)
    hidden = (masked != target).numpy()
    expected = ((reconstruction - target).numpy()[hidden] ** 2).mean()
    assert masked_mse(reconstruction, target, masked).item() == pytest.approx(expected, rel=1e-6)
    empty = torch.zeros(2, 4, 3)
    assert masked_mse(reconstruction, empty, empty).item() == 0


@pytest.fixture(scope="module")
def tiny() -> AstroCLIP:
    return fill_randomly(AstroCLIP(CLIP))


def test_batch_of_one_and_batch_invariance(tiny):
    pixels, flux = draw(5, 3, 24, 24), draw(5, 400)
    for encode, inputs in ((tiny.encode_image, pixels), (tiny.encode_spectrum, flux)):
        together = encode(inputs)
        assert together.shape == (5, 20)
        for i in range(5):
            alone = encode(inputs[i : i + 1], details=True)
            torch.testing.assert_close(alone.embedding, together[i : i + 1], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(alone.attention.sum(-1), torch.ones(1, 4))
    torch.testing.assert_close(tiny.encode_spectrum(flux[..., None]), tiny.encode_spectrum(flux))


def test_image_head_sees_no_position_and_the_lone_encoder_does(tiny):
    pixels = draw(1, 3, 24, 24)
    shuffled = torch.cat([pixels[..., 12:], pixels[..., :12]], dim=-1)
    torch.testing.assert_close(tiny.encode_image(shuffled), tiny.encode_image(pixels), rtol=1e-4, atol=1e-5)
    lone = fill_randomly(AstroCLIP(ModelConfig(image=IMAGE)))
    assert (lone.encode_image(shuffled) - lone.encode_image(pixels)).abs().max() > 1e-3


def test_lone_encoders_give_their_own_embedding():
    image = fill_randomly(AstroCLIP(ModelConfig(name="dino", image=IMAGE)))
    spectrum = fill_randomly(AstroCLIP(ModelConfig(name="former", spectrum=SPECTRUM)))
    assert all(name.startswith("image_encoder.backbone.") for name in image.state_dict())
    assert all(name.startswith("spectrum_encoder.backbone.") for name in spectrum.state_dict())
    pixels, flux = draw(2, 3, 24, 24), draw(2, 400)
    torch.testing.assert_close(image.encode_image(pixels), image.image_encoder.backbone(pixels).cls)
    encoding = spectrum.encode_spectrum(flux, details=True)
    torch.testing.assert_close(encoding.embedding, encoding.tokens.mean(dim=1))
    with pytest.raises(UsageError, match="'dino' has no spectrum encoder"):
        image.encode_spectrum(flux)
    with pytest.raises(UsageError, match="'former' has no image encoder"):
        spectrum.encode_image(pixels)


def test_bfloat16_stays_close_and_answers_in_float32():
    model = build_model(CLIP, seed=3)
    pixels, flux = draw(4, 3, 24, 24).sigmoid(), draw(4, 400)
    with torch.inference_mode():
        full = model.encode_image(pixels), model.encode_spectrum(flux)
        model.to(torch.bfloat16)
        half = model.encode_image(pixels, details=True), model.encode_spectrum(flux, details=True)
    for a, b in zip(full, half, strict=True):
        assert {x.dtype for x in b} == {torch.float32}
        assert torch.cosine_similarity(a, b.embedding).min() > 0.999


@pytest.mark.parametrize("shape", [(12, 12), (24, 36), (48, 12), (12, 48), (60, 60)])
def test_positions_of_other_image_sizes(shape):
    encoder = fill_randomly(ImageEncoder(IMAGE))
    tokens = encoder(draw(2, 3, *shape))
    assert tokens.patches.shape == (2, shape[0] * shape[1] // 144, 16)
    positions = encoder.interpolate_positions(*shape)
    assert torch.equal(positions[:, 0], encoder.pos_embed[:, 0])
    assert positions.shape[1] == 1 + tokens.patches.shape[1]


def test_masks_replace_patches_before_positions():
    encoder = fill_randomly(ImageEncoder(IMAGE))
    pixels = draw(2, 3, 24, 24)
    masks = torch.tensor([[True, False, False, True], [False, False, True, False]])
    hidden = pixels.clone()
    hidden[0, :, :12, :12] = hidden[0, :, 12:, 12:] = hidden[1, :, 12:, :12] = 9
    torch.testing.assert_close(encoder(hidden, masks).cls, encoder(pixels, masks).cls)
    everything = encoder(pixels, torch.ones(2, 4, dtype=torch.bool)).patches
    assert (everything[:, 0] - everything[:, 1]).abs().max() > 1e-3  # told apart by position
    torch.testing.assert_close(everything[0], everything[1])


def test_wrong_shapes_are_refused(tiny):
    with pytest.raises(DataError, match="multiples of 12 px"):
        tiny.encode_image(torch.zeros(1, 3, 24, 25))
    with pytest.raises(DataError, match="at most P = 60 rows"):
        tiny.encode_spectrum(torch.zeros(1, 7781))
    with pytest.raises(DataError, match=r"takes \(B, P, 22\)"):
        tiny.spectrum_encoder.backbone(torch.zeros(1, 5, 12))


def test_dropout_and_drop_path_act_in_training_only():
    config = ModelConfig(image=IMAGE.model_copy(update={"drop_path": 0.5}), spectrum=SPECTRUM, head=HEAD)
    model = fill_randomly(AstroCLIP(config))
    pixels, flux = draw(4, 3, 24, 24), draw(4, 400)
    for encode, inputs in (
        (model.image_encoder.backbone.patch_tokens, pixels),
        (lambda x: model.spectrum_encoder.backbone(x).tokens, draw(4, 30, 22)),
        (model.encode_image, pixels),
        (model.encode_spectrum, flux),
    ):
        model.eval()
        assert torch.equal(encode(inputs), encode(inputs))
        model.train()
        assert not torch.equal(encode(inputs), encode(inputs))
    rates = [block.drop_path1.drop_prob for block in model.image_encoder.backbone.blocks]
    assert rates == [0.5, 0.5]


def test_construction_is_pure():
    before = torch.get_rng_state()
    model = AstroCLIP(CLIP)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    first, again, other = (build_model(CLIP, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert not first.training
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.spectrum_encoder.mlp.decoder.bias, other.spectrum_encoder.mlp.decoder.bias)


def test_every_weight_is_initialised():
    model = AstroCLIP(CLIP).to_empty(device="cpu")
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, math.nan)
    model.init_weights(torch.Generator().manual_seed(0))
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_initial_weights_are_the_published_ones():
    spectrum = SpectrumEncoder(SpectrumEncoderConfig(embed_dim=96, num_layers=3)).to_empty(device="cpu")
    spectrum.init_weights(torch.Generator().manual_seed(0))
    block, std = spectrum.blocks[1], 1 / math.sqrt(96)
    for weight, expected in (
        (spectrum.data_embed.weight, std),
        (spectrum.position_embed.weight, std),
        (spectrum.head.weight, std),
        (block.attention.attention.weight, std / math.sqrt(6)),
        (block.mlp.encoder.weight, std / math.sqrt(6)),
        (block.mlp.decoder.weight, std / math.sqrt(6) / 2),
    ):
        assert weight.std().item() == pytest.approx(0.987 * expected, rel=0.04)  # cut at 3 std
        assert weight.abs().max() <= 3 * expected
    assert not block.mlp.encoder.bias.any()

    image = ImageEncoder(ImageEncoderConfig(embed_dim=96, depth=2, num_heads=2)).to_empty(device="cpu")
    image.init_weights(torch.Generator().manual_seed(0))
    assert image.blocks[0].mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert image.pos_embed.std().item() == pytest.approx(0.02, rel=0.02)
    assert image.cls_token.std().item() == pytest.approx(1e-6, rel=0.2)
    assert (image.blocks[1].ls2.gamma == 1e-5).all()
    assert image.patch_embed.proj.weight.abs().max().item() == pytest.approx(1 / math.sqrt(432), rel=0.01)
    assert not image.mask_token.any()


def test_presets_embed():
    config = read_model_config("mini")
    model = build_model(config, seed=0)
    assert 1e6 < sum(p.numel() for p in model.parameters()) < 1e7
    with torch.inference_mode():
        image, spectrum = model.encode_image(draw(2, 3, 144, 144)), model.encode_spectrum(draw(2, 7781))
    assert image.shape == spectrum.shape == (2, config.head.embed_dim)
