"""The visits that are compiled: programs of SDKs in Go and Java, made in ``build/sdks``."""

from __future__ import annotations

import os
import re
import subprocess
from functools import cache
from pathlib import Path

from tests.harness import ROOT

FOLDER = Path(__file__).parent
BUILD = ROOT / "build" / "sdks"


@cache
def go_visit() -> Path:
    """Return the program of the visits in Go. The module proxy and Go's own cache bring what it is made of."""
    return build_go(FOLDER / "go", BUILD / "go-visit")


@cache
def go_crowd() -> Path:
    """Return the program of many clients in Go."""
    return build_go(FOLDER / "go" / "crowd", BUILD / "go-crowd")


def build_go(source: Path, program: Path) -> Path:
    """Compile a folder with a program in Go."""
    environment = os.environ | {"GOFLAGS": "-mod=readonly -p=1"}
    subprocess.run(["go", "build", "-o", program, "."], cwd=source, env=environment, check=True)
    return program


def go_version(module: str) -> str:
    """Return the version of a module that the visits in Go are made of."""
    found = re.search(rf"{re.escape(module)}(?:/v\d+)? v(\S+)", (FOLDER / "go" / "go.mod").read_text())
    assert found is not None, module
    return found[1]


@cache
def java_libraries() -> str:
    """Return the class path of what programs in Java are made of. Maven brings it."""
    libraries = BUILD / "java" / "libraries"
    copy = ["mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={libraries}"]
    subprocess.run(copy, cwd=FOLDER / "java", check=True)
    return f"{libraries}/*"


@cache
def java_visit() -> list[str | Path]:
    """Return the command of the visits in Java."""
    return ["java", "-Xmx256m", "-cp", build_java(), "Visit"]


@cache
def java_crowd() -> list[str | Path]:
    """Return the command of many clients in Java, each of which has threads of its own."""
    return ["java", "-Xmx1g", "-Xss256k", "-cp", build_java(), "Crowd"]


@cache
def build_java() -> str:
    """Compile the programs in Java; return their class path."""
    classes, sources = BUILD / "java" / "classes", (FOLDER / "java").glob("*.java")
    subprocess.run(["javac", "-d", classes, "-cp", java_libraries(), *sources], check=True)
    return f"{classes}:{java_libraries()}"


def java_version() -> str:
    """Return the version of the SDK in Java that is asked for."""
    found = re.search(r"centrifuge-java</artifactId>\s*<version>(.+?)<", (FOLDER / "java" / "pom.xml").read_text())
    assert found is not None
    return found[1]
