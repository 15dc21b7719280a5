"""The model: one forward pass of a Llama-family decoder over a flattened batch (Llama, Mistral, Qwen2, Qwen3, SmolLM3).

Projections are fused (qkv, gate + up) and the residual stream stays in float32 on CPU, where it costs nothing.
"""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F

from backend.engine.attention.base import AttentionShape, Batch, PagedAttention
from backend.engine.attention.choice import choose_gpu_attention
from backend.engine.attention.cpu import KernelAttention
from backend.engine.attention.gather import GatherAttention
from backend.engine.model.layer import Layer, make_layer
from backend.engine.model.one_call import WholeForward
from backend.engine.model.operations import KernelOps, Operations, TorchOps, operations_for
from backend.engine.model.rotary import rotary_tables
from backend.engine.model.weights import ModelShape, check_sizes, expected_sizes, read_shape, tensors
from backend.engine.quantization.factory import LOW_BITS, holds_16_bits, linear_factory, resolve_variant
from backend.engine.quantization.kernel import serves
from backend.engine.quantization.linear import DenseLinear, Linear, LinearFactory
from backend.engine.quantization.sensitivity import measure_sensitivity
from backend.engine.quantization.stored import (
    layers_file,
    load_layers,
    load_sensitivity,
    save_layers,
    sensitive_file,
)
from backend.engine.remembered import remember
from backend.models.checkpoint import fingerprint

KEPT_HIGH = 0.05
"""Share of the linear layers that `mixed` keeps in 16 bits: those that suffer most from 8."""


class Decoder:
    """Weights and forward pass of one variant of a model.

    Args:
        folder: Hugging Face folder.
        variant: "auto", "fp32", "bf16", "int8", "mixed", "nf4" or "bnb-int8"; `self.variant` says what it came to.
        device: where it runs.
        kernels: the C++ library, or None for the portable path.
        max_positions: longest sequence to prepare rotary tables for.
        cache_dir: where quantized layers are kept between starts; None keeps none.
        hub_kernels: bitsandbytes may fetch kernels from a hub.
        holds_layers: False makes each layer when `each_layer` comes to it, and lets it go after; `forward` cannot be
            used then.
        progress: told which share of the layers is made, after each.

    Raises:
        BadModelError: the folder is damaged, or holds a model of another architecture.
        ValueError: this machine cannot hold weights so; says why.
    """

    def __init__(
        self,
        folder: Path,
        variant: str,
        device: torch.device,
        kernels: ctypes.CDLL | None,
        max_positions: int | None = None,
        cache_dir: Path | None = None,
        *,
        hub_kernels: bool = False,
        holds_layers: bool = True,
        progress: Callable[[float], None] = lambda share: None,
    ) -> None:
        self._progress = progress
        # Of what is read now, whatever lies there later; who keeps nothing needs none, and it reads every byte.
        self.fingerprint = fingerprint(folder, cache_dir) if cache_dir is not None else ""
        self.shape: ModelShape = read_shape(folder, cache_dir)
        self.variant, self.device = resolve_variant(variant, device, kernels), device
        s = self.shape
        weights = dict(tensors(folder))
        check_sizes(folder, weights, expected_sizes(s))
        self._folder, self._cache_dir, self.kernels = folder, cache_dir, kernels
        self.notices: list[str] = []  # what a person should know of how it runs here
        self._low = self.variant in LOW_BITS
        self.high = self._sensitive_layers() if self.variant == "mixed" else frozenset()
        self.dtype, make_linear = linear_factory(self.variant, device, kernels, self.high, hub_kernels=hub_kernels)
        self.max_positions = min(max_positions or s.max_positions, s.max_positions)
        self.cosine, self.sine = rotary_tables(s, self.max_positions, device)
        self.attention_shape = AttentionShape(s.layers, s.heads, s.kv_heads, s.head_size)
        self._whole_forward: WholeForward | None = None
        # The kernels go through rows in whole vectors of 16 numbers.
        self._fits = kernels is not None and s.hidden % 16 == 0 and s.intermediate % 16 == 0 and device.type == "cpu"
        self.ops: Operations = operations_for(device, s.hidden)
        if kernels is not None and self._fits:
            self.ops = KernelOps(kernels)
        # Float32 for the sums of many layers on CPU; on CUDA the working dtype, as everyone measures it there.
        self._residual_dtype = torch.float32 if device.type == "cpu" else self.dtype

        packs = holds_16_bits(self.variant, device, kernels)
        table = torch.bfloat16 if packs else self.dtype
        self.embedding = self._dense(weights, "model.embed_tokens.weight", table)
        self._pages = torch.bfloat16 if packs else self.dtype
        self.final_norm = self._dense(weights, "model.norm.weight", torch.float32)
        if s.tied:
            shares = self.device.type != "cpu" or (self.dtype is torch.float32 and not packs)
            tied = weights["model.embed_tokens.weight"]
            self.head: Linear = DenseLinear(self.embedding, None) if shares else make_linear(tied, None, logits=True)
        else:
            self.head = make_linear(weights["lm_head.weight"], weights.get("lm_head.bias"), logits=True)
        self.layers: list[Layer] = []
        if holds_layers:
            self.layers = self._kept_layers() or self._make_layers(weights, make_linear)
        else:
            self._weights, self._make_linear = weights, make_linear

    def each_layer(self) -> Iterator[Layer]:
        """The layers in order."""
        if self.layers:
            yield from self.layers
        else:
            for i in range(self.shape.layers):
                yield make_layer(self._weights, i, self._make_linear, self.device)

    def twin(self) -> Decoder:
        """The same weights for another thread, which may read other pages meanwhile."""
        twin = copy.copy(self)
        twin._whole_forward, twin.layers = None, [copy.copy(layer) for layer in self.layers]
        return twin

    def _dense(self, weights: dict[str, torch.Tensor], name: str, dtype: torch.dtype) -> torch.Tensor:
        return weights[name].to(self.device, dtype)

    def _make_layers(self, weights: dict[str, torch.Tensor], make_linear: LinearFactory) -> list[Layer]:
        layers = []
        for i in range(self.shape.layers):
            layers.append(make_layer(weights, i, make_linear, self.device))
            self._progress((i + 1) / self.shape.layers)
        if self._low and self._cache_dir is not None and WholeForward.fits(layers):
            save_layers(self._file(self._cache_dir), layers)
        return layers

    def _file(self, cache_dir: Path) -> Path:
        return layers_file(cache_dir, self.fingerprint, self.variant)

    def _kept_layers(self) -> list[Layer] | None:
        """Quantized layers from an earlier start."""
        if not self._low or self._cache_dir is None or self.kernels is None or not serves(self.kernels, 8):
            return None
        return load_layers(self._file(self._cache_dir), self.shape.layers, self.kernels)

    def _sensitive_layers(self) -> frozenset[str]:
        file = None
        if self._cache_dir is not None:
            file = sensitive_file(self._cache_dir, self.fingerprint)
        costs = load_sensitivity(file) if file is not None else None
        if costs is None:
            costs = measure_sensitivity(Decoder(self._folder, "auto", self.device, self.kernels), self._folder)
            if file is not None:
                remember(file, costs)
        return frozenset(sorted(costs, key=lambda name: -costs[name])[: max(1, round(len(costs) * KEPT_HIGH))])

    def make_attention(self, *, int8: bool = False) -> PagedAttention:
        """The attention that fits this device, for `allocate` and `forward`.

        `int8` asks for keys and values in 8 bits, which only the CPU kernel has; elsewhere it changes nothing.
        """
        if self.device.type == "cuda":
            attention, tried = choose_gpu_attention(self.attention_shape, self.dtype, self.device)
            self.notices = [f"{one.name} cannot be used here: {one.problem}." for one in tried if one.problem]
            return attention
        if self.kernels is not None and KernelAttention.supports(self.attention_shape, self.dtype):
            return KernelAttention(
                self.attention_shape, self.dtype, self.kernels, pages=self._pages, int8=int8
            )
        return GatherAttention(self.attention_shape, self.dtype, self.device)

    def drop_attention(self) -> None:
        """Let go of the attention last used, so that its pages can be given back."""
        self._whole_forward = None

    def _whole(self, attention: PagedAttention) -> WholeForward | None:
        """All layers in one call, where every layer and the attention are the kernels' own."""
        if not isinstance(attention, KernelAttention) or self.kernels is None or not self._fits:
            return None
        if self._whole_forward is None or self._whole_forward.attention is not attention:
            if not WholeForward.fits(self.layers):
                return None
            self._whole_forward = WholeForward(
                self.shape, self.layers, self.cosine, self.sine, attention, self.kernels
            )
        return self._whole_forward

    @torch.inference_mode()
    def forward(self, batch: Batch, attention: PagedAttention) -> torch.Tensor:
        """Run the batch through every layer; returns float32 logits [len(batch.last), vocab]."""
        attention.prepare(batch)
        residual = self.embed(batch)
        delta: torch.Tensor | None = None
        whole = self._whole(attention)
        if whole is not None:
            delta = whole(batch, residual)
        else:
            for i, layer in enumerate(self.layers):
                delta = self.run_layer(i, layer, residual, delta, batch, attention)
        return self.logits(residual, delta, batch)

    def embed(self, batch: Batch) -> torch.Tensor:
        """The residual stream before the first layer, [tokens, hidden]."""
        return F.embedding(batch.token_ids, self.embedding).to(self._residual_dtype)

    def run_layer(
        self, i: int, layer: Layer, residual: torch.Tensor, delta: torch.Tensor | None, batch: Batch,
        attention: PagedAttention,
    ) -> torch.Tensor:  # fmt: skip
        """Layer `i`: adds `delta` and what attention gives to `residual` in place; returns what is yet to be added."""
        s, ops = self.shape, self.ops
        x = ops.add_rms_norm(residual, delta, layer.input_norm, s.norm_eps, self.dtype)
        qkv = layer.qkv(x)
        if layer.query_norm is not None and layer.key_norm is not None:
            qkv = self._norm_heads(qkv, layer.query_norm, layer.key_norm)
        rotate = i not in s.unrotated_layers
        x = attention.forward(i, qkv, batch, self.cosine, self.sine, rotate=rotate)
        x = ops.add_rms_norm(residual, layer.output(x), layer.post_norm, s.norm_eps, self.dtype)
        return layer.down(ops.silu_mul(layer.gate_up(x)))

    def logits(self, residual: torch.Tensor, delta: torch.Tensor | None, batch: Batch) -> torch.Tensor:
        """What the last layer left, as float32 logits [len(batch.last), vocab]."""
        wanted = residual[batch.last] + (delta[batch.last] if delta is not None else 0)
        x = TorchOps.add_rms_norm(wanted, None, self.final_norm, self.shape.norm_eps, self.dtype)
        return self.head(x).float()

    def _norm_heads(self, qkv: torch.Tensor, query_norm: torch.Tensor, key_norm: torch.Tensor) -> torch.Tensor:
        """Qwen3's RMS norm of every query and key head."""
        s = self.shape
        heads = qkv.view(qkv.shape[0], s.heads + 2 * s.kv_heads, s.head_size)
        weight = torch.cat((query_norm.expand(s.heads, -1), key_norm.expand(s.kv_heads, -1)))
        x = heads[:, : s.heads + s.kv_heads].float()
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + s.norm_eps) * weight
        return torch.cat((x.to(qkv.dtype), heads[:, s.heads + s.kv_heads :]), dim=1).flatten(1)
