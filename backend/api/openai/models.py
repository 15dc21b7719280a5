"""GET /v1/models, and whether a name is one that is served."""

from __future__ import annotations

from fastapi import APIRouter

from backend.api.bodies import Text
from backend.api.deps import RuntimeDep
from backend.api.openai.schemas import Model, ModelList
from backend.errors import NotFoundError
from backend.runtime import Runtime

router = APIRouter()


@router.head("/models", include_in_schema=False)
@router.get("/models", summary="List the models that are served")
async def list_models(runtime: RuntimeDep) -> ModelList:
    """The language model and the embedding model."""
    names = (runtime.settings.served_model, runtime.settings.served_embedding_model)
    return ModelList(data=[_model(runtime, name) for name in names])


@router.head("/models/{name}", include_in_schema=False)
@router.get("/models/{name}", summary="Describe one model")
async def get_model(name: Text, runtime: RuntimeDep) -> Model:
    """One of the models that are served."""
    settings = runtime.settings
    return _model(runtime, served_name(name, settings.served_model, settings.served_embedding_model))


def _model(runtime: Runtime, name: str) -> Model:
    return Model(id=name, created=int(runtime.started))


def served_name(name: str, *served: str) -> str:
    """The served model that is meant, whatever the case of its letters.

    Raises:
        NotFoundError: there is none of this name.
    """
    for candidate in served:
        if candidate.casefold() == name.casefold():
            return candidate
    raise NotFoundError(
        f"The model {name!r} is not served here. Served: {', '.join(served)}.", param="model", code="model_not_found"
    )
