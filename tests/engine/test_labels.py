"""What is said to serve is what serves: variants by their true name, and switches that do nothing say so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from backend.engine.info import ineffective
from backend.engine.kernels.build import load_cpu_kernels
from backend.engine.model.decoder import Decoder
from backend.engine.model.layer import LINEARS
from backend.engine.quantization.factory import resolve_variant
from backend.engine.quantization.kernel import is_fast, way
from backend.engine.quantization.sensitivity import measure_sensitivity
from backend.engine.switches import Switches
from backend.models.random_model import write
from tests.conftest import ROOT

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, chat_folder: Path) -> Path:
    folder = write("tiny", tmp_path_factory.mktemp("tiny") / "tiny")
    (folder / "tokenizer.json").write_bytes((chat_folder / "tokenizer.json").read_bytes())
    return folder


@pytest.mark.parametrize("has_bf16", [True, False])
def test_bf16_is_called_so_only_where_it_is_held_so(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, has_bf16: bool
) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)  # it has its own mind about bf16
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bf16, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    decoder = Decoder(tiny, "bf16", CPU, None)
    assert decoder.variant == {torch.bfloat16: "bf16", torch.float32: "fp32"}[decoder.dtype]
    assert (decoder.variant == "bf16") is has_bf16


def test_eight_bits_on_a_gpu_are_called_what_they_are() -> None:
    gpu = torch.device("cuda")
    assert {resolve_variant(name, gpu, None) for name in ("int8", "mixed", "bnb-int8")} == {"bnb-int8"}
    assert [resolve_variant(name, CPU, None) for name in ("int8", "mixed", "nf4")] == ["int8", "mixed", "nf4"]


def test_an_engine_says_which_switches_do_nothing_where_it_runs(
    make_engine: Any, tiny: Path, cache_dir: Path
) -> None:
    without = make_engine(Switches(quantization="fp32"), folder=tiny, use_kernels=False).core.info()
    portable = without.ineffective
    assert without.products == "torch"
    assert {"sparse_attention", "kv_cache", "shared_prefix_attention", "cuda_graphs"} <= portable.keys()
    assert "chunk_reuse" not in portable
    low = make_engine(Switches(quantization="int8"), folder=tiny).core.info()
    library = load_cpu_kernels(cache_dir)
    assert low.products == (f"our own, {way(library)}" if is_fast(library) else "torch")
    kernels = make_engine(Switches(quantization="fp32"), folder=tiny).core.info().ineffective
    assert "cuda_graphs" in kernels and "sparse_attention" not in kernels
    assert ("quantization" in kernels) is (resolve_variant("bf16", CPU, load_cpu_kernels(cache_dir)) == "fp32")


def test_every_reason_belongs_to_a_switch_and_names_the_device() -> None:
    names = Switches().as_dict().keys()
    for device in ("cpu", "cuda"):
        for on in (True, False):
            found = ineffective(device, kernels=on, scattered=on, graphs=on, bf16=on)
            assert found.keys() <= names and all(reason.endswith(".") for reason in found.values())
    gpu = ineffective("cuda", kernels=False, scattered=False, graphs=True, bf16=True)
    assert {"sparse_attention", "chunk_reuse", "quantization"} <= gpu.keys() and "cuda_graphs" not in gpu
    assert "LLM.int8()" in gpu["quantization"]


@pytest.mark.parametrize("allowed", [False, True])
def test_no_hub_is_asked_for_kernels_unless_that_is_wanted(tmp_path: Path, allowed: bool) -> None:
    (tmp_path / "kernels.py").write_text("def get_kernel(*_, **__): raise SystemExit('a hub was asked')\n")
    code = (
        "import torch; from backend.engine.quantization.factory import linear_factory\n"
        f"linear_factory('nf4', torch.device('cpu'), None, hub_kernels={allowed})\n"
        "try:\n from kernels import get_kernel\n print('reachable')\nexcept ImportError:\n print('blocked')"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, timeout=240,
    )
    if allowed and "a hub was asked" in result.stderr:  # at once, where bitsandbytes has a use for it
        return
    assert result.stdout.split() == (["reachable"] if allowed else ["blocked"]), result.stderr


def test_sensitivity_finds_the_layer_that_eight_bits_ruin(tiny: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(tiny, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    down = weights["model.layers.2.mlp.down_proj.weight"]
    down.mul_(20)
    down[:, 0] *= 500  # one channel that leaves nothing of the others in 8 bits
    save_file({name: tensor.clone() for name, tensor in weights.items()}, folder / "model.safetensors")
    costs = measure_sensitivity(Decoder(folder, "auto", CPU, None), folder)
    assert costs.keys() == {f"{i}.{name}" for i in range(4) for name in LINEARS}
    assert max(costs, key=lambda name: costs[name]).startswith("2.")
