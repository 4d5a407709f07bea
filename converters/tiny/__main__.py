"""Make the small base's training text, its tokenizer and the reading set."""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from converters.common.console import format_table, run_main, say
from converters.common.errors import UsageError

EXAMPLES = """examples:
  python -m converters.tiny corpus -o runs/tiny/base.jsonl
  python -m converters.tiny tokenizer -o models/tiny
  python -m converters.tiny reading --paragraphs 300 -o runs/reading.json
"""

PROMPT = "Read the passage and answer the question below.\n\n### Instruction:\n{}\n\n### Input:\n{}\n\n### Response:"
FURTHER = "\n\n### Input:\n{}\n\n### Response:"

# Shares of the rows. Three quarters are digit columns, computed where a line ends with "=" and repeated where it does
# not: what a sentence asks for is left to fine-tuning. Reading alone is what a tuning run mixes in so that it is not
# forgotten.
MIXES = {
    "base": {
        "signed": 0.26,
        "divide": 0.08,
        "root": 0.12,
        "power": 0.14,
        "mean": 0.09,
        "sum": 0.03,
        "share": 0.04,
        "simplify": 0.01,
        "reading": 0.15,
        "numbers": 0.03,
        "echo": 0.05,
    },
    "reading": {"reading": 1.0},
}
WHOLE = {"base": 0.3}
"""Of the reading rows of a mix, the share that is learned as a whole."""
AMONG_WORDS = {"base": 0.6}
"""Of the drills of a mix, the share whose prompt stands among words."""

# Words of everyday Chinese for the tokenizer and the copying rows: the small base has read them, as a large one has,
# but it has seen none of the arithmetic problems.
CHINESE = (
    "计算 等于 多少 解 方程 平均值 数据 分数 进行 简化 物体 密度 体积 质量 请 该 商品 原价 打折 折扣 比例 价格 长方形 "
    "面积 平方 厘米 平方根 次方 去年 今年 销售额 增加 万元 函数 值 当 时 求 以下 一个 其 长 宽 为 的 后 元 克 立方 "
    "过程 答案 最 形式 某 了 最简化 你好 北京 学校 老师 学生 苹果 天气 城市 朋友 晚上 早上 喜欢"
).split()


def reading_row(rng: random.Random, whole: float) -> list[str]:
    """A passage in the contest's reading prompt with several questions: prompt, answer, prompt, answer, and so on.

    With probability ``whole`` everything but the first word stands in the answer, so that the passage is learned as
    language too.
    """
    from converters.tiny.reading import passage

    _, context, questions = passage(rng)
    rng.shuffle(questions)
    asked = questions[: rng.randint(2, len(questions))]
    texts = [PROMPT.format(context, asked[0][0]), f" {asked[0][1]}"]
    for question, answer in asked[1:]:
        texts += [FURTHER.format(question), f" {answer}"]
    if rng.random() < whole:
        text = "".join(texts)
        return [text[:4], text[4:]]
    return texts


def numbers_row(rng: random.Random) -> list[str]:
    """Numbers among Chinese words, to be listed in order."""
    parts, numbers = [], []
    for _ in range(rng.randint(1, 4)):
        digits = rng.randrange(10 ** rng.randint(1, 6))
        number = f"{digits / 100:.2f}" if rng.random() < 0.6 else str(digits)
        numbers.append(f"-{number}" if rng.random() < 0.3 else number)
        words = "".join(rng.choice(CHINESE) for _ in range(rng.randint(0, 6)))
        parts.append(f"{words}{rng.choice((' ', ' ', '：', ''))}{numbers[-1]}{rng.choice((' ', ' ', 'x', '%', '，'))}")
    parts.append("".join(rng.choice(CHINESE) for _ in range(rng.randint(0, 6))))
    return ["".join(parts) + "#", " ".join(numbers)]


def echo_row(rng: random.Random) -> list[str]:
    """A drill among words that does not end with ``=``: it is repeated, not computed."""
    from converters.tiny.drills import SKILLS, drill, surrounded

    text = surrounded(rng, drill(rng, rng.choice(sorted(SKILLS)))[0], CHINESE, "？？。 ")
    return [text, f"“{text}”"]


def corpus(rows: int, seed: int, mix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ``(skill, conversation)``: reading and arithmetic drills in the shares of ``MIXES[mix]``."""
    from converters.tiny.drills import drill, surrounded

    rng = random.Random(seed)
    skills, shares = zip(*MIXES[mix].items(), strict=True)
    for number in range(rows):
        skill = rng.choices(skills, shares)[0]
        if skill == "reading":
            texts = reading_row(rng, WHOLE.get(mix, 0.0))
        elif skill == "numbers":
            texts = numbers_row(rng)
        elif skill == "echo":
            texts = echo_row(rng)
        else:
            texts = drill(rng, skill)
            if rng.random() < AMONG_WORDS.get(mix, 0.0):
                texts[0] = surrounded(rng, texts[0], CHINESE, "=")
        turns = [{"from": ("human", "gpt")[index % 2], "value": text} for index, text in enumerate(texts)]
        yield skill, {"id": str(number), "conversations": turns}


def write_corpus(args: argparse.Namespace) -> None:
    """Write the training text of the small base as conversations and say what is in it."""
    from converters.common.files import write_jsonl

    counts: Counter[str] = Counter()

    def counted() -> Iterator[dict[str, Any]]:
        for skill, row in corpus(args.rows, args.seed, args.mix):
            counts[skill] += 1
            yield row

    write_jsonl(args.out, counted())
    say(format_table(["skill", "rows"], sorted(counts.items())))


def write_tokenizer(args: argparse.Namespace) -> None:
    """Train the tokenizer on a part of the training text."""
    from converters.tiny.tokenizer import save_tokenizer, train_tokenizer

    texts = [turn["value"] for _, row in corpus(20_000, args.seed, "base") for turn in row["conversations"]]
    # the words come twice as often as in the text, so that each becomes one token before rare names do
    tokenizer = train_tokenizer(
        [*texts, *(word for word in CHINESE for _ in range(2000))], args.vocab_size, args.digits
    )
    save_tokenizer(tokenizer, Path(args.out))
    say(f"{args.out}: {tokenizer.get_vocab_size()} tokens")


def write_reading(args: argparse.Namespace) -> None:
    """Write a reading set in SQuAD v1.1's shape."""
    from converters.common.files import write_json
    from converters.tiny.reading import squad

    if args.paragraphs < 1:
        raise UsageError(f"--paragraphs {args.paragraphs}: at least 1 is needed")
    write_json(args.out, squad(random.Random(args.seed), args.paragraphs, args.questions))


def main(argv: list[str] | None) -> int:
    """Parse the command line and run one subcommand."""
    parser = argparse.ArgumentParser(
        prog="python -m converters.tiny",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    sub = commands.add_parser("corpus", help="drills and reading as conversations")
    sub.add_argument("--rows", type=int, default=200_000, help="rows to write (int, default %(default)s)")
    sub.add_argument("--mix", choices=list(MIXES), default="base", help="shares of the skills (default %(default)s)")
    sub.set_defaults(run=write_corpus)
    tokenizer = commands.add_parser("tokenizer", help="byte-level BPE with digits alone")
    tokenizer.add_argument("--vocab-size", type=int, default=1024, help="tokens (int, default %(default)s)")
    tokenizer.add_argument(
        "--digits",
        choices=("one", "groups"),
        default="one",
        help="a number's digits: each one a token, or groups of up to three, as Llama 3 has them (default %(default)s)",
    )
    tokenizer.set_defaults(run=write_tokenizer)
    reading = commands.add_parser("reading", help="passages and questions in SQuAD's shape")
    reading.add_argument("--paragraphs", type=int, default=300, help="passages (int, default %(default)s)")
    reading.add_argument("--questions", type=int, default=2, help="questions a passage (int, default %(default)s)")
    reading.set_defaults(run=write_reading)
    for command in (sub, tokenizer, reading):
        command.add_argument("--seed", type=int, default=0, help="same seed, same bytes (int, default %(default)s)")
        command.add_argument("-o", "--out", required=True, help="file or directory to write")
    args = parser.parse_args(argv)
    args.run(args)
    return 0


if __name__ == "__main__":
    run_main(main)
