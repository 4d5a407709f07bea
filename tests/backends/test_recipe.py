import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from backends.recipe.load import load_recipe, recipe_from
from backends.recipe.types import LEAF_PATHS, ModelConfig, OptimizerConfig, PetConfig
from backends.run.directory import changed_settings
from converters.common.errors import UsageError, UserError
from converters.common.shipped import DEFAULT_RECIPE

ROOT = Path(__file__).resolve().parents[2]

# the contest's own file, key by key
CONTEST = """
seed: 0
output_dir: './output'
load_checkpoint: '/home/ma-user/work/llama3-8B.ckpt'
src_strategy_path_or_dir: ''
auto_trans_ckpt: False
only_save_strategy: False
resume_training: False
run_mode: 'finetune'
trainer: {type: CausalLanguageModelingTrainer, model_name: 'llama3_8b'}
runner_config: {epochs: 5, batch_size: 64, sink_mode: True, sink_size: 2}
optimizer: {type: FP32StateAdamWeightDecay, beta1: 0.9, beta2: 0.95, eps: 1.e-8}
lr_schedule: {type: CosineWithWarmUpLR, learning_rate: 1.e-5, lr_end: 0.0, warmup_ratio: 0.03, total_steps: -1}
train_dataset: &train_dataset
  data_loader: {type: MindDataset, dataset_dir: "", shuffle: True}
  input_columns: ["input_ids", "labels"]
  num_parallel_workers: 8
  python_multiprocessing: False
  drop_remainder: True
  batch_size: 1
  repeat: 1
  numa_enable: False
  prefetch_size: 1
train_dataset_task: {type: CausalLanguageModelDataset, dataset_config: *train_dataset}
do_eval: False
eval_dataset: {data_loader: {type: MindDataset, dataset_dir: "", shuffle: False}, input_columns: ["input_ids"]}
use_parallel: True
parallel:
  parallel_mode: 1
  gradients_mean: False
  enable_alltoall: False
  full_batch: True
  search_mode: "sharding_propagation"
  enable_parallel_optimizer: True
  strategy_ckpt_config: {save_file: "./ckpt_strategy.ckpt", only_trainable_params: False}
  parallel_optimizer_config: {gradient_accumulation_shard: False, parallel_optimizer_threshold: 64}
parallel_config:
  data_parallel: 1
  model_parallel: 4
  pipeline_stage: 1
  use_seq_parallel: False
  micro_batch_num: 1
  vocab_emb_dp: True
  gradient_aggregation_group: 4
micro_batch_interleave_num: 1
recompute_config:
  recompute: True
  select_recompute: False
  parallel_optimizer_comm_recompute: False
  mp_comm_recompute: True
  recompute_slice_activation: True
callbacks:
  - type: MFLossMonitor
  - type: CheckpointMointor
    prefix: "llama3_8b"
    save_checkpoint_steps: 1400
    integrated_save: False
    async_save: False
  - type: ObsMonitor
context:
  mode: 0
  device_target: "Ascend"
  enable_graph_kernel: False
  graph_kernel_flags: "--disable_expand_ops=Softmax,Dropout --reduce_fuse_depth=8"
  max_call_depth: 10000
  max_device_memory: "26GB"
  save_graphs: False
  save_graphs_path: "./graph"
  device_id: 0
  runtime_num_threads: 1
model:
  model_config:
    type: LlamaConfig
    batch_size: 1
    seq_length: 256
    hidden_size: 4096
    num_layers: 32
    num_heads: 32
    n_kv_heads: 8
    vocab_size: 128256
    intermediate_size: 14336
    rms_norm_eps: 1.0e-5
    bos_token_id: 128000
    eos_token_id: 128001
    pad_token_id: 128002
    ignore_token_id: -100
    compute_dtype: "bfloat16"
    layernorm_compute_type: "float32"
    softmax_compute_type: "float32"
    rotary_dtype: "float32"
    param_init_type: "bfloat16"
    use_past: False
    scaling_factor: 1.0
    theta: 500000
    extend_method: "None"
    use_flash_attention: True
    offset: 0
    fine_grain_interleave: 1
    checkpoint_name_or_path: "llama3-8B.ckpt"
    repetition_penalty: 1
    max_decode_length: 512
    top_k: 3
    top_p: 1
    do_sample: False
    pet_config: {pet_type: lora, lora_rank: 8, lora_alpha: 16, lora_dropout: 0.0, target_modules: '.*wq|.*wv'}
  arch: {type: LlamaForCausalLM}
metric: {type: PerplexityMetric}
runner_wrapper: {type: MFTrainOneStepCell, scale_sense: 1.0, use_clip_grad: True}
eval_callbacks:
  - type: ObsMonitor
auto_tune: False
filepath_prefix: './autotune'
autotune_per_step: 10
profile: False
profile_start_step: 4
profile_stop_step: 8
init_start_profile: False
profile_communication: False
profile_memory: True
layer_scale: False
layer_decay: 0.65
lr_scale_factor: 256
remote_save_url: "Please input obs url on AICC platform."
"""


def test_the_contests_file_is_read_as_it_is():
    recipe = recipe_from(yaml.safe_load(CONTEST))
    assert recipe.runner_config.batch_size == 64
    assert recipe.optimizer.adam_betas == (0.9, 0.95)
    assert recipe.lr_schedule.learning_rate == 1e-5
    assert recipe.pet.target_modules == ".*wq|.*wv"
    assert recipe.model.model_config.theta == 500000.0
    assert recipe.checkpoint_callback["save_checkpoint_steps"] == 1400
    assert recipe.shuffle is True
    assert recipe.raw["parallel_config"]["model_parallel"] == 4


def test_the_default_recipe_holds_the_reports_values():
    recipe = load_recipe()
    pet, run, rate = recipe.pet, recipe.runner_config, recipe.lr_schedule
    assert (pet.lora_rank, pet.lora_alpha, pet.lora_dropout, pet.target_modules) == (8, 16, 0.2, ".*wq|.*wv")
    assert (run.epochs, run.batch_size, recipe.model.model_config.seq_length) == (5, 64, 256)
    assert (rate.learning_rate, rate.warmup_ratio, rate.lr_end) == (1e-4, 0.03, 0.0)
    assert recipe.data.template == "vicuna"


def test_every_setting_of_the_default_recipe_says_what_it_does():
    lines = DEFAULT_RECIPE.read_text(encoding="utf-8").split("# below: Ascend alone")[0].splitlines()
    assert lines[2].startswith("#   python -m backends.cuda plan")
    settings = [line for line in lines if ": " in line and not line.lstrip().startswith("#")]
    bare = [line.split(":")[0].strip() for line in settings if "#" not in line]
    named_by_what_they_are = {
        "type",
        "- type",
        "betas",
        "prefix",
        "input_columns",
        "num_parallel_workers",
        "batch_size",
    }
    sizes = {field.name for field in dataclasses.fields(ModelConfig)}
    assert set(bare) - named_by_what_they_are - sizes == {"pet_type"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("runner_config.epoch=3", r"unknown key 'runner_config.epoch' \(did you mean 'epochs'\?\)"),
        ("lora_rank=4", r"unknown key 'lora_rank' \(did you mean 'model.model_config.pet_config.lora_rank'\?\)"),
        ("contxt.mode=1", r"unknown key 'contxt' \(did you mean 'context'\?\)"),
        ("context.devise_id=1", r"unknown key 'context.devise_id' \(did you mean 'device_id'\?\)"),
        ("data.packin=False", r"unknown key 'data.packin' \(did you mean 'packing'\?\)"),
        ("runner_config.batch_size=many", r"runner_config.batch_size: expected int, found 'many'"),
        ("runner_config.batch_size=2.5", r"runner_config.batch_size: expected int, found 2.5"),
        ("runner_config.batch_size=0", r"runner_config.batch_size: found 0, expected ≥ 1"),
        ("data.packing=1", r"data.packing: expected bool, found 1"),
        ("data.over_length=cut", r"data.over_length: expected 'drop' or 'truncate' or 'error', found 'cut'"),
        ("run_mode=eval", r"run_mode: found 'eval', expected finetune or train"),
        ("model.model_config.pet_config.pet_type=ptuning", r"pet_config.pet_type: found 'ptuning'"),
        ("model.model_config.compute_dtype=fp8", r"compute_dtype: found 'fp8'"),
        ("seed.a=1", r"'seed' is not a section"),
        ("callbacks=[{type: ChekpointMonitor}]", r"unknown type 'ChekpointMonitor' \(did you mean"),
        ("callbacks=3", r"callbacks: expected list, found 3"),
        ("callbacks.1.save_checkpoint_step=5", r"unknown key 'callbacks.CheckpointMonitor.save_checkpoint_step'"),
        ("callbacks.7.type=5", r"'callbacks' is a list of 2: name an entry, from 0"),
        ("callbacks.last.type=5", r"'callbacks' is a list of 2: name an entry, from 0"),
        ("train_dataset.data_loader=x", r"train_dataset.data_loader: expected a section, found 'x'"),
        ("optimizer.betas=[0.9]", r"optimizer.betas: expected 2 entries, found \[0.9\]"),
        ("optimizer.betas=[0.9, x]", r"optimizer.betas\[1\]: expected float, found 'x'"),
        ("optimizer=3", r"optimizer: expected OptimizerConfig, found 3"),
        ("model.model_config.eos_token_id=x", r"eos_token_id: expected int or list, found 'x'"),
        ("model.model_config.eos_token_id=[1, x]", r"eos_token_id\[1\]: expected int, found 'x'"),
        ("model.model_config.pet_config.lora_dropout=1", r"lora_dropout: found 1, expected < 1"),
        ("data.packing='yes'", r"data.packing: expected bool, found 'yes'"),
        ("runner_config.epochs=true", r"runner_config.epochs: expected int, found True"),
        ("runner_config.epochs='5'", r"runner_config.epochs: expected int, found '5'"),
        ("raw=1", r"unknown key 'raw'"),
        ("seed=-1", r"seed: found -1, expected ≥ 0"),
        ("lr_schedule.learning_rate=-1", r"lr_schedule.learning_rate: found -1, expected ≥ 0"),
        ("lr_schedule.learning_rate=.nan", r"lr_schedule.learning_rate: expected a finite number, found nan"),
        ("lr_schedule.learning_rate=.inf", r"lr_schedule.learning_rate: expected a finite number, found inf"),
        ("lr_schedule.warmup_ratio=2", r"lr_schedule.warmup_ratio: found 2, expected ≤ 1"),
        ("lr_schedule.total_steps=0", r"lr_schedule.total_steps: found 0, expected -1 .* or at least 1"),
        ("optimizer.weight_decay=-1", r"optimizer.weight_decay: found -1, expected ≥ 0"),
        ("optimizer.eps=0", r"optimizer.eps: found 0, expected > 0"),
        ("optimizer.betas=[-1, 0.5]", r"optimizer.betas\[0\]: found -1, expected ≥ 0"),
        ("callbacks.1.save_checkpoint_steps=x", r"callbacks\[1\].save_checkpoint_steps: expected int, found 'x'"),
        ("callbacks.1.keep_checkpoint_max=null", r"callbacks\[1\].keep_checkpoint_max: expected int, found None"),
        ("callbacks.1.keep_checkpoint_max=0", r"callbacks\[1\].keep_checkpoint_max: found 0, expected ≥ 1"),
        ("model.model_config.pet_config.target_modules=''", r"target_modules: found '', expected a regular expression"),
        ("model.arch.type=GPT", r"model.arch.type: found 'GPT', expected a causal language model"),
        ("model.model_config.hidden_size=0", r"hidden_size: found 0, expected ≥ 1"),
        ("data.max_unsupervised=2", r"data.max_unsupervised: found 2, expected ≤ 1"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(override, message):
    with pytest.raises(UserError, match=message) as caught:
        load_recipe(None, [override])
    assert caught.value.exit_code == 2
    assert len(str(caught.value).splitlines()) <= 2


@pytest.mark.parametrize("override", ["runner_config.epochs", "=3"])
def test_an_override_is_a_key_and_a_value(override):
    with pytest.raises(UsageError, match=r"expected key\.path=value"):
        load_recipe(None, [override])


def test_overrides_take_yaml_values():
    recipe = load_recipe(
        None,
        [
            "lr_schedule.learning_rate=3e-5",
            "data.train=[a.jsonl, b.jsonl]",
            "model.model_config.pet_config=null",
            "context.device_id=1",
            "output_dir=runs/a=b",
        ],
    )
    assert recipe.lr_schedule.learning_rate == 3e-5
    assert recipe.data.train == ["a.jsonl", "b.jsonl"]
    assert recipe.pet is None
    assert recipe.output_dir == "runs/a=b"
    assert recipe.raw["data"]["train"] == ["a.jsonl", "b.jsonl"]


def test_an_override_reaches_into_lists():
    recipe = load_recipe(None, ["callbacks.1.save_checkpoint_steps=5", "optimizer.betas.1=1e-1"])
    assert recipe.checkpoint_callback["save_checkpoint_steps"] == 5
    assert recipe.raw["callbacks"][1]["save_checkpoint_steps"] == 5
    assert recipe.optimizer.betas == [0.9, 0.1]


def test_types_check_what_python_gives_them_too():
    assert PetConfig(lora_alpha=4) == PetConfig(lora_alpha=4.0)
    for wrong in ({"lora_rank": 0}, {"rank": 4}, {"target_modules": 3}, {"pet_type": "ptuning"}):
        with pytest.raises(ValidationError):
            PetConfig(**wrong)


def test_an_empty_key_is_an_empty_section_list_or_text():
    recipe = load_recipe(None, ["optimizer=null", "callbacks=null", "data.train=null", "output_dir=null"])
    assert (recipe.optimizer, recipe.callbacks, recipe.data.train, recipe.output_dir) == (OptimizerConfig(), [], [], "")


@pytest.mark.parametrize("command", ["backends.cuda", "backends.cuda generate", "backends.exchange", "backends.merge"])
def test_help_does_not_wait_for_the_types(command):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", *command.split(), "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert "usage:" in done.stdout
    assert " pydantic\n" not in done.stderr


def test_missing_empty_and_broken_files(tmp_path):
    with pytest.raises(UsageError, match=r"nope\.yaml: no such recipe; recipes here: .*llama3_lora\.yaml"):
        load_recipe(tmp_path / "nope.yaml")
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(UsageError, match="empty or not a mapping"):
        load_recipe(tmp_path / "empty.yaml")
    (tmp_path / "broken.yaml").write_text("seed: [0\n")
    with pytest.raises(UserError, match=r"broken\.yaml: not YAML"):
        load_recipe(tmp_path / "broken.yaml")


@given(st.sampled_from([path for path in LEAF_PATHS if "." in path]), st.integers(0, 30), st.sampled_from("xyzq"))
def test_a_misspelt_key_is_never_taken(path, place, letter):
    *parents, leaf = path.split(".")
    wrong = leaf[: place % len(leaf)] + letter + leaf[place % len(leaf) + 1 :]
    if ".".join([*parents, wrong]) in LEAF_PATHS:
        return
    with pytest.raises(UserError, match="unknown key"):
        load_recipe(None, [".".join([*parents, wrong]) + "=1"])


def test_a_recipe_that_was_stored_reads_back_the_same(tmp_path):
    recipe = load_recipe(None, ["runner_config.epochs=2", "data.train=rows.jsonl"])
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe.raw, sort_keys=False))
    again = load_recipe(tmp_path / "recipe.yaml")
    assert again == recipe
    assert changed_settings(recipe, again) == []


def test_changes_that_matter_are_named_with_both_values():
    before = load_recipe()
    now = load_recipe(None, ["runner_config.epochs=3", "output_dir=elsewhere", "data.micro_batch_tokens=64"])
    assert changed_settings(before, now) == ["runner_config.epochs: the run has 5, the recipe now says 3"]


@pytest.mark.parametrize(
    ("config", "width"),
    [
        (ModelConfig(intermediate_size=100), 100),
        (ModelConfig(hidden_size=4096, multiple_of=256), 11008),  # Llama-2-7B
        (ModelConfig(hidden_size=4096, multiple_of=1024, ffn_dim_multiplier=1.3), 14336),  # Llama-3-8B
        (ModelConfig(hidden_size=8192, multiple_of=4096, ffn_dim_multiplier=1.3), 28672),  # Llama-3-70B
        (ModelConfig(hidden_size=64, multiple_of=32, ffn_dim_multiplier=1.5), 288),  # as LlamaFeedForward rounds
    ],
)
def test_width_of_the_feed_forward_layer_follows_llamas_rule(config, width):
    assert config.feed_forward_size == width
