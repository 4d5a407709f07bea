"""Two ways to score a short answer. Both call their measures F1 and exact match, but compute different things.

``mindformers`` is what mindformers calls SQuAD (its ``EmF1Metric``, after CMRC 2018): one gold answer; tokens as jieba
cuts them, including spaces and ASCII punctuation; the overlap is the longest contiguous run of tokens that both texts
share; exact match compares the texts after a list of mostly Chinese punctuation was deleted.

``official`` is SQuAD v1.1's own (Rajpurkar et al. 2016): the best score over all gold answers; articles, ASCII
punctuation and spacing are ignored; the overlap counts words in any order (bag of words).

The same answers score about three points of F1 apart, so a figure means nothing without its protocol.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

from converters.common.errors import UserError

PROTOCOLS = {
    "mindformers": "first question and first answer of each paragraph; jieba tokens, longest common run",
    "official": "SQuAD v1.1: every question, best of its answers; bag of words, no articles and punctuation",
}

# A single … stays: the metric's list has only the pair …… as one entry, which no single character equals.
_DELETED = dict.fromkeys(map(ord, "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』"))
# only these are tokens of their own; Chinese characters outside this range go to jieba with the rest
_CHINESE = re.compile(r"([\u4e00-\u9fa5])")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Scores(NamedTuple):
    """F1 and exact match of one answer, 0 to 1."""

    f1: float
    em: float


def first_line(text: str) -> str:
    """Return the first line of an answer, stripped: all that the mindformers protocol grades."""
    # stripped first: an answer that begins with a line break would be graded as empty
    return text.strip().split("\n")[0]


def mindformers_scores(prediction: str, gold: str) -> Scores:
    """Score an answer as mindformers' ``EmF1Metric`` does.

    Args:
        prediction: the first line of what the model said.
        gold: the paragraph's first answer to its first question.

    Raises:
        UserError: jieba is not installed.
    """
    said, wanted = _without_marks(prediction), _without_marks(gold)
    said_tokens, wanted_tokens = _tokens(said), _tokens(wanted)
    run = longest_common_run(said_tokens, wanted_tokens)
    # of texts that are empty without their marks F1 is 0 and exact match 1: so does mindformers
    return Scores(_f1(run, len(said_tokens), len(wanted_tokens)), float(said == wanted))


def official_scores(prediction: str, golds: Sequence[str]) -> Scores:
    """Score an answer as SQuAD v1.1's own script does (Rajpurkar et al. 2016).

    Args:
        prediction: the whole answer; a line break in it is a space like any other.
        golds: all right answers.

    Returns:
        The best F1 and the best exact match, which may come from different gold answers.
    """
    said = normalise(prediction)
    words = Counter(said.split())
    best_f1 = best_em = 0.0
    for gold in golds:
        wanted = normalise(gold)
        wanted_words = Counter(wanted.split())
        # & keeps the smaller count, so a word said twice but wanted once counts once
        overlap = (words & wanted_words).total()
        best_f1 = max(best_f1, _f1(overlap, words.total(), wanted_words.total()))
        best_em = max(best_em, float(said == wanted))
    return Scores(best_f1, best_em)


def normalise(text: str) -> str:
    """Return a text as SQuAD v1.1 compares it: lower case, without ASCII punctuation and articles, single spaces."""
    # SQuAD's order: without its marks "(the)" is an article, and removed articles leave spaces to close
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def longest_common_run(left: Sequence[str], right: Sequence[str]) -> int:
    """Return the length of the longest contiguous run of tokens that both sequences contain."""
    best = 0
    # ending[j]: length of the run that ends at the current token of left and at right[j - 1]
    ending = [0] * (len(right) + 1)
    for token in left:
        before = 0
        for j, other in enumerate(right, start=1):
            # 0 on a mismatch: a common substring, not a subsequence, whatever mindformers' function is called
            before, ending[j] = ending[j], before + 1 if token == other else 0
            best = max(best, ending[j])
    return best


def _f1(overlap: int, said: int, wanted: int) -> float:
    # also where a text has no token at all and the shares below are not defined
    if overlap == 0:
        return 0.0
    precision, recall = overlap / said, overlap / wanted
    return 2 * precision * recall / (precision + recall)


def _without_marks(text: str) -> str:
    return text.lower().strip().translate(_DELETED)


def _tokens(text: str) -> list[str]:
    """Cut a text into Chinese characters and, between them, the words that jieba finds; spaces are tokens too."""
    tokens: list[str] = []
    for number, piece in enumerate(_CHINESE.split(text)):
        # splitting by a group puts what it matched, one Chinese character each, at the odd places
        if number % 2:
            tokens.append(piece)
        elif piece:
            tokens.extend(load_jieba()(piece))
    return tokens


@cache
def load_jieba() -> Callable[[str], Sequence[str]]:
    """Load jieba with its dictionary and return what cuts a text; about a second, once a process.

    Raises:
        UserError: jieba is not installed.
    """
    import logging
    import warnings

    try:
        with warnings.catch_warnings():
            # it compiles patterns with escapes that newer Pythons complain of
            warnings.simplefilter("ignore")
            import jieba
    except ImportError as error:
        raise UserError("the mindformers protocol cuts words with jieba: pip install jieba==0.42.1") from error
    jieba.setLogLevel(logging.WARNING)
    # a tokenizer of our own: words that a program added to jieba's global one would change figures
    cutter = jieba.Tokenizer()
    # read from the package and not from the cache that jieba keeps in the shared temporary directory: a file there
    # may be another version's, or anybody's
    cutter.FREQ, cutter.total = cutter.gen_pfdict(cutter.get_dict_file())
    cutter.initialized = True
    return cutter.lcut
