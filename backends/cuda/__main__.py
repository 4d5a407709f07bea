"""Fine-tune, plan, generate and check on PyTorch: ``python -m backends.cuda``."""

from functools import partial

from backends.cli.main import main as main_of
from converters.common.console import run_main

main = partial(main_of, "cuda")

if __name__ == "__main__":
    run_main(main)
