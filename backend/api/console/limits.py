"""Budgets and rates over HTTP, for administrators: of the installation here, of a key with the key."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from backend.api.bodies import Body
from backend.api.deps import RuntimeDep, json_only
from backend.api.rooms import Room
from backend.metering.budgets import Spent
from backend.metering.entry import DOLLAR
from backend.runtime import Runtime
from backend.store.limits import WARN_PERCENT, Limits

router = APIRouter(prefix="/api/limits", tags=["Keys"], route_class=Room(4).route_class())

MOST_DOLLARS = 1e9
Dollars = Annotated[float, Field(ge=0, le=MOST_DOLLARS, allow_inf_nan=False)]


class LimitsBody(Body):
    """Limits to change; those that are not named stay, and null takes one away."""

    requests_per_minute: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    day_dollars: Dollars | None = Field(None, description="US dollars a day (UTC); 0 lets nothing through.")
    month_dollars: Dollars | None = Field(None, description="US dollars a calendar month (UTC).")
    warn_percent: Annotated[int, Field(ge=1, le=100)] | None = Field(
        None, description=f"Share of a budget from which its use is told on the console; {WARN_PERCENT} by default."
    )

    def changes(self) -> dict[str, Any]:
        """What was named, as `Limits` has it."""
        out: dict[str, Any] = {}
        for name in self.model_fields_set:
            value = getattr(self, name)
            if name.endswith("_dollars"):
                out[name.removesuffix("_dollars")] = None if value is None else round(value * DOLLAR)
            else:
                out[name] = WARN_PERCENT if name == "warn_percent" and value is None else value
        return out


class LimitsView(BaseModel):
    """Limits, null where there is none, and what is spent of the budgets."""

    requests_per_minute: int | None
    day_dollars: float | None
    month_dollars: float | None
    warn_percent: int
    spent_day_dollars: float
    spent_month_dollars: float


def limits_view(limits: Limits, spent: Spent) -> LimitsView:
    """Limits in US dollars."""
    return LimitsView(
        requests_per_minute=limits.requests_per_minute,
        day_dollars=_dollars(limits.day),
        month_dollars=_dollars(limits.month),
        warn_percent=limits.warn_percent,
        spent_day_dollars=spent.day / DOLLAR,
        spent_month_dollars=spent.month / DOLLAR,
    )


def _dollars(nano: int | None) -> float | None:
    return None if nano is None else nano / DOLLAR


def _view(runtime: Runtime) -> LimitsView:
    return limits_view(runtime.budgets.installation, runtime.budgets.spent())


@router.get("", summary="Read the limits of this installation.")
def get_limits(runtime: RuntimeDep) -> LimitsView:
    """Returns what all requests together may use, and what they have cost this day and this month (UTC)."""
    return _view(runtime)


@router.patch("", summary="Change limits of this installation.", dependencies=[Depends(json_only)])
def patch_limits(body: LimitsBody, runtime: RuntimeDep) -> LimitsView:
    """Returns the new limits; they hold at once, for the console, the API and jobs together."""
    runtime.budgets.limit(**body.changes())
    return _view(runtime)
