"""What may be built: names, packages, requirements, sources; and the recipe that tells two builds apart."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fc_kernel.errors import ImageBuildError, SpecError
from fc_kernel.images import build
from fc_kernel.images.build import build_image
from fc_kernel.images.request import MAX_REQUIREMENTS_BYTES, MAX_REQUIREMENTS_FILES, BuildRequest
from fc_kernel.images.store import ImageStore


@pytest.mark.parametrize(
    "package", ["tree", "g++", "libstdc++6", "python3.11", "gdal-bin=3.6.2+dfsg-1+b2", "libc6=1:2~rc1"]
)
def test_debian_packages(package: str) -> None:
    BuildRequest(packages=(package,)).check()


@pytest.mark.parametrize(
    "package",
    [
        "",
        "-y",
        "--help",
        "tree-",
        "a b",
        "a,b",
        "a;b",
        "a\n",
        "$(id)",
        "../x",
        "A",
        "a=",
        "a=b c",
        "?all",
        "a*",
        "x" * 80,
    ],
)
def test_what_is_no_debian_package(package: str) -> None:
    with pytest.raises(SpecError, match="package"):
        BuildRequest(packages=(package,)).check()


@pytest.mark.parametrize("name", ["", "..", "a/b", ".a", "a\n", "x" * 65])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(SpecError, match="image"):
        BuildRequest(name=name).check()


def test_requirements_are_what_a_file_says(tmp_path: Path) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text("# a comment\n\n  numpy==2.0 \nrequests # why\n")
    request = BuildRequest(requirements=path)
    request.check()
    assert request.requirement_lines() == ("numpy==2.0", "requests # why")
    assert BuildRequest().requirement_lines() == ()


def test_requirements_that_include_others_and_themselves(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.txt").write_text("-r sub/b.txt\n-c=c.txt\n--requirement a.txt\n-r https://example.org/r.txt\n")
    (tmp_path / "sub/b.txt").write_text("inner\n-r ../a.txt\n")
    (tmp_path / "c.txt").write_text("numpy<3\n")
    lines = BuildRequest(requirements=tmp_path / "a.txt").requirement_lines()
    assert {"inner", "numpy<3"} <= set(lines)


def test_requirements_without_end_are_an_error(tmp_path: Path) -> None:
    for number in range(MAX_REQUIREMENTS_FILES + 2):
        (tmp_path / f"{number}.txt").write_text(f"-r {number + 1}.txt\n")
    with pytest.raises(SpecError, match="requirements"):
        BuildRequest(requirements=tmp_path / "0.txt").check()


def test_credentials_stay_out_of_the_manifest(tmp_path: Path) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text("--index-url https://user:secret@example.org/simple\npkg @ https://token@example.org/p.whl\n")
    shown = "\n".join(BuildRequest(requirements=path).requirement_lines())
    assert "secret" not in shown
    assert "token" not in shown
    assert "example.org/simple" in shown


def test_requirements_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "requirements.txt"
    for content in (b"\xff\xfe\0", b"x" * (MAX_REQUIREMENTS_BYTES + 1), b"-r missing.txt"):
        path.write_bytes(content)
        with pytest.raises(SpecError, match="requirements"):
            BuildRequest(requirements=path).check()
    for missing in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(SpecError, match="requirements"):
            BuildRequest(requirements=missing).check()


def test_sources_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="from"):
        BuildRequest(source=tmp_path / "none").check()
    with pytest.raises(SpecError, match="from"):
        BuildRequest(source=Path("/dev/null")).check()
    with pytest.raises(SpecError, match="without --requirements"):
        BuildRequest(source=tmp_path, packages=("tree",)).check()
    BuildRequest(source=tmp_path).check()


def test_a_recipe_is_the_same_for_the_same(tmp_path: Path) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text("numpy\n")
    one, two = (BuildRequest(requirements=path, packages=("tree",)) for _ in range(2))
    assert build.recipe(one) == build.recipe(two)
    assert build.recipe(one) == build.recipe(
        BuildRequest(name="other", requirements=path, packages=("tree",), replace=True)
    )
    seen = {build.recipe(one), build.recipe(BuildRequest()), build.recipe(BuildRequest(packages=("tree",)))}
    path.write_text("numpy<2\n")
    assert len(seen | {build.recipe(one)}) == 4


def test_a_changed_source_is_another_recipe(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "deep/er").mkdir(parents=True)
    (root / "deep/er/file").write_text("1")
    (root / "link").symlink_to("/nowhere")
    request = BuildRequest(source=root)
    recipes = [build.recipe(request), build.recipe(request)]
    assert recipes[0] == recipes[1]
    (root / "deep/er/file").write_text("22")
    recipes.append(build.recipe(request))
    (root / "deep/er/new").touch()
    recipes.append(build.recipe(request))
    (root / "deep/er/new").chmod(0o700)
    recipes.append(build.recipe(request))
    tar = tmp_path / "root.tar"
    tar.write_bytes(b"tar")
    recipes.append(build.recipe(BuildRequest(source=tar)))
    os.utime(tar, ns=(1, 1))
    recipes.append(build.recipe(BuildRequest(source=tar)))
    assert len(set(recipes)) == 6


def test_an_image_is_not_built_over_another(tmp_path: Path) -> None:
    (tmp_path / "default").mkdir()
    with pytest.raises(ImageBuildError, match="--replace"):
        build_image(BuildRequest(), ImageStore(tmp_path, tmp_path / "cache"))


def test_another_machine_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(ImageBuildError, match="aarch64"):
        build_image(BuildRequest(), ImageStore(tmp_path / "images", tmp_path / "cache"))
    assert not (tmp_path / "images").exists()
