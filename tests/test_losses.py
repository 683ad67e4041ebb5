"""Each loss equals a slow loop over its equation, has the right gradient, and survives poor batches."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from athsearch.codes import Codes
from athsearch.evaluation import evaluate
from athsearch.model.losses import LOSSES
from athsearch.model.losses.base import semi_hard_triplets
from athsearch.model.losses.centres import class_centres
from athsearch.model.losses.classes import GreedyHash, SignTriplet
from athsearch.model.losses.triplets import TripletCrossEntropy
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
    loss = SignTriplet(32, SIZES).double()
    assert torch.equal(loss.class_layer.weight, class_centres(32, 3) / 4)
    with torch.no_grad():
        loss.class_layer.bias.copy_(torch.tensor([0.5, -1.0, 2.0]))
    parts = loss(output, torch.tensor(labels))
    logits, weights = output.logits.detach().numpy(), class_centres(32, 3).numpy() / 4
    code = logits / np.linalg.norm(logits, axis=1, keepdims=True)
    similarity = code @ code.T
    roots = [size**0.25 for size in SIZES]
    priors = np.log(np.array(roots) / sum(roots))
    by_class = 0.0
    for row, label in enumerate(labels):
        class_logits = np.sign(logits[row]) @ weights.T + [0.5, -1.0, 2.0]
        class_logits[label] -= [1.6, 2.4, 4.8][label]
        by_class += cross_entropy(class_logits + priors, label) / 8
    triplets = naive_triplets(similarity, labels)
    triplet = sum(
        math.log1p(math.exp(8 * (similarity[a, n] - similarity[a, p] + 0.3))) / 8 for a, p, n in triplets
    ) / len(triplets)
    expected = {"triplet": triplet, "class": by_class}
    assert {name: value.item() for name, value in parts.items()} == pytest.approx(expected, abs=1e-6)


def pairs(labels: list[int]) -> list[tuple[int, int]]:
    return [(i, j) for i in range(len(labels)) for j in range(len(labels)) if i != j]


def mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


def softplus(value: float) -> float:
    return math.log1p(math.exp(value))


def loops(name: str, u: np.ndarray, g: np.ndarray, y: list[int]) -> dict[str, float]:
    """The equations of the losses' docstrings, written out. u: logits, g: class logits, y: labels."""
    bits, same = u.shape[1], [(i, j) for i, j in pairs(y) if y[i] == y[j]]
    different = [(i, j) for i, j in pairs(y) if y[i] != y[j]]
    triplets = [(a, p, n) for a, p in same for n in range(len(y)) if y[n] != y[a]]
    centres, rows = class_centres(bits, 3).numpy(), range(len(y))

    def squared(i: int, j: int) -> float:
        return float(((u[i] - u[j]) ** 2).sum())

    def cosine(i: int, j: int) -> float:
        return float(u[i] @ u[j] / np.linalg.norm(u[i]) / np.linalg.norm(u[j]))

    def theta(i: int, j: int) -> float:
        return float(u[i] @ u[j]) / 2

    squared_error = float(((np.sign(u) - u) ** 2).mean())
    match name:
        case "batch-triplet-class":
            margin = 0.5 * bits
            triplet = mean(max(0.0, margin + (squared(a, p) - squared(a, n)) / bits) for a, p, n in triplets)
            return {"triplet": triplet, "class": 3 * mean(cross_entropy(g[i], y[i]) for i in rows)}
        case "class":
            return {"class": mean(cross_entropy(g[i], y[i]) for i in rows)}
        case "contrastive":
            near = [squared(i, j) / 2 for i, j in same]
            far = [max(2 * bits - squared(i, j), 0.0) / 2 for i, j in different]
            return {"pair": mean(near + far), "code": 0.01 * float(np.abs(np.abs(u) - 1).sum(axis=1).mean())}
        case "dpsh":
            costs = [softplus(theta(i, j)) - (y[i] == y[j]) * theta(i, j) for i, j in pairs(y)]
            return {"pair": mean(costs), "code": 0.1 * squared_error}
        case "dtsh":
            costs = [softplus(-(theta(a, p) - theta(a, n) - bits / 2)) for a, p, n in triplets]
            return {"triplet": mean(costs), "code": squared_error}
        case "hashnet":
            h = np.tanh(math.sqrt(1 + 99 * PROGRESS) * u)
            product = 10 / bits * h @ h.T
            near = mean(softplus(product[i, j]) - product[i, j] for i, j in same)
            return {"pair": near + mean(softplus(product[i, j]) for i, j in different)}
        case "dch":
            near = mean(math.log1p(bits / 2 * (1 - cosine(i, j)) / 20) for i, j in same)
            far = mean(math.log1p(20 / (bits / 2 * (1 - cosine(i, j)))) for i, j in different)
            to_ones = [bits / 2 * (1 - np.abs(row).sum() / np.linalg.norm(row) / math.sqrt(bits)) for row in u]
            return {"pair": near + far, "code": 0.1 * mean(math.log1p(d / 20) for d in to_ones)}
        case "csq":
            chance = (1 + np.tanh(u)) / 2
            bitwise = [
                -math.log(chance[i, b] if centres[y[i], b] > 0 else 1 - chance[i, b]) for i in rows for b in range(bits)
            ]
            return {"centre": mean(bitwise), "code": 1e-4 * float(((np.abs(np.tanh(u)) - 1) ** 2).mean())}
        case "dpn":
            return {"centre": mean(max(0.0, 1 - u[i, b] * centres[y[i], b]) for i in rows for b in range(bits))}
        case "orthohash":
            cosines = u @ centres.T / np.linalg.norm(u, axis=1, keepdims=True) / math.sqrt(bits)
            for i in rows:
                cosines[i, y[i]] -= 0.2
            return {"centre": mean(cross_entropy(8 * cosines[i], y[i]) for i in rows)}
    raise ValueError(name)


PROGRESS = 0.5
ON_SIGNS = ("greedyhash", "sign-triplet")
WITH_LOOPS = [name for name in LOSSES if name not in ("triplet-class", *ON_SIGNS)]


@pytest.mark.parametrize("name", WITH_LOOPS)
def test_losses_equal_loops_over_their_equations(name: str) -> None:
    output, labels = random_output(7, 16, 3, seed=2), [0, 0, 1, 1, 2, 2, 2]
    parts = LOSSES[name](16, SIZES)(output, torch.tensor(labels), PROGRESS)
    expected = loops(name, output.logits.detach().numpy(), output.class_logits.detach().numpy(), labels)
    assert {part: value.item() for part, value in parts.items()} == pytest.approx(expected, abs=1e-6)


def test_greedyhash_classifies_signs_and_teaches_the_logits() -> None:
    output, labels = random_output(5, 8, 3), torch.tensor([0, 1, 2, 0, 1])
    loss = GreedyHash(8, SIZES).double()
    parts = loss(output, labels)
    weights, bias = loss.class_layer.weight.detach(), loss.class_layer.bias.detach()
    u = output.logits.detach()
    signs = u.sign().requires_grad_()
    expected = torch.nn.functional.cross_entropy(signs @ weights.T + bias, labels)
    assert parts["class"].item() == pytest.approx(expected.item(), abs=1e-12)
    assert parts["code"].item() == pytest.approx(0.1 * float((u.abs() - 1).abs().pow(3).mean()), abs=1e-12)
    (to_logits,) = torch.autograd.grad(parts["class"], output.logits)
    (to_signs,) = torch.autograd.grad(expected, signs)
    assert torch.allclose(to_logits, to_signs, atol=1e-12)
    assert len(list(loss.parameters())) == 2


def test_the_default_loss_classifies_signs_and_teaches_the_logits() -> None:
    output, labels = random_output(6, 8, 3, seed=1), torch.tensor([0, 1, 2, 0, 1, 2])
    loss = SignTriplet(8, SIZES).double()
    signs = output.logits.detach().sign().requires_grad_()
    (to_signs,) = torch.autograd.grad(loss(output._replace(logits=signs), labels)["class"], signs)
    (to_logits,) = torch.autograd.grad(loss(output, labels)["class"], output.logits)
    assert torch.allclose(to_logits, to_signs, atol=1e-12)
    assert bool(to_logits.any())
    assert torch.autograd.gradcheck(
        lambda logits: loss(output._replace(logits=logits), labels)["triplet"], output.logits
    )


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in ON_SIGNS])
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    output, labels = random_output(6, 8, 3, seed=1), torch.tensor([0, 1, 2, 0, 1, 2])
    loss = LOSSES[name](8, SIZES)

    def total(logits: torch.Tensor, class_logits: torch.Tensor) -> torch.Tensor:
        parts = loss(Output(logits, class_logits, output.attention), labels, PROGRESS)
        return torch.stack(list(parts.values())).sum()

    assert torch.autograd.gradcheck(total, (output.logits, output.class_logits))


DEGENERATE = {
    "one row": [0],
    "one class": [1, 1, 1, 1],
    "no class twice": [0, 1, 2],
}


@pytest.mark.parametrize("content", ["random", "equal", "zero"])
@pytest.mark.parametrize("labels", DEGENERATE.values(), ids=DEGENERATE)
@pytest.mark.parametrize("name", [name for name in LOSSES if LOSSES[name].batches == "tempered"])
def test_poor_batches_have_finite_losses_and_gradients(name: str, labels: list[int], content: str) -> None:
    output = random_output(len(labels), 32, 3)
    logits = {
        "random": output.logits.detach().clone(),
        "equal": torch.ones_like(output.logits),
        "zero": torch.zeros_like(output.logits),
    }[content].requires_grad_()
    loss = LOSSES[name](32, SIZES).double()
    parts = loss(Output(logits, output.class_logits, output.attention), torch.tensor(labels), PROGRESS)
    total = torch.stack(list(parts.values())).sum()
    assert bool(total.isfinite())
    total.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is None or bool(logits.grad.isfinite().all())


@pytest.mark.parametrize("name", LOSSES)
def test_each_loss_separates_two_easy_classes(name: str) -> None:
    """A linear layer with BatchNorm finds the one coordinate of six in which two clouds of images differ."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        labels = torch.arange(96) % 2
        images = torch.randn(96, 6) * torch.tensor([0.3, 2, 2, 2, 2, 2])
        images[:, 0] += 2 * labels - 1
        layer, class_layer = torch.nn.Linear(6, 16, bias=False), torch.nn.Linear(16, 2)
        norm = torch.nn.BatchNorm1d(16, affine=False)
        loss = LOSSES[name](16, [48, 48])
    optimiser = torch.optim.Adam([*layer.parameters(), *class_layer.parameters(), *loss.parameters()], 0.02)
    if loss.batches == "triplets":
        rows = torch.cat([torch.arange(48), (torch.arange(48) + 2) % 96, torch.arange(48) + 1])
    else:
        rows = torch.arange(48)

    def precision() -> float:
        codes = Codes.from_logits(norm(layer(images)).detach().numpy())
        names = [str(label) for label in labels.tolist()]
        return evaluate(codes[:48], names[:48], codes[48:], names[48:], 10).macro.precision

    norm.eval()
    before = precision()
    norm.train()
    for step in range(60):
        logits = norm(layer(images[rows]))
        code = torch.nn.functional.normalize(logits) * 4
        output = Output(logits, class_layer(code), torch.zeros(len(rows), 1, 1, 1))
        optimiser.zero_grad()
        torch.stack(list(loss(output, labels[rows], step / 60).values())).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    norm.eval()
    assert before < 0.7 < 0.85 < precision()  # centres of two classes share bits that BatchNorm cannot set


@pytest.mark.parametrize("labels", [[0], [1, 1, 1, 1], [0, 1, 2]], ids=["one row", "one class", "no class twice"])
def test_batches_without_triplets_leave_the_other_parts(labels: list[int]) -> None:
    output = random_output(len(labels), 32, 3)
    parts = SignTriplet(32, SIZES).double()(output, torch.tensor(labels))
    assert parts["triplet"].item() == 0.0
    torch.stack(list(parts.values())).sum().backward()  # type: ignore[no-untyped-call]
    assert output.logits.grad is not None
    assert bool(output.logits.grad.isfinite().all())
    assert bool(output.logits.grad.any())


def test_logits_of_zero_have_finite_gradients() -> None:
    logits = torch.zeros(4, 8, requires_grad=True)
    output = Output(logits, torch.zeros(4, 3), torch.zeros(4, 1, 1, 1))
    torch.stack(list(SignTriplet(8, SIZES)(output, torch.tensor([0, 0, 1, 2])).values())).sum().backward()  # type: ignore[no-untyped-call]
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
