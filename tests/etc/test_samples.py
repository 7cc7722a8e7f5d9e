"""The image's recipe and the manifests, as those who know their formats judge them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.harness import ROOT

pytestmark = pytest.mark.full

#: Where `make full` installs them.
SAMPLES = ROOT / "build" / "samples"


def judged(program: str, *arguments: str) -> str:
    path: Path = SAMPLES / "bin" / program
    assert path.exists(), "make full installs it"
    command = [str(path), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(SAMPLES)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_manifests_are_what_kubernetes_takes() -> None:
    said = judged("kubernetes-validate", "--strict", "etc/kubernetes.yaml")
    kinds = ("secret", "configmap", "deployment", "service", "poddisruptionbudget")
    assert [kind for kind in kinds if f"passed for resource {kind}/pushserver" not in said] == []


def test_the_recipe_of_the_image_has_nothing_to_complain_of() -> None:
    judged("hadolint", "Dockerfile")
