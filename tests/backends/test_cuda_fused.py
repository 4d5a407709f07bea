"""The written-out parts of a training step against PEFT's and autograd's own."""

import copy

import numpy as np
import pytest
import torch

from backends.cuda import attention
from backends.cuda.model import add_lora, read_model
from backends.cuda.train import fused, step
from backends.cuda.train.batches import micro_batches
from backends.recipe.types import PetConfig
from mindrecord.tokens.encode import TokenRows

ALL = ".*wq|.*wk|.*wv|.*wo|.*w1|.*w2|.*w3"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def plain(tiny_llama):
    """A model with LoRA on all layers whose B matrices are not zero, as PEFT computes it."""
    model = add_lora(read_model(tiny_llama, torch.float32, attention.register()), PetConfig(target_modules=ALL), 0, "x")
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.05)
    return model.train()


def batch_of(packed):
    ids = np.arange(3, 43, dtype=np.int32)
    labels = np.where(np.arange(40) % 3 == 0, -100, ids).astype(np.int32)
    rows = TokenRows(ids, labels, np.array([0, 15, 40]), ["a", "b"])
    (batch,) = micro_batches(rows, np.arange(2), 200, CPU, packed=packed, pad_id=0)
    return batch


def loss_and_gradients(model, batch, dtype):
    model.zero_grad()
    loss = step.sum_nll(model, batch, dtype)
    loss.backward()
    return float(loss.detach()), {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def distance(found, wanted):
    """Norm of the difference of two sets of gradients, relative to the second."""
    off, whole = (
        sum(float(torch.linalg.vector_norm(x).square()) for x in parts)
        for parts in ([found[name] - slope for name, slope in wanted.items()], wanted.values())
    )
    return (off / whole) ** 0.5


@pytest.mark.parametrize("packed", [True, False])
def test_losses_and_gradients_are_those_of_the_plain_step(plain, packed, monkeypatch):
    batch = batch_of(packed)
    plain.get_base_model().set_attn_implementation(attention.NAME if packed else "sdpa")
    before = {}
    with monkeypatch.context() as patch:
        patch.setattr(step, "can_chunk_loss", lambda model: False)
        for dtype in (torch.float32, torch.bfloat16):
            before[dtype] = loss_and_gradients(plain, batch, dtype)
    model = copy.deepcopy(plain)
    assert fused.fuse_lora(model) == 7 * model.config.num_hidden_layers
    # several chunks, the last one shorter
    monkeypatch.setitem(fused.LOGITS_AT_ONCE, "cpu", 7 * model.config.vocab_size)
    exact, slopes = before[torch.float32]
    loss, found = loss_and_gradients(model, batch, torch.float32)
    assert loss == pytest.approx(exact, rel=1e-6)
    assert found.keys() == slopes.keys()
    assert distance(found, slopes) < 1e-5
    # in bfloat16 both forms are rounded, each in its own way: ours is no further from float32
    loss, found = loss_and_gradients(model, batch, torch.bfloat16)
    assert loss == pytest.approx(exact, rel=0.01)
    assert {slope.dtype for slope in found.values()} == {torch.float32}
    assert distance(found, slopes) < 1.2 * distance(before[torch.bfloat16][1], slopes)


def test_no_logits_of_all_positions_are_ever_held(plain, monkeypatch):
    widest = []
    mm = torch.Tensor.logsumexp
    monkeypatch.setattr(torch.Tensor, "logsumexp", lambda x, *a, **k: widest.append(len(x)) or mm(x, *a, **k))
    monkeypatch.setitem(fused.LOGITS_AT_ONCE, "cpu", 7 * plain.config.vocab_size)
    batch = batch_of(True)
    plain.get_base_model().set_attn_implementation(attention.NAME)
    loss_and_gradients(plain, batch, torch.float32)
    assert max(widest) == 7
    assert sum(widest) == len(batch.targets)


def test_layers_with_dropout_and_trained_heads_keep_the_plain_way(tiny_llama):
    base = read_model(tiny_llama, torch.float32, attention.register())
    # every weight is trained, the head's too
    assert not fused.can_chunk_loss(base)
    model = add_lora(base, PetConfig(target_modules=ALL, lora_dropout=0.1), 0, "x")
    assert fused.fuse_lora(model) == 0
    assert fused.can_chunk_loss(model.get_base_model())
    model.get_base_model().config.model_type = "gemma2"
    assert not fused.can_chunk_loss(model.get_base_model())
