"""GET /v1/models, and whether a name is one that is served."""

from __future__ import annotations

from fastapi import APIRouter

from backend.api.bodies import Text
from backend.api.deps import RuntimeDep
from backend.api.openai.schemas import Model, ModelList
from backend.errors import InvalidInputError, NotFoundError
from backend.runtime import Runtime
from backend.settings import Settings

router = APIRouter()


@router.head("/models", include_in_schema=False)
@router.get("/models", summary="List the models that are served.")
async def list_models(runtime: RuntimeDep) -> ModelList:
    """Returns the language model and the embedding model."""
    names = (runtime.settings.served_model, runtime.settings.served_embedding_model)
    return ModelList(data=[_model(runtime, name) for name in names])


@router.head("/models/{name}", include_in_schema=False)
@router.get("/models/{name}", summary="Describe one model that is served.")
async def get_model(name: Text, runtime: RuntimeDep) -> Model:
    """Returns its name and since when it is served."""
    settings = runtime.settings
    return _model(runtime, served_name(name, settings.served_model, settings.served_embedding_model))


def _model(runtime: Runtime, name: str) -> Model:
    return Model(id=name, created=int(runtime.started))


def generating_model(name: str, settings: Settings) -> str:
    """The served name of the model that is to write."""
    return served_name(name, settings.served_model, other=settings.served_embedding_model)


def embedding_model(name: str, settings: Settings) -> str:
    """The served name of the model that is to embed."""
    return served_name(name, settings.served_embedding_model, other=settings.served_model)


def served_name(name: str, *served: str, other: str | None = None) -> str:
    """The served model that is meant, whatever the case of its letters.

    Args:
        name: as it was asked for.
        served: the models that do what is asked.
        other: one that is served, but not for this.

    Raises:
        InvalidInputError: the model is served, but cannot do this.
        NotFoundError: there is none of this name.
    """
    for candidate in served:
        if candidate.casefold() == name.casefold():
            return candidate
    if other is not None and other.casefold() == name.casefold():
        raise InvalidInputError(
            f"The model {name!r} cannot do this; here {', '.join(served)} can.", param="model", code="model_not_capable"
        )
    raise NotFoundError(
        f"The model {name!r} is not served here. Served: {', '.join(served)}.", param="model", code="model_not_found"
    )
