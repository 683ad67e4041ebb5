"""Operations of networks as one kernel each on NVIDIA GPUs, and the same in plain torch, which runs everywhere else.

Registered as torch.ops.athsearch.*, with shapes for torch.compile and gradients for autograd. The kernels are those of
athsearch._cuda (docs/cuda.md); they run in torch's current stream and never wait for it.
"""

from __future__ import annotations

import functools
import warnings
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.grad import conv2d_weight

from ..codes import n_words_for
from ..errors import CudaError
from ..gpus import cuda_module, find_gpus

MAX_CHANNELS = 32767
SUMS = {  # what is computed in, by the type of x
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
}
CODES = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2, torch.float64: 3}  # of a type, for the module


def _kernels() -> ModuleType | None:
    try:
        return cuda_module()
    except ImportError as error:
        warnings.warn(f"athsearch's CUDA module cannot be loaded: torch computes without it ({error})", stacklevel=2)
        return None


CUDA = _kernels()


def has_kernels(x: Tensor) -> bool:
    """Whether x is on a GPU, and the module with the kernels was built. A GPU that it cannot use computes by torch."""
    return CUDA is not None and x.is_cuda


@functools.cache
def _runs_on(device: torch.device) -> bool:
    """Whether the module, which was built, can compute on that GPU; where it cannot, a warning says why, once."""
    try:
        reason = find_gpus().why_not(device.index)
    except CudaError as error:
        reason = str(error)
    if reason is not None:
        warnings.warn(f"torch computes without athsearch's CUDA module: {reason}", stacklevel=2)
    return reason is None


def spatial_attention(x: Tensor, weight: Tensor, offset: float) -> tuple[Tensor, Tensor]:
    """x (offset + A(x)) and A(x) = sigmoid(conv3x3([mean over channels, max over channels])), zeros around the image.

    x: float16, bfloat16, float32 or float64 [B, C, H, W], C from 1 to 32767, H and W from 1; contiguous or
    channels_last, others are copied. weight: [1, 2, 3, 3], of x's type, or float32 for float16 and bfloat16. Returns
    [B, C, H, W], laid out as x, and [B, 1, H, W], both of x's type; sums are in float32, in float64 for float64. Both
    have gradients, which have none themselves. Of equal channels the lowest is the maximum; NaN spreads as in torch.

    Raises TypeError for other types, ValueError for other shapes and where x and weight are on different devices.
    """
    _check_attention(x, weight, is_any_weight=True)
    is_saved = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    y, attention, _, _ = torch.ops.athsearch.spatial_attention(x, weight.to(SUMS[x.dtype]), float(offset), is_saved)
    return y, attention


def hash_pack(features: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    """The codes of features: the bits of features @ weights.T + bias > 0, computed in float32.

    features: float16, bfloat16 or float32 [B, F], F from 1. weights: float32 [bits, F], bits from 1 to 4096. bias:
    float32 [bits]. Returns int64 [B, ceil(bits / 64)] with the bits of `Codes`: `.cpu().numpy().view(np.uint64)`
    gives its words. NaN gives bit 0. There is no gradient.

    Raises TypeError for other types, ValueError for other shapes and where the three are not on one device.
    """
    _check_hash(features, weights, bias)
    codes: Tensor = torch.ops.athsearch.hash_pack(features, weights, bias)
    return codes


def _check_attention(x: Tensor, weight: Tensor, is_any_weight: bool = False) -> None:
    if x.dtype not in SUMS:
        raise TypeError(f"x must be float16, bfloat16, float32 or float64, got {x.dtype}")
    allowed = {SUMS[x.dtype], x.dtype} if is_any_weight else {SUMS[x.dtype]}
    if weight.dtype not in allowed:
        raise TypeError(
            f"weight must be {' or '.join(sorted(map(str, allowed)))} for x of {x.dtype}, got {weight.dtype}"
        )
    if x.ndim != 4 or not 1 <= x.shape[1] <= MAX_CHANNELS or x.shape[2] < 1 or x.shape[3] < 1:
        raise ValueError(f"x must be [B, C, H, W], C from 1 to {MAX_CHANNELS}, H and W from 1, got {list(x.shape)}")
    if weight.shape != (1, 2, 3, 3):
        raise ValueError(f"weight must be [1, 2, 3, 3], got {list(weight.shape)}")
    _check_one_device(x=x, weight=weight)


def _check_hash(features: Tensor, weights: Tensor, bias: Tensor) -> None:
    if features.dtype not in SUMS or features.dtype == torch.float64:
        raise TypeError(f"features must be float16, bfloat16 or float32, got {features.dtype}")
    if weights.dtype != torch.float32 or bias.dtype != torch.float32:
        raise TypeError(f"weights and bias must be float32, got {weights.dtype} and {bias.dtype}")
    if features.ndim != 2 or weights.ndim != 2 or not features.shape[1] == weights.shape[1] > 0:
        raise ValueError(
            "features must be [B, F] and weights [bits, F], F from 1, got "
            f"{list(features.shape)} and {list(weights.shape)}"
        )
    n_words_for(weights.shape[0])  # raises where no code can be that long
    if bias.shape != weights.shape[:1]:
        raise ValueError(f"bias must be [{weights.shape[0]}] for weights {list(weights.shape)}, got {list(bias.shape)}")
    _check_one_device(features=features, weights=weights, bias=bias)


def _check_one_device(**tensors: Tensor) -> None:
    if len({tensor.device for tensor in tensors.values()}) > 1:
        places = ", ".join(f"{name} on {tensor.device}" for name, tensor in tensors.items())
        raise ValueError(f"all must be on one device, got {places}")


def _layout(x: Tensor) -> torch.memory_format:
    if not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def _dense(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=_layout(x))


def _saved(x: Tensor, is_saved: bool) -> tuple[Tensor, Tensor]:
    """Memory for what the gradients need: mean, maximum and A [B, 3, H, W], and the maximum's channel [B, 1, H, W]."""
    n_images, _, height, width = x.shape if is_saved else (0, 0, 0, 0)
    maps = x.new_empty((n_images, 3, height, width), dtype=SUMS[x.dtype])
    return maps, x.new_empty((n_images, 1, height, width), dtype=torch.int16)


# Plain torch.


def _attention_plain(x: Tensor, weight: Tensor, offset: float, is_saved: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _check_attention(x, weight)
    x = _dense(x)
    sums = SUMS[x.dtype]
    with torch.autocast(x.device.type, enabled=False):
        mean = x.mean(dim=1, keepdim=True, dtype=sums)
        maximum, argmax = x.max(dim=1, keepdim=True)
        statistics = torch.cat([mean, maximum.to(sums)], dim=1)
        attention = torch.sigmoid(functional.conv2d(statistics, weight, padding=1))
        y = (x * (attention if offset == 0 else offset + attention)).to(x.dtype)
    found = y.contiguous(memory_format=_layout(x)), attention.to(x.dtype).contiguous()
    if not is_saved:
        return *found, *_saved(x, False)
    return *found, torch.cat([statistics, attention], dim=1).contiguous(), argmax.to(torch.int16).contiguous()


def _attention_gradients_plain(
    grad_y: Tensor,
    grad_attention: Tensor | None,
    x: Tensor,
    weight: Tensor,
    maps: Tensor,
    argmax: Tensor,
    offset: float,
) -> tuple[Tensor, Tensor]:
    _check_gradients(grad_y, grad_attention, x, weight, maps, argmax)
    sums = SUMS[x.dtype]
    with torch.autocast(x.device.type, enabled=False):
        wide_grad, gate = grad_y.to(sums), maps[:, 2:]
        grad_gate = (wide_grad * x.to(sums)).sum(dim=1, keepdim=True)
        if grad_attention is not None:
            grad_gate = grad_gate + grad_attention.to(sums)
        grad_z = grad_gate * gate * (1 - gate)  # [B, 1, H, W]
        of_maps = functional.conv_transpose2d(grad_z, weight, padding=1)  # -> [B, 2, H, W]
        grad_weight: Tensor = conv2d_weight(  # type: ignore[no-untyped-call]
            maps[:, :2], [1, 2, 3, 3], grad_z, padding=1
        )
        grad_x = wide_grad * (offset + gate) + of_maps[:, :1] / x.shape[1]
        grad_x = grad_x.scatter_add(1, argmax.long(), of_maps[:, 1:])
    return grad_x.to(x.dtype).contiguous(memory_format=_layout(_dense(x))), grad_weight.contiguous()


def _check_gradients(
    grad_y: Tensor, grad_attention: Tensor | None, x: Tensor, weight: Tensor, maps: Tensor, argmax: Tensor
) -> None:
    _check_attention(x, weight)
    n_images, _, height, width = x.shape
    one_map = (n_images, 1, height, width)
    if maps.shape != (n_images, 3, height, width):
        raise RuntimeError("nothing was saved for gradients: call the operation with is_saved=True")
    for name, tensor, shape, dtype in (
        ("grad_y", grad_y, x.shape, x.dtype),
        ("grad_attention", grad_attention, one_map, x.dtype),
        ("maps", maps, maps.shape, SUMS[x.dtype]),
        ("argmax", argmax, one_map, torch.int16),
    ):
        if tensor is not None and (tensor.shape, tensor.dtype, tensor.device) != (shape, dtype, x.device):
            raise ValueError(
                f"{name} must be {dtype} {list(shape)} on {x.device}, "
                f"got {tensor.dtype} {list(tensor.shape)} on {tensor.device}"
            )


def _hash_plain(features: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    _check_hash(features, weights, bias)
    with torch.autocast(features.device.type, enabled=False):
        bits = functional.linear(features.float(), weights, bias) > 0  # [B, bits]
    n_words = n_words_for(weights.shape[0])
    bits = functional.pad(bits, (0, 64 * n_words - weights.shape[0])).view(-1, n_words, 64)
    places = torch.arange(64, device=bits.device)
    return (bits.long() << places).sum(dim=2)


# The kernels.


def _attention_cuda(x: Tensor, weight: Tensor, offset: float, is_saved: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if CUDA is None or not _runs_on(x.device):
        return _attention_plain(x, weight, offset, is_saved)
    _check_attention(x, weight)
    x, weight = _dense(x), weight.contiguous()
    y, attention = torch.empty_like(x), x.new_empty((x.shape[0], 1, *x.shape[2:]))
    maps, argmax = _saved(x, is_saved)
    CUDA.attention_forward(
        **_described(x),
        offset=offset,
        x=x.data_ptr(),
        weight=weight.data_ptr(),
        y=y.data_ptr(),
        attention=attention.data_ptr(),
        maps=maps.data_ptr() if is_saved else 0,
        argmax=argmax.data_ptr() if is_saved else 0,
        **_place(x),
    )
    return y, attention, maps, argmax


def _attention_gradients_cuda(
    grad_y: Tensor,
    grad_attention: Tensor | None,
    x: Tensor,
    weight: Tensor,
    maps: Tensor,
    argmax: Tensor,
    offset: float,
) -> tuple[Tensor, Tensor]:
    if CUDA is None or not _runs_on(x.device):
        return _attention_gradients_plain(grad_y, grad_attention, x, weight, maps, argmax, offset)
    _check_gradients(grad_y, grad_attention, x, weight, maps, argmax)
    x, weight, maps, argmax = _dense(x), weight.contiguous(), maps.contiguous(), argmax.contiguous()
    grad_y = grad_y.contiguous(memory_format=_layout(x))
    grad_attention = None if grad_attention is None else grad_attention.contiguous()
    grad_x, grad_weight = torch.empty_like(x), torch.zeros_like(weight)  # zero: for a batch of no images
    n_blocks = CUDA.attention_blocks(n_images=x.shape[0], height=x.shape[2], width=x.shape[3])
    partial_sums = weight.new_empty((n_blocks, weight.numel()))
    CUDA.attention_backward(
        **_described(x),
        offset=offset,
        grad_y=grad_y.data_ptr(),
        grad_attention=0 if grad_attention is None else grad_attention.data_ptr(),
        x=x.data_ptr(),
        weight=weight.data_ptr(),
        maps=maps.data_ptr(),
        argmax=argmax.data_ptr(),
        grad_x=grad_x.data_ptr(),
        grad_weight=grad_weight.data_ptr(),
        partial_sums=partial_sums.data_ptr(),
        **_place(x),
    )
    return grad_x, grad_weight


def _hash_cuda(features: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    if CUDA is None or not _runs_on(features.device):
        return _hash_plain(features, weights, bias)
    _check_hash(features, weights, bias)
    features, weights, bias = features.contiguous(), weights.contiguous(), bias.contiguous()
    words = _hash_shapes(features, weights, bias)
    CUDA.hash_pack(
        dtype=CODES[features.dtype],
        n_images=features.shape[0],
        n_features=features.shape[1],
        n_bits=weights.shape[0],
        features=features.data_ptr(),
        weights=weights.data_ptr(),
        bias=bias.data_ptr(),
        words=words.data_ptr(),
        **_place(features),
    )
    return words


def _described(x: Tensor) -> dict[str, int]:
    n_images, n_channels, height, width = x.shape
    is_channels_last = _layout(x) == torch.channels_last
    return {
        "dtype": CODES[x.dtype],
        "n_images": n_images,
        "n_channels": n_channels,
        "height": height,
        "width": width,
        "channel_stride": 1 if is_channels_last else height * width,
        "pixel_stride": n_channels if is_channels_last else 1,
    }


def _place(x: Tensor) -> dict[str, int]:
    stream = torch.cuda.current_stream(x.device)
    return {"stream": stream.cuda_stream, "device": stream.device_index}


# Shapes for torch.compile, and autograd.


def _attention_shapes(x: Tensor, weight: Tensor, offset: float, is_saved: bool) -> tuple[Tensor, ...]:
    _check_attention(x, weight)
    return torch.empty_like(_dense(x)), x.new_empty((x.shape[0], 1, *x.shape[2:])), *_saved(x, is_saved)


def _attention_gradient_shapes(
    grad_y: Tensor, grad_attention: Tensor | None, x: Tensor, weight: Tensor, *saved: Any
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(_dense(x)), weight.new_empty(weight.shape)


def _hash_shapes(features: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    _check_hash(features, weights, bias)
    return features.new_empty((features.shape[0], n_words_for(weights.shape[0])), dtype=torch.int64)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, ctx.offset, _ = inputs
    _, _, maps, argmax = output
    ctx.save_for_backward(x, weight, maps, argmax)
    ctx.mark_non_differentiable(maps, argmax)
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, grad_y: Tensor | None, grad_attention: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if grad_y is None and grad_attention is None:
        return None, None, None, None
    x, weight, maps, argmax = ctx.saved_tensors
    grad_x, grad_weight = torch.ops.athsearch.spatial_attention_backward(
        torch.zeros_like(x) if grad_y is None else grad_y,
        *(grad_attention, x, weight, maps, argmax, ctx.offset),
    )
    return grad_x, grad_weight, None, None


_LIBRARY: Any = torch.library.Library("athsearch", "DEF")  # type: ignore[no-untyped-call]


def _register(name: str, schema: str, plain: Any, cuda: Any, shapes: Any) -> None:
    _LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, plain, "CompositeExplicitAutograd")
    _LIBRARY.impl(name, cuda, "CUDA")
    torch.library.register_fake(f"athsearch::{name}", shapes, lib=_LIBRARY)


_register(
    "spatial_attention",
    "(Tensor x, Tensor weight, float offset, bool is_saved) -> (Tensor, Tensor, Tensor, Tensor)",
    *(_attention_plain, _attention_cuda, _attention_shapes),
)
_register(
    "spatial_attention_backward",
    "(Tensor grad_y, Tensor? grad_attention, Tensor x, Tensor weight, Tensor maps, Tensor argmax, float offset) "
    "-> (Tensor, Tensor)",
    *(_attention_gradients_plain, _attention_gradients_cuda, _attention_gradient_shapes),
)
_register(
    "hash_pack",
    "(Tensor features, Tensor weights, Tensor bias) -> Tensor",
    *(_hash_plain, _hash_cuda, _hash_shapes),
)
torch.library.register_autograd("athsearch::spatial_attention", _gradients, setup_context=_save, lib=_LIBRARY)
