"""``python -m eval.math``."""

from converters.common.console import run_main
from eval.math.command import main

if __name__ == "__main__":
    run_main(main)
