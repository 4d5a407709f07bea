"""What plain LoRA is, field by field of PEFT's LoraConfig: merging, exchange and the Ascend backend give one answer."""

import dataclasses
import json

import pytest
from merge_files import write_adapter

from backends.ascend.model import lora_config
from backends.exchange.adapters import read_adapter_config
from backends.merge.adapters import open_adapter
from backends.weights.lora import LORA_VARIANTS
from backends.weights.safetensors_files import open_tensors
from converters.common.errors import UserError

PLAIN, VARIANT, OTHER = "every path takes it", "merging alone takes it", "no path takes it"
# every field of LoraConfig: a value that sets it, and whether what results is plain LoRA
FIELDS = {
    "alora_invocation_tokens": ([7, 8], OTHER),
    "alpha_pattern": ({"q_proj": 3}, VARIANT),
    "arrow_config": ({"top_k": 3}, OTHER),
    "auto_mapping": ({"base_model_class": "LlamaForCausalLM"}, PLAIN),
    "base_model_name_or_path": ("another/base", PLAIN),
    "bias": ("all", OTHER),
    "corda_config": ({"corda_method": "ipm"}, OTHER),
    "ensure_weight_tying": (True, OTHER),
    "eva_config": ({"rho": 2.0}, PLAIN),
    "exclude_modules": (["lm_head"], PLAIN),
    "fan_in_fan_out": (True, OTHER),
    "inference_mode": (False, PLAIN),
    "init_lora_weights": ("gaussian", PLAIN),
    "kasa_config": ({"beta": 1e-4}, OTHER),
    "layer_replication": ([[0, 1], [0, 1]], OTHER),
    "layers_pattern": ("layers", PLAIN),
    "layers_to_transform": ([0, 1], VARIANT),
    "loftq_config": ({"loftq_bits": 4}, OTHER),
    "lora_alpha": (3, PLAIN),
    "lora_bias": (True, OTHER),
    "lora_dropout": (0.5, PLAIN),
    "lora_ga_config": ({"direction": "ArB2r"}, OTHER),
    "megatron_config": ({"tensor_model_parallel_size": 2}, OTHER),
    "megatron_core": ("megatron.core", PLAIN),
    "modules_to_save": (["lm_head"], OTHER),
    "monteclora_config": ({"num_samples": 2}, OTHER),
    "peft_type": ("IA3", OTHER),
    "peft_version": ("0.21.2", PLAIN),
    "qalora_group_size": (16, PLAIN),
    "r": (2, PLAIN),
    "rank_pattern": ({"q_proj": 2}, VARIANT),
    "revision": ("main", PLAIN),
    "runtime_config": ({"ephemeral_gpu_offload": True}, PLAIN),
    "target_modules": (["q_proj", "v_proj"], PLAIN),
    "target_parameters": (["mlp.experts.down_proj"], OTHER),
    "task_type": ("CAUSAL_LM", PLAIN),
    "trainable_token_indices": ([0], OTHER),
    "use_bdlora": ({"nblocks": 2}, OTHER),
    "use_dora": (True, OTHER),
    "use_qalora": (True, OTHER),
    "use_rslora": (True, VARIANT),
    "velora_config": ({"num_groups": 4}, OTHER),
}
STARTS = {True: PLAIN, False: PLAIN, "gaussian": PLAIN, "eva": PLAIN, "orthogonal": PLAIN, "mica": PLAIN}
STARTS |= dict.fromkeys(["pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga"], OTHER)
PATHS = {
    "merge": open_adapter,
    "exchange": read_adapter_config,
    "ascend": lambda folder: lora_config(folder, open_tensors(folder)),
}


def refusals(folder):
    """Return who refuses an adapter, with the error."""
    found = {}
    for name, take in PATHS.items():
        try:
            take(folder)
        except UserError as error:
            found[name] = str(error)
    return found


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        *((key, value, kind) for key, (value, kind) in FIELDS.items()),
        *(("init_lora_weights", start, kind) for start, kind in STARTS.items()),
        ("layers_to_transform", 0, VARIANT),
        ("trainable_token_indices", 0, OTHER),
        ("a_method_of_tomorrow", {"strength": 1}, OTHER),
        ("a_method_of_tomorrow", None, PLAIN),
    ],
)
def test_all_paths_give_one_answer(tmp_path, key, value, kind):
    write_adapter(tmp_path / "adapter", rank=2, **{key: value})
    found = refusals(tmp_path / "adapter")
    assert sorted(found) == {PLAIN: [], VARIANT: ["ascend", "exchange"], OTHER: sorted(PATHS)}[kind]
    for error in found.values():
        assert f"adapter_config.json: {key} is {value!r}" in error
        assert "\n" not in error


def test_a_variant_is_one_of_those_that_are_named():
    assert {key for key, (_, kind) in FIELDS.items() if kind == VARIANT} == LORA_VARIANTS


@pytest.mark.parametrize("bad", ["[]", "null"])
def test_a_configuration_that_is_no_object(tmp_path, bad):
    folder = write_adapter(tmp_path / "adapter")
    (folder / "adapter_config.json").write_text(bad)
    assert set(refusals(folder)) == set(PATHS)


@pytest.mark.backend
def test_every_field_of_the_installed_peft_is_judged(tmp_path):
    """A field that a release of PEFT adds is refused when it is set, until it has been looked at and stands above."""
    peft = pytest.importorskip("peft")
    assert {field.name for field in dataclasses.fields(peft.LoraConfig)} == FIELDS.keys()
    # an adapter's file as PEFT writes it, with every field at its default
    folder = write_adapter(tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    whole = peft.LoraConfig(**config).to_dict()
    whole |= {"target_modules": config["target_modules"], "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(whole, default=str))
    assert refusals(folder) == {}
