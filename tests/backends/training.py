"""Training commands in a process of their own, as a user runs them; MindSpore's context cannot be set twice."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def command(backend, *arguments):
    """The command line of one backend's training on the CPU."""
    return [sys.executable, "-m", f"backends.{backend}", "train", *map(str, arguments), "--device", "cpu"]


def environment():
    # one thread: sums have one order, and the machine may be small
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def train(backend, *arguments, code=0):
    """Train, and return what was said."""
    done = subprocess.run(command(backend, *arguments), capture_output=True, text=True, env=environment(), timeout=600)
    assert done.returncode == code, done.stderr
    return done.stderr
