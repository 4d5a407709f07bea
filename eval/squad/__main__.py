"""``python -m eval.squad``."""

from converters.common.console import run_main
from eval.squad.command import main

if __name__ == "__main__":
    run_main(main)
