"""``python -m eval.report``."""

from converters.common.console import run_main
from eval.report.command import main

if __name__ == "__main__":
    run_main(main)
