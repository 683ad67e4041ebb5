"""The encoder: what it takes, what it refuses, and that a saved one is the same."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from athsearch.codes import Codes
from athsearch.data import Source
from athsearch.encoder import Encoder
from athsearch.errors import CheckpointError, DeviceError, ImageError, ModelMismatch
from athsearch.model.checkpoint import read_weights
from conftest import draw_image


def test_paths_arrays_and_sources_give_the_same_codes(encoder: Encoder, source: Source) -> None:
    paths = [source.root / item.source for item in source.items]
    arrays = [draw_image(number) for number in range(12)]
    codes = encoder.encode(source)
    assert codes.model_id == encoder.model_id
    assert codes == encoder.encode(paths) == encoder.encode(arrays) == encoder.encode(np.stack(arrays))
    assert len(np.unique(codes.words)) > 6
    assert encoder.encode(str(paths[3])) == encoder.encode(arrays[3]) == codes[3:4]
    assert codes == Codes.from_logits(encoder.logits(source))


def test_an_image_does_not_depend_on_its_neighbours(encoder: Encoder) -> None:
    arrays = [draw_image(number) for number in range(70)]
    together = encoder.logits(arrays)
    assert together.shape == (70, 36)
    alone = np.concatenate([encoder.logits(array) for array in arrays])
    assert np.abs(together - alone).max() < 1e-4 * together.std()


@pytest.mark.parametrize("mirrors", ["horizontal", "both"])
def test_codes_are_of_an_image_and_its_mirror_images(encoder: Encoder, mirrors: str) -> None:
    plain = encoder.description
    description = dataclasses.replace(plain, preprocessing=dataclasses.replace(plain.preprocessing, mirrors=mirrors))
    mirrored = Encoder(encoder.tensors, description, "cpu")
    assert mirrored.model_id != encoder.model_id
    images = [draw_image(number) for number in range(3)]
    turned = [image[:, ::-1] for image in images]
    views = [images, turned]
    if mirrors == "both":
        views += [[image[::-1] for image in view] for view in views]
    expected = sum(encoder.logits(view) for view in views) / len(views)
    assert np.allclose(mirrored.logits(images), expected, atol=1e-6)
    assert not np.allclose(mirrored.logits(images), encoder.logits(images), atol=1e-2)
    assert np.allclose(mirrored.logits(images), mirrored.logits(turned), atol=1e-6)


def test_grey_and_small_images_are_taken(encoder: Encoder) -> None:
    grey = draw_image(1, 28)[..., 0]
    assert encoder.encode(grey) == encoder.encode(np.repeat(grey[..., None], 3, axis=2))
    assert encoder.squares([grey]).shape == (1, 64, 64, 3)
    assert encoder.attention(encoder.squares([grey])).shape == (1, 8, 8)


def test_large_jpegs_are_decoded_at_the_size_their_model_says(encoder: Encoder, tmp_path: Path) -> None:
    Image.fromarray(draw_image(5, 900)).save(tmp_path / "large.jpg", quality=95)
    assert encoder.description.preprocessing.least_side == 96
    with Image.open(tmp_path / "large.jpg") as image:
        image.draft(None, (96, 96))
        assert image.size == (113, 113)
        assert np.array_equal(encoder.logits(tmp_path / "large.jpg"), encoder.logits(np.asarray(image)))


def test_no_images_give_no_codes(encoder: Encoder) -> None:
    assert encoder.encode([]).n_codes == 0


def test_an_unusable_image_is_named(encoder: Encoder, source: Source) -> None:
    (source.root / "05.png").write_bytes((source.root / "05.png").read_bytes()[:200])
    with pytest.raises(ImageError, match=r"05\.png"):
        encoder.encode(source)
    with pytest.raises(ImageError, match=r"nowhere\.png"):
        encoder.encode(source.root / "nowhere.png")


def test_a_saved_encoder_is_the_same(encoder: Encoder, source: Source, tmp_path: Path) -> None:
    encoder.save(tmp_path / "weights.safetensors")
    loaded = Encoder.load(tmp_path / "weights.safetensors", device="cpu")
    assert loaded.model_id == encoder.model_id
    assert loaded.description == encoder.description
    assert np.array_equal(loaded.logits(source), encoder.logits(source))
    loaded.check_probes()
    loaded.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "weights.safetensors").read_bytes()


def test_a_machine_that_encodes_differently_is_noticed(encoder: Encoder, tmp_path: Path) -> None:
    encoder.save(tmp_path / "weights.safetensors")
    loaded = Encoder.load(tmp_path / "weights.safetensors", device="cpu")
    assert loaded._probes is not None
    other = np.asarray(Image.fromarray(draw_image(9, 480)).resize((640, 480)))
    Image.fromarray(other).save(tmp_path / "other.jpg")
    loaded._probes["jpeg.0"] = np.frombuffer((tmp_path / "other.jpg").read_bytes(), np.uint8)
    with pytest.raises(ModelMismatch, match="bits of the probe images differ"):
        loaded.check_probes()


def test_weights_are_readable_by_those_who_may_read_the_folder(encoder: Encoder, tmp_path: Path) -> None:
    encoder.save(tmp_path / "weights.safetensors")
    (tmp_path / "plain").touch()
    assert (tmp_path / "weights.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def encoder_header(weights: bytes) -> dict[str, Any]:
    """What a weights file says of itself."""
    n_bytes = int.from_bytes(weights[:8], "little")
    header: dict[str, Any] = json.loads(json.loads(weights[8 : 8 + n_bytes])["__metadata__"]["athsearch"])
    return header


def test_unusable_weights_are_refused_in_one_line(encoder: Encoder, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    encoder.save(path)
    good = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"nowhere\.safetensors: no such"):
        Encoder.load(tmp_path / "nowhere.safetensors")
    for damaged in (b"", good[:100], good[:-10], b"not weights at all" * 100):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"weights\.safetensors"):
            Encoder.load(path)
    flipped = bytearray(good)
    flipped[-5000] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(CheckpointError, match="damaged"):
        Encoder.load(path)
    path.write_bytes(good.replace(b'\\"format\\": 1', b'\\"format\\": 2'))
    with pytest.raises(CheckpointError, match="format 2, this version reads format 1"):
        Encoder.load(path)
    with pytest.raises(IsADirectoryError):
        Encoder.load(tmp_path)
    path.write_bytes(good)
    save_file(load_file(path), path, metadata={"athsearch": "[]"})
    with pytest.raises(CheckpointError, match="not an object"):
        Encoder.load(path)
    header = encoder_header(good)
    deep = "[" * 100_000
    mean = {**header["preprocessing"], "mean": [10**400, 0, 0]}
    for text in (deep, *(json.dumps({**header, **change}) for change in ({"preprocessing": mean}, {"training": [1]}))):
        save_file(load_file(path), path, metadata={"athsearch": text})
        with pytest.raises(CheckpointError, match="not a readable weights file"):
            Encoder.load(path)
    path.write_bytes(good)
    tensors = load_file(path)
    del tensors["extra.jpeg.0"]
    save_file(tensors, path, metadata={"athsearch": json.dumps(header)})
    with pytest.raises(CheckpointError, match="probe images are not files and their logits"):
        Encoder.load(path)
    save_file(load_file(path), path, metadata={"other": "program"})
    with pytest.raises(CheckpointError, match="not of athsearch"):
        Encoder.load(path)


def test_a_description_needs_no_torch(encoder: Encoder, tmp_path: Path) -> None:
    encoder.save(tmp_path / "weights.safetensors")
    weights = read_weights(tmp_path / "weights.safetensors")
    assert weights.description == encoder.description
    assert set(weights.versions) == {"athsearch", "torch", "pillow", "numpy"}


def test_an_unknown_device_is_refused(encoder: Encoder, tmp_path: Path) -> None:
    encoder.save(tmp_path / "weights.safetensors")
    with pytest.raises(DeviceError, match="'quantum' cannot be used"):
        Encoder.load(tmp_path / "weights.safetensors", device="quantum")


def test_explaining_may_come_after_attention(encoder: Encoder, tmp_path: Path) -> None:
    encoder.save(tmp_path / "weights.safetensors")
    loaded = Encoder.load(tmp_path / "weights.safetensors", device="cpu")
    squares = loaded.squares(draw_image(1))
    assert loaded.attention(squares).shape == (1, 8, 8)
    assert loaded.relevance(squares).max() > 0


def test_codes_need_no_torch(encoder: Encoder, tmp_path: Path) -> None:
    encoder.save(tmp_path / "weights.safetensors")
    Image.fromarray(draw_image(1)).save(tmp_path / "image.png")
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from athsearch.encoder import Encoder\n"
        f"encoder = Encoder.load({str(tmp_path / 'weights.safetensors')!r})\n"
        "encoder.check_probes()\n"
        f"print(encoder.encode({str(tmp_path / 'image.png')!r}).words.tolist())"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == str(encoder.encode(tmp_path / "image.png").words.tolist())
