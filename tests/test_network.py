"""The networks have the published shapes and sizes, and the properties that the losses count on."""

from __future__ import annotations

import pytest
import torch

from athsearch.model.network import NETWORKS, ATHNet, ResidualATHNet, SpatialAttention


def n_parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_published_network_has_48394_parameters() -> None:
    network = ATHNet(256, 36, 5)
    assert n_parameters(network) == 48_394
    assert n_parameters(network.hash_layer) + n_parameters(network.class_layer) == 42_025
    assert n_parameters(network.attention) == 18


def test_the_published_network_has_the_published_stages() -> None:
    network = ATHNet(256, 36, 5).eval()
    shapes: dict[str, tuple[int, ...]] = {}
    for name, part in network.named_children():
        part.register_forward_hook(lambda _, __, out, name=name: shapes.update({name: tuple(out.shape)}))
    with torch.inference_mode():
        output = network(torch.randn(1, 3, 256, 256))
    assert shapes == {
        "first": (1, 16, 128, 128),
        "first_pool": (1, 16, 128, 128),
        "attention": (1, 1, 128, 128),
        "second": (1, 8, 64, 64),
        "second_pool": (1, 8, 64, 64),
        "third": (1, 1, 32, 32),
        "hash_layer": (1, 36),
        "class_layer": (1, 5),
    }
    assert output.logits.shape == (1, 36)
    assert output.class_logits.shape == (1, 5)


def test_weights_start_by_xaviers_normal_rule() -> None:
    torch.manual_seed(0)
    weights = ATHNet(256, 36, 5).hash_layer.weight.detach()  # 1024 in, 36 out
    assert float(weights.std()) == pytest.approx((2 / (1024 + 36)) ** 0.5, rel=0.02)


@pytest.mark.parametrize("network", NETWORKS.values())
@pytest.mark.parametrize(("size", "bits", "n_classes"), [(64, 1, 2), (72, 36, 5), (128, 65, 3)])
def test_every_network_takes_every_size(network: type[ATHNet], size: int, bits: int, n_classes: int) -> None:
    with torch.inference_mode():
        output = network(size, bits, n_classes).eval()(torch.randn(2, 3, size, size))
    assert output.logits.shape == (2, bits)
    assert output.class_logits.shape == (2, n_classes)
    assert output.attention.shape[:2] == (2, 1)
    assert output.attention.shape[2] == output.attention.shape[3] > size // 16
    assert 0 < float(output.attention.min()) <= float(output.attention.max()) < 1


@pytest.mark.parametrize("network", NETWORKS.values())
@pytest.mark.parametrize(
    ("size", "bits", "n_classes"), [(56, 32, 2), (100, 32, 2), (64, 0, 2), (64, 5000, 2), (64, 8, 0)]
)
def test_every_network_refuses_what_it_cannot_be(network: type[ATHNet], size: int, bits: int, n_classes: int) -> None:
    with pytest.raises(ValueError, match="got"):
        network(size, bits, n_classes)


@pytest.mark.parametrize("network", NETWORKS.values())
def test_every_network_names_the_batch_it_wants(network: type[ATHNet]) -> None:
    with pytest.raises(ValueError, match=r"expected a batch \[B, 3, 64, 64\], got \[1, 3, 72, 72\]"):
        network(64, 8, 2)(torch.zeros(1, 3, 72, 72))


@pytest.mark.parametrize("network", NETWORKS.values())
def test_every_weight_takes_part(network: type[ATHNet]) -> None:
    torch.manual_seed(0)
    built = network(64, 8, 3)
    output = built(torch.randn(4, 3, 64, 64))
    (output.logits.square().sum() + output.class_logits.square().sum()).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in built.parameters())


def test_attention_is_the_formula() -> None:
    torch.manual_seed(0)
    attention = SpatialAttention()
    x = torch.randn(1, 5, 4, 6)
    maps = torch.nn.functional.pad(torch.stack([x[0].mean(0), x[0].amax(0)]), (1, 1, 1, 1))  # [2, 6, 8]
    weights = attention.conv.weight[0]
    expected = [[(maps[:, i : i + 3, j : j + 3] * weights).sum().sigmoid() for j in range(6)] for i in range(4)]
    assert torch.allclose(attention(x)[0, 0], torch.stack([torch.stack(row) for row in expected]), atol=1e-6)


def test_among_equal_channels_the_lowest_is_the_maximum() -> None:
    x = torch.ones(1, 3, 2, 2, requires_grad=True)
    attention = SpatialAttention()
    torch.nn.init.zeros_(attention.conv.weight[:, :1])  # the maximum alone counts
    attention(x).sum().backward()
    assert x.grad is not None
    assert bool(x.grad[0, 0].all())
    assert not bool(x.grad[0, 1:].any())


def test_codes_of_the_residual_network_are_balanced_over_its_batch() -> None:
    torch.manual_seed(0)
    logits = ResidualATHNet(64, 16, 2).train()(torch.randn(32, 3, 64, 64)).logits
    assert float(logits.detach().mean(dim=0).abs().max()) < 1e-5
    assert float(logits.detach().std(dim=0, correction=0).sub(1).abs().max()) < 1e-2
