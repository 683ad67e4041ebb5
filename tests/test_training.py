"""Training is reproducible, goes on after a stop to the same weights, learns, and says what is wrong with a source."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from athsearch._training_batches import augment, draw_triplets, tempered_batches
from athsearch._training_images import Pictures, divide
from athsearch._training_run import RunFolder
from athsearch.archive.archive import Archive
from athsearch.data import Item, Source, open_source
from athsearch.encoder import Encoder
from athsearch.errors import CheckpointError, DeviceError, ModelError, SourceError
from athsearch.evaluation import evaluate
from athsearch.model.network import NETWORKS, DeeperATHNet
from athsearch.training import EpochReport, StepReport, _Validation, recipe_settings, train
from athsearch.types import Floats, Square
from conftest import Run

SMALL = {"default": recipe_settings("default", size=64, bits=16, epochs=3, batch=8)}
SMALL["paper"] = recipe_settings("paper", size=64, bits=12, epochs=3, batch=4)
SMALL["greedyhash"] = recipe_settings("default", loss="greedyhash", size=64, bits=16, epochs=3, batch=8)


def draw(label: int, seed: int) -> Image.Image:
    """A disc whose place and colour tell its class, on noise."""
    pixels = np.random.default_rng([label, seed]).integers(0, 100, (24, 24, 3))
    pixels[4 + 6 * label : 10 + 6 * label, 6:18, label] += 120
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Classes a, b and c with 14, 10 and 6 images."""
    root = tmp_path / "images"
    for label, (name, n_images) in enumerate({"a": 14, "b": 10, "c": 6}.items()):
        (root / name).mkdir(parents=True)
        for number in range(n_images):
            draw(label, number).save(root / name / f"{number:02d}.png")
    return root


def equal(one: Encoder, other: Encoder) -> bool:
    first, second = one.tensors, other.tensors
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("recipe", SMALL)
def test_the_same_seed_gives_the_same_weights_and_touches_no_global_state(folder: Path, recipe: str) -> None:
    source, settings = open_source(folder), SMALL[recipe]
    torch_state, numpy_state, n_threads = torch.get_rng_state(), np.random.get_state(), torch.get_num_threads()
    encoder = train(source, settings, device="cpu")
    assert torch.equal(torch_state, torch.get_rng_state())
    assert str(numpy_state) == str(np.random.get_state())
    assert n_threads == torch.get_num_threads()
    torch.manual_seed(99)  # what the caller does with torch's generator does not matter
    assert equal(encoder, train(source, settings, device="cpu"))
    assert not equal(encoder, train(source, dataclasses.replace(settings, seed=1), device="cpu"))


class Stop(Exception):
    """Raised by a test where a person would press Ctrl-C."""


def stop_after_epoch(epoch: int) -> Callable[[EpochReport], None]:
    def progress(report: EpochReport) -> None:
        if report.epoch == epoch:
            raise Stop

    return progress


def stop_within_epoch(epoch: int, step: int) -> Callable[[StepReport], None]:
    def on_step(report: StepReport) -> None:
        if (report.epoch, report.step) == (epoch, step):
            raise KeyboardInterrupt

    return on_step


@pytest.mark.parametrize("recipe", SMALL)
def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(
    folder: Path, tmp_path: Path, recipe: str
) -> None:
    source, settings = open_source(folder), SMALL[recipe]
    whole = train(source, settings, run_dir=tmp_path / "whole", device="cpu")
    run_dir = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        train(source, settings, run_dir=run_dir, device="cpu", on_step=stop_within_epoch(1, 1))
    with pytest.raises(Stop):
        train(source, settings, run_dir=run_dir, device="cpu", progress=stop_after_epoch(1))
    with pytest.raises(KeyboardInterrupt):
        train(source, settings, run_dir=run_dir, device="cpu", on_step=stop_within_epoch(3, 2))
    assert json.loads((run_dir / "history.json").read_text())["finished"] is False
    epochs: list[int] = []
    resumed = train(
        source, settings, run_dir=run_dir, device="cpu", progress=lambda report: epochs.append(report.epoch)
    )
    assert epochs == [3]
    assert equal(whole, resumed)
    assert equal(whole, Encoder.load(run_dir / "weights.safetensors", device="cpu"))
    histories = [json.loads((path / "history.json").read_text()) for path in (tmp_path / "whole", run_dir)]
    for history in histories:
        for report in history["epochs"]:
            del report["seconds"]
    assert histories[0] == histories[1]
    assert histories[0]["finished"] is True


def test_a_finished_run_returns_without_reading_an_image(folder: Path, tmp_path: Path) -> None:
    source, settings, run_dir = open_source(folder), SMALL["paper"], tmp_path / "run"
    first = train(source, settings, run_dir=run_dir, device="cpu")
    assert sorted(path.name for path in run_dir.iterdir()) == ["curves.png", "history.json", "weights.safetensors"]
    with Image.open(run_dir / "curves.png") as curves:
        assert curves.format == "PNG"
    for image in folder.rglob("*.png"):
        image.unlink()
    again = train(source, settings, run_dir=run_dir, device="cpu", progress=stop_after_epoch(1))
    assert again.model_id == first.model_id


def test_a_run_folder_refuses_another_run(folder: Path, tmp_path: Path) -> None:
    source, settings, run_dir = open_source(folder), SMALL["paper"], tmp_path / "run"
    with pytest.raises(Stop):
        train(source, settings, run_dir=run_dir, device="cpu", progress=stop_after_epoch(1))
    with pytest.raises(CheckpointError, match=r"run with another epochs: 3 there, 4 now; choose another folder"):
        train(source, dataclasses.replace(settings, epochs=4), run_dir=run_dir, device="cpu")
    fewer = dataclasses.replace(source, items=source.items[:-1])
    with pytest.raises(CheckpointError, match="run with another images"):
        train(fewer, settings, run_dir=run_dir, device="cpu")
    state = run_dir / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"state\.safetensors cannot be used .* delete it"):
        train(source, settings, run_dir=run_dir, device="cpu")


def test_a_run_does_not_go_on_with_other_images_of_the_same_names(folder: Path, tmp_path: Path) -> None:
    source, settings, run_dir = open_source(folder), SMALL["paper"], tmp_path / "run"
    with pytest.raises(Stop):
        train(source, settings, run_dir=run_dir, device="cpu", progress=stop_after_epoch(1))
    path = source.root / source.items[0].source
    content = path.read_bytes()
    for other in ((source.root / source.items[1].source).read_bytes(), b"no image"):
        path.write_bytes(other)
        with pytest.raises(CheckpointError, match="its images were others, or others of them could be read"):
            train(source, settings, run_dir=run_dir, device="cpu")
    path.write_bytes(content)
    train(source, settings, run_dir=run_dir, device="cpu")


def test_a_rare_class_has_cases_enough_to_validate_by(monkeypatch: pytest.MonkeyPatch) -> None:
    class Perfect:
        def logits_of_squares(self, squares: Square) -> Floats:
            return np.where(np.eye(8)[squares[:, 0, 0, 0]] > 0, 1, -1).astype(np.float32)

    def pictures(sizes: list[int]) -> Pictures:
        numbers = np.repeat(np.arange(len(sizes)), sizes)
        squares = np.zeros((len(numbers), 1, 1, 3), np.uint8)
        squares[:, 0, 0, 0] = numbers
        return Pictures(squares, tuple(Item(f"{row}", str(number)) for row, number in enumerate(numbers.tolist())), 0)

    for seed in range(3):
        chosen = _Validation(pictures([8000, 4000, 60, 12]), pictures([20, 20, 20, 20]), seed)
        assert chosen.measure(Perfect()) == 1.0  # type: ignore[arg-type]


def test_a_run_replaces_no_weights_but_its_own(folder: Path, tmp_path: Path, encoder: Encoder, run: Run) -> None:
    Archive.create(tmp_path / "archive", encoder).close()
    (tmp_path / "kept").mkdir()
    encoder.save(tmp_path / "kept" / "weights.safetensors")
    for name, words in (("archive", "is an archive"), ("kept", "no history of the run")):
        there = {path.name: path.read_bytes() for path in (tmp_path / name).iterdir() if path.is_file()}
        error = run("train", folder, "--out", tmp_path / name, "--epochs", 1).error()
        assert words in error
        assert error.endswith("choose another folder")
        assert {path.name: path.read_bytes() for path in (tmp_path / name).iterdir() if path.is_file()} == there


def test_a_run_does_not_go_on_from_a_damaged_or_foreign_state(folder: Path, tmp_path: Path) -> None:
    source, settings, run_dir = open_source(folder), SMALL["paper"], tmp_path / "run"
    with pytest.raises(Stop):
        train(source, settings, run_dir=run_dir, device="cpu", progress=stop_after_epoch(1))
    path = run_dir / "state.safetensors"
    sound = path.read_bytes()
    path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"state\.safetensors cannot be used \(damaged: .*; delete it"):
        train(source, settings, run_dir=run_dir, device="cpu")
    path.write_bytes(sound)
    run = RunFolder(run_dir, json.loads((run_dir / "history.json").read_text())["run"])
    kept = run.load()
    assert kept is not None
    state, notes = kept
    run.save({**state, "network": dict(list(state["network"].items())[1:])}, notes)
    with pytest.raises(CheckpointError, match=r"state\.safetensors cannot be used .*Missing key.*; delete it"):
        train(source, settings, run_dir=run_dir, device="cpu")
    run.save(state, {"history": [{**report, "lr_of_old": 1} for report in notes["history"]]})
    with pytest.raises(CheckpointError, match=r"state\.safetensors cannot be used .*lr_of_old.*; delete it"):
        train(source, settings, run_dir=run_dir, device="cpu")


def test_the_default_recipe_learns(folder: Path) -> None:
    reports: list[EpochReport] = []
    settings = dataclasses.replace(SMALL["default"], epochs=15)
    encoder = train(open_source(folder), settings, device="cpu", progress=reports.append)
    assert reports[-1].loss < 0.6 * reports[0].loss
    assert all(report.loss == pytest.approx(sum(report.parts.values())) for report in reports)
    best = max(reports, key=lambda report: (report.validation or 0.0, -report.epoch))
    assert {best.epoch} == {reports[-1].best_epoch, encoder.description.training["best_epoch"]}
    labels = [str(label) for label in np.repeat([0, 1, 2], 8)]
    codes = [
        encoder.encode([np.asarray(draw(int(label), 100 * part + i)) for i, label in enumerate(labels)])
        for part in (1, 2)
    ]
    scores = evaluate(codes[0], labels, codes[1], labels, k=5)
    assert scores.macro.precision > 0.6 > scores.chance.precision


def test_validation_is_the_val_split_if_there_is_one(folder: Path) -> None:
    source = open_source(folder)
    divided = source.divided({"train": 0.5, "val": 0.3, "test": 0.2})
    n_images = Counter(item.split for item in divided.items)
    summary = train(divided, SMALL["default"], device="cpu").description.training
    assert (summary["n_images"], summary["n_validation_images"]) == (n_images["train"], n_images["val"])
    held_out = train(source, SMALL["default"], device="cpu").description.training
    assert held_out["n_images"] + held_out["n_validation_images"] == len(source)
    assert held_out["n_validation_images"] > 0


def test_an_unreadable_image_is_left_out_and_reported_but_not_many(folder: Path) -> None:
    damaged = folder / "a" / "03.png"
    damaged.write_bytes(damaged.read_bytes()[:100])
    for number in range(100, 110):
        draw(0, number).save(folder / "a" / f"{number}.png")
    found: list[str] = []
    encoder = train(
        open_source(folder), SMALL["paper"], device="cpu", on_unreadable=lambda error: found.append(error.path)
    )
    assert found == ["a/03.png"]
    assert encoder.description.training["n_unreadable"] == 1
    assert encoder.description.training["n_images"] == 39
    for number in range(8):
        (folder / "b" / f"{number:02d}.png").write_bytes(b"")
    with pytest.raises(SourceError, match=r"more than 5% of 40 images cannot be used; first a/03\.png"):
        train(open_source(folder), SMALL["paper"], device="cpu")


def test_unreadable_images_are_counted_over_all_parts(folder: Path) -> None:
    source = open_source(folder)
    _, validation = divide(source, None, SMALL["default"])
    assert validation is not None
    held_out = validation.items[0]
    (folder / held_out.source).write_bytes(b"")
    for number in range(100, 110):
        draw(0, number).save(folder / "a" / f"{number}.png")
    training = open_source(folder)
    training = dataclasses.replace(training, items=tuple(i for i in training.items if i.source != held_out.source))
    validation = dataclasses.replace(source, items=(held_out, *training.items[:2]))  # a third of it cannot be used
    encoder = train(training, SMALL["default"], validation=validation, device="cpu")
    assert encoder.description.training["n_unreadable"] == 1
    nothing = dataclasses.replace(source, items=(held_out,))
    with pytest.raises(SourceError, match="none of the 1 images to validate by can be used; first "):
        train(training, SMALL["default"], validation=nothing, device="cpu")


def test_a_device_that_is_not_there_is_told_before_images_are_read(folder: Path) -> None:
    def on_step(report: StepReport) -> None:
        raise Stop

    with pytest.raises(DeviceError, match="'quantum' cannot be used"):
        train(open_source(folder), SMALL["default"], device="quantum", on_step=on_step)


def test_threads_train_as_one_would(folder: Path) -> None:
    source, settings = open_source(folder), dataclasses.replace(SMALL["paper"], epochs=1)

    def trained(seed: int) -> str:
        return train(source, dataclasses.replace(settings, seed=seed), device="cpu").model_id

    seeds = [0, 1, 2]
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(trained, seeds)) == [trained(seed) for seed in seeds]


def listed(labels: str) -> Source:
    return Source(
        Path("nowhere"), tuple(Item(f"{i}.png", label if label != "-" else None) for i, label in enumerate(labels))
    )


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("", "no images"),
        ("aab-b", r"needs the label of every image; 3\.png has none"),
        ("aaaa", "all images are of class 'a'"),
        ("aaab", "class 'b' has one image"),
        ("aaaaaaaabb", "after holding out 15% to validate: class 'b' has one image"),
    ],
)
def test_what_cannot_be_trained_on_is_named(labels: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        train(listed(labels), SMALL["default"], device="cpu")


def test_where_no_patient_can_be_held_out_the_cure_is_told() -> None:
    source = listed("aaaaabbbbb")
    of_two = tuple(dataclasses.replace(item, patient=item.label) for item in source.items)
    with pytest.raises(SourceError, match=r"none can be held out .* give images to validate by \(a split val\)"):
        train(dataclasses.replace(source, items=of_two), SMALL["default"], device="cpu")


def test_a_source_without_a_train_split_is_refused() -> None:
    source = listed("aabb")
    tested = dataclasses.replace(source, items=tuple(dataclasses.replace(item, split="test") for item in source.items))
    with pytest.raises(SourceError, match="no split 'train'"):
        train(tested, SMALL["default"], device="cpu")


@pytest.mark.parametrize(
    "change",
    [
        {"bits": 0},
        {"size": 60},
        {"epochs": 0},
        {"lr": 0.0},
        {"flips": "up"},
        {"framing": "tight"},
        {"seed": -1},
        {"seed": 2**64},
        {"epochs": 1.5},
        {"average": 1.0},
        {"recipe": "paper", "framing": "wide"},
        {"recipe": "paper", "flips": "both"},
    ],
)
def test_settings_that_cannot_be_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="got"):
        recipe_settings(**{"recipe": "default", **change})  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{"recipe": "best"}, {"network": "resnet"}, {"loss": "hinge"}])
def test_unknown_names_are_refused_with_the_known_ones(folder: Path, change: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"must be one of .*; got"):
        train(open_source(folder), recipe_settings(**{"recipe": "default", "size": 64, **change}), device="cpu")  # type: ignore[arg-type]


def test_a_loss_that_does_not_reach_the_code_is_refused(folder: Path) -> None:
    settings = recipe_settings("default", network="ath-s", loss="class", size=64, epochs=1)
    with pytest.raises(ModelError, match=r"loss 'class' does not reach the code of network 'ath-s'"):
        train(open_source(folder), settings, device="cpu")


def test_a_network_of_ones_own_is_trained_and_encodes_on_the_cpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(DeeperATHNet):
        """As an extension of the registry might be."""

    monkeypatch.setitem(NETWORKS, "own", Own)
    encoder = train(open_source(folder), dataclasses.replace(SMALL["default"], network="own"), device="cpu")
    known = train(open_source(folder), SMALL["default"], device="cpu")
    assert equal(encoder, known)
    images = sorted(folder.rglob("*.png"))
    assert np.allclose(encoder.logits(images), known.logits(images), atol=1e-3)


def test_grey_images_have_standardised_levels_and_wide_framing(folder: Path) -> None:
    settings = dataclasses.replace(SMALL["default"], epochs=1)
    coloured = train(open_source(folder), settings, device="cpu")
    assert coloured.description.preprocessing.levels == "stored"
    assert equal(coloured, train(open_source(folder), dataclasses.replace(settings, framing="narrow"), device="cpu"))
    for path in folder.rglob("*.png"):
        Image.open(path).convert("L").save(path)
    source = open_source(folder)
    grey = train(source, settings, device="cpu")
    assert grey.description.preprocessing.levels == "standardised"
    assert grey.squares(source.split("train") if source.splits else source).std() == pytest.approx(50, abs=2)
    assert equal(grey, train(source, dataclasses.replace(settings, framing="wide"), device="cpu"))
    assert train(source, dataclasses.replace(SMALL["paper"], epochs=1)).description.preprocessing.levels == "stored"


def test_the_paper_recipe_is_the_papers() -> None:
    settings = recipe_settings("paper")
    preprocessing = settings.preprocessing()
    assert (settings.network, settings.bits, settings.size, settings.epochs, settings.batch) == (
        "ath-s",
        36,
        256,
        50,
        10,
    )
    assert (settings.lr, settings.schedule, settings.weight_decay, settings.augment) == (1e-3, "constant", 0.0, False)
    assert (preprocessing.fit, preprocessing.channels) == ("stretch", "BGR")
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    assert np.array_equal(preprocessing(pixels), pixels[..., ::-1].transpose(2, 0, 1).astype(np.float32))


def test_triplets_have_a_positive_and_a_negative_for_every_image() -> None:
    classes = np.array([0] * 50 + [1] * 3 + [2] * 2)
    triplets = draw_triplets(classes, np.random.default_rng(0))
    anchor, positive, negative = triplets.T
    assert np.array_equal(anchor, np.arange(55))
    assert (classes[positive] == classes[anchor]).all()
    assert (positive != anchor).all()
    assert (classes[negative] != classes[anchor]).all()
    assert len(set(positive[:50])) > 25
    assert len(set(negative[:50])) == 5


@pytest.mark.parametrize("n_classes", [2, 3, 12])
def test_batches_show_rare_classes_more_often_than_they_are(n_classes: int) -> None:
    sizes = [400, *[25] * (n_classes - 1)]
    classes = np.repeat(np.arange(n_classes), sizes)
    batches = list(tempered_batches(classes, 32, np.random.default_rng(0)))
    assert len(batches) == len(classes) // 32
    for rows in batches:
        counts = Counter(classes[rows].tolist())
        assert len(rows) == 32
        assert len(counts) == min(n_classes, 8)
        assert min(counts.values()) >= 2
        if n_classes < 8:  # all of them; the fourth root of 400 / 25 is 2
            rare = [counts[number] for number in range(1, n_classes)]
            assert counts[0] in (2 * 32 // (n_classes + 1), 2 * 32 // (n_classes + 1) + 1)
            assert max(rare) - min(rare) <= 1
    large = np.concatenate(batches)
    large = large[classes[large] == 0]
    assert len(set(large.tolist())) == len(large)  # none twice before all have come


def test_batches_that_a_class_would_fill_leave_room_for_others() -> None:
    classes = np.repeat(np.arange(8), [100_000, *[2] * 7])
    n_with_the_large = 0
    for rows, _ in zip(tempered_batches(classes, 16, np.random.default_rng(0)), range(50), strict=False):
        counts = Counter(classes[rows].tolist())
        assert len(rows) == 16
        assert min(counts.values()) >= 2
        assert len(counts) == 4
        n_with_the_large += counts[0] == 10
    assert n_with_the_large > 10


def test_augmentation_keeps_grey_grey_and_up_up() -> None:
    rng = np.random.default_rng(0)
    images = torch.zeros(64, 3, 64, 64)
    images[:, :, :32] = 200.0  # bright above
    varied = augment(images, "horizontal", "narrow", grey=True, rng=rng)
    assert torch.equal(varied[:, 0], varied[:, 2])
    assert bool((varied[:, :, :20, 24:40].mean(dim=(1, 2, 3)) > varied[:, :, -20:, 24:40].mean(dim=(1, 2, 3))).all())
    flipped = augment(images, "both", "wide", grey=False, rng=rng)
    is_up = flipped[:, :, :20, 24:40].mean(dim=(1, 2, 3)) > flipped[:, :, -20:, 24:40].mean(dim=(1, 2, 3))
    assert 10 < int(is_up.sum()) < 54
    assert not torch.equal(flipped[:, 0], flipped[:, 2])


@pytest.mark.parametrize(("framing", "zoom", "shift"), [("narrow", 1.1, 0.05), ("wide", 1.25, 0.1)])
def test_framing_says_how_far_zoom_and_shift_go(framing: str, zoom: float, shift: float) -> None:
    images = torch.zeros(500, 3, 64, 64)
    images[:, :, 24:40, 24:40] = 1000.0  # a square of a quarter of the side in the middle
    is_bright = (augment(images, "none", framing, grey=True, rng=np.random.default_rng(0))[:, 0] > 500).double()
    side = is_bright.sum(dim=(1, 2)).sqrt() / 16
    place = (is_bright.sum(dim=1) @ (torch.arange(64.0).double() - 31.5)) / is_bright.sum(dim=(1, 2)) / 64
    assert 1 / zoom - 0.05 < float(side.min()) < 1 / zoom + 0.05
    assert zoom - 0.05 < float(side.max()) < zoom + 0.05
    # A picture that is enlarged moves by as much more.
    assert 0.9 * shift < float(place.abs().max()) < zoom * shift + 0.01


def test_images_beyond_memory_train_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(folder)
    in_memory = train(source, SMALL["paper"], device="cpu")
    monkeypatch.setattr("athsearch._training_images.MEMORY_BYTES", 0)
    assert equal(in_memory, train(source, SMALL["paper"], device="cpu"))


def test_divergence_is_said(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"diverged in epoch 1 .*smaller lr"):
        train(open_source(folder), dataclasses.replace(SMALL["paper"], lr=1e30), device="cpu")


def test_progress_counts_images_then_steps(folder: Path) -> None:
    reports: list[StepReport] = []
    train(open_source(folder), SMALL["default"], device="cpu", on_step=reports.append)
    reading, steps = [report for report in reports if not report.epoch], [report for report in reports if report.epoch]
    assert [(report.step, report.steps) for report in reading] == [(place, 30) for place in range(1, 31)]
    n_steps = steps[0].steps
    assert [(report.epoch, report.step) for report in steps] == [
        (epoch, step) for epoch in (1, 2, 3) for step in range(1, n_steps + 1)
    ]
    assert all(report.loss is not None and report.loss > 0 for report in steps)
