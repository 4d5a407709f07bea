"""The small base's training text: reading and arithmetic drills as conversations, and the tokenizer made from it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from converters.common.errors import UsageError
from converters.common.files import write_json, write_jsonl
from converters.tiny.drills import SKILLS, drill, surrounded
from converters.tiny.reading import passage, squad
from converters.tiny.tokenizer import save_tokenizer, train_tokenizer

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
    """Draw a passage in the contest's reading prompt with several questions.

    Args:
        rng: draws the passage and its questions.
        whole: probability that everything but the first word stands in the answer, so that the passage is learned as
            language too.

    Returns:
        Prompt, answer, prompt, answer, and so on.
    """
    _, context, questions = passage(rng)
    rng.shuffle(questions)
    asked = questions[: rng.randint(2, len(questions))]
    texts = [PROMPT.format(context, asked[0][0]), f" {asked[0][1]}"]
    for question, answer in asked[1:]:
        texts += [FURTHER.format(question), f" {answer}"]
    if rng.random() < whole:
        text = "".join(texts)
        # the prompt is "Read", the first word
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
    text = surrounded(rng, drill(rng, rng.choice(sorted(SKILLS)))[0], CHINESE, "？？。 ")
    return [text, f"“{text}”"]


def corpus(rows: int, seed: int, mix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a training text.

    Args:
        rows: how many.
        seed: the same seed gives the same rows.
        mix: a key of MIXES, which has the share of each skill.

    Returns:
        ``(skill, ShareGPT conversation)`` of each row.
    """
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


def write_corpus(out: str | Path, rows: int = 200_000, seed: int = 0, mix: str = "base") -> Counter[str]:
    """Write the training text of the small base.

    Args:
        out: the JSONL file to write.
        rows: how many.
        seed: the same seed gives the same bytes.
        mix: a key of MIXES.

    Returns:
        Rows of each skill.
    """
    counts: Counter[str] = Counter()

    def counted() -> Iterator[dict[str, Any]]:
        for skill, row in corpus(rows, seed, mix):
            counts[skill] += 1
            yield row

    write_jsonl(out, counted())
    return counts


def write_tokenizer(out: str | Path, vocab_size: int = 1024, seed: int = 0, digits: str = "one") -> int:
    """Train the tokenizer on a part of the training text.

    Args:
        out: the directory to write.
        vocab_size: the most tokens it may have.
        seed: of the training text.
        digits: a key of ``tokenizer.DIGITS``.

    Returns:
        The tokens that it has.
    """
    texts = [turn["value"] for _, row in corpus(20_000, seed, "base") for turn in row["conversations"]]
    # the words come twice as often as in the text, so that each becomes one token before rare names do
    words = (word for word in CHINESE for _ in range(2000))
    tokenizer = train_tokenizer([*texts, *words], vocab_size, digits)
    save_tokenizer(tokenizer, Path(out))
    size: int = tokenizer.get_vocab_size()
    return size


def write_reading(out: str | Path, paragraphs: int = 300, questions: int = 2, seed: int = 0) -> None:
    """Write a reading set in SQuAD v1.1's shape.

    Args:
        out: the JSON file to write.
        paragraphs: how many passages.
        questions: the most questions of a passage.
        seed: the same seed gives the same bytes.

    Raises:
        UsageError: fewer than one passage.
    """
    if paragraphs < 1:
        raise UsageError(f"--paragraphs {paragraphs}: at least 1 is needed")
    write_json(out, squad(random.Random(seed), paragraphs, questions))
