import numpy as np
import pytest
import torch
from quantizer_reference import losses as reference_losses
from torch import nn
from transformers import AutoConfig, AutoModel

from macrec_hf import MacRecQuantizer, MacRecQuantizerConfig
from macrec_hf.model.vector_quantization import residual_quantize

SIZES = {"text": 9, "image": 7, "audio": 5}


def make_quantizer(names=("text", "image"), seed=0, **changes) -> MacRecQuantizer:
    torch.manual_seed(seed)
    settings = dict(num_levels=3, codebook_size=5, codebook_dim=4, hidden_sizes=(8, 6), num_pseudo_labels=4)
    config = MacRecQuantizerConfig(modalities={name: SIZES[name] for name in names}, **(settings | changes))
    quantizer = MacRecQuantizer(config)
    with torch.no_grad():  # far from the initial values, so that every code is in use and no bias is zero
        for weight in quantizer.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return quantizer.double()


def make_batch(names, batch_size=8, seed=1):
    generator = torch.Generator().manual_seed(seed)
    draw = {"generator": generator, "dtype": torch.float64}
    embeddings = {name: torch.randn(batch_size, SIZES[name], **draw) for name in names}
    # Pairs share a label and the last item is alone: the positives are determined.
    labels = {name: torch.randperm(batch_size, generator=generator) // 2 for name in names}
    for name in names:
        labels[name][labels[name] == labels[name][-1]] = torch.arange(100, 102)
    return embeddings, labels


def layers_of(module):
    return [(m.weight.detach().numpy(), m.bias.detach().numpy()) for m in module if isinstance(m, nn.Linear)]


def as_reference(quantizer):
    return {
        name: (layers_of(part.encoder), layers_of(part.decoder), part.codebooks.detach().numpy())
        for name, part in quantizer.quantizers.items()
    }


@pytest.mark.parametrize("names", [("text",), ("text", "image"), ("text", "image", "audio")])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("normalize", [True, False])
def test_every_loss_agrees_with_the_independent_reference(names, masked, normalize):
    weights = (0.2, 0.0, 0.1)
    quantizer = make_quantizer(
        names,
        contrastive_weights=weights,
        alignment_weight=0.05,
        contrastive_normalize=normalize,
        contrastive_temperature=0.3,
    )
    embeddings, labels = make_batch(names)
    masks = {name: torch.ones(8, dtype=torch.bool) for name in names}
    if masked:
        for index, name in enumerate(names):
            masks[name][[index, index + 3]] = False
    out = quantizer(embeddings, labels, masks if masked else None)
    expected, codes = reference_losses(
        as_reference(quantizer),
        {name: rows.numpy() for name, rows in embeddings.items()},
        {name: values.numpy() for name, values in labels.items()},
        {name: mask.numpy() for name, mask in masks.items()},
        alpha=0.25,
        weights=weights,
        align_weight=0.05,
        temperature=0.3,
        normalize=normalize,
    )
    for name, value in expected.items():
        np.testing.assert_allclose(out[name].detach().numpy(), value, rtol=1e-6, atol=1e-12, err_msg=name)
    for name in names:
        assert np.array_equal(out.codes[name][masks[name]].numpy(), codes[name])
        assert (out.codes[name][~masks[name]] == -1).all()


def gradient(value, parameters):
    grads = torch.autograd.grad(value, list(parameters), retain_graph=True, allow_unused=True)
    return sum(float(grad.abs().sum()) for grad in grads if grad is not None)


@pytest.mark.parametrize("level", range(3))
@pytest.mark.parametrize("name", ["text", "image"])
def test_contrastive_and_commitment_losses_reach_the_encoder_from_every_level(name, level):
    quantizer = make_quantizer(contrastive_weights=tuple(float(other == level) for other in range(3)))
    embeddings, labels = make_batch(("text", "image"))
    encoder = quantizer.quantizers[name].encoder.parameters()
    assert gradient(quantizer(embeddings, labels).contrastive_losses[level], encoder) > 1e-6
    parts = residual_quantize(quantizer.encode_latents(embeddings)[name], quantizer.codebooks[name])
    commitment = (parts.residuals[level] - parts.codewords[level].detach()).square().mean()
    assert gradient(commitment, quantizer.quantizers[name].encoder.parameters()) > 1e-6


def test_quantization_loss_gives_each_level_the_gradient_of_its_own_terms():
    # By hand: d/d codebook of mean‖sg[r] − e‖² at a used codeword is 2 Σ(e − r) / (batch · dim); the commitment term
    # leaves the codebook alone.
    quantizer = make_quantizer()
    embeddings, _ = make_batch(("text", "image"))
    out = quantizer(embeddings)
    for name, codebook in quantizer.codebooks.items():
        parts = residual_quantize(quantizer.encode_latents(embeddings)[name], codebook)
        (grad,) = torch.autograd.grad(out.quantization_loss, codebook, retain_graph=True)
        for level in range(3):
            expected = torch.zeros_like(codebook[level])
            step = 2 * (parts.codewords[level] - parts.residuals[level]) / parts.residuals[level].numel()
            expected.index_add_(0, parts.codes[:, level], step.detach())
            torch.testing.assert_close(grad[level], expected)


@pytest.mark.parametrize("name", ["text", "image"])
def test_alignment_reaches_the_used_codewords_of_every_level_and_no_encoder(name):
    quantizer = make_quantizer()
    embeddings, _ = make_batch(("text", "image"))
    out = quantizer(embeddings)
    (grad,) = torch.autograd.grad(out.alignment_loss, quantizer.codebooks[name], retain_graph=True)
    for level in range(3):
        used = torch.zeros(5, dtype=torch.bool)
        used[out.codes[name][:, level]] = True
        assert (grad[level][used].abs().sum(dim=1) > 1e-9).all()
        assert (grad[level][~used] == 0).all()
    assert gradient(out.alignment_loss, quantizer.quantizers[name].encoder.parameters()) == 0


def test_reconstruction_reaches_the_encoder_straight_through():
    quantizer = make_quantizer()
    embeddings, _ = make_batch(("text", "image"))
    loss = quantizer(embeddings).reconstruction_loss
    for part in quantizer.quantizers.values():
        assert gradient(loss, part.encoder.parameters()) > 1e-6
        assert gradient(loss, [part.codebooks]) == 0


def test_no_labels_give_no_contrastive_loss_and_one_modality_no_cross_modal_loss():
    embeddings, labels = make_batch(("text", "image"))
    out = make_quantizer()(embeddings)
    assert (out.contrastive_losses == 0).all() and out.alignment_loss > 0
    torch.testing.assert_close(out.loss, out.reconstruction_loss + out.quantization_loss + 0.001 * out.alignment_loss)
    alone = make_quantizer(("text",))({"text": embeddings["text"]}, {"text": labels["text"]})
    assert (alone.contrastive_losses == 0).all() and alone.alignment_loss == 0


def test_a_masked_item_changes_nothing_but_its_own_rows():
    quantizer = make_quantizer()
    embeddings, labels = make_batch(("text", "image"))
    mask = {name: torch.ones(8, dtype=torch.bool) for name in embeddings}
    mask["image"][2] = False
    first = quantizer(embeddings, labels, mask)
    embeddings["image"] = embeddings["image"].clone()
    embeddings["image"][2] = 1e6  # whatever stands in a missing row
    second = quantizer(embeddings, labels, mask)
    torch.testing.assert_close(first.loss, second.loss, rtol=0, atol=0)
    assert (second.codes["image"][2] == -1).all()


def test_whole_modality_missing_in_a_batch_is_finite_and_trains():
    quantizer = make_quantizer()
    embeddings, labels = make_batch(("text", "image"))
    out = quantizer(embeddings, labels, {"image": torch.zeros(8, dtype=torch.bool)})
    out.loss.backward()
    assert torch.isfinite(out.loss)
    assert all(torch.isfinite(weight.grad).all() for weight in quantizer.parameters() if weight.grad is not None)
    assert quantizer.quantizers["text"].codebooks.grad.abs().sum() > 0


@pytest.mark.parametrize("order", [("text", "image"), ("image", "text"), ("text", "audio", "image")])
def test_save_and_load_keep_order_vocabulary_and_every_code(tmp_path, order):
    quantizer = make_quantizer(order, seed=3).float()
    quantizer.set_codebooks({name: torch.randn(3, 5, 4) for name in order})
    embeddings = {name: torch.randn(300, SIZES[name]) for name in order}
    quantizer.save_pretrained(tmp_path)
    loaded, info = MacRecQuantizer.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert loaded.config.modalities == tuple((name, SIZES[name]) for name in order)
    assert loaded.vocabulary() == quantizer.vocabulary() and loaded.codebooks_seeded
    first, second = quantizer.encode(embeddings), loaded.encode(embeddings)
    assert list(second) == list(order) and all(torch.equal(first[name], second[name]) for name in order)
    assert isinstance(AutoModel.from_pretrained(tmp_path), MacRecQuantizer)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), MacRecQuantizerConfig)


def test_an_unseeded_quantizer_stays_unseeded(tmp_path):
    quantizer = make_quantizer()
    assert not quantizer.codebooks_seeded
    quantizer.save_pretrained(tmp_path)
    assert not MacRecQuantizer.from_pretrained(tmp_path).codebooks_seeded


def test_vocabulary_is_in_the_tokenizers_order():
    tokens = make_quantizer(("image", "text")).vocabulary()
    assert tokens[:6] == ["<a_0>", "<a_1>", "<a_2>", "<a_3>", "<a_4>", "<b_0>"] and tokens[15] == "<A_0>"
    assert len(tokens) == 2 * 3 * 5


def test_encode_leaves_no_trace():
    quantizer = make_quantizer(dropout=0.5).train()
    embeddings, _ = make_batch(("text", "image"))
    first, second = quantizer.encode(embeddings), quantizer.encode(embeddings)
    assert torch.equal(first["text"], second["text"]) and quantizer.training
    only_text = quantizer.encode({"text": embeddings["text"]}, {"text": torch.arange(8) > 0})
    assert (only_text["text"][0] == -1).all() and torch.equal(only_text["text"][1:], first["text"][1:])


@pytest.mark.parametrize(
    "embeddings, labels, masks, message",
    [
        ({"text": torch.zeros(2, 9)}, None, None, r"got none for \['image'\]"),
        ({"text": torch.zeros(2, 9), "sound": torch.zeros(2, 7)}, None, None, "expected the modalities"),
        ({"text": torch.zeros(2, 8), "image": torch.zeros(2, 7)}, None, None, r"expected shape \(batch_size, 9\)"),
        ({"text": torch.zeros(2, 9), "image": torch.zeros(3, 7)}, None, None, "the same items"),
        (
            {"text": torch.zeros(2, 9), "image": torch.zeros(2, 7)},
            {"text": torch.zeros(2)},
            None,
            r"pseudo_labels\['image'\]",
        ),
        ({"text": torch.zeros(2, 9), "image": torch.zeros(2, 7)}, None, {"image": torch.ones(3)}, "modality_mask"),
    ],
)
def test_wrong_inputs_are_named(embeddings, labels, masks, message):
    with pytest.raises(ValueError, match=message):
        make_quantizer().float()(embeddings, labels, masks)


@pytest.mark.parametrize(
    "codebooks, message",
    [
        ({"text": torch.zeros(3, 5, 3)}, "expected shape"),
        ({"text": torch.full((3, 5, 4), float("nan"))}, "finite"),
        ({"sound": torch.zeros(3, 5, 4)}, "expected the modalities"),
    ],
)
def test_set_codebooks_refuses(codebooks, message):
    with pytest.raises(ValueError, match=message):
        make_quantizer().set_codebooks(codebooks)


def test_parts_and_rows_are_the_losses_of_each_modality_and_pair():
    names = ("text", "image", "audio")
    quantizer = make_quantizer(names, contrastive_weights=(0.0, 0.0, 0.1))
    embeddings, labels = make_batch(names)
    masks = {name: torch.ones(8, dtype=torch.bool) for name in names}
    masks["image"][[1, 4, 5]] = False
    out = quantizer(embeddings, labels, masks)
    totals = {name: sum(parts.values()) for name, parts in out.loss_parts.items()}
    torch.testing.assert_close(quantizer.weighted_sum(totals), out.loss)
    torch.testing.assert_close(totals["contrastive_loss_3"], out.contrastive_losses[2])
    assert "contrastive_loss_1" not in totals
    for name in ("reconstruction_loss", "quantization_loss", "alignment_loss"):
        torch.testing.assert_close(totals[name], out[name])
    rows = {name: {of: int(count) for of, count in parts.items()} for name, parts in out.loss_rows.items()}
    assert rows["reconstruction_loss"] == rows["quantization_loss"] == {"text": 8, "image": 5, "audio": 8}
    assert rows["alignment_loss"] == {"text, image": 5, "text, audio": 8, "image, audio": 5}
    assert len(rows["contrastive_loss_3"]) == 6 and rows["contrastive_loss_3"]["audio, text"] == 8


def test_items_whose_residual_is_used_up_leave_the_contrastive_loss():
    # Codewords of the first level that are latents: nothing is left of items 0, 2 and 5 at the second.
    quantizer = make_quantizer(contrastive_weights=(0.0, 1.0, 0.0), contrastive_temperature=0.3)
    embeddings, labels = make_batch(("text", "image"))
    gone, stay = torch.tensor([0, 2, 5]), torch.tensor([1, 3, 4, 6, 7])
    with torch.no_grad():
        for name, latents in quantizer.encode_latents(embeddings).items():
            quantizer.codebooks[name][0, :3] = latents[gone]
            quantizer.codebooks[name][0, 3:] = 100.0
    out = quantizer(embeddings, labels)
    for name in ("text", "image"):
        residuals = residual_quantize(quantizer.encode_latents(embeddings)[name], quantizer.codebooks[name]).residuals
        assert (residuals[1][gone].norm(dim=1) < 1e-9).all() and (residuals[1][stay].norm(dim=1) > 0.01).all()
    rest = quantizer(
        {name: rows[stay] for name, rows in embeddings.items()}, {name: rows[stay] for name, rows in labels.items()}
    )
    torch.testing.assert_close(out.contrastive_losses[1], rest.contrastive_losses[1])
    assert all(int(rows) == 5 for rows in out.loss_rows["contrastive_loss_2"].values())
    out.contrastive_losses[1].backward()
    weights = [weight.grad for weight in quantizer.parameters() if weight.grad is not None]
    assert all(torch.isfinite(grad).all() and grad.abs().max() < 100 for grad in weights)


def test_codes_under_autocast_are_the_nearest_to_its_latents_in_float32():
    quantizer = make_quantizer(num_levels=2, codebook_size=200).float()
    embeddings = {name: torch.randn(400, SIZES[name]) for name in ("text", "image")}
    with torch.autocast("cpu", torch.bfloat16):
        out, latents = quantizer(embeddings), quantizer.encode_latents(embeddings)
    assert latents["text"].dtype == torch.bfloat16 and out.loss.dtype == torch.float32
    for name, values in latents.items():
        assert torch.equal(out.codes[name], residual_quantize(values.float(), quantizer.codebooks[name]).codes)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_encode_refuses_what_is_not_finite_but_in_missing_rows(value):
    quantizer = make_quantizer().float()
    embeddings = {name: torch.randn(6, SIZES[name]) for name in ("text", "image")}
    expected = quantizer.encode(embeddings)
    embeddings["image"][4, 2] = embeddings["image"][3, 0] = value
    with pytest.raises(ValueError, match=r"embeddings\['image'\].*in 2 of 6 rows, first in row 3"):
        quantizer.encode(embeddings)
    mask = {"image": torch.tensor([True, True, True, False, False, True])}
    found = quantizer.encode(embeddings, mask)
    assert torch.equal(found["text"], expected["text"]) and (found["image"][3:5] == -1).all()
    assert torch.equal(found["image"][mask["image"]], expected["image"][mask["image"]])
