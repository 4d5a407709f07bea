"""Small tokenizers of the three kinds that differ in where they put spaces, and the genuine Llama-3 one."""

import json
import os
from pathlib import Path

import pytest

from converters.text.template import special_names
from converters.tokenizers.load import load_tokenizer
from converters.tokenizers.tiktoken_file import LLAMA3_PATTERN

CORPUS = [
    "A chat between a curious user and an artificial intelligence assistant gives polite answers USER ASSISTANT",
    "Below is an instruction that describes a task Write a response that appropriately completes the request",
    "计算 967.09 - -688.16 等于多少？ 计算过程：967.09 - -688.16 = 1655.25 the answer assistant user model system INST",
] * 3
FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
TURNS = sorted(special_names())


def added(names, first, special=True):
    return [{"id": first + i, "content": name, **FLAGS, "special": special} for i, name in enumerate(names)]


def byte_level() -> dict:
    """A byte-level BPE with Llama-3's split pattern."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    data = json.loads(tokenizer.to_str())
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", *TURNS]
    data["added_tokens"] = added(names, len(data["model"]["vocab"]))
    return data


def sentencepiece(scheme: str) -> dict:
    """A BPE as SentencePiece makes it: ▁ for spaces, bytes for what is unknown, a space before the first word.

    The space comes from a normalizer (``prepend``, as in Llama-2's file) or a pre-tokenizer with a ``first`` scheme.
    Merges can spell ``</s>``, as they can in Llama-2's vocabulary.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    trained = json.loads(tokenizer.to_str())["model"]
    control = ["<unk>", "<s>", "</s>"]
    more = ["</", "s>"]
    pieces = [*control, *(f"<0x{byte:02X}>" for byte in range(256)), *trained["vocab"], *"</>", *more]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    merges = [*trained["merges"], ["<", "/"], ["s", ">"], ["</", "s>"]]
    model = {"type": "BPE", "vocab": vocab, "merges": merges, "unk_token": "<unk>", "byte_fallback": True}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    prepend = {"type": "Prepend", "prepend": "▁"}
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    back = {**replace, "pattern": {"String": "▁"}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            *added(control, 0),
            *added(TURNS, len(vocab)),
            *added(["<tool>"], len(vocab) + len(TURNS), special=False),
        ],
        "normalizer": {"type": "Sequence", "normalizers": [prepend, replace]} if scheme == "prepend" else None,
        "pre_tokenizer": None if scheme == "prepend" else metaspace,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, strip]},
        "model": model,
    }


def shared_data() -> Path:
    here = Path(__file__).resolve().parents[2]
    return Path(os.environ.get("SHARED_DATA", here.parent / "shared" / "data"))


KINDS = ["byte_level", "prepend", "first"]


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """Directories of the small tokenizers by kind."""
    made = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        data = byte_level() if kind == "byte_level" else sentencepiece(kind)
        (folder / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
        made[kind] = folder
    return made


@pytest.fixture(scope="session")
def genuine():
    """Llama-3's own tokenizer.model."""
    path = shared_data() / "llama3" / "tokenizer.model"
    if not path.is_file():
        pytest.skip(f"no genuine Llama-3 tokenizer at {path}; SHARED_DATA=DIR says where it is")
    return load_tokenizer(path)


@pytest.fixture(scope="session", params=[*KINDS, "genuine"])
def tokenizer(request):
    """Each tokenizer in turn."""
    if request.param == "genuine":
        return request.getfixturevalue("genuine")
    return load_tokenizer(request.getfixturevalue("small")[request.param])
