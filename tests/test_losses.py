"""Each loss equals a slow loop over its equation, has the right gradient, and survives poor batches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from athsearch.model.losses import LOSSES, CentreTriplet, TripletCrossEntropy, class_centres, semi_hard_triplets
from athsearch.model.network import Output

SIZES = [90, 40, 1]


def random_output(n_rows: int, bits: int, n_classes: int, seed: int = 0) -> Output:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    return Output(draw(n_rows, bits), draw(n_rows, n_classes), torch.zeros(n_rows, 1, 1, 1))


def cross_entropy(logits: np.ndarray, label: int) -> float:
    return math.log(sum(math.exp(value) for value in logits)) - float(logits[label])


def test_the_papers_loss_equals_a_loop() -> None:
    output, labels = random_output(12, 36, 3), torch.tensor([0, 1, 2, 2, 0, 1, 2, 2, 1, 0, 0, 1])
    parts = TripletCrossEntropy(36, SIZES)(output, labels)
    logits, class_logits = output.logits.detach().numpy(), output.class_logits.detach().numpy()
    triplet = 0.0
    for i in range(4):
        a, p, n = logits[i], logits[4 + i], logits[8 + i]
        triplet += max(0.0, 0.5 * 36 + sum((a - p) ** 2) / 36 - sum((a - n) ** 2) / 36) / 4
    by_class = sum(cross_entropy(class_logits[row], int(labels[row])) / 4 for row in range(12))
    assert parts["triplet"].item() == pytest.approx(triplet, abs=1e-12)
    assert parts["class"].item() == pytest.approx(by_class, abs=1e-6)
    assert set(parts) == {"triplet", "class"}


def test_a_collapsed_network_costs_the_papers_whole_margin() -> None:
    output = Output(torch.ones(9, 36), torch.zeros(9, 3), torch.zeros(9, 1, 1, 1))
    assert TripletCrossEntropy(36, SIZES)(output, torch.zeros(9, dtype=torch.int64))["triplet"].item() == 18.0


def test_the_papers_loss_wants_three_equal_parts() -> None:
    with pytest.raises(ValueError, match="got 4 rows"):
        TripletCrossEntropy(8, SIZES)(random_output(4, 8, 3), torch.zeros(4, dtype=torch.int64))


def naive_triplets(similarity: np.ndarray, labels: list[int]) -> list[tuple[int, int, int]]:
    found = []
    for a in range(len(labels)):
        for p in range(len(labels)):
            negatives = [n for n in range(len(labels)) if labels[n] != labels[a]]
            if a == p or labels[p] != labels[a] or not negatives:
                continue
            farther = [n for n in negatives if similarity[a, n] < similarity[a, p]]
            if farther:
                negative = min(farther, key=lambda n: (-similarity[a, n], n))
            else:
                negative = min(negatives, key=lambda n: (similarity[a, n], n))
            found.append((a, p, negative))
    return found


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.integers(0, 2**32 - 1))
def test_semi_hard_triplets_equal_a_loop(labels: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    similarity = rng.integers(-2, 3, (len(labels), len(labels))) / 2  # coarse, so that there are ties
    found = semi_hard_triplets(torch.from_numpy(similarity), torch.tensor(labels))
    assert list(zip(*(rows.tolist() for rows in found), strict=True)) == naive_triplets(similarity, labels)


def test_the_default_loss_equals_a_loop() -> None:
    output, labels = random_output(8, 32, 3), [0, 0, 1, 1, 2, 2, 2, 0]
    loss = CentreTriplet(32, SIZES)
    parts = loss(output, torch.tensor(labels))
    logits, class_logits = output.logits.detach().numpy(), output.class_logits.detach().numpy()
    code = logits / np.linalg.norm(logits, axis=1, keepdims=True)
    centres = class_centres(32, 3).numpy() / np.sqrt(32)
    similarity = code @ code.T
    centre = by_class = kept = 0.0
    for row, label in enumerate(labels):
        to_centres = code[row] @ centres.T
        to_centres[label] -= [0.2, 0.3, 0.6][label]
        centre += cross_entropy(8 * to_centres, label) / 8
        by_class += 0.5 * cross_entropy(class_logits[row], label) / 8
        kept += 0.05 * (1 - float(code[row] @ np.sign(code[row])) / np.sqrt(32)) / 8
    triplets = naive_triplets(similarity, labels)
    triplet = sum(
        math.log1p(math.exp(8 * (similarity[a, n] - similarity[a, p] + 0.3))) / 8 for a, p, n in triplets
    ) / len(triplets)
    expected = {"centre": centre, "triplet": triplet, "class": by_class, "code": kept}
    assert {name: value.item() for name, value in parts.items()} == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    output, labels = random_output(6, 8, 3, seed=1), torch.tensor([0, 1, 2, 0, 1, 2])
    loss = LOSSES[name](8, SIZES)

    def total(logits: torch.Tensor, class_logits: torch.Tensor) -> torch.Tensor:
        return torch.stack(list(loss(Output(logits, class_logits, output.attention), labels).values())).sum()

    assert torch.autograd.gradcheck(total, (output.logits, output.class_logits))


@pytest.mark.parametrize("labels", [[0], [1, 1, 1, 1], [0, 1, 2]], ids=["one row", "one class", "no class twice"])
def test_batches_without_triplets_leave_the_other_parts(labels: list[int]) -> None:
    output = random_output(len(labels), 32, 3)
    parts = CentreTriplet(32, SIZES)(output, torch.tensor(labels))
    assert parts["triplet"].item() == 0.0
    torch.stack(list(parts.values())).sum().backward()  # type: ignore[no-untyped-call]
    assert output.logits.grad is not None
    assert bool(output.logits.grad.isfinite().all())
    assert bool(output.logits.grad.any())


def test_logits_of_zero_have_finite_gradients() -> None:
    logits = torch.zeros(4, 8, requires_grad=True)
    output = Output(logits, torch.zeros(4, 3), torch.zeros(4, 1, 1, 1))
    torch.stack(list(CentreTriplet(8, SIZES)(output, torch.tensor([0, 0, 1, 2])).values())).sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())


@pytest.mark.parametrize(
    ("bits", "n_classes"), [(32, 4), (32, 31), (36, 5), (48, 12), (12, 3), (64, 40), (2, 9), (1, 2)]
)
def test_class_centres_are_far_apart_and_always_the_same(bits: int, n_classes: int) -> None:
    centres = class_centres(bits, n_classes)
    assert centres.shape == (n_classes, bits)
    assert set(centres.flatten().tolist()) <= {-1.0, 1.0}
    assert torch.equal(centres, class_centres(bits, n_classes))
    distances = (bits - centres @ centres.T) / 2
    nearest = float((distances + bits * torch.eye(n_classes)).min())
    if bits in (32, 64):
        assert nearest == bits / 2 == float(distances.max())
    elif bits >= 12:
        assert nearest >= bits / 3
