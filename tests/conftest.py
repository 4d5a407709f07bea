"""What tests of several rooms share."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import settings

# a busy machine is no failure: no deadlines; `make test` takes the thorough profile
settings.register_profile("quick", deadline=None, max_examples=15)
settings.register_profile("thorough", deadline=None, max_examples=100)
settings.load_profile("quick")


def pytest_ignore_collect(collection_path, config):
    """Leave files that are all of the backend tier unread when that tier is not wanted: torch alone takes seconds."""
    unwanted = "not backend" in (config.option.markexpr or "")
    marked = re.compile(r"^pytestmark = [^\n]*\n?[^\n]*pytest\.mark\.backend\b", re.M)
    if unwanted and collection_path.suffix == ".py" and marked.search(collection_path.read_text(encoding="utf-8")):
        return True
    return None


SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", "<|pad|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory) -> Path:
    """A directory with a byte-level BPE of about 300 tokens under Llama-3's special names."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["计算 1.5 + 2.5 等于多少？", "解方程 3x + 6 = 0", "the answer is"] * 3, trainer)
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL[0],
        "eos_token": SPECIAL[1],
        "pad_token": SPECIAL[2],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def tiny_llama(tiny_tokenizer, tmp_path_factory) -> Path:
    """A Hugging Face model directory: a two-layer Llama with random weights, large enough to say different things."""
    import shutil

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        initializer_range=0.4,
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny-llama")
    LlamaForCausalLM(config).save_pretrained(folder)
    for file in tiny_tokenizer.iterdir():
        shutil.copy(file, folder)
    return folder
