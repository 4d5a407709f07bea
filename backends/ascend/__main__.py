"""Fine-tune, plan, generate and check on MindSpore and mindformers: ``python -m backends.ascend``."""

from functools import partial

from backends.cli.main import main as main_of
from converters.common.console import run_main

main = partial(main_of, "ascend")

if __name__ == "__main__":
    run_main(main)
