"""How fast one idle core of this machine computes: measured in processor time, so that other work does not show.

A process of its own with one thread measures, since libraries fix their threads when they are loaded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass

from converters.common.errors import UserError

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_MEASURE = """
import json, sys, time
import numpy as np

def best(run):
    run()
    least, until = float("inf"), time.process_time() + 0.2
    # the fastest: a neighbour on the same core empties its caches, which nothing makes up for
    while time.process_time() < until:
        began = time.process_time()
        run()
        least = min(least, time.process_time() - began)
    return least

inner, width = int(sys.argv[1]), int(sys.argv[2])
left, right = np.ones((512, inner), np.float32), np.ones((inner, width), np.float32)
# larger than a core's caches, as the activations of a micro-batch are
values, out = np.ones(2**22, np.float32), np.ones(2**22, np.float32)
product = 2.0 * left.size * width / best(lambda: left @ right)
passed = values.nbytes / best(lambda: np.multiply(values, values, out=out))
print(json.dumps([product, passed]))
"""


@dataclass(frozen=True)
class CoreSpeed:
    """Rates of one core.

    Attributes:
        products: FLOP/s of float32 matrix products.
        values: bytes/s of float32 values that are read, computed with and written.
    """

    products: float
    values: float


def core_speed(inner: int, width: int) -> CoreSpeed:
    """Measure one core with products of [512, inner] and [inner, width]; takes about a second.

    Args:
        inner: hidden width of a model.
        width: its feed-forward width.

    Raises:
        UserError: the process that measures failed.
    """
    command = [sys.executable, "-c", _MEASURE, str(min(inner, 2048)), str(min(width, 2048))]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | ONE_THREAD)
    if done.returncode:
        raise UserError(f"the speed of this processor could not be measured: {done.stderr.strip()[-200:]}")
    return CoreSpeed(*json.loads(done.stdout))
