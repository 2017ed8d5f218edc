"""The kill benchmark, shortened: `python -m benchmarks.kills` without arguments is the long one."""

import os
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.slow


def test_killed_runs_come_to_what_undisturbed_ones_come_to():
    line = [sys.executable, "-m", "benchmarks.kills", "--kills", "2", "--rows", "300", "--each", "1"]
    env = {name: value for name, value in os.environ.items() if name != "PREFECT_HOME"}
    done = subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3_000:]
    assert "same files, valid tables, nothing twice" in done.stdout
