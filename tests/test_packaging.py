"""What is installed elsewhere is whole: the plugin is found, and every file of the package is there."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.harness import ROOT
from tools.dist import build_python, copy_sources

PLUGIN = "twisted/plugins/pushserver_plugin.py"


class Built(NamedTuple):
    sdist: Path
    wheel: Path


def package_files() -> set[str]:
    """Every file that belongs to the package, as the checkout has it."""
    files = (path for path in (ROOT / "pushserver").rglob("*") if path.is_file())
    return {str(path.relative_to(ROOT)) for path in files if path.suffix != ".pyc"} | {PLUGIN}


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, env={"PATH": "/usr/bin:/bin"})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """An sdist, and the wheel made from that sdist; built in a copy, which leaves the checkout clean."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    copy_sources(source)
    return Built(*build_python(source, output))


@pytest.fixture(scope="module")
def elsewhere(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh virtual environment with the wheel in it; the dependencies are lent by the one that runs the tests."""
    place = tmp_path_factory.mktemp("elsewhere")
    run(sys.executable, "-m", "venv", "--without-pip", place, cwd=place)
    python = place / "bin" / "python"
    # A path that stands in a .pth file is not searched for further .pth files: the editable install stays out.
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=place).strip())
    (packages / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(
        sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet",
        "--ignore-installed", "--disable-pip-version-check", built.wheel, cwd=place,
    )  # fmt: skip
    return place


def test_the_wheel_holds_the_whole_package_and_the_plugin(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == package_files()


def test_the_sdist_holds_what_the_wheel_is_made_from(built: Built) -> None:
    with tarfile.open(built.sdist) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert package_files() | {"setup.cfg", "pyproject.toml"} <= names


@pytest.mark.parametrize(("version", "bound"), [("0.1", ">="), ("99", "<")])
def test_a_library_outside_its_bounds_is_named_by_pip(elsewhere: Path, version: str, bound: str) -> None:
    names = ("autobahn", "twisted", "txredisapi")
    python = elsewhere / "bin" / "python"
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=elsewhere).strip())
    planted = [packages / f"{name}-{version}.dist-info" for name in names]
    try:
        for name, place in zip(names, planted, strict=True):
            place.mkdir()
            (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python, "check"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    finally:
        for place in planted:
            shutil.rmtree(place, ignore_errors=True)
    assert done.returncode == 1
    for name in names:
        complaint = rf"^pushserver \S+ has requirement {name}\S*{bound}\S*, but you have {name} {version}\.$"
        assert re.search(complaint, done.stdout, re.MULTILINE | re.IGNORECASE), done.stdout


def test_elsewhere_twistd_knows_the_plugin(elsewhere: Path) -> None:
    twistd = "import sys; from twisted.scripts.twistd import run; sys.argv[0] = 'twistd'; run()"
    listed = run(elsewhere / "bin" / "python", "-c", twistd, "--help", cwd=elsewhere)
    assert [line.split()[0] for line in listed.splitlines() if "pushserver" in line] == ["pushserver"]
    assert "--state-dir" in run(elsewhere / "bin" / "python", "-c", twistd, "pushserver", "--help", cwd=elsewhere)


def test_elsewhere_the_package_is_the_installed_one(elsewhere: Path) -> None:
    where = run(elsewhere / "bin" / "python", "-c", "import pushserver; print(pushserver.__file__)", cwd=elsewhere)
    assert where.startswith(str(elsewhere))


def test_the_console_scripts_run(elsewhere: Path) -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    scripts = setup["options.entry_points"]["console_scripts"].split("\n")
    for script in filter(None, scripts):
        assert "Usage" in run(elsewhere / "bin" / script.split("=")[0].strip(), "--help", cwd=elsewhere)


def test_no_dependency_is_pinned_to_one_version() -> None:
    """Bounds leave room for fixes: from below always, from above where a break is known."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for line in filter(None, setup["options"]["install_requires"].split("\n")):
        assert ">=" in line
        assert "==" not in line


@pytest.mark.parametrize("folder", ["tests/node", "tools/node"])
def test_npm_packages_are_pinned_and_locked_without_addresses(folder: str) -> None:
    package = json.loads((ROOT / folder / "package.json").read_text())
    lock = json.loads((ROOT / folder / "package-lock.json").read_text())
    assert all(version[0].isdigit() for version in package["dependencies"].values())
    assert lock["packages"][""]["dependencies"] == package["dependencies"]
    assert not [name for name, entry in lock["packages"].items() if "resolved" in entry]
