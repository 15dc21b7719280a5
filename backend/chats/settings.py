"""How a conversation is answered: kept with it, so that each goes on as it was begun."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from backend.engine.messages import SamplingParams
from backend.knowledge.sight import SHARED, Sight


@dataclass(frozen=True)
class ChatSettings:
    """What a person sets for a conversation.

    Attributes:
        system: the system prompt.
        temperature, top_p, repetition_penalty: see `SamplingParams`.
        max_tokens: longest answer.
        grounded: answer from documents, where there are any.
        collection: which of them; empty for all.
    """

    system: str = ""
    temperature: float = 0.0
    top_p: float = 0.9
    repetition_penalty: float = 1.0
    max_tokens: int = 256
    grounded: bool = True
    collection: str = ""

    @classmethod
    def stored(cls, values: Mapping[str, Any]) -> ChatSettings:
        """From what was kept with a conversation; what is not there is as it is in a new one."""
        return cls(**{known.name: values[known.name] for known in fields(cls) if known.name in values})

    def as_dict(self) -> dict[str, Any]:
        """To keep with a conversation: what differs from a new one's."""
        new = asdict(ChatSettings())
        return {name: value for name, value in asdict(self).items() if value != new[name]}


@dataclass(frozen=True)
class ChatOptions:
    """How to answer: system prompt, sampling, and which collection to answer from (None: no documents).

    `sight` is what of the documents the person sees who asks; `key_id` is of the key that they came in with, whose
    limits hold and who pays.
    """

    system: str = ""
    sampling: SamplingParams = field(default_factory=lambda: SamplingParams(temperature=0.0))
    max_tokens: int | None = None
    collection: str | None = None
    sight: Sight = SHARED
    key_id: str = ""


def options(settings: ChatSettings, sight: Sight, *, searchable: bool, key_id: str = "") -> ChatOptions:
    """How to answer by a conversation's settings, for a person, where documents can be searched or not."""
    sampling = SamplingParams(
        temperature=settings.temperature, top_p=settings.top_p, repetition_penalty=settings.repetition_penalty
    )
    return ChatOptions(
        system=settings.system, sampling=sampling, max_tokens=settings.max_tokens,
        collection=settings.collection if settings.grounded and searchable else None, sight=sight,
        key_id=key_id,
    )  # fmt: skip
