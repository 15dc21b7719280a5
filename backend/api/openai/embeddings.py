"""POST /v1/embeddings."""

from __future__ import annotations

import base64

import numpy as np
from fastapi import APIRouter, Depends, Response

from backend.access.caller import Caller
from backend.api.deps import CallerDep, NameDep, RuntimeDep, within_limits
from backend.api.openai.models import embedding_model
from backend.api.openai.schemas import EmbeddingBody, EmbeddingList, EmbeddingRow, EmbeddingUsage
from backend.api.openai.usage import cost_header
from backend.api.rooms import Room
from backend.engine.messages import REALTIME
from backend.errors import InvalidInputError
from backend.runtime import Runtime

router = APIRouter(route_class=Room(16).route_class())

MOST_INPUTS = 2048


@router.post("/embeddings", summary="Embed one input or several.", dependencies=[Depends(within_limits)])
def create_embeddings(
    body: EmbeddingBody, runtime: RuntimeDep, caller: CallerDep, name: NameDep, response: Response
) -> EmbeddingList:
    """Returns a vector for each input; texts that were embedded before are not computed again.

    Token ids are those of this embedding model's own tokenizer: ids of another tokenizer cannot be told from them and
    would be read as other words.
    """
    answer, cost = embeddings_of(body, runtime, caller, name)
    response.headers.update(cost_header(cost))
    return answer


def embeddings_of(
    body: EmbeddingBody, runtime: Runtime, caller: Caller, name: str, *, source: str = "api", path: str = REALTIME
) -> tuple[EmbeddingList, float]:
    """The vectors, and what they cost in US dollars; waits for them.

    Raises:
        TenfoldError: something about the body is wrong, or the engine is not there.
    """
    model = embedding_model(body.model, runtime.settings)
    dimension = runtime.engine.known().embedding_dimension
    if body.dimensions not in (None, dimension):
        raise InvalidInputError(f"This model gives {dimension} dimensions only.", param="dimensions")
    texts = _texts(runtime, body)
    if not texts:
        raise InvalidInputError("The input is empty.", param="input")
    if len(texts) > MOST_INPUTS:
        raise InvalidInputError(f"At most {MOST_INPUTS} inputs are taken at once.", param="input")
    embedded = runtime.embeddings.embed(
        texts, source=source, path=path, truncate=False, key_id=caller.id, tenant=caller.tenant, request_id=name
    )
    data = [
        EmbeddingRow(index=i, embedding=_encode(vector, body.encoding_format))
        for i, vector in enumerate(embedded.vectors)
    ]
    usage = EmbeddingUsage(prompt_tokens=embedded.tokens, total_tokens=embedded.tokens)
    return EmbeddingList(data=data, model=model, usage=usage), embedded.cost


def _texts(runtime: Runtime, body: EmbeddingBody) -> list[str]:
    given = body.input
    if isinstance(given, str):
        return [given]
    if given and isinstance(given[0], int):
        given = [given]
    out = []
    tokenizer = runtime.texts.embedding_tokenizer()
    vocab = tokenizer.get_vocab_size()
    for item in given:
        if isinstance(item, str):
            out.append(item)
            continue
        ids = list(item)  # type: ignore[arg-type]
        wrong = next((i for i in ids if not 0 <= i < vocab), None)
        if wrong is not None:
            raise InvalidInputError(f"Token id {wrong} is outside the vocabulary of {vocab}.", param="input")
        out.append(tokenizer.decode(ids))
    return out


def _encode(vector: np.ndarray, encoding: str) -> list[float] | str:
    if encoding == "base64":
        return base64.b64encode(np.ascontiguousarray(vector, dtype="<f4").tobytes()).decode()
    values: list[float] = vector.tolist()
    return values
