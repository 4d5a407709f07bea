"""``python -m eval.webqa``."""

from converters.common.console import run_main
from eval.webqa.command import main

if __name__ == "__main__":
    run_main(main)
