"""What the small base can do before any tuning: unseen drills of each skill, greedy, the last line compared.

    python benchmarks/tiny_skills.py                        # models/tiny, 60 rows a skill
    python benchmarks/tiny_skills.py --ckpt RUN --rows 20

The table for models/tiny/README.md goes to stdout; a skill's rows come from ``converters.tiny`` with a seed that no
training text used. Rows among words have the drill's prompt at any place between Chinese words.
"""

from __future__ import annotations

import argparse
import random

from backends.checkpoint.resolve import open_checkpoint
from backends.generation.registry import get_backend
from backends.generation.types import Limits
from converters.arithmetic.steps.digits import ANSWER
from converters.common.console import format_table, say
from converters.text.conversation import Turn
from converters.tiny.corpus import CHINESE, numbers_row
from converters.tiny.drills import SKILLS, drill, surrounded
from mindrecord.tokens.encode import encode_prompts

SEED = 1_000_003


def questions(rows: int) -> list[tuple[str, str, str]]:
    """Skill, prompt and right last line of each question."""
    rng = random.Random(SEED)
    asked = []
    for skill in SKILLS:
        for place in ("", ", among words"):
            for _ in range(rows):
                prompt, answer = drill(rng, skill)
                if place:
                    prompt = surrounded(rng, prompt, CHINESE, "=")
                asked.append((skill + place, prompt, answer.rpartition(ANSWER)[2]))
    asked += [("numbers", *numbers_row(rng)) for _ in range(rows)]
    return asked


def main() -> None:
    """Ask and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", default="models/tiny", help="model or run (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=60, help="rows a skill (default: %(default)s)")
    args = parser.parse_args()
    files = open_checkpoint(args.ckpt)
    asked = questions(args.rows)
    prompts = encode_prompts([[Turn("user", prompt)] for _, prompt, _ in asked], files.template, files.tokenizer)
    generator = get_backend("cuda").load_generator(files)
    right: dict[str, int] = {}
    for number, answer in generator.generate(dict(enumerate(prompts)), files.stop_ids, Limits(340)):
        skill, _, wanted = asked[number]
        found = files.tokenizer.decode(answer.ids, skip_special=True).rpartition(ANSWER)[2]
        right[skill] = right.get(skill, 0) + (found.strip() == wanted)
    say(f"{args.ckpt}: {args.rows} unseen rows a skill")
    rows = [(skill, right[skill], args.rows) for skill in dict.fromkeys(skill for skill, _, _ in asked)]
    print(format_table(["skill", "right", "of"], rows))


if __name__ == "__main__":
    main()
