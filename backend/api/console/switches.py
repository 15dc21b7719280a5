"""Switches over HTTP."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body
from pydantic import AfterValidator, BaseModel

from backend.api.bodies import check_text
from backend.api.deps import CallerDep, RuntimeDep
from backend.api.rooms import Room
from backend.engine.switches import InvalidSwitchError
from backend.errors import InvalidInputError
from backend.runtime import Runtime

router = APIRouter(prefix="/api/switches", tags=["Control"], route_class=Room(8).route_class())

STORE_TIMEOUT = 2.0
"""Seconds a change waits for its switches to be stored."""


class SwitchView(BaseModel):
    """What a switch is about: its values, when a change acts, and what it acts through."""

    name: str
    default: bool | int | str
    label: str
    help: str
    group: str
    acts: str
    choices: list[str]
    low: int | None
    high: int | None
    needs: str | None


class SwitchState(BaseModel):
    """The switches asked for, the weights that serve, and what each switch is about."""

    switches: dict[str, bool | int | str]
    variant: str | None
    loading: str | None
    error: str | None
    stored: bool
    """Whether the next start begins with these switches."""
    about: list[SwitchView]


def _switches(runtime: Runtime) -> SwitchState:
    applied = runtime.engine.applied
    return SwitchState(
        switches=runtime.engine.switches.as_dict(),
        variant=applied.variant if applied else None,
        loading=applied.loading if applied else None,
        error=applied.error if applied else None,
        stored=runtime.engine.switches == runtime.switchboard.stored,
        about=[SwitchView.model_validate(about) for about in runtime.switchboard.about],
    )


@router.get("", summary="Read the state of every optimization.")
def get_switches(runtime: RuntimeDep) -> SwitchState:
    """Returns the switches asked for, the weights that serve, and what each switch does and when it acts."""
    return _switches(runtime)


@router.patch("", summary="Change some switches while the model serves.")
def patch_switches(
    changes: Annotated[dict[str, Any], AfterValidator(check_text), Body()], runtime: RuntimeDep, caller: CallerDep
) -> SwitchState:
    """Returns the new state; switches that are not named stay.

    `stored` says whether the next start begins with them: they are stored once they are in force, which takes as long
    as weights need to be loaded, and a database that cannot be written now is tried again.
    """
    try:
        runtime.switchboard.change(changes, who=caller.id, why="by the API")
    except InvalidSwitchError as error:
        raise InvalidInputError(str(error), param="switches") from error
    runtime.switchboard.settled(STORE_TIMEOUT)
    return _switches(runtime)
