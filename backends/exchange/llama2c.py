"""Models and vocabularies of llama2.c (https://github.com/karpathy/llama2.c), such as its small trained stories models.

The model file holds Meta's weights, rotary pairs interleaved, stacked over layers; the vocabulary file holds
SentencePiece's pieces with their scores.
"""

from __future__ import annotations

import json
import struct
from functools import partial
from pathlib import Path

import numpy as np

from backends.exchange.meta import hf_name, read_in_halves
from backends.exchange.models import Item, Source, make_source
from backends.weights.files import TOKENIZER_CONFIG
from backends.weights.llama import LlamaShape
from backends.weights.safetensors_files import Entry, Tensors
from converters.common.errors import UsageError, UserError
from converters.common.files import write_json

MAGIC = 0x616B3432  # its later formats begin with it
SPECIALS = ("<unk>", "<s>", "</s>")
# ids of the 256 single bytes, which follow the specials
BYTES_FROM, BYTES_TO = 3, 259


def llama2c_source(file: Path) -> Source:
    """Open a model file of llama2.c (its first format: seven numbers, then float32 weights).

    Raises:
        UsageError: there is no such file.
        UserError: another format, or its size is not what its header says.
    """
    if not file.is_file():
        raise UsageError(f"{file}: no such file")
    header = np.fromfile(file, "<i4", 7).tolist()
    # 2**24: this format has no magic number, so that only sane sizes tell it from any other file
    if len(header) < 7 or header[0] == MAGIC or not all(0 < abs(number) < 2**24 for number in header):
        raise UserError(f"{file}: not a llama2.c model of its first format (seven numbers, then float32)")
    dim, hidden, layers, heads, kv_heads, vocab, context = header
    # llama2.c says by a negative vocabulary that the output has weights of its own
    tied, vocab = vocab > 0, abs(vocab)
    if dim % heads or heads % kv_heads:
        raise UserError(f"{file}: {dim} wide with {heads} and {kv_heads} heads cannot be")
    shape = LlamaShape(layers, dim, hidden, heads, kv_heads, dim // heads, vocab, tied)
    # in the order of the file: each kind of weight for all layers, then the next kind
    stacked: dict[str, tuple[int, ...]] = {"tok_embeddings.weight": (vocab, dim), "attention_norm": (layers, dim)}
    stacked |= {f"attention.{name}": (layers, *shape.linear_layers[name]) for name in ("wq", "wk", "wv", "wo")}
    stacked |= {"ffn_norm": (layers, dim)}
    stacked |= {f"feed_forward.{name}": (layers, *shape.linear_layers[name]) for name in ("w1", "w2", "w3")}
    stacked |= {"norm.weight": (dim,), "rotary tables": (2, context, shape.head_dim // 2)}
    if not tied:
        stacked["output.weight"] = (vocab, dim)
    # behind the header of seven int32
    entries, place = {}, 28
    for name, widths in stacked.items():
        split = name.startswith(("attention", "feed_forward", "ffn"))
        for layer in range(layers if split else 1):
            one = Entry(file, "F32", widths[1:] if split else widths, ())
            full = f"layers.{layer}.{name}.weight" if split else name
            entries[full] = Entry(file, "F32", one.shape, ((place, one.nbytes),))
            place += one.nbytes
    if place != file.stat().st_size:
        raise UserError(f"{file}: {file.stat().st_size:,} bytes, where its header's sizes make {place:,}")
    # computed from rope_theta everywhere else
    del entries["rotary tables"]
    tensors = Tensors(file, entries, {})
    config = shape.to_config() | {
        "max_position_embeddings": context,
        # the header holds none of these: they are constants in the code of llama2.c
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    items = {
        hf_name(name): Item(tensors.shape(name), "F32", read_in_halves(partial(tensors.read, name), name, shape))
        for name in tensors.names()
    }
    return make_source(file, config, file, items)


def write_tokenizer(file: Path, folder: Path) -> None:
    """Write a vocabulary of llama2.c as ``tokenizer.json`` and ``tokenizer_config.json``.

    llama2.c always joins the two neighbours whose joined piece has the highest score. That is byte pair encoding with
    the merges in the order of the scores.

    Args:
        file: int32 length of the longest piece, then float32 score, int32 length and bytes of each piece.
        folder: an existing directory.

    Raises:
        UsageError: there is no such file.
        UserError: it is not such a vocabulary.
    """
    if not file.is_file():
        raise UsageError(f"{file}: no such file")
    # behind the length of the longest piece, which is not needed
    data, place = file.read_bytes(), 4
    pieces: list[tuple[str, float]] = []
    try:
        while place < len(data):
            score, length = struct.unpack_from("<fi", data, place)
            piece = data[place + 8 : place + 8 + length]
            if not 0 < length == len(piece):
                raise ValueError("a piece is cut off")
            # SentencePiece writes ▁ for a blank; llama2.c stores the blank itself
            pieces.append((piece.decode().replace(" ", "▁"), score))
            place += 8 + length
    except (struct.error, ValueError) as error:
        raise UserError(f"{file}: not a vocabulary of llama2.c ({error})") from error
    # llama2.c exports <s> and </s> with line breaks around them
    names = [piece.strip() for piece, _ in pieces]
    if tuple(names[:3]) != SPECIALS or names[BYTES_FROM:BYTES_TO] != [f"<0x{byte:02X}>" for byte in range(256)]:
        raise UserError(f"{file}: not a vocabulary of llama2.c (<unk>, <s>, </s> and 256 bytes come first)")
    vocab = dict(zip([*SPECIALS, *(piece for piece, _ in pieces[3:])], range(len(pieces)), strict=True))
    # every split of a piece into two known ones is a merge; the best score joins first
    merges = [
        # negative, because sorting puts the smallest first
        (-score, left, right)
        for piece, score in pieces[BYTES_TO:]
        for left, right in ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
        if left in vocab and right in vocab
    ]
    # only this conversion needs the package
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

    pairs = [(left, right) for _, left, right in sorted(merges)]
    tokenizer = Tokenizer(models.BPE(vocab, pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in SPECIALS])
    # a blank before the first word, as SentencePiece and llama2.c put it
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    # SentencePiece's own order: blanks, bytes to letters, and the blank before the first word taken off
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    write_json(folder / "tokenizer.json", json.loads(tokenizer.to_str()))
    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    write_json(folder / TOKENIZER_CONFIG, {"tokenizer_class": "PreTrainedTokenizerFast", **config})
