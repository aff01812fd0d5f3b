"""Scripts run where only what users need is installed: after ``scripts/demo``, say."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

REFUSE = """
import importlib.abc, sys

module, refused = sys.argv[1], sys.argv[2].split(",")
sys.argv[1:] = ["--help"]

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Absent())
sys.path.insert(0, "scripts")
__import__(module)
"""


def modules_of_tests_alone() -> set[str]:
    """Top-level modules of packages that the tests need and users do not."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = {_normal(line) for line in (*project["dependencies"], *extras["papermill"])}
    while more := {name for each in needed for name in _needs(each)} - needed:
        needed |= more
    only = {_normal(line) for line in (*extras["test"], *extras["docs"])} - needed
    return {
        module
        for module, distributions in packages_distributions().items()
        if {_normal(each) for each in distributions} <= only
    }


def _needs(distribution: str) -> set[str]:
    """What a distribution cannot do without."""
    try:
        lines = requires(distribution) or ()
    except PackageNotFoundError:
        # For another Python or system.
        return set()
    return {_normal(line) for line in lines if "extra ==" not in line}


def _normal(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower().replace("_", "-")


@pytest.mark.parametrize("script", sorted(path.stem for path in (ROOT / "scripts").glob("*.py")))
def test_needs_nothing_of_the_tests(script: str) -> None:
    refused = modules_of_tests_alone()
    assert {"pytest", "hypothesis", "sphinx"} <= refused
    done = subprocess.run(
        [sys.executable, "-c", REFUSE, script, ",".join(refused)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
