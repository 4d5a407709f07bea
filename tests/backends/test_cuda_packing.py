"""Packing changes how rows lie in memory and nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.backend

from backends.cuda import attention
from backends.cuda.model import add_lora, llama_config, new_model
from backends.cuda.train.batches import micro_batches, share_of_process
from backends.cuda.train.step import sum_nll
from backends.recipe.types import ModelConfig, PetConfig
from backends.run.plan import activation_bytes
from backends.weights.llama import LlamaShape
from backends.weights.lora import target_layers
from mindrecord.tokens.encode import TokenRows
from mindrecord.tokens.order import rows_of_step

CPU = torch.device("cpu")
SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}


def token_rows(lengths, seed=0):
    """Random rows whose second half is supervised."""
    draw = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = draw.integers(3, 97, offsets[-1]).astype(np.int32)
    labels = ids.copy()
    for first, length in zip(offsets, lengths, strict=False):
        labels[first : first + max(1, length // 2)] = -100
    return TokenRows(ids, labels, offsets, [f"r{i}" for i in range(len(lengths))])


def family(name, implementation):
    from transformers import GemmaConfig, GraniteConfig, LlamaConfig, MistralConfig, Qwen2Config

    kinds = {
        "llama": (LlamaConfig, {}),
        "qwen2": (Qwen2Config, {}),
        "gemma": (GemmaConfig, {"head_dim": 16}),
        "mistral": (MistralConfig, {"sliding_window": None}),
        "granite": (GraniteConfig, {"attention_multiplier": 0.6}),  # scores scaled by other than 1/√d
    }
    kind, extra = kinds[name]
    return new_model(kind(**SMALL, **extra), 0, implementation)


def total_and_gradients(model, batches):
    total = sum(sum_nll(model, batch, torch.float32) for batch in batches)
    total.backward()
    return float(total.detach()), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def relative_distance(one, other):
    return float(torch.linalg.norm(one - other) / torch.linalg.norm(other))


LENGTHS = [5, 40, 9, 2, 23, 23, 8, 31]


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma", "mistral", "granite"])
def test_packed_rows_equal_separate_rows_in_loss_and_gradient(name):
    rows = token_rows(LENGTHS)
    everything = np.arange(len(rows))
    (packed,) = micro_batches(rows, everything, 4096, CPU, packed=True, pad_id=0)
    assert packed.input_ids.shape == (1, sum(LENGTHS) - len(LENGTHS))
    assert len(packed.layout.blocks) > 1
    loss, gradients = total_and_gradients(family(name, attention.register()), [packed])

    # the reference: one row at a time through transformers' own attention and its own loss
    model, reference = family(name, "eager"), 0.0
    for row in everything:
        ids, labels = (torch.from_numpy(part.astype(np.int64))[None] for part in rows.row(row))
        count = int((labels[:, 1:] != -100).sum())
        if count:
            one = model(input_ids=ids, labels=labels, use_cache=False).loss * count
            one.backward()
            reference += float(one.detach())
    assert loss == pytest.approx(reference, rel=1e-5)
    for key, parameter in model.named_parameters():
        assert relative_distance(gradients[key], parameter.grad) < 1e-5, key


@pytest.mark.parametrize(("capacity", "packed"), [(4096, False), (50, False), (50, True), (1, True)])
def test_padded_and_accumulated_equal_packed(capacity, packed):
    rows, everything = token_rows(LENGTHS), np.arange(len(LENGTHS))
    whole = micro_batches(rows, everything, 4096, CPU, packed=True, pad_id=0)
    other = micro_batches(rows, everything, capacity, CPU, packed=packed, pad_id=0)
    assert sorted(row for batch in other for row in batch.rows) == list(everything)
    for batch in other:
        assert batch.input_ids.numel() <= capacity or len(batch.rows) == 1
    loss, gradients = total_and_gradients(family("llama", attention.register()), whole)
    again, others = total_and_gradients(family("llama", attention.register() if packed else "sdpa"), other)
    assert again == pytest.approx(loss, rel=1e-5)
    for key, gradient in gradients.items():
        assert relative_distance(others[key], gradient) < 1e-5, key


def test_rows_do_not_see_each_other():
    rows = token_rows([12, 12, 12])
    model = family("llama", attention.register())
    (before,) = micro_batches(rows, np.arange(3), 4096, CPU, packed=True, pad_id=0)
    logits = model(
        input_ids=before.input_ids, position_ids=before.position_ids, use_cache=False, packed_rows=before.layout
    ).logits
    changed = before.input_ids.clone()
    changed[0, :11] = 5
    others = model(
        input_ids=changed, position_ids=before.position_ids, use_cache=False, packed_rows=before.layout
    ).logits
    assert torch.equal(logits[0, 11:], others[0, 11:])
    assert not torch.equal(logits[0, :11], others[0, :11])


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40))
def test_gathering_and_putting_back_are_inverse(lengths):
    ascending = np.sort(np.array(lengths))
    layout = attention.PackedLayout.of(ascending, CPU)
    tokens = torch.arange(int(ascending.sum()))
    cells = tokens[layout.gather]
    assert torch.equal(cells[layout.scatter], tokens)
    real = np.delete(cells.numpy(), layout.pad.numpy())
    assert np.array_equal(np.sort(real), tokens.numpy())
    assert len(cells) == sum(rows * longest for rows, longest in layout.blocks)
    # little is padded: a block's rows are of like length
    assert all(longest <= max(1.25 * shortest, shortest + 8) for shortest, longest in block_ends(ascending, layout))


def block_ends(ascending, layout):
    first = 0
    for rows, _ in layout.blocks:
        yield ascending[first], ascending[first + rows - 1]
        first += rows


@given(st.lists(st.integers(2, 60), min_size=1, max_size=40), st.integers(1, 6))
def test_processes_share_a_steps_rows_without_loss(lengths, processes):
    sizes, rows = np.array(lengths), np.arange(len(lengths))
    shares = [share_of_process(rows, sizes, process, processes) for process in range(processes)]
    assert sorted(np.concatenate(shares)) == list(rows)
    loads = [sizes[share].sum() for share in shares]
    assert max(loads) - min(loads) <= max(lengths)


def test_a_step_takes_its_rows_of_the_epochs_order():
    steps = [rows_of_step(26, 8, step, seed=3, shuffle=True) for step in range(6)]
    assert [len(rows) for rows in steps] == [8] * 6
    for epoch in (steps[:3], steps[3:]):
        assert len(set(np.concatenate(epoch))) == 24
    assert not np.array_equal(np.concatenate(steps[:3]), np.concatenate(steps[3:]))
    assert list(rows_of_step(26, 8, 4, seed=3, shuffle=False)) == list(range(8, 16))


def test_models_whose_attention_is_not_plain_are_padded():
    from transformers import Gemma2Config, LlamaConfig, MistralConfig, Qwen2Config

    assert attention.obstacle_to_packing(LlamaConfig(), 9999) is None
    assert attention.obstacle_to_packing(MistralConfig(sliding_window=64), 64) is None
    assert "looks back 64 tokens, the longest row has 65" in attention.obstacle_to_packing(
        MistralConfig(sliding_window=64), 65
    )
    assert attention.obstacle_to_packing(Qwen2Config(sliding_window=64, use_sliding_window=False), 9999) is None
    assert "caps its attention scores" in attention.obstacle_to_packing(Gemma2Config(), 10)


@pytest.mark.parametrize("pet", [None, PetConfig(), PetConfig(lora_dropout=0.2), PetConfig(target_modules=".*")])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_plans_activation_bytes_are_what_autograd_saves(pet):
    def saved(layers):
        sizes = ModelConfig(
            hidden_size=128, num_layers=layers, num_heads=4, n_kv_heads=2, vocab_size=97, intermediate_size=352
        )
        model = new_model(llama_config(sizes), 0, attention.register())
        if pet is not None:
            model = add_lora(model, pet, 0, "base")
        model.train()
        rows = token_rows([17] * 8)
        (batch,) = micro_batches(rows, np.arange(8), 4096, CPU, packed=True, pad_id=0)
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        kept = {}

        def keep(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = (storage.nbytes(), tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            sum_nll(model, batch, torch.float32)
        return sum(size for size, _ in kept.values()) / batch.tokens, LlamaShape.from_recipe(sizes)

    (two, sizes), (four, _) = saved(2), saved(4)
    layers = target_layers(pet) if pet else None
    predicted = activation_bytes(sizes, layers, 4, 4 if pet and pet.lora_dropout else 0)
    # in float32 the input that q, k and v share is kept once; in a shorter type each has its own copy
    assert 0.85 * predicted < (four - two) / 2 < 1.02 * predicted
