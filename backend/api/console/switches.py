"""Switches over HTTP."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from backend.api import bodies
from backend.api.bodies import check_text
from backend.api.deps import CallerDep, RuntimeDep, json_only
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


class MeasureBody(bodies.Body):
    """How long a measurement may take, and from when on it gives way.

    `ttft_limit` is in seconds: while more than one in twenty of people's and the API's requests wait longer for their
    first token, the switch is as it was. `seed` decides the order of blocks; it is drawn where it is left out.
    """

    minutes: float = Field(10.0, ge=0.1, le=1440)
    ttft_limit: float = Field(5.0, ge=0.01, le=3600)
    seed: int | None = Field(None, ge=0, le=2**31 - 1)


class EffectView(BaseModel):
    """What a switch changes, as a share of what it is without: -0.2 is a fifth less.

    `low` and `high` are the ends of its interval of 95 %, which holds whenever one looks; null where nothing is known
    on that side. `without` is machine seconds for a token, seconds to the first token, or tokens a second.
    """

    model_config = ConfigDict(from_attributes=True)
    pairs: int
    change: float
    low: float | None
    high: float | None
    without: float


class WorthView(BaseModel):
    """What a switch was measured to be worth on this machine's own traffic.

    `more_minutes` would decide what is not resolved, at the rate at which requests came; `noise` is how far two blocks
    that were the same lay apart.
    """

    model_config = ConfigDict(from_attributes=True)
    switch: str
    verdict: str
    measure: str
    when: float
    device: str
    variant: str
    minutes: float
    seed: int
    requests_with: int
    requests_without: int
    effects: dict[str, EffectView]
    noise: float | None
    more_minutes: float | None
    note: str


class CourseView(BaseModel):
    """Where a measurement is; `doing` is empty while there is none, `left` is in seconds."""

    model_config = ConfigDict(from_attributes=True)
    switch: str
    running: bool
    doing: str
    blocks: int
    requests_with: int
    requests_without: int
    verdict: str
    effects: dict[str, EffectView]
    left: float
    more_minutes: float | None
    error: str


class Worths(BaseModel):
    """The measurement that goes on or was last, and the latest result of each switch, by its name."""

    course: CourseView
    results: dict[str, WorthView]


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


def _worths(runtime: Runtime) -> Worths:
    results = runtime.worth.results()
    return Worths(
        course=CourseView.model_validate(runtime.worth.course),
        results={name: WorthView.model_validate(one) for name, one in results.items()},
    )


@router.get("/worth", summary="Read what switches were measured to be worth.")
def get_worth(runtime: RuntimeDep) -> Worths:
    """Returns how far the live measurement is, and the latest result of each switch with the model that serves."""
    return _worths(runtime)


@router.post(
    "/{name}/measure", status_code=202, summary="Measure a switch on live traffic.", dependencies=[Depends(json_only)]
)
def measure_switch(
    name: Annotated[str, AfterValidator(check_text)], body: MeasureBody, runtime: RuntimeDep, caller: CallerDep
) -> Worths:
    """Returns how the measurement begins: a switch that acts at once is turned on and off in randomized blocks.

    Ends once the difference is resolved or the time is over; everything is then as it was. A change of switches ends
    it.
    """
    runtime.worth.start(name, minutes=body.minutes, ttft_limit=body.ttft_limit, seed=body.seed, who=caller.id)
    return _worths(runtime)


@router.post("/worth/cancel", status_code=202, summary="Cancel the live measurement.")
def cancel_measurement(runtime: RuntimeDep) -> Worths:
    """Returns how far it came; the switches of before come back, and former results stay."""
    runtime.worth.cancel()
    return _worths(runtime)
