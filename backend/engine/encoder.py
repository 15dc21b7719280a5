"""The embedding model: a BERT-family encoder, mean-pooled and normalized (MiniLM, BGE, E5 and their kin).

Sequences are laid end to end, without padding, and every step works token by token or within one sequence. With our own
matrix products the vector of a text is therefore the same to the last bit whatever else is in the batch.
"""

from __future__ import annotations

import ctypes
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from backend.engine.attention import AttentionShape, Batch, KernelAttention, Reading
from backend.engine.config import BLOCK_SIZE
from backend.engine.quantize import KernelLinear, Linear, linear_factory, working_dtype
from backend.engine.weights import UnsupportedModelError, tensors

BATCH_TOKENS = 1024
"""Tokens one forward pass computes at most; bounds memory and how long a decode step waits (some 60 ms here)."""


Attend = Callable[[torch.Tensor], torch.Tensor]


class TorchEncoderAttention:
    """Attention within each text by `scaled_dot_product_attention`, texts of one length together."""

    def __init__(self, heads: int) -> None:
        self._heads = heads

    def over(self, lengths: list[int]) -> Attend:
        """For texts of these lengths: from [tokens, 3 × dimension] to [tokens, dimension], in any layer."""

        def attend(qkv: torch.Tensor) -> torch.Tensor:
            out = qkv.new_empty(qkv.shape[0], qkv.shape[1] // 3)
            at = 0
            for length, texts in itertools.groupby(lengths):
                count = len(list(texts))
                rows = slice(at, at + count * length)
                q, k, v = qkv[rows].view(count, length, 3, self._heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
                out[rows] = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(count * length, -1)
                at += count * length
            return out

        return attend


class KernelEncoderAttention:
    """The same by the decoder's kernel, whose pages hold one layer's keys and values meanwhile."""

    def __init__(self, heads: int, head_size: int, dtype: torch.dtype, kernels: ctypes.CDLL) -> None:
        self._kernel = KernelAttention(AttentionShape(1, heads, heads, head_size), dtype, kernels)
        self._kernel.reading = Reading(share_pages=False)
        self._blocks = 0

    def over(self, lengths: list[int]) -> Attend:
        """See `TorchEncoderAttention.over`."""
        batch, no_angles = self._lay_out(lengths), torch.empty(0)
        return lambda qkv: self._kernel.forward(0, qkv, batch, no_angles, no_angles, rotate=False)

    def _lay_out(self, lengths: list[int]) -> Batch:
        blocks = [-(-n // BLOCK_SIZE) for n in lengths]
        if sum(blocks) > self._blocks:
            self._blocks = sum(blocks)
            self._kernel.allocate(self._blocks)
        firsts = torch.tensor([0, *itertools.accumulate(blocks[:-1])])
        sizes = torch.tensor(lengths)
        starts = torch.tensor(list(itertools.accumulate(lengths, initial=0)), dtype=torch.int32)
        within = torch.cat([torch.arange(n) for n in lengths])
        return Batch(
            token_ids=within,
            positions=(sizes - 1).repeat_interleave(sizes),  # every token sees its text to the end
            slots=(firsts * BLOCK_SIZE).repeat_interleave(sizes) + within,
            query_starts=starts,
            context_lens=sizes.to(torch.int32),
            tables=(firsts.unsqueeze(1) + torch.arange(max(blocks))).to(torch.int32),
            max_query=max(lengths),
            max_context=max(lengths),
            last=torch.empty(0),
        )


class Encoder:
    """Weights and forward pass of a BERT encoder.

    Args:
        folder: Hugging Face folder.
        device: where it runs.
        kernels: the C++ library, or None for torch's products.
        quantize: hold every product but those of queries, keys and values in 8 bits, where the kernels can. Those
            three hold most of what 8 bits cost: without them the mean cosine to float32 is 0.999, with them 0.997.
    """

    def __init__(
        self, folder: Path, device: torch.device, kernels: ctypes.CDLL | None = None, *, quantize: bool = True
    ) -> None:
        config = json.loads((folder / "config.json").read_text())
        if config.get("model_type") != "bert":
            raise UnsupportedModelError(f"Embedding model type {config.get('model_type')!r} is not supported (bert).")
        self.device, self.dtype = device, working_dtype(device)
        self._kernels = kernels if device.type == "cpu" else None
        self.heads: int = config["num_attention_heads"]
        self.dimension: int = config["hidden_size"]
        self.max_tokens: int = config["max_position_embeddings"]
        self.vocab: int = config["vocab_size"]
        self._eps: float = config["layer_norm_eps"]
        self._layers: int = config["num_hidden_layers"]
        raw = {name.removeprefix("bert."): tensor for name, tensor in tensors(folder)}
        variant = "bf16" if self.dtype is torch.bfloat16 else "fp32"
        if quantize and variant == "bf16" and device.type == "cpu" and KernelLinear.usable(kernels):
            variant = "mixed"
        high = frozenset(f"{i}.qkv" for i in range(self._layers))
        _, make = linear_factory(variant, device, kernels, high)
        self._linears: dict[str, Linear] = {}
        for i in range(self._layers):
            at = f"encoder.layer.{i}"
            parts = [f"{at}.attention.self.{x}" for x in ("query", "key", "value")]
            weight = torch.cat([raw.pop(f"{part}.weight") for part in parts])
            self._linears[f"{at}.qkv"] = make(
                weight, torch.cat([raw.pop(f"{part}.bias") for part in parts]), name=f"{i}.qkv"
            )
            for name in ("attention.output.dense", "intermediate.dense", "output.dense"):
                self._linears[f"{at}.{name}"] = make(
                    raw.pop(f"{at}.{name}.weight"), raw.pop(f"{at}.{name}.bias"), name=f"{i}.{name}"
                )
        self._w = {name: tensor.to(device, self.dtype) for name, tensor in raw.items() if tensor.is_floating_point()}
        first = next(iter(self._linears.values()))
        self._attention: TorchEncoderAttention | KernelEncoderAttention = TorchEncoderAttention(self.heads)
        shape = AttentionShape(1, self.heads, self.heads, self.dimension // self.heads)
        if self._kernels is not None and KernelAttention.supports(shape, self.dtype):
            self._attention = KernelEncoderAttention(self.heads, shape.head_size, self.dtype, self._kernels)
        own = isinstance(first, KernelLinear), isinstance(self._attention, KernelEncoderAttention)
        self.precision = "-".join([variant, *("kernel" if x else "torch" for x in own), "4"])

    def embed(self, inputs: list[list[int]], between: Callable[[], None] | None = None) -> np.ndarray:
        """Embed token sequences; returns float32 [inputs, dimension], each row of length 1.

        `between` is called after each forward pass.
        """
        out = np.empty((len(inputs), self.dimension), dtype=np.float32)
        for rows in self._batches(inputs):
            out[rows] = self._forward([inputs[i] for i in rows]).cpu().numpy()
            if between is not None:
                between()
        return out

    @staticmethod
    def _batches(inputs: list[list[int]]) -> Iterator[list[int]]:
        """Rows of one forward pass each, by length, so that equal lengths share their attention."""
        order = sorted(range(len(inputs)), key=lambda i: len(inputs[i]))
        start = tokens = 0
        for at, row in enumerate(order):
            tokens += len(inputs[row])
            if tokens > BATCH_TOKENS and at > start:
                yield order[start:at]
                start, tokens = at, len(inputs[row])
        if start < len(order):
            yield order[start:]

    @torch.inference_mode()
    def _forward(self, inputs: list[list[int]]) -> torch.Tensor:
        w = self._w
        lengths = [len(tokens) for tokens in inputs]
        ids = torch.tensor([token for tokens in inputs for token in tokens], device=self.device)
        positions = torch.cat([torch.arange(n) for n in lengths]).to(self.device)

        def norm(x: torch.Tensor, name: str) -> torch.Tensor:
            return F.layer_norm(x, (self.dimension,), w[f"{name}.weight"], w[f"{name}.bias"], self._eps)

        x = F.embedding(ids, w["embeddings.word_embeddings.weight"])
        x = x + w["embeddings.position_embeddings.weight"][positions]
        x = norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        attend = self._attention.over(lengths)
        for i in range(self._layers):
            at_layer = f"encoder.layer.{i}"
            attended = attend(self._linears[f"{at_layer}.qkv"](x))
            attended = self._linears[f"{at_layer}.attention.output.dense"](attended)
            x = norm(x + attended, f"{at_layer}.attention.output.LayerNorm")
            inner = self._gelu(self._linears[f"{at_layer}.intermediate.dense"](x))
            x = norm(x + self._linears[f"{at_layer}.output.dense"](inner), f"{at_layer}.output.LayerNorm")
        pooled = torch.stack([text.float().mean(0) for text in x.split(lengths)])
        return F.normalize(pooled, dim=-1)

    def _gelu(self, x: torch.Tensor) -> torch.Tensor:
        if self._kernels is None or x.numel() % 16:
            return F.gelu(x)
        self._kernels.tenfold_gelu(int(x.dtype is torch.bfloat16), x.data_ptr(), x.numel())
        return x
