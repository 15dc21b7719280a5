"""What guesses are worth where answers quote."""

from __future__ import annotations

from backend.engine.bench.recorder import run_once
from backend.engine.bench.sitting import Sitting
from backend.engine.bench.workloads.samples import sample_sections
from backend.engine.core import EngineCore
from backend.models.checkpoint import resolve


def run(sitting: Sitting) -> None:
    """Answers that quote, one user, greedy: "copy the following text" over every section of the samples."""
    from backend.models.text import TextModel

    text = TextModel(resolve(sitting.a.model, sitting.a.cache_dir))
    batch = []
    for section in sample_sections():
        body = section.split("\n", 1)[1].strip()
        question = f"Copy the following text exactly.\n\n{body}"
        batch.append((text.encode_chat([{"role": "user", "content": question}]), len(text.encode(body))))
    for quantization in sitting.a.quantization:
        core = sitting.engine(quantization)
        outputs: dict[str, list[list[int]]] = {}

        def quote(core: EngineCore = core, outputs: dict[str, list[list[int]]] = outputs) -> float:
            seconds, tokens = 0.0, []
            for prompt, length in batch:
                run_once(core, sitting.recorder, [prompt], length)
                times = sitting.recorder.times["r0"]
                seconds += times[-1] - times[0]
                tokens.append(sitting.recorder.tokens["r0"])
            outputs[core.serving.switches.speculation] = tokens
            return seconds

        result = sitting.compare(core, {"speculation": "off"}, {"speculation": "ngram"}, quote)
        same = outputs["off"] == outputs["ngram"]
        sitting.row("speculation", variant=core.serving.decoder.variant, same_tokens=same, **result)
        del core
