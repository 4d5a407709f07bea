"""A whole training run through the command, and what it leaves behind."""

import json
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.backend, pytest.mark.filterwarnings("ignore::UserWarning")]

from safetensors.torch import load_file, save_file

from backends.cuda.__main__ import main
from backends.cuda.model import load_model
from backends.recipe.load import load_recipe
from backends.recipe.schedule import learning_rate
from backends.run.directory import Run, read_log
from backends.run.rows import load_rows
from backends.weights.lora import initial_lora_a
from converters.common.errors import UsageError, UserError
from converters.text.template import get_template
from mindrecord.tokens.order import rows_of_step

SIZES = {
    "run_mode": "train",
    "model.model_config.hidden_size": 32,
    "model.model_config.num_layers": 2,
    "model.model_config.num_heads": 4,
    "model.model_config.n_kv_heads": 2,
    "model.model_config.intermediate_size": 48,
    "model.model_config.vocab_size": 300,
    "model.model_config.pet_config": None,
}


@pytest.fixture
def adapter_run(make_recipe, tiny_llama, tmp_path):
    assert main(["train", str(make_recipe(load_checkpoint=str(tiny_llama))), "--device", "cpu"]) == 0
    return Run.open(tmp_path / "run")


def test_the_run_directory_has_what_the_next_step_needs(adapter_run, tiny_llama):
    run = adapter_run
    names = {path.name for path in run.path.iterdir()}
    assert names == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "recipe.yaml",
        "template.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "data.json",
        "environment.json",
        "train_log.jsonl",
        "loss.png",
        "result.json",
        "checkpoints",
    }
    assert run.template == get_template("bare")
    assert run.base == str(tiny_llama.resolve())
    assert run.recipe.runner_config.batch_size == 8
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [3, 6, 8, 11, 14]
    assert (run.path / "loss.png").read_bytes()[:4] == b"\x89PNG"
    data = json.loads((run.path / "data.json").read_text())
    assert data["rows"] == 60
    assert len(data["files"][0]["sha256"]) == len(data["rows_sha256"]) == 64
    environment = json.loads((run.path / "environment.json").read_text())
    assert environment["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert (environment["device"], environment["dtype"], environment["processes"]) == ("cpu", "float32", 1)


def test_the_log_adds_up(adapter_run):
    log = read_log(adapter_run.log)
    recipe = adapter_run.recipe
    data = load_rows(recipe, quiet=True)
    assert [row["step"] for row in log] == list(range(1, 15))
    assert log[-1]["epoch"] == 2.0
    assert log[-1]["time_left_s"] == 0
    for step, row in enumerate(log):
        rows = rows_of_step(60, 8, step, 0, True)
        assert row["tokens"] == int((data.rows.lengths[rows] - 1).sum())
        assert row["supervised_tokens"] == int(data.supervised[rows].sum())
        assert row["lr"] == learning_rate(recipe.lr_schedule, step, 14, 1)
    assert np.mean([row["loss"] for row in log[-4:]]) < np.mean([row["loss"] for row in log[:4]])


def test_the_first_loss_is_the_mean_over_supervised_tokens_as_transformers_computes_it(adapter_run, tiny_llama):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    data = load_rows(adapter_run.recipe, quiet=True)
    total = count = 0
    for row in rows_of_step(60, 8, 0, 0, True):
        ids, labels = (torch.from_numpy(part.astype(np.int64))[None] for part in data.rows.row(row))
        supervised = int((labels[:, 1:] != -100).sum())
        total += float(model(input_ids=ids, labels=labels).loss.detach()) * supervised
        count += supervised
    assert read_log(adapter_run.log)[0]["loss"] == pytest.approx(total / count, rel=1e-5)


def test_stock_peft_loads_the_adapter_and_it_means_w_plus_scaled_ba(adapter_run, tiny_llama):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    ids = torch.arange(3, 40)[None]
    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama), adapter_run.path).eval()
    ours, found = load_model(adapter_run.path, torch.device("cpu"), torch.float32)
    by_hand = AutoModelForCausalLM.from_pretrained(tiny_llama)
    before = by_hand(ids).logits.detach().clone()
    adapter = load_file(adapter_run.path / "adapter_model.safetensors")
    assert found.adapter_tensors == len(adapter) == 8
    for name, a in adapter.items():
        if ".lora_A." in name:
            b = adapter[name.replace("lora_A", "lora_B")]
            weight = by_hand.get_parameter(name.removeprefix("base_model.model.").replace("lora_A.", ""))
            weight.data += 8 / 4 * b @ a
    with torch.no_grad():
        torch.testing.assert_close(tuned(ids).logits, by_hand(ids).logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours(ids).logits, tuned(ids).logits)
        assert (tuned(ids).logits - before).abs().max() > 0.1


def test_lora_starts_from_the_bits_that_every_backend_starts_from(make_recipe, tiny_llama, tmp_path):
    # the first step of a warm-up has rate 0: what is stored is the start
    recipe = make_recipe(load_checkpoint=str(tiny_llama), **{"runner_config.batch_size": 60, "runner_config.epochs": 1})
    main(["train", str(recipe), "lr_schedule.warmup_ratio=1.0", "--device", "cpu"])
    adapter = load_file(tmp_path / "run" / "adapter_model.safetensors")
    for name, tensor in adapter.items():
        layer = int(name.split("layers.")[1].split(".")[0])
        if "lora_A" in name:
            start = initial_lora_a(0, layer, "wq" if "q_proj" in name else "wv", 4, 32)
            assert tensor.numpy().tobytes() == start.tobytes()
        else:
            assert not tensor.any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_full_training_from_random_weights_gives_a_stock_model(make_recipe, tmp_path, dtype, capsys):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    recipe = make_recipe(**SIZES, **{"model.model_config.param_init_type": dtype, "runner_config.epochs": 4})
    main(["train", str(recipe), "--device", "cpu"])
    spoken = capsys.readouterr().err
    assert "random weights from seed 0" in spoken
    run = tmp_path / "run"
    stored = load_file(run / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {getattr(torch, dtype)}
    model = AutoModelForCausalLM.from_pretrained(run, dtype="auto")
    assert model.dtype == getattr(torch, dtype)
    tokenizer = AutoTokenizer.from_pretrained(run)
    assert (model.config.eos_token_id, model.config.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert model.config.use_cache
    log = read_log(run / "train_log.jsonl")
    assert log[-1]["loss"] < log[0]["loss"]
    # checkpoints keep the precision of training
    last = load_file(Run.open(run).checkpoints()[-1].path / "model.safetensors")
    assert {tensor.dtype for tensor in last.values()} == {torch.float32}


def test_bfloat16_products_stay_near_float32(make_recipe, tiny_llama, tmp_path):
    recipe = str(make_recipe(load_checkpoint=str(tiny_llama)))
    losses = {}
    for dtype in ("float32", "bfloat16"):
        main(["train", recipe, f"output_dir={tmp_path / dtype}", "--dtype", dtype, "--device", "cpu"])
        losses[dtype] = [row["loss"] for row in read_log(tmp_path / dtype / "train_log.jsonl")]
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.01)


def test_a_bfloat16_base_keeps_its_adapter_in_float32(tiny_llama):
    # what CUDA does, on the CPU: frozen weights in the type of the products, trained ones in float32
    from backends.cuda import attention
    from backends.cuda.model import add_lora, read_model
    from backends.cuda.train.batches import micro_batches
    from backends.cuda.train.step import sum_nll
    from backends.recipe.types import PetConfig
    from mindrecord.tokens.encode import TokenRows

    ids = np.arange(3, 43, dtype=np.int32)
    rows = TokenRows(ids, ids, np.array([0, 15, 40]), ["a", "b"])
    (batch,) = micro_batches(rows, np.arange(2), 100, torch.device("cpu"), packed=True, pad_id=0)
    sums = {}
    for dtype in (torch.float32, torch.bfloat16):
        base = read_model(tiny_llama, dtype, attention.register())
        model = add_lora(base, PetConfig(), 0, "base").train()
        kinds = {p.dtype for p in model.parameters() if p.requires_grad}
        assert kinds == {torch.float32}
        assert {p.dtype for p in model.parameters() if not p.requires_grad} == {dtype}
        loss = sum_nll(model, batch, dtype)
        assert loss.dtype == torch.float32
        loss.backward()
        sums[dtype] = float(loss.detach())
        assert all(p.grad.dtype == torch.float32 for p in model.parameters() if p.requires_grad)
    assert sums[torch.bfloat16] == pytest.approx(sums[torch.float32], rel=0.02)


def test_packed_and_padded_runs_are_the_same_run(make_recipe, tiny_llama, tmp_path):
    recipe = str(make_recipe(load_checkpoint=str(tiny_llama)))
    losses = []
    for name, change in (("packed", "data.packing=True"), ("padded", "data.packing=False"), ("small", "seed=0")):
        small = ["data.micro_batch_tokens=100"] if name == "small" else []
        main(["train", recipe, f"output_dir={tmp_path / name}", change, *small, "--device", "cpu"])
        losses.append([row["loss"] for row in read_log(tmp_path / name / "train_log.jsonl")])
    assert losses[1] == pytest.approx(losses[0], rel=2e-5)
    assert losses[2] == pytest.approx(losses[0], rel=2e-5)


def test_weights_that_break_a_row_stop_the_run_and_name_it(make_recipe, tiny_llama, rows_file, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(tiny_llama, broken)
    rows = [json.loads(line) for line in rows_file.read_text().splitlines()]
    rows[17]["conversations"][0]["value"] += " Z"
    (tmp_path / "marked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    vocabulary = json.loads((broken / "tokenizer.json").read_text())["model"]["vocab"]
    weights = load_file(broken / "model.safetensors")
    weights["model.embed_tokens.weight"][vocabulary["Z"]] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    recipe = make_recipe(**{"load_checkpoint": str(broken), "data.train": str(tmp_path / "marked.jsonl")})
    with pytest.raises(UserError, match=r"step \d+: the loss is nan; rows row-17$"):
        main(["train", str(recipe), "--device", "cpu"])
    assert not (tmp_path / "run" / "result.json").exists()
    assert not (tmp_path / "run" / "adapter_model.safetensors").exists()


def test_out_of_memory_halves_the_micro_batch_and_goes_on(make_recipe, tiny_llama, tmp_path, monkeypatch, capsys):
    from backends.cuda.train import step

    whole = step.sum_nll

    def little_memory(model, batch, dtype):
        if batch.tokens > 200:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(model, batch, dtype)

    recipe = str(make_recipe(load_checkpoint=str(tiny_llama)))
    main(["train", recipe, f"output_dir={tmp_path / 'roomy'}", "--device", "cpu"])
    monkeypatch.setattr(step, "sum_nll", little_memory)
    main(["train", recipe, f"output_dir={tmp_path / 'tight'}", "--device", "cpu"])
    assert "out of memory: micro-batches of" in capsys.readouterr().err
    losses = [[row["loss"] for row in read_log(tmp_path / name / "train_log.jsonl")] for name in ("roomy", "tight")]
    assert losses[1] == pytest.approx(losses[0], rel=2e-5)

    monkeypatch.setattr(step, "sum_nll", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("no")))
    with pytest.raises(UserError, match=r"out of memory with one row of \d+ tokens at a time; lower"):
        main(["train", recipe, f"output_dir={tmp_path / 'none'}", "--device", "cpu"])
    assert "activation checkpointing is on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ([], UsageError, r"no weights: set load_checkpoint=PATH"),
        (["load_checkpoint=nowhere"], UsageError, r"nowhere: no such model directory"),
        (["load_checkpoint=BASE", "data.train=[]"], UsageError, r"no training data: set data\.train=FILE"),
        (["load_checkpoint=BASE", "data.train=gone.jsonl"], UsageError, r"gone\.jsonl: no such file"),
        (["load_checkpoint=BASE", "data.template=vicunna"], UsageError, r"vicuna"),
        (["load_checkpoint=BASE", "runner_config.batch_size=61"], UserError, r"60 rows are not one step of .* 61"),
        (["load_checkpoint=BASE", "optimizer.type=SGD"], UserError, r"optimizer\.type: found 'SGD'"),
        (["load_checkpoint=BASE", "do_eval=True"], UserError, r"do_eval: found True"),
        (["load_checkpoint=BASE", "train_dataset.drop_remainder=False"], UserError, r"drop_remainder: found False"),
        (["run_mode=train", "model.model_config.num_heads=3"], UserError, r"a multiple of num_heads 3"),
        (["load_checkpoint=BASE", "model.model_config.seq_length=3"], UserError, r"no row is left of 60"),
    ],
)
def test_what_is_missing_or_not_done_here_is_one_line(changes, kind, message, make_recipe, tiny_llama, tmp_path):
    changes = [change.replace("BASE", str(tiny_llama)) for change in changes]
    with pytest.raises(kind, match=message) as caught:
        main(["train", str(make_recipe()), *changes, "--device", "cpu"])
    assert caught.value.exit_code == (2 if kind is UsageError else 1)
    assert len(str(caught.value).splitlines()) <= 2
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_of_another_model_is_noticed(make_recipe, tmp_path):
    recipe = make_recipe(**SIZES | {"model.model_config.vocab_size": 100})
    with pytest.raises(UserError, match=r"token id \d+ is outside the model's vocabulary of 100"):
        main(["train", str(recipe), "--device", "cpu"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_an_implicit_device_falls_back_and_an_explicit_one_does_not(make_recipe, tiny_llama, capsys):
    recipe = str(make_recipe(load_checkpoint=str(tiny_llama)))
    with pytest.raises(UserError, match=r"--device cuda: no CUDA device") as caught:
        main(["train", recipe, "--device", "cuda"])
    assert caught.value.exit_code == 1
    assert main(["train", recipe]) == 0
    assert "no CUDA device found" in capsys.readouterr().err


def test_differences_from_the_checkpoint_are_said(make_recipe, tiny_llama, capsys):
    recipe = make_recipe(load_checkpoint=str(tiny_llama), **{"model.model_config.hidden_size": 4096})
    main(["train", str(recipe), "--device", "cpu"])
    assert "hidden_size 4096 → 32" in capsys.readouterr().err


def test_settings_may_stand_on_both_sides_of_an_option(make_recipe, tiny_llama, tmp_path):
    recipe = str(make_recipe())
    assert main(["train", recipe, "--device", "cpu", f"load_checkpoint={tiny_llama}", "runner_config.epochs=1"]) == 0
    assert load_recipe(tmp_path / "run" / "recipe.yaml").runner_config.epochs == 1
    with pytest.raises(SystemExit) as caught:
        main(["train", recipe, "--devise", "cpu"])
    assert caught.value.code == 2


def test_doctor_passes_here(capsys):
    assert main(["doctor", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.endswith("ok\n")
