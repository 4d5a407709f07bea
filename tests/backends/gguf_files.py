"""Small GGUF files, written with the gguf package as llama.cpp's converter writes them, from models of transformers."""

import json
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize

from backends.weights.llama import LlamaShape
from backends.weights.safetensors_files import ShardWriter

NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
CONFIG = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "torch_dtype": "float32",
}
LLAMA = {**CONFIG, "model_type": "llama", "architectures": ["LlamaForCausalLM"], "rope_theta": 100000.0}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
QWEN2 = {
    **CONFIG,
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}
GEMMA = {
    **CONFIG,
    "model_type": "gemma",
    "architectures": ["GemmaForCausalLM"],
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-6,
    "head_dim": 16,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
}
# what byte-level tokenizers of each family do before merging: the steps of their published tokenizer.json
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_SPLIT = QWEN2_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
TEXTS = [
    "  1",
    "\n 3",
    "a  b",
    "The answer is 12345.67, isn't it? WE'LL see:\n\n\t x = 3\r\n",
    "计算 1.5 + 2.5 等于多少？ １２³ naïve café 🙂  ",
    "   leading, and trailing   ",
]
SPECIALS = ["<|begin|>", "<|end|>", "<|pad|>"]
CORPUS = [
    "the answer is 12345 and the other answer is 678, isn't it",
    "a  b\n\n  c 1 2 3\n 3  1",
    "计算 1.5 + 2.5 等于",
] * 4


def weights(config, seed=0):
    """Arrays by Hugging Face name, large enough for logits that differ."""
    draw = np.random.default_rng(seed)
    shapes = LlamaShape.from_config(config, "test").parameter_shapes()
    return {name: draw.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


def write_model(folder, config, arrays):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    with ShardWriter(folder) as writer:
        for name, array in arrays.items():
            writer.add(name, array)
    return folder


def train_bpe(folder, pre):
    """A byte-level tokenizer of the library, split as the family ``pre`` does; returns it."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    def split(pattern):
        return pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
        )

    tokenizer = Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    tokenizer.pre_tokenizer = {
        "gpt-2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
        "smollm": lambda: pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        ),
        "qwen2": lambda: split(QWEN2_SPLIT),
        "llama-bpe": lambda: split(LLAMA3_SPLIT),
    }[pre]()
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=319,
            special_tokens=SPECIALS,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"bos_token": SPECIALS[0], "eos_token": SPECIALS[1], "pad_token": SPECIALS[2]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return tokenizer


def bpe_fields(writer, tokenizer, pre, rows):
    """The settings that llama.cpp's converter writes for a byte-level tokenizer."""
    content = json.loads(tokenizer.to_str())
    names = {i: token for token, i in tokenizer.get_vocab(with_added_tokens=True).items()}
    special = {token["id"]: token["special"] for token in content["added_tokens"]}
    kinds = [(3 if special[i] else 4) if i in special else 1 if i in names else 5 for i in range(rows)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([names.get(i, f"[PAD{i}]") for i in range(rows)])
    writer.add_token_types(kinds)
    writer.add_token_merges([f"{left} {right}" for left, right in content["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(2)


def sentencepiece_fields(writer, file, *, prefix=True):
    """The settings that llama.cpp's converter writes for a SentencePiece model."""
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(file))
    kinds = []
    for i in range(pieces.get_piece_size()):
        kinds.append(2 if pieces.is_unknown(i) else 3 if pieces.is_control(i) else 6 if pieces.is_byte(i) else 1)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([pieces.id_to_piece(i).encode() for i in range(pieces.get_piece_size())])
    writer.add_token_scores([pieces.get_score(i) for i in range(pieces.get_piece_size())])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_space_prefix(prefix)
    return pieces


def permuted(array, heads):
    """llama.cpp's LlamaModel.permute."""
    return array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


def rope_freqs(scaling, base, width):
    """llama.cpp's LlamaModel.generate_extra_tensors, one frequency after the other."""
    found = []
    for i in range(0, width, 2):
        wavelength = 2 * np.pi * base ** (i / width)
        low = scaling["original_max_position_embeddings"] / scaling["low_freq_factor"]
        high = scaling["original_max_position_embeddings"] / scaling["high_freq_factor"]
        if wavelength < high:
            found.append(1.0)
        elif wavelength > low:
            found.append(scaling["factor"])
        else:
            smooth = scaling["original_max_position_embeddings"] / wavelength - scaling["low_freq_factor"]
            smooth /= scaling["high_freq_factor"] - scaling["low_freq_factor"]
            found.append(1 / ((1 - smooth) / scaling["factor"] + smooth))
    return np.array(found, np.float32)


def write_gguf_file(file: Path, config, arrays, vocabulary=None, kind="F32", change=None, split=0):
    """Write a model; ``vocabulary(writer)`` adds the tokenizer, ``change(tensors)`` edits {name: array}."""
    family, heads = config["model_type"], config["num_attention_heads"]
    writer = GGUFWriter(file, family, split_max_tensors=split)
    writer.add_type("model")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    width = config.get("head_dim") or config["hidden_size"] // heads
    if "head_dim" in config:
        writer.add_key_length(width)
        writer.add_value_length(width)
    if vocabulary is not None:
        vocabulary(writer)
    tensors = {}
    for name, array in arrays.items():
        parts = name.split(".")
        if name.startswith("model.layers."):
            module = NAMES[".".join(parts[3:-1])]
            if family == "llama" and module in ("attn_q", "attn_k"):
                array = permuted(array, heads if module == "attn_q" else config["num_key_value_heads"])
            new = f"blk.{parts[2]}.{module}.{parts[-1]}"
        else:
            new = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}[name[:-7]]
            new += ".weight"
        tensors[new] = array + 1 if family == "gemma" and name.endswith("norm.weight") else array
    if config.get("rope_scaling"):
        tensors["rope_freqs.weight"] = rope_freqs(config["rope_scaling"], config["rope_theta"], width)
    if change is not None:
        change(tensors)
    for name, array in tensors.items():
        quant = GGMLQuantizationType["F32" if array.ndim == 1 else kind]
        writer.add_tensor(name, quantize(np.ascontiguousarray(array, np.float32), quant), raw_dtype=quant)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
