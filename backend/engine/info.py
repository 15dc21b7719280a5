"""What an engine says of itself: what is loaded, its limits, and which switches do nothing where it runs."""

from __future__ import annotations

import os
from dataclasses import fields
from typing import TYPE_CHECKING

import torch

from backend.engine.about import EngineInfo
from backend.engine.attention.cpu import KernelAttention
from backend.engine.config import BLOCK_SIZE
from backend.engine.quantization.factory import resolve_variant
from backend.engine.quantization.kernel import KernelLinear, way
from backend.engine.switches import Needs, Switches

if TYPE_CHECKING:
    import ctypes

    from backend.engine.embedding.serving import EmbeddingServing
    from backend.engine.model.decoder import Decoder
    from backend.engine.serving.installed import Serving


def _processor() -> str:
    threads = torch.get_num_threads()
    return f"cpu ({threads} thread{'' if threads == 1 else 's'})"


def _products(decoder: Decoder, kernels: ctypes.CDLL | None) -> str:
    """What multiplies by the weights."""
    own = [type(linear) is KernelLinear for linear in decoder.layers[0].linears().values()]
    return f"our own, {way(kernels)}" if kernels is not None and all(own) else "torch"


def engine_info(
    serving: Serving, embedding: EmbeddingServing | None, notices: list[str], load_seconds: float
) -> EngineInfo:
    """Describe an engine, for people and for the web process."""
    device, decoder = serving.device, serving.decoder
    cuda = device.type == "cuda"
    return EngineInfo(
        model_folder=str(serving.folder),
        fingerprint=serving.fingerprint,
        family=decoder.shape.family,
        vocab=decoder.shape.vocab,
        eos_ids=tuple(decoder.shape.eos_ids),
        max_model_len=serving.max_model_len,
        variant=decoder.variant,
        device=torch.cuda.get_device_name() if cuda else _processor(),
        device_type=device.type,
        attention=serving.attention.name,
        products=_products(decoder, serving.kernels),
        notices=(*notices, *decoder.notices),
        ineffective=ineffective(
            device.type,
            kernels=isinstance(serving.attention, KernelAttention),
            scattered=serving.attention.scattered,
            graphs=serving.graphs is not None,
            bf16=resolve_variant("bf16", device, serving.kernels) == "bf16",
        ),
        kv_blocks=serving.cache.total,
        block_size=BLOCK_SIZE,
        load_seconds=load_seconds,
        embedding_folder=str(embedding.folder) if embedding else None,
        embedding_fingerprint=embedding.fingerprint if embedding else None,
        embedding_dimension=embedding.encoder.dimension if embedding else None,
        embedding_max_tokens=embedding.encoder.max_tokens if embedding else None,
        pid=os.getpid(),
        precision=serving.precision.report,
        tried_products=serving.tried_products,
    )


def ineffective(device_type: str, *, kernels: bool, scattered: bool, graphs: bool, bf16: bool) -> dict[str, str]:
    """Why switches, or some of their values, do nothing where an engine runs: a sentence by the switch's name.

    Args:
        device_type: "cpu" or "cuda".
        kernels: whether the C++ attention serves.
        scattered: whether attention may leave out positions that are known already.
        graphs: whether decode steps can be recorded.
        bf16: whether weights can be held in bf16.
    """
    gpu = device_type == "cuda"
    missing = {
        Needs.KERNEL_PAGES: None if kernels else "Does nothing here: only the C++ attention of processors has it, and "
        + ("this engine runs on a GPU." if gpu else "it does not serve on this machine."),
        Needs.SCATTERED_READING: None if scattered else "Does nothing here: this GPU's attention reads every position.",
        Needs.CUDA_GRAPHS: None if graphs else "Does nothing here: "
        + ("decode steps cannot be recorded on this GPU." if gpu else "this engine runs on a processor."),
    }
    reasons = {f.name: missing[f.metadata["needs"]] for f in fields(Switches) if f.metadata["needs"]}
    if gpu:
        reasons["quantization"] = "On a GPU, int8 and mixed are bitsandbytes' LLM.int8(), the same as bnb-int8."
    elif not bf16:
        reasons["quantization"] = (
            "bf16 is held as fp32 here: this processor does not compute in bf16, and the C++ kernels do not serve."
        )
    return {name: reason for name, reason in reasons.items() if reason}
