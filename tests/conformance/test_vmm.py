"""One suite for every monitor: each check that a driver's capabilities call for is a test of its own."""

from __future__ import annotations

import pytest

from fc_kernel.testing.conformance import CHECKS, Bench, Check, NotPossibleHere

from ..conftest import KEPT_DESCRIPTORS, open_descriptors
from ..waiting import until
from .conftest import Monitor, fake, firecrackers, qemu

pytestmark = pytest.mark.asyncio(loop_scope="module")


def checks_of(*monitors: Monitor) -> pytest.MarkDecorator:
    """Parametrise with the checks that at least one of the monitors has to pass."""
    checks = [check for check in CHECKS if any(not check.inapplicable(each.capabilities) for each in monitors)]
    return pytest.mark.parametrize("check", checks or CHECKS[:1], ids=lambda check: check.name)


async def passes(check: Check, bench: Bench) -> None:
    if reason := check.inapplicable(bench.capabilities):
        pytest.skip(reason)
    before = len(open_descriptors())
    try:
        await check.run(bench)
    except NotPossibleHere as error:
        pytest.skip(str(error))
    # The drivers' loop runs only here: what the check closed they have to let go of now.
    await until(lambda: len(open_descriptors()) <= before + KEPT_DESCRIPTORS)


@checks_of(fake())
async def test_fake(fake_bench: Bench, check: Check) -> None:
    await passes(check, fake_bench)


@pytest.mark.vm
@checks_of(qemu())
async def test_qemu(qemu_bench: Bench, check: Check) -> None:
    await passes(check, qemu_bench)


@pytest.mark.firecracker
@checks_of(*firecrackers()[0])
async def test_firecracker(firecracker_bench: Bench, check: Check) -> None:
    """Versions differ in what they can do, so what is inapplicable to one is skipped."""
    await passes(check, firecracker_bench)
