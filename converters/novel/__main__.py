"""``python -m converters.novel``."""

from converters.common.console import run_main
from converters.novel.convert import main

if __name__ == "__main__":
    run_main(main)
