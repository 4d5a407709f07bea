"""Names of weights: one to one, both ways, and nothing else is taken for one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.weights.names import mindformers_to_peft, peft_to_mindformers, to_hf, to_mindformers
from converters.common.errors import UserError

PAIRS = [
    ("model.embed_tokens.weight", "model.tok_embeddings.embedding_weight"),
    ("model.layers.0.self_attn.q_proj.weight", "model.layers.0.attention.wq.weight"),
    ("model.layers.31.self_attn.k_proj.weight", "model.layers.31.attention.wk.weight"),
    ("model.layers.7.self_attn.v_proj.bias", "model.layers.7.attention.wv.bias"),
    ("model.layers.2.self_attn.o_proj.weight", "model.layers.2.attention.wo.weight"),
    ("model.layers.2.mlp.gate_proj.weight", "model.layers.2.feed_forward.w1.weight"),
    ("model.layers.2.mlp.down_proj.weight", "model.layers.2.feed_forward.w2.weight"),
    ("model.layers.2.mlp.up_proj.weight", "model.layers.2.feed_forward.w3.weight"),
    ("model.layers.2.input_layernorm.weight", "model.layers.2.attention_norm.weight"),
    ("model.layers.2.post_attention_layernorm.weight", "model.layers.2.ffn_norm.weight"),
    ("model.norm.weight", "model.norm_out.weight"),
    ("lm_head.weight", "lm_head.weight"),
]
LORA = (
    "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
    "model.layers.0.attention.wq.mindpet_delta_lora_a",
)


@pytest.mark.parametrize(("hf", "mindformers"), PAIRS)
def test_weights_are_renamed_both_ways(hf, mindformers):
    assert to_mindformers(hf) == mindformers
    assert to_hf(mindformers) == hf


def test_lora_matrices_are_renamed_both_ways():
    assert peft_to_mindformers(LORA[0]) == LORA[1]
    assert mindformers_to_peft(LORA[1]) == LORA[0]
    live = LORA[0].replace("lora_A.weight", "lora_A.default.weight")
    assert peft_to_mindformers(live) == LORA[1]


@given(
    st.integers(0, 200),
    st.sampled_from(["self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]),
    st.sampled_from("AB"),
)
def test_every_lora_name_comes_back(layer, module, half):
    name = f"base_model.model.model.layers.{layer}.{module}.lora_{half}.weight"
    assert mindformers_to_peft(peft_to_mindformers(name)) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "model.layers.0.input_layernorm.bias",  # norms have none
        "model.layers.00.self_attn.q_proj.weight",
        "model.layers.0.self_attn.q_proj.scale",
        "model.layers.0.self_attn.q_norm.weight",
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "model.layers.0.attention.wq.weight",  # the other side's
        "adam_m.model.layers.0.self_attn.q_proj.weight",
        "x model.norm.weight",
    ],
)
def test_unknown_hf_names_are_named(name):
    with pytest.raises(UserError, match=r"not the name of a weight of a Hugging Face"):
        to_mindformers(name)


@pytest.mark.parametrize(
    "name", ["model.layers.0.attention.w_qkv.weight", "adam_v.model.norm_out.weight", "global_step"]
)
def test_unknown_mindformers_names_are_named(name):
    with pytest.raises(UserError, match=name):
        to_hf(name)


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.lm_head.lora_A.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector",
        "base_model.model.model.layers.0.input_layernorm.lora_A.weight",
        LORA[1],
    ],
)
def test_unknown_peft_names_are_named(name):
    with pytest.raises(UserError, match="not a LoRA matrix"):
        peft_to_mindformers(name)


@pytest.mark.parametrize("name", ["model.layers.0.attention.wq.weight", "adam_m." + LORA[1], LORA[0]])
def test_unknown_mindpet_names_are_named(name):
    with pytest.raises(UserError, match="not a LoRA matrix"):
        mindformers_to_peft(name)
