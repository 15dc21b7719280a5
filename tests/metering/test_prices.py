"""Prices: each with its source and date, each change a version, the user's own first."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backend.errors import InvalidInputError
from backend.metering import devices
from backend.metering.offers import read_offers
from backend.metering.prices import OWN, MachinePrice, Prices, catalogue, own_per_hour
from backend.settings import Settings
from backend.store.database import Database

TODAY = datetime.date(2026, 12, 1)
LIST = """InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,Price,Region,GpuInfo,SpotPrice
gpu_1x_h100,H100,1.0,26.0,200.0,3.29,us-east-1,"{'Gpus': [{'Name': 'H100', 'Count': 1.0}]}",
gpu_1x_h100,H100,1.0,26.0,200.0,3.19,us-east-1,,1.5
cpu_4x,,,4.0,16.0,0.2,us-west-2,,
free,,,4.0,16.0,,us-west-2,,
"""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'x.sqlite3'}")
    database.migrate()
    yield database
    database.close()


def made(database: Database, **settings: Any) -> Prices:
    return Prices(Settings(data_dir=Path("/nowhere"), **settings), database)


def test_every_machine_of_the_catalogue_says_where_its_figure_is_from() -> None:
    machines, default = catalogue()
    assert len(machines) >= 15 and default in {machine.name for machine in machines}
    for machine in machines:
        assert machine.source and machine.provider and machine.per_hour > 0
        if machine.read:
            assert not machine.warning(datetime.date.fromisoformat(machine.read))
        else:
            assert "round figure" in machine.source and machine.warning()


def test_an_old_figure_is_warned_of() -> None:
    price = MachinePrice("x", 1.0, read="2026-09-01")
    assert not price.warning(datetime.date(2026, 11, 30))
    assert "91 days ago" in price.warning(TODAY)


def test_a_machine_of_ones_own_costs_what_it_loses_and_draws() -> None:
    price = own_per_hour(purchase=2000, years=4, watts=150, per_kwh=0.3)
    assert price == pytest.approx(2000 / 35_064 + 0.045)
    with pytest.raises(InvalidInputError):
        own_per_hour(purchase=2000, years=0, watts=150, per_kwh=0.3)


def test_a_change_is_a_new_version_and_a_restart_is_none(database: Database) -> None:
    prices, seen = made(database), []
    prices.on_change(lambda price: seen.append(price.id))
    first = prices.current.id
    prices.choose(OWN, 0.37, basis={"watts": 100})
    second = prices.current
    assert second.id != first and seen == [second.id] and second.nano_per_hour == 370_000_000
    again = made(database)
    assert again.current == second and again.current.id == second.id
    assert again.version(second.id).basis == {"watts": 100}  # type: ignore[union-attr]
    again.choose(again.catalogue[0].name)
    assert again.current == again.catalogue[0] and again.current.id not in (first, second.id)
    assert again.version(first).name == again.catalogue[0].name  # type: ignore[union-attr]


def test_the_variable_goes_before_what_was_chosen(database: Database) -> None:
    made(database).choose(OWN, 0.37)
    fixed = made(database, price_per_hour=2.5)
    fixed.choose(OWN, 0.4)
    assert fixed.current.per_hour == 2.5
    assert made(database).current.per_hour == 0.4


def test_a_list_in_skypilots_columns_is_read(database: Database) -> None:
    offers = read_offers(LIST)
    assert [(offer.instance, offer.per_hour, offer.spot) for offer in offers] == [
        ("cpu_4x", 0.2, None), ("gpu_1x_h100", 3.19, 1.5),
    ]  # fmt: skip
    assert [offer.instance for offer in read_offers(LIST, region="us-west-2")] == ["cpu_4x"]
    for bad in ("a,b\n1,2\n", "InstanceType,Price\nx,dear\n", "InstanceType,Price\nx,-1\n"):
        with pytest.raises(InvalidInputError):
            read_offers(bad)
    prices = made(database)
    prices.bring(offers, "Lambda", TODAY)
    prices.choose("Lambda cpu_4x, us-west-2")
    later = made(database)
    assert later.current.per_hour == 0.2 and later.current.read == "2026-12-01" and len(later.imported) == 2


def test_the_gpu_that_is_there_suggests_a_machine(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    prices = made(database)
    assert "H100" in prices.suggested("NVIDIA H100 PCIe").name  # type: ignore[union-attr]
    assert "A10 " in prices.suggested("NVIDIA A10").name  # type: ignore[union-attr]
    assert "RunPod" in prices.suggested("NVIDIA A100 80GB PCIe").name  # type: ignore[union-attr]
    assert prices.suggested(None) is None and prices.suggested("Some Other Card") is None

    class NVMLError(Exception):
        pass

    def refuse() -> None:
        raise NVMLError("no driver")

    nvml = SimpleNamespace(
        NVMLError=NVMLError, nvmlInit=lambda: None, nvmlShutdown=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda at: at, nvmlDeviceGetName=lambda _: b"NVIDIA L4",
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "pynvml", nvml)  # the edge of the driver
    assert devices.gpu_name() == "NVIDIA L4"
    nvml.nvmlInit = refuse
    assert devices.gpu_name() is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert devices.gpu_name() is None
