import os
from types import SimpleNamespace

import pytest
import torch

from backends.cuda.backend import fitting_batch
from backends.cuda.model import choose_dtype
from backends.recipe.load import load_recipe
from backends.run.machine import allowed_cores, bf16_flags, cpu_threads, ensure_memory, free_memory
from converters.common.errors import UserError

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ("fpu avx2 fma", []),
        ("fpu avx512f avx512_bf16", ["avx512_bf16"]),
        ("avx512_bf16 amx_tile amx_bf16 amx_int8", ["amx_bf16", "avx512_bf16"]),
        # emulates bfloat16 with float32 units
        ("avx512f avx512_vnni", []),
    ],
)
def test_units_for_bfloat16_are_found_by_their_flags(flags, found):
    assert bf16_flags(flags.split()) == found


@pytest.mark.parametrize(
    ("asked", "stated", "flags", "chosen", "said"),
    [
        ("auto", "bfloat16", ["avx512_bf16"], torch.bfloat16, "precision: bfloat16 products (avx512_bf16)"),
        ("auto", "bfloat16", [], torch.float32, "the recipe's bfloat16 is slow on this processor"),
        ("auto", "float32", ["amx_bf16"], torch.float32, None),
        ("auto", "float16", ["amx_bf16"], torch.float32, "the recipe's float16"),
        ("float32", "bfloat16", ["amx_bf16"], torch.float32, None),
        ("bfloat16", "float32", [], torch.bfloat16, None),
    ],
)
def test_bfloat16_products_are_the_default_where_the_processor_has_them(asked, stated, flags, chosen, said, capsys):
    assert choose_dtype(asked, stated, CPU, flags=flags) == chosen
    told = capsys.readouterr().err
    assert said in told if said else told == ""


def test_a_model_without_a_recipe_is_not_said_to_have_one(capsys):
    assert choose_dtype("auto", "bfloat16", CPU, source="checkpoint") == torch.float32
    assert "the checkpoint's bfloat16" in capsys.readouterr().err


def test_a_recipe_that_names_float32_keeps_it_and_one_that_names_nothing_does_not():
    stated = load_recipe(None, ["model.model_config.compute_dtype=float32"]).model.model_config.compute_dtype
    assert choose_dtype("auto", stated, CPU, flags=["avx512_bf16"]) == torch.float32
    assert (
        choose_dtype("auto", load_recipe().model.model_config.compute_dtype, CPU, flags=["amx_bf16"]) == torch.bfloat16
    )


def test_threads_are_what_the_user_set(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert cpu_threads() == cpu_threads(2) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    assert cpu_threads() == allowed_cores()
    assert cpu_threads(10**6) == 1


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "100000 100000\n"}, 1),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_a_containers_quota_limits_the_cores(tmp_path, files, cores):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert allowed_cores(tmp_path) == (cores or len(os.sched_getaffinity(0)))


def test_free_memory_is_the_least_of_machine_and_container(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable: 4000 kB\n")
    assert free_memory(tmp_path, meminfo) == 4000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert free_memory(tmp_path, meminfo) == 4000 * 1024
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("2500000\n")
    (tmp_path / "memory.stat").write_text("anon 7\ninactive_file 400000\n")
    assert free_memory(tmp_path, meminfo) == 900_000
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("700000\n")
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text("650000\n")
    assert free_memory(tmp_path, meminfo) == 50_000


def test_work_that_does_not_fit_is_refused_in_one_line():
    ensure_memory(2e9, "training", "", free=3e9)
    with pytest.raises(UserError) as error:
        ensure_memory(12.8e9, "training", "lower data.micro_batch_tokens", free=3e9)
    assert str(error.value) == (
        "training needs about 12.8 GB of memory where 3.0 GB are free; lower data.micro_batch_tokens"
    )


def test_a_batch_of_answers_fits_beside_the_weights(capsys):
    config = SimpleNamespace(num_attention_heads=9, num_key_value_heads=3, hidden_size=576, num_hidden_layers=30)
    assert fitting_batch(config, 134_515_008, 4, 16_384, free=20e9) == 16_384
    assert capsys.readouterr().err == ""
    # 0.41 GB beside the weights, 92,160 bytes a token
    assert 4000 < fitting_batch(config, 134_515_008, 4, 16_384, free=1e9) < 5000
    assert "so a batch takes 4," in capsys.readouterr().err
    with pytest.raises(UserError, match=r"134,515,008 parameters needs about 0\.6 GB .* 0\.5 GB are free; --dtype"):
        fitting_batch(config, 134_515_008, 4, 16_384, free=0.5e9)
