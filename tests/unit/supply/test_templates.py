"""Templates and the pool, on scripted guests: made once, kept while they fit, and never in the way of a start."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import pytest

from fc_kernel.base.paths import runtime_dir
from fc_kernel.supply.pool import Pool
from fc_kernel.supply.templates import Templates
from fc_kernel.vmm.base import VmmState
from fc_kernel.vmm.journal import list_entries

from ...scripted_kernel import MEM_MIB, ScriptedKernel, scripted_environment, scripted_kernels
from ...waiting import until


@pytest.fixture(autouse=True)
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted_environment(monkeypatch, tmp_path)


def started(kernel: ScriptedKernel) -> str:
    assert kernel.session.machine is not None
    return kernel.session.machine.origin.started


def templates_of(kernel: ScriptedKernel) -> Templates:
    return kernel.engine.supply(kernel.tenant).templates


def pool_of(kernel: ScriptedKernel) -> Pool:
    return kernel.engine.supply(kernel.tenant).pool


async def test_one_for_each_shape() -> None:
    async with scripted_kernels() as make:
        first, second, larger = await make(), await make(), await make(mem_size_mib=2 * MEM_MIB)
        assert {started(each) for each in (first, second, larger)} == {"template"}
        shapes = [template.spec.mem_size_mib for template in templates_of(first).store.list()]
        assert shapes == [MEM_MIB, 2 * MEM_MIB]


async def test_made_once_for_those_who_start_at_once() -> None:
    async with scripted_kernels() as make:
        kernels = await asyncio.gather(*(make() for _ in range(4)))
        assert {started(each) for each in kernels} == {"template"}
        assert len(templates_of(kernels[0]).store.list()) == 1
        assert len({await kernel.client.value("random()") for kernel in kernels}) == 4


async def test_made_anew_with_a_line_that_says_why(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fc_kernel.supply.templates")
    async with scripted_kernels() as make:
        await make()
    caplog.clear()
    async with scripted_kernels(template_imports=["json"]) as make:
        kernel = await make()
        assert started(kernel) == "template"
        assert len(templates_of(kernel).store.list()) == 2
    assert "gets a new template" in caplog.text


async def test_one_that_is_damaged_is_made_anew(caplog: pytest.LogCaptureFixture) -> None:
    async with scripted_kernels() as make:
        [template] = templates_of(await make()).store.list()
    template.vmstate.chmod(0o600)
    content = bytearray(template.vmstate.read_bytes())
    content[len(content) // 2] ^= 1
    template.vmstate.write_bytes(content)
    async with scripted_kernels() as make:
        kernel = await make()
        assert started(kernel) == "template"
        assert [each.id for each in templates_of(kernel).store.list()] != [template.id]
    assert "is made anew" in caplog.text


@pytest.mark.parametrize("fault", ["snapshot:ENOSPC", "snapshot:die", "freeze:refuse"])
async def test_where_none_can_be_made_the_kernel_boots(
    fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FC_KERNEL_FAKE_FAULTS", fault)
    async with scripted_kernels() as make:
        kernel = await make()
        assert started(kernel) == "cold"
        assert (await kernel.client.run("x = 1")).reply["status"] == "ok"
        assert templates_of(kernel).store.list() == []
    assert "no template could be made" in caplog.text


async def test_one_that_does_not_load_costs_nobody_a_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FC_KERNEL_FAKE_FAULTS", "load:die")
    async with scripted_kernels() as make:
        kernel = await make()
        assert started(kernel) == "cold"
        assert (await kernel.client.run("x = 1")).reply["status"] == "ok"
    assert "could not be restored" in caplog.text


async def test_switched_off() -> None:
    async with scripted_kernels(templates=False) as make:
        kernel = await make()
        assert started(kernel) == "cold"
        assert templates_of(kernel).store.list() == []


async def test_the_pool_holds_no_more_memory_than_it_may() -> None:
    async with scripted_kernels(pool_size=5, pool_mem_size_mib=2 * MEM_MIB + 1) as make:
        pool = pool_of(await make())
        await until(lambda: len(pool) == 2)
        assert pool.mem_size_mib == 2 * MEM_MIB
        await until(lambda: not pool._filling)
        assert len(pool) == 2


async def test_what_stands_ready_is_shown_and_ends_with_the_engine() -> None:
    async with scripted_kernels(pool_size=1) as make:
        pool = pool_of(await make())
        await until(lambda: len(pool) == 1)
        [entry] = [entry for entry in list_entries(runtime_dir()) if "pool" in entry.labels]
        second = await make()
        assert started(second) == "pool"
        [taken] = [each for each in list_entries(runtime_dir()) if each.pid == entry.pid]
        assert (taken.kernel_id, "pool" in taken.labels) == (second.kernel_id, False)
    assert list_entries(runtime_dir()) == []


async def test_one_that_died_in_the_pool_is_nobodys_kernel() -> None:
    async with scripted_kernels(pool_size=1) as make:
        pool = pool_of(await make())
        await until(lambda: len(pool) == 1)
        [machines] = pool._ready.values()
        dead = machines[0]
        assert dead.vmm.pid is not None
        os.kill(dead.vmm.pid, 9)
        await until(lambda: dead.vmm.state is VmmState.EXITED)
        kernel = await make()
        assert kernel.session.machine is not dead
        assert (await kernel.client.run("x = 1")).reply["status"] == "ok"
