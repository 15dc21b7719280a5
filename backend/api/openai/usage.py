"""What an answer says it used, and what wrote it."""

from __future__ import annotations

import hashlib
from typing import Any

from backend.generation.stream import Generation
from backend.runtime import Runtime


def usage(generations: list[Generation], n: int) -> dict[str, Any]:
    """Tokens read and written: n answers to one prompt read it once, several prompts are several even if equal.

    Args:
        generations: n for each prompt, one prompt after the other.
        n: answers a prompt.
    """
    accounts = [generation.account for generation in generations]
    firsts = [next((a for a in accounts[i : i + n] if a is not None), None) for i in range(0, len(accounts), n)]
    prompt = sum(account.prompt_tokens for account in firsts if account is not None)
    output = sum(account.output_tokens for account in accounts if account is not None)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": sum(a.cached_tokens for a in firsts if a is not None)},
    }


def cost_header(dollars: float) -> dict[str, str]:
    """What a response says it cost, in US dollars to the nano-dollar: the cost of its entries in the ledger."""
    return {"x-tenfold-cost": f"{dollars:.9f}"}


def cost(generations: list[Generation]) -> float:
    """US dollars of all of them."""
    return round(sum(each.account.cost for each in generations if each.account is not None), 9)


def system_fingerprint(runtime: Runtime) -> str:
    """Stands for the weights and the form they are held in: what else than the request decides an answer."""
    applied = runtime.engine.applied
    variant_key = f"{runtime.engine.known().fingerprint}:{applied.variant if applied else ''}"
    return f"fp_{hashlib.sha256(variant_key.encode()).hexdigest()[:12]}"
