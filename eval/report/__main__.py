"""``python -m eval.report``."""

from converters.common.console import run_main
from eval.report.cli import main

if __name__ == "__main__":
    run_main(main)
