"""``fc-kernel doctor``."""

from __future__ import annotations

from jupyter_core.application import base_flags
from traitlets import Bool

from ..host.doctor import Status, examine
from .command import JSON_FLAG, Command

STYLE = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "red"}


class DoctorCommand(Command):
    """Tell what this host can do, line by line, and what to do where it cannot; exits with 1 when no kernel could start."""

    description = __doc__
    command_word = "doctor"
    flags = {
        **base_flags,
        **JSON_FLAG,
        "no-image": ({"DoctorCommand": {"image_needed": False}}, "do not count a missing image as a failure"),
    }

    image_needed = Bool(True, help="whether a missing image is a failure").tag(config=True)

    def run(self) -> int:
        """Examine and print."""
        report = examine(self.settings, image_needed=self.image_needed)
        if self.json:
            self.print_json(report.to_dict())
            return 0 if report.can_start else 1
        width = max(len(check.name) for check in report.checks)
        for check in report.checks:
            self.out.print(f"[{STYLE[check.status]}]{check.status.value:<4}[/]  {check.name:<{width}}  ", end="")
            self.out.print(check.detail, markup=False)
            if check.remedy:
                self.out.print(f"      {'':<{width}}  → {check.remedy}", markup=False)
        if report.can_start:
            self.out.print(f"a kernel can start: {report.monitor}, tier {report.tier}", style="bold")
            return 0
        self.out.print("no kernel can start on this host", style="bold red")
        return 1
