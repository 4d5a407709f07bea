"""What a model has learned of digit columns, token by token: ``python -m benchmarks.steps.cells``.

An answer of worked steps is made of tokens of different sorts: digits that are copied from another line, digits that
are looked up in a table, marks of a carry, digits of the answer. Their mean losses on held-out rows show which of them
a run has learned long before an answer is right as a whole. A digit that is guessed among ten costs ln 10 = 2.30 nats.

    python -m benchmarks.steps.cells --base models/tiny --rows heldout.jsonl RUN RUN/checkpoints/step-000100

The rows are those of ``converters.arithmetic convert`` in the style that the runs were trained on.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from converters.common.console import format_table, run_main, say
from converters.common.files import write_json
from converters.text.conversation import read_conversations
from converters.text.template import get_template
from converters.tokenizers.load import load_tokenizer
from mindrecord.tokens.encode import IGNORE_INDEX, encode

# the cells of each operation, one letter a character: c copied, t tens or what is borrowed, o ones or what is left,
# p a digit of the table of products, f a mark of carry; anything else is not a cell
CELLS = (
    (re.compile(r"(?<![\d+-])\d[+-]\d=\d[c,]"), "sum", "c-c-of"),
    (re.compile(r"(?<![\d])\d{6},"), "product", "cppcto-"),
    (re.compile(r"(?<=[:])(?:\d\d)+(?=[;\n])"), "product", "to"),
    (re.compile(r"(?<=[;,c])\d[c,]"), "total", "of"),
    (re.compile(r"(?<=[;,c])\d\d[c,]"), "rest", "cof"),
)
NAMES = {"c": "copied", "t": "tens", "o": "ones", "p": "table", "f": "carry"}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="ADAPTER", help="runs or checkpoints, in one style")
    parser.add_argument("--base", type=Path, required=True, metavar="DIR", help="model directory under the adapters")
    parser.add_argument("--rows", type=Path, required=True, metavar="FILE", help="held-out rows with their steps")
    parser.add_argument("--match", default="", metavar="REGEX", help="only questions with it (default: all)")
    parser.add_argument("--limit", type=int, default=40, metavar="N", help="the first N of them (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    args = parser.parse_args(argv)
    found = {str(run): losses_by_sort(run, args.base, args.rows, args.match, args.limit) for run in args.runs}
    sorts = sorted({sort for means in found.values() for sort in means})
    rows = [[sort, *(_shown(means.get(sort)) for means in found.values())] for sort in sorts]
    print(format_table(["nats a token (tokens)", *(Path(run).name for run in found)], rows))
    if args.json:
        write_json(args.json, found)


def _shown(figure: tuple[float, int] | None) -> str:
    return "-" if figure is None else f"{figure[0]:.2f} ({figure[1]:,})"


def sorts_of(answer: str) -> Iterator[tuple[int, str]]:
    """Yield position and sort of the characters of an answer that are in cells, and of its last line's digits."""
    taken: set[int] = set()
    work, mark, _ = answer.rpartition("\n答案：")
    for pattern, operation, letters in CELLS:
        for match in pattern.finditer(work):
            if not taken.isdisjoint(range(*match.span())):
                continue
            taken.update(range(*match.span()))
            for place in range(*match.span()):
                if (letter := letters[(place - match.start()) % len(letters)]) in NAMES:
                    yield place, f"{operation}: {NAMES[letter]}"
    for place in range(len(work) + len(mark), len(answer)):
        yield place, "answer"


def losses_by_sort(run: Path, base: Path, rows: Path, match: str = "", limit: int = 40) -> dict[str, tuple[float, int]]:
    """Return the mean loss of each sort of token, in nats, and the number of tokens.

    Args:
        run: a PEFT adapter directory.
        base: the model under it.
        rows: conversations with worked answers; read in the template ``bare``.
        match: regular expression that a question must hold.
        limit: rows to read.
    """
    import torch
    from peft import PeftModel
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM

    tokenizer, template = load_tokenizer(base), get_template("bare")
    pieces = Tokenizer.from_file(str(base / "tokenizer.json"))
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), run).eval()
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    asked = [one for one in read_conversations(rows) if re.search(match, one.turns[0].text)][:limit]
    say(f"{run}: {len(asked)} rows")
    for one in asked:
        found, _ = encode([one], template, tokenizer, seq_length=None)
        ids, labels = (torch.from_numpy(part.astype("int64")) for part in found.row(0))
        with torch.no_grad():
            chosen = torch.log_softmax(model(ids[None]).logits[0, :-1], -1).gather(1, ids[1:, None])[:, 0]
        answer = one.turns[1].text
        sort, places = dict(sorts_of(answer)), pieces.encode(answer, add_special_tokens=False).offsets
        first = int((labels != IGNORE_INDEX).nonzero()[0])
        for i, (start, end) in enumerate(places, start=first):
            # digits and marks are tokens of one character each; longer tokens have no sort
            if end - start == 1 and start in sort:
                sums[sort[start]][0] -= float(chosen[i - 1])
                sums[sort[start]][1] += 1
    return {sort: (total / count, int(count)) for sort, (total, count) in sums.items()}


if __name__ == "__main__":
    run_main(main)
