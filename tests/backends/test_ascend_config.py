"""A recipe completed for mindformers, and what is refused before MindSpore is imported."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.ascend.__main__ import main
from backends.ascend.device import choose
from backends.ascend.sizes import lora_shapes, model_sizes, parameter_shapes
from backends.ascend.train.config import mindformers_config
from backends.ascend.train.job import Job, read_job, write_job
from backends.ascend.train.launch import launch_text
from backends.ascend.train.start_weights import initial_lora, write_start
from backends.recipe.load import load_recipe
from backends.recipe.schedule import warmup_steps
from backends.weights.lora import initial_lora_a
from backends.weights.safetensors_files import ShardWriter, open_tensors
from converters.common.errors import UsageError, UserError

CONTEST = Path(__file__).parents[1] / "data" / "run_llama3_8b_8k_800T_A2_64G_lora_dis_256.yaml"
SMALL = [
    "load_checkpoint=",
    "run_mode=train",
    "model.model_config.hidden_size=32",
    "model.model_config.num_layers=2",
    "model.model_config.num_heads=4",
    "model.model_config.n_kv_heads=2",
    "model.model_config.intermediate_size=64",
    "model.model_config.vocab_size=300",
]


def job(recipe, tmp_path, **changes):
    settings = {
        "run": str(tmp_path),
        "device": "cpu",
        "dtype": "float32",
        "sizes": model_sizes(recipe),
        "rows": 1000,
        "steps": 75,
        "steps_per_epoch": 15,
        "first_step": 0,
        "checkpoint": None,
        "data": "/data/rows.mindrecord",
        "start": "/data/start.safetensors",
        "base": "/base",
        "pad_id": 2,
        "bos_id": 0,
    }
    return Job(**(settings | changes))


@pytest.fixture
def contest():
    return load_recipe(CONTEST, SMALL)


def completed(recipe, tmp_path, **changes):
    return mindformers_config(recipe, job(recipe, tmp_path, **changes))


def test_the_contests_yaml_runs_on_a_cpu(contest, tmp_path):
    config, notes = completed(contest, tmp_path)
    assert config["context"] == {"mode": 0, "device_target": "CPU", "max_call_depth": 10000, "device_id": 0}
    assert config["optimizer"] == {"type": "AdamW", "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.0}
    assert [callback["type"] for callback in config["callbacks"]] == ["MFLossMonitor"]
    assert config["runner_config"] == {"epochs": 1, "batch_size": 64, "sink_size": 1, "sink_mode": False}
    assert config["use_parallel"] is False
    assert config["runner_wrapper"]["type"] == "CPUTrainOneStepCell"
    model = config["model"]["model_config"]
    assert {model[key] for key in ("compute_dtype", "param_init_type", "rotary_dtype")} == {"float32"}
    assert model["use_flash_attention"] is model["fused_rms_norm"] is False
    assert "data" not in config
    text = "\n".join(notes)
    for said in (
        "FP32StateAdamWeightDecay → AdamW",
        "CheckpointMointor is CheckpointMonitor",
        "ObsMonitor left out",
        "sink_size 2 → 1",
        "use_parallel True → False",
        "model_parallel 4 → 1",
        "compute_dtype bfloat16 → float32",
        "use_flash_attention True → False",
    ):
        assert said in text


def test_on_a_card_the_recipe_stays_as_it_is(tmp_path):
    recipe = load_recipe(CONTEST, [*SMALL, "parallel_config.model_parallel=1", "use_parallel=False"])
    config, notes = completed(recipe, tmp_path, device="npu")
    assert config["context"]["device_target"] == "Ascend"
    assert config["context"]["max_device_memory"] == "26GB"
    assert config["runner_config"]["sink_mode"] is True
    model = config["model"]["model_config"]
    assert (model["compute_dtype"], model["param_init_type"]) == ("bfloat16", "bfloat16")
    assert model["use_flash_attention"] is True
    # mindformers 1.1 trained LoRA in float16, which nobody had chosen
    assert model["pet_config"]["param_init_type"] == "float32"
    assert config["runner_wrapper"]["type"] == "MFTrainOneStepCell"
    assert not any(line.startswith("for the NPU") for line in notes)


def test_what_a_recipe_leaves_out_is_not_left_to_mindformers(tmp_path):
    pet = "model.model_config.pet_config={pet_type: lora, target_modules: 'q_proj|w1', exclude_layers: [w1]}"
    config, _ = completed(load_recipe(CONTEST, [*SMALL, pet]), tmp_path)
    assert config["model"]["model_config"]["pet_config"] == {
        "pet_type": "lora",
        "lora_rank": 8,
        "lora_alpha": 16,
        "lora_dropout": 0.0,  # mindformers' own default is 0.01
        "target_modules": ".*wq",
        "exclude_layers": None,
        "param_init_type": "float32",
    }


def test_four_cards_share_a_model_as_the_recipe_says(contest, tmp_path):
    config, _ = completed(contest, tmp_path, device="npu", workers=4)
    assert config["use_parallel"] is True
    assert config["parallel_config"]["model_parallel"] == 4
    assert config["parallel"]["full_batch"] is True
    assert config["runner_config"]["batch_size"] == 64
    assert config["auto_trans_ckpt"] is True
    assert config["load_checkpoint"] == "/data"
    monitor = config["callbacks"][-1]
    assert (monitor["type"], monitor["save_checkpoint_steps"], monitor["prefix"]) == (
        "CheckpointMonitor",
        1400,
        "llama3_8b",
    )


@pytest.mark.parametrize("device", ["cpu", "npu"])
def test_workers_share_the_rows_of_a_step(tmp_path, device):
    recipe = load_recipe(CONTEST, [*SMALL, "parallel_config.model_parallel=1"])
    config, _ = completed(recipe, tmp_path, device=device, workers=4)
    assert config["runner_config"]["batch_size"] == 16
    assert config["train_dataset"]["data_loader"]["step_rows"] == 64
    assert config["calculate_per_token_loss"] is True
    assert config["parallel"]["gradients_mean"] is False
    assert "DataParallel" in config["runner_wrapper"]["type"]


def test_a_resumed_run_has_the_whole_runs_schedule(contest, tmp_path):
    whole, rest = (completed(contest, tmp_path, first_step=step)[0] for step in (0, 40))
    assert whole["lr_schedule"] == rest["lr_schedule"]
    assert whole["lr_schedule"]["total_steps"] == 75
    assert rest["lr_schedule"]["warmup_steps"] == warmup_steps(contest.lr_schedule, 75, 15) == 2


def test_without_clipping_the_norm_is_still_computed(tmp_path):
    recipe = load_recipe(CONTEST, [*SMALL, "runner_wrapper.use_clip_grad=False"])
    wrapper = completed(recipe, tmp_path)[0]["runner_wrapper"]
    assert wrapper["use_clip_grad"] is True
    assert wrapper["max_grad_norm"] >= 1e30


def test_a_callback_that_is_left_out_is_named(tmp_path):
    recipe = load_recipe(CONTEST, [*SMALL, "callbacks=[{type: MFLossMonitor}, {type: StressDetectCallBack}]"])
    config, notes = completed(recipe, tmp_path)
    assert config["callbacks"] == [{"type": "MFLossMonitor"}]
    assert "callbacks left out: StressDetectCallBack" in notes


def test_the_recipe_itself_is_not_changed(contest, tmp_path):
    before = copy.deepcopy(contest.raw)
    completed(contest, tmp_path)
    assert contest.raw == before


@pytest.mark.parametrize(
    ("setting", "workers", "said"),
    [
        ("model.model_config.qkv_concat=True", 1, "qkv_concat"),
        ("model.model_config.use_past=True", 1, "use_past"),
        ("layer_scale=True", 1, "layer_scale"),
        ("do_eval=True", 1, "do_eval"),
        ("train_dataset.drop_remainder=False", 1, "drop_remainder"),
        ("optimizer.type=Lion", 1, "found 'Lion'; this backend does AdamW"),
        ("model.arch.type=GemmaForCausalLM", 1, "arch.type"),
        ("seed=0", 4, "model_parallel 4: MindSpore's CPU build has no backend"),
        ("parallel_config={pipeline_stage: 2}", 2, "pipeline_stage 2: MindSpore's CPU build"),
        ("parallel_config.model_parallel=1", 3, "batch_size 64: cannot be dealt out to 3 workers"),
    ],
)
def test_what_cannot_be_done_is_refused(tmp_path, setting, workers, said):
    recipe = load_recipe(CONTEST, [*SMALL, setting])
    with pytest.raises(UserError, match=said):
        completed(recipe, tmp_path, workers=workers)


def test_cards_must_be_as_many_as_the_model_is_cut_into(contest, tmp_path):
    with pytest.raises(UserError, match="make 4 workers, not 8"):
        completed(contest, tmp_path, device="npu", workers=8)


def test_a_missing_card_is_two_lines(make_recipe, tmp_path):
    path = make_recipe(run_mode="train")
    with pytest.raises(UserError) as error:
        main(["train", str(path), "--device", "npu"])
    first, second = str(error.value).splitlines()
    assert "/dev/davinci0" in first
    assert "ASCEND_HOME_PATH" in first
    assert "--device cpu" in second
    assert error.value.exit_code == 1
    assert not (tmp_path / "run").exists()


def test_auto_takes_the_cpu_for_models_that_fit_it(capsys):
    assert choose("auto", 1_000_000) == "cpu"
    assert "no Ascend card found" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"8,000,000,000,000 parameters need 48,000\.0 GB on the CPU"):
        choose("auto", 8 * 10**12)
    assert choose("cpu", 8 * 10**12) == "cpu"  # asked for is asked for


@pytest.mark.parametrize(
    ("setting", "error", "said"),
    [
        ({"load_checkpoint": ""}, UsageError, "no weights"),
        ({"load_checkpoint": "/nowhere"}, UsageError, "no such file or directory"),
        ({"run_mode": "train", "data.train": []}, UsageError, "no training data"),
        ({"run_mode": "train", "data.train": "/nowhere.jsonl"}, UsageError, "no such file"),
        ({"run_mode": "train", "lr_schedule.type": "Linear"}, UserError, "lr_schedule.type"),
        ({"run_mode": "train", "runner_config.batch_size": 100}, UserError, "not one step"),
        ({"run_mode": "train", "model.model_config.vocab_size": 100}, UserError, "outside the model's vocabulary"),
    ],
)
def test_missing_things_are_named(make_recipe, setting, error, said):
    with pytest.raises(error, match=said):
        main(["train", str(make_recipe(**setting)), "--device", "cpu"])


def test_another_architecture_is_one_line(make_recipe, tmp_path):
    base = tmp_path / "gemma"
    base.mkdir()
    (base / "config.json").write_text(json.dumps({"model_type": "gemma"}))
    with pytest.raises(UserError, match="gemma") as error:
        main(["train", str(make_recipe(load_checkpoint=str(base))), "--device", "cpu"])
    assert len(str(error.value).splitlines()) == 1


@pytest.fixture
def base_file(contest, tmp_path):
    """A mindformers checkpoint of the small model, and a function that writes it with changes."""

    def write(**changes):
        shapes = parameter_shapes(model_sizes(contest)) | changes
        with ShardWriter(tmp_path, max_shard_bytes=None, stem="base") as writer:
            for name, shape in shapes.items():
                if shape is not None:
                    writer.add(name, np.ones(shape, np.float32))
        return load_recipe(CONTEST, [*SMALL[2:], f"load_checkpoint={tmp_path / 'base.safetensors'}"])

    return write


def test_the_start_holds_base_and_lora(base_file, tmp_path):
    recipe = base_file()
    sizes = model_sizes(recipe)
    start = open_tensors(write_start(recipe, sizes, tmp_path / "start", "bfloat16"))
    assert set(start.names()) == {*parameter_shapes(sizes), *lora_shapes(sizes, recipe)}
    assert start.dtype("lm_head.weight") == "BF16"
    name = "model.layers.1.attention.wv.mindpet_delta_lora_"
    assert start.dtype(f"{name}a") == "F32"
    assert np.array_equal(start.read(f"{name}a"), initial_lora_a(recipe.seed, 1, "wv", 8, 32))
    assert not start.read(f"{name}b").any()
    assert len([name for name in start.names() if "lora" in name]) == 8


def test_without_a_base_weights_are_drawn_from_the_seed(contest, tmp_path):
    sizes = model_sizes(contest)
    first, again = (
        open_tensors(write_start(contest, sizes, tmp_path / folder, "float32")) for folder in ("first", "again")
    )
    for name in parameter_shapes(sizes):
        assert np.array_equal(first.read(name), again.read(name))
    assert (first.read("model.norm_out.weight") == 1).all()
    assert 0.019 < first.read("lm_head.weight").std() < 0.021
    assert not np.array_equal(first.read("lm_head.weight"), first.read("model.tok_embeddings.embedding_weight"))


LORA = "model.layers.0.attention.wq.mindpet_delta_lora_a"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model.norm_out.weight": None}, "1 missing: model.norm_out.weight"),
        ({"model.layers.2.attention_norm.weight": (32,)}, "1 extra: model.layers.2.attention_norm.weight"),
        ({"lm_head.weight": (300, 16)}, r"lm_head.weight \[300, 16\], expected \[300, 32\]"),
        ({LORA: (8, 32)}, "LoRA of .* does not fit the recipe's pet_config: 7 missing"),
        ({LORA: (4, 32)}, r"\[4, 32\], expected \[8, 32\]"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_an_error(base_file, tmp_path, change, said):
    recipe = base_file(**change)
    with pytest.raises(UserError, match=said):
        write_start(recipe, model_sizes(recipe), tmp_path / "start", "float32")
    assert not (tmp_path / "start").exists()


def test_lora_starts_from_the_seed():
    shapes = {"model.layers.0.attention.wq.mindpet_delta_lora_a": (2, 4)}
    first, again = (dict(initial_lora(seed, shapes)) for seed in (1, 1))
    (other,) = dict(initial_lora(2, shapes)).values()
    (values,) = first.values()
    assert np.array_equal(values, *again.values())
    assert not np.array_equal(values, other)


@given(st.sampled_from([1, 2, 4]), st.integers(0, 74))
def test_workers_take_each_row_of_a_step_once(workers, step):
    from mindrecord.tokens.order import rows_of_step

    rows = rows_of_step(1000, 64, step, 0, True)
    shares = np.array_split(rows, workers)
    assert {len(share) for share in shares} == {64 // workers}
    assert np.array_equal(np.concatenate(shares), rows)


def test_a_job_comes_back_as_it_was(contest, tmp_path):
    from backends.run.rows import TrainingRows
    from mindrecord.tokens.encode import TokenRows

    offsets = np.array([0, 3, 8])
    rows = TokenRows(np.arange(8, dtype=np.int32), np.arange(8, dtype=np.int32), offsets, ["a", "b"])
    data = TrainingRows(rows, None, None, {})
    (tmp_path / "mindformers").mkdir()
    stored, figures = read_job(write_job(job(contest, tmp_path, workers=2), data))
    assert stored == job(contest, tmp_path, workers=2)
    assert figures.tokens.tolist() == [2, 4]
    assert figures.names.tolist() == ["a", "b"]


def test_plan_prints_how_to_launch(contest):
    text = launch_text(contest, "recipe.yaml", ["seed=1"])
    assert "python -m backends.ascend train recipe.yaml seed=1 --workers 4" in text
    assert "msrun --worker_num=4 --local_worker_num=4" in text
    assert "the model is cut over the cards" in text
    assert "parallel_config.model_parallel=1 parallel_config.pipeline_stage=1 --device cpu" in text


@pytest.mark.parametrize("words", [[], ["train"], ["plan"], ["doctor"]])
def test_help_says_what_each_command_is_for(words, capsys):
    with pytest.raises(SystemExit) as left:
        main([*words, "--help"])
    assert left.value.code == 0
    assert "python -m backends.ascend" in capsys.readouterr().out
