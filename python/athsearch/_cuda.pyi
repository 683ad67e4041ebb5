from collections.abc import Sequence
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from .types import AnyArray, Distances, Floats, Ids, Square, Words

class DeviceFacts(TypedDict):
    name: str
    compute_capability: str
    multiprocessors: int
    memory_bytes: int

def devices() -> tuple[list[DeviceFacts], str]: ...
def free_bytes(device: int) -> int: ...
def versions() -> tuple[int, int]: ...
def attention_blocks(n_images: int, height: int, width: int) -> int: ...
def attention_forward(
    *,
    dtype: int,
    n_images: int,
    n_channels: int,
    height: int,
    width: int,
    channel_stride: int,
    pixel_stride: int,
    offset: float,
    x: int,
    weight: int,
    y: int,
    attention: int,
    maps: int,
    argmax: int,
    stream: int,
    device: int,
) -> None: ...
def attention_backward(
    *,
    dtype: int,
    n_images: int,
    n_channels: int,
    height: int,
    width: int,
    channel_stride: int,
    pixel_stride: int,
    offset: float,
    grad_y: int,
    grad_attention: int,
    x: int,
    weight: int,
    maps: int,
    argmax: int,
    grad_x: int,
    grad_weight: int,
    partial_sums: int,
    stream: int,
    device: int,
) -> None: ...
def hash_pack(
    *,
    dtype: int,
    n_images: int,
    n_features: int,
    n_bits: int,
    features: int,
    weights: int,
    bias: int,
    words: int,
    stream: int,
    device: int,
) -> None: ...

class Database:
    def __init__(self, n_rows: int, n_words: int, device: int) -> None: ...
    def append(self, rows: Words) -> None: ...
    def n_queries_at_once(self, k: int) -> int: ...
    def top_k(
        self, queries: Words, k: int, mask: NDArray[np.uint64] | None
    ) -> tuple[tuple[Ids, Ids, Distances], Ids]: ...
    def within(self, queries: Words, radius: int, mask: NDArray[np.uint64] | None) -> tuple[Ids, Ids, Distances]: ...

class Network:
    def __init__(
        self,
        size: int,
        values: AnyArray,
        order: Sequence[int],
        device: int,
        precision: Literal["float32", "float16"] = "float32",
    ) -> None: ...
    def precision(self) -> Literal["float32", "float16"]: ...
    def add_plane(self, height: int, width: int, channels: int) -> int: ...
    def convolve(
        self,
        in_: int,
        out: int,
        kernel: int,
        stride: int,
        weights: AnyArray,
        bias: AnyArray,
        is_rectified: bool,
        added: int | None,
    ) -> None: ...
    def pool_maximum(self, in_: int, out: int) -> None: ...
    def pool_average(self, in_: int, out: int) -> None: ...
    def attend(self, in_: int, out: int, n_channels: int, offset: float, weights: AnyArray) -> None: ...
    def flatten(self, in_: int, n_channels: int) -> None: ...
    def summarise(self, in_: int) -> None: ...
    def finish(self, bits: int, weights: AnyArray, bias: AnyArray) -> None: ...
    def n_launches(self) -> int: ...
    def run(self, images: Square, threads: int = 1) -> Floats: ...
    def encode(self, images: Square) -> tuple[Floats, Words]: ...
    def encode_on_gpu(self, images: int, n_images: int, logits: int, words: int, stream: int) -> None: ...
