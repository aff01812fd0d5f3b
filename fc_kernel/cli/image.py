"""``fc-kernel image build|list|show|rm``."""

from __future__ import annotations

import asyncio
from pathlib import Path

from jupyter_core.application import base_aliases, base_flags
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from traitlets import Bool, List, Unicode

from ..api.calls import RawSettings
from ..base.paths import cache_dir, data_dir
from ..errors import FcKernelError, ImageCorrupt, ImageNotFound
from ..host.current import host_for
from ..images.build import BuildRequest, build_image, recipe
from ..images.store import Image, ImageStore
from .command import JSON_FLAG, Command, CommandGroup

MIB = 1 << 20


class ImageBuildCommand(Command):
    """Build a guest image: Debian with Python, ipykernel, numpy, pandas and matplotlib, and what you add.

    ``--from`` takes an existing root file system instead (a directory, or a tar as ``docker export`` writes it).
    """

    description = __doc__
    examples = """
    fc-kernel image build
    fc-kernel image build --name geo --package gdal-bin proj-bin --requirements requirements.txt
    fc-kernel image build --name mine --from rootfs.tar
    """
    command_word = "build"
    aliases = {
        **base_aliases,
        "name": "ImageBuildCommand.image_name",
        "requirements": "ImageBuildCommand.requirements",
        "package": "ImageBuildCommand.packages",
        "from": "ImageBuildCommand.source",
    }
    flags = {
        **base_flags,
        **JSON_FLAG,
        "replace": ({"ImageBuildCommand": {"replace": True}}, "replace an image of the same name"),
        "if-missing": (
            {"ImageBuildCommand": {"if_missing": True}},
            "do nothing when a sound image of the same recipe exists",
        ),
        "no-template": (
            {"ImageBuildCommand": {"template": False}},
            "leave the template to the first start, which then takes as long as a boot",
        ),
    }

    image_name = Unicode("default", help="name of the image").tag(config=True)
    requirements = Unicode("", help="a pip requirements file").tag(config=True)
    packages = List(Unicode(), help="Debian packages to add").tag(config=True, multiplicity="append")
    source = Unicode("", help="a tar or a directory with a root file system").tag(config=True)
    replace = Bool(False, help="replace an image of the same name").tag(config=True)
    if_missing = Bool(False, help="keep a sound image of that name").tag(config=True)
    template = Bool(True, help="make the template from which kernels of the default shape start").tag(config=True)

    def parse_command_line(self, argv: list[str] | None = None) -> None:
        """Let ``--package`` take several names, as apt does."""
        super().parse_command_line(_spread("--package", argv) if argv is not None else None)

    def run(self) -> None:
        """Build with a progress display on standard error."""
        store = _image_store()
        request = BuildRequest(
            name=self.image_name,
            requirements=Path(self.requirements) if self.requirements else None,
            packages=tuple(self.packages),
            source=Path(self.source) if self.source else None,
            replace=self.replace or self.if_missing,
        )
        request.check()
        if self.if_missing and (image := store.find_current(request.name, recipe(request))) is not None:
            self._report(image, built=False)
        else:
            image = self._build(request, store)
            self._report(image, built=True)
        if self.template:
            self._prepare(image)

    def _prepare(self, image: Image) -> None:
        """Start a kernel once, so that already the first user's start is a restore; an error here is only reported."""
        try:
            host = host_for(self.tenant)
            with self.err.status("the template: a kernel is started once and saved"):
                made = asyncio.run(host.prepare(RawSettings(call={"image": image.name})))
        except FcKernelError as error:
            self.err.print(f"no template: {error}", markup=False)
        else:
            self.err.print(
                "kernels of the default shape start from a template" if made else "no template: kernels boot"
            )

    def _build(self, request: BuildRequest, store: ImageStore) -> Image:
        if not self.err.is_terminal:
            said: list[str] = []

            def say(step: str, detail: str = "") -> None:
                if step not in said:
                    said.append(step)
                    self.err.print(step, markup=False)

            return build_image(request, store, progress=say)
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        with Progress(*columns, console=self.err, transient=True) as progress:
            task = progress.add_task(f"image {self.image_name}", total=None)

            def show(step: str, detail: str = "") -> None:
                progress.update(task, description=f"{step}: {detail}" if detail else step)

            return build_image(request, store, progress=show)

    def _report(self, image: Image, *, built: bool) -> None:
        if self.json:
            self.print_json(image.to_dict())
        else:
            size = sum(part.stat().st_size for part in (image.kernel, image.initrd, image.rootfs)) / MIB
            self.out.print(f"image {image.name}: {'built' if built else 'already there'}, {size:.0f} MiB", markup=False)


class ImageListCommand(Command):
    """List the images."""

    description = __doc__
    command_word = "list"
    flags = {**base_flags, **JSON_FLAG}

    def run(self) -> None:
        """Print the table."""
        images = list(_image_store().images())
        if self.json:
            self.print_json(
                [{"error": str(image)} if isinstance(image, ImageCorrupt) else image.to_dict() for image in images]
            )
            return
        if not images:
            self.out.print("there are no images; build one with: fc-kernel image build")
            return
        table = Table(box=None, pad_edge=False)
        for heading in ("NAME", "CREATED", "KERNEL", "SIZE"):
            table.add_column(heading)
        damaged = []
        for image in images:
            if isinstance(image, ImageCorrupt):
                damaged.append(image)
                continue
            size = sum(part.size_bytes for part in image.manifest.parts) / MIB
            table.add_row(image.name, image.manifest.created, image.manifest.kernel_release, f"{size:.0f} MiB")
        if table.row_count:
            self.out.print(table)
        for error in damaged:
            self.err.print(str(error), style="red", markup=False)


class ImageShowCommand(Command):
    """Show an image's manifest after checking every digest in it."""

    description = __doc__
    command_word = "show"
    # The output is JSON anyway; the flag makes an error JSON too.
    flags = {**base_flags, **JSON_FLAG}
    words = (0, 1)
    words_shown = "at most one image name"

    def run(self) -> None:
        """Verify, then print."""
        store = _image_store()
        image = store.get(self.extra_args[0] if self.extra_args else "default")
        store.verify(image)
        self.print_json(image.to_dict())


class ImageRemoveCommand(Command):
    """Remove images."""

    description = __doc__
    command_word = "rm"
    flags = {**base_flags, **JSON_FLAG}
    words = (1, None)
    words_shown = "one or more image names"

    def run(self) -> None:
        """Remove all of them, or none if one is missing."""
        store = _image_store()
        names = list(dict.fromkeys(self.extra_args))
        for name in names:
            if not store.has(name):
                raise ImageNotFound(f"there is no image {name!r}; nothing was removed")
        for name in names:
            store.remove(name)
            if not self.json:
                self.out.print(f"removed {name}", markup=False)
        if self.json:
            self.print_json({"removed": names})


class ImageGroup(CommandGroup):
    """Build, list, show and remove guest images."""

    description = __doc__
    command_word = "image"
    subcommands = {
        "build": (ImageBuildCommand, "Build an image."),
        "list": (ImageListCommand, "List the images."),
        "show": (ImageShowCommand, "Show and verify one image."),
        "rm": (ImageRemoveCommand, "Remove images."),
    }


def _image_store() -> ImageStore:
    return ImageStore(data_dir() / "images", cache_dir())


def _spread(option: str, argv: list[str]) -> list[str]:
    """Turn ``--package a b`` into ``--package=a --package=b``; traitlets takes one value per option."""
    spread: list[str] = []
    collecting = False
    for word in argv:
        if word == option:
            collecting = True
        elif collecting and not word.startswith("-"):
            spread.append(f"{option}={word}")
        else:
            collecting = False
            spread.append(word)
    return spread
