"""The packages for others: what Node makes of the browser client, and what lies in a wheel, an sdist and a tarball."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pushserver import __version__
from pushserver.web.static_files import StaticFiles, walk
from tests.harness import ROOT
from tests.test_pushclient_js import node_modules as node_modules
from tools import dist

#: Bytes of the client at most. Beside it: phoenix 7.6 KB, socket.io-client 13.0 KB, centrifuge 23.5 KB.
CORE = 13_312

ENTRIES = {"index", "react", "shared", "worker", "testing"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, node_modules: Path) -> Path:
    """A copy of the sources with what Node makes in it."""
    place = tmp_path_factory.mktemp("source")
    dist.copy_sources(place)
    dist.build_files(place)
    return place


@pytest.fixture(scope="module")
def built(source: Path) -> Path:
    return source / dist.BUILT


@pytest.fixture(scope="module")
def package(built: Path) -> Path:
    return built / "pushclient"


def run(program: str, *options: str, cwd: Path) -> str:
    done = subprocess.run(["node", *options, "-e", program], cwd=cwd, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def names(folder: Path) -> set[str]:
    return {path for path, _ in walk(folder)}


def test_a_file_stands_under_the_name_of_its_source(package: Path) -> None:
    made = names(package)
    chunks = {name for name in made if name.startswith("chunks/")}
    assert len({name for name in chunks if name.endswith(".js")}) >= 1
    expected = {"package.json", "README.md", "pushclient.cjs", "pushclient.cjs.map"}
    for entry in ENTRIES:
        expected |= {f"{entry}.js", f"{entry}.js.map", f"{entry}.d.ts"}
        if entry != "worker":
            expected |= {f"{entry}.cjs", f"{entry}.d.cts"}
    assert made - chunks == expected


def test_what_is_built_twice_is_the_same(source: Path, tmp_path: Path) -> None:
    """A server that comes up with the same version must not send every browser everything anew."""
    again = tmp_path / "again"
    dist.copy_sources(again)
    dist.build_files(again)
    first, second = (dict(walk(place / dist.BUILT)) for place in (source, again))
    assert {name for name in first | second if first.get(name) != second.get(name)} == set()


def test_each_file_is_compressed_both_ways(built: Path) -> None:
    for path in (built / "pushclient" / "index.js", built / "page" / "page.css"):
        assert gzip.decompress(path.with_name(path.name + ".gz").read_bytes()) == path.read_bytes()
        brotli = path.with_name(path.name + ".br")
        unpacked = run(
            "process.stdout.write(require('node:zlib').brotliDecompressSync("
            f"require('node:fs').readFileSync('{brotli}')).toString('base64'))",
            cwd=built,
        )
        assert base64.b64decode(unpacked) == path.read_bytes()
        assert brotli.stat().st_size < path.stat().st_size


def test_the_server_takes_it_as_it_is(built: Path) -> None:
    static = StaticFiles(built)
    folder = static.folder("pushclient", public=True)
    assert {name.decode() for name in folder.children} == {
        name.partition("/")[0] for name in names(built / "pushclient")
    }
    assert static.npm_package()._plain.octets == (built / "pushclient.tgz").read_bytes()
    assert set(static.file("pushclient.js")._encoded) <= {"br", "gzip"}


def test_there_is_one_of_each_class(package: Path) -> None:
    (package / "node_modules").mkdir(exist_ok=True)
    modules = run(
        "import { PushClient, PushError } from './index.js'; import { SharedClient } from './shared.js';"
        "import * as short from '../pushclient.js'; import { Exchange } from './worker.js';"
        "console.log(short.PushError === PushError, typeof SharedClient, typeof Exchange,"
        " new PushError('X') instanceof Error)",
        "--input-type=module",
        cwd=package,
    )
    assert modules == "true function function true"
    required = run(
        "const { ClientBase, PushError } = require('./index.cjs'); const { SharedClient } = require('./shared.cjs');"
        "console.log(SharedClient.prototype instanceof ClientBase, new PushError('CLOSED').name)",
        cwd=package,
    )
    assert required == "true PushError"


def tests_of_the_package() -> list[Any]:
    """Those of the client's own tests that use of it only what is packed."""
    found = []
    for path in sorted((ROOT / "tests" / "js").glob("*.test.js")):
        texts = [path.read_text()]
        # What a helper beside it uses counts as well.
        texts += [(path.parent / name).read_text() for name in re.findall(r"from '\./(\w+\.js)'", texts[0])]
        imported = set(re.findall(r"static/pushclient/([\w/]+)\.js'", "".join(texts)))
        if path.name.startswith("browser") or (imported and imported <= ENTRIES):
            found.append(pytest.param(path, id=path.name))
    return found


@pytest.mark.full
@pytest.mark.parametrize("path", tests_of_the_package())
def test_what_is_packed_passes_the_clients_own_tests(package: Path, path: Path) -> None:
    done = subprocess.run(
        ["node", "--import", ROOT / "tests" / "js" / "packed.mjs", "--test", "--test-reporter=tap", path],
        env={**os.environ, "PUSHCLIENT": str(package)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "# skipped 0" in done.stdout


def test_a_source_map_shows_the_sources(package: Path) -> None:
    shown = json.loads((package / "shared.js.map").read_text())
    source = (ROOT / "pushserver" / "web" / "static" / "pushclient" / "shared.js").read_text()
    assert source in shown["sourcesContent"]


def loaded_at_once(package: Path) -> list[str]:
    """Return what a page loads at once that imports /pushclient.js."""
    needed, seen = ["index.js"], set()
    while needed:
        name = needed.pop()
        seen.add(name)
        static = re.findall(r'\b(?:from|import)"(\.[^"]+)"', (package / name).read_text())
        needed += {str(Path(name).parent / path) for path in static} - seen
    return sorted(seen)


def size_of(package: Path) -> int:
    """Return how many bytes that is, taken as one bundle."""
    return len(gzip.compress(b"".join((package / name).read_bytes() for name in loaded_at_once(package)), 9))


#: What in the sources is for readers of outputs alone, and what stands there without them.
OF_OUTPUTS = {
    "tasks.js": (
        (r"/\*\* One output of a task.*?\n}\n", ""),
        (r"\n    output: [^\n]*", ""),
        (r"export const selectOutput = [^\n]*", "export const selectOutput = 0;"),
    ),
    "store.js": ((r"\n  outputs: [^\n]*", ""),),
    "cursor.js": ((r" \+ \(type === 'output'\)", ""),),
    "subscriptions.js": (
        (r"\n      const { output } = result;", ""),
        (r"\n      if \(output\?\.reset\)[^\n]*", ""),
        (r"if \(placed \|\| output\) cursor.moveTo\(output \?\? result\)", "if (placed) cursor.moveTo(result)"),
        (r" && !channel.startsWith\('output:'\)", ""),
    ),
}


def test_who_reads_no_output_carries_a_kilobyte_of_it_at_most(package: Path, tmp_path: Path) -> None:
    dist.copy_sources(tmp_path)
    sources = tmp_path / "pushserver" / "web" / "static" / "pushclient"
    for name, changes in OF_OUTPUTS.items():
        text = (sources / name).read_text()
        for old, new in changes:
            text, found = re.subn(old, new, text, flags=re.DOTALL)
            assert found == 1, (name, old)
        (sources / name).write_text(text)
    dist.build_files(tmp_path)
    assert 0 < size_of(package) - size_of(tmp_path / dist.BUILT / "pushclient") <= 1_024


def test_the_core_is_small(package: Path) -> None:
    seen = loaded_at_once(package)
    assert len(seen) > 1
    assert size_of(package) <= CORE
    texts = {name: (package / name).read_text() for name in names(package) if name.endswith(".js")}
    (stream,) = (name for name, text in texts.items() if "text/event-stream" in text)
    assert stream not in seen


def test_no_name_that_others_use_became_a_letter(package: Path) -> None:
    """Not of the declarations, nor of a message: those a tab and its worker send each other are of any two builds."""
    listed = re.search(r"INTERNAL = \[(.*?)\];", (ROOT / "tools" / "node" / "build.mjs").read_text(), re.DOTALL)
    assert listed is not None
    internal = set(re.findall(r"'(\w+)'", listed[1]))
    sources = ROOT / "pushserver" / "web" / "static" / "pushclient"
    declared = "".join(re.sub(r"/\*\*.*?\*/", "", path.read_text(), flags=re.DOTALL) for path in sources.glob("*.d.ts"))
    # A line that ends with a comma is a parameter's.
    fields = re.findall(r"^ +(?:readonly )?(\w+)\??[:(<](?!.*,$)|[{;] *(\w+)\??:", declared, re.MULTILINE)
    messages = "".join((sources / name).read_text() for name in ("exchange.js", "shared.js"))
    sent = re.findall(r"\{ (?:do|is): '\w+'.*?\}|const \{[^}]*\} = message", messages)
    assert len(sent) > 15
    public = {name for found in fields for name in found} | set(re.findall(r"\b(\w+)\b(?!')", "".join(sent)))
    assert {"isConnected", "subscribeChannel", "taskId", "patch", "taken"} <= public
    assert internal & public == set()


def test_the_tarball_is_the_folder(built: Path) -> None:
    with tarfile.open(built / "pushclient.tgz") as opened:
        packed = {name.removeprefix("package/") for name in opened.getnames()}
        manifest = json.load(opened.extractfile("package/package.json"))  # type: ignore[arg-type]
    assert packed == names(built / "pushclient")
    assert manifest["version"] == __version__


def test_npm_would_pack_the_same_files(built: Path, tmp_path: Path) -> None:
    with tarfile.open(built / "pushclient.tgz") as opened:
        opened.extractall(tmp_path, filter="data")
    package = tmp_path / "package"
    done = subprocess.run(
        ["npm", "pack", "--json", "--dry-run"], cwd=package, capture_output=True, text=True, timeout=60, check=True
    )
    (packed,) = json.loads(done.stdout)
    assert {file["path"] for file in packed["files"]} == names(package)


def test_wheel_and_sdist_bring_what_was_built(source: Path, tmp_path: Path) -> None:
    sdist, wheel = dist.build_python(source, tmp_path)
    expected = {str(path.relative_to(source)) for path in (source / dist.BUILT).rglob("*") if path.is_file()}
    assert str(dist.BUILT / "pushclient.tgz") in expected
    with zipfile.ZipFile(wheel) as opened:
        assert expected <= set(opened.namelist())
    with tarfile.open(sdist) as opened:
        assert expected <= {name.partition("/")[2] for name in opened.getnames()}


def test_a_failure_shows_what_was_said_and_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(place: Path, output: Path) -> dist.Packages:
        dist._run(sys.executable, "-c", "print('an objection'); raise SystemExit(3)")
        raise AssertionError

    monkeypatch.setattr(dist, "build", refuse)
    assert dist.main() == 1
    assert "an objection" in capsys.readouterr().err


@pytest.mark.full
def test_the_judges_have_no_objection(tmp_path: Path) -> None:
    packages = dist.build(tmp_path / "build", tmp_path / "dist")
    dist.judge(packages)
    with tarfile.open(fileobj=io.BytesIO(packages.npm.read_bytes())) as opened:
        assert "package/package.json" in opened.getnames()


@pytest.mark.full
def test_the_judges_object_to_a_package_that_is_wrong(tmp_path: Path) -> None:
    packages = dist.build(tmp_path / "build", tmp_path / "dist")
    manifest = tmp_path / "build" / dist.BUILT / "pushclient" / "package.json"
    wrong = json.loads(manifest.read_text())
    wrong["exports"]["."]["require"]["types"] = "./index.d.ts"
    manifest.write_text(json.dumps(wrong))
    packages.npm.write_bytes(gzip.compress(dist.tar(walk(manifest.parent))))
    with pytest.raises(subprocess.CalledProcessError):
        dist.judge(packages)
