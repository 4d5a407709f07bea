"""``python -m eval.choice``."""

from converters.common.console import run_main
from eval.choice.command import main

if __name__ == "__main__":
    run_main(main)
