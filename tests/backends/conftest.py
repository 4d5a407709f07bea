import json
import random

import pytest
import yaml


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory):
    """Sixty conversations of different lengths."""
    draw = random.Random(0)
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(60):
            a, b = draw.randint(0, 10 ** draw.randint(1, 9)), draw.randint(0, 99)
            question = {"from": "human", "value": f"计算 {a} + {b} 等于多少？" + "?" * draw.randint(0, 20)}
            answer = {"from": "gpt", "value": f"{a} + {b} = {a + b}"}
            file.write(json.dumps({"id": f"row-{number}", "conversations": [question, answer]}) + "\n")
    return path


@pytest.fixture
def make_recipe(tmp_path, rows_file, tiny_tokenizer):
    """Write a small recipe; ``changes`` are {path.to.key: value}."""

    def make(**changes):
        recipe = {
            "seed": 0,
            "output_dir": str(tmp_path / "run"),
            "run_mode": "finetune",
            "load_checkpoint": "",
            "runner_config": {"epochs": 2, "batch_size": 8},
            "optimizer": {"type": "AdamW", "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.01},
            "lr_schedule": {"type": "CosineWithWarmUpLR", "learning_rate": 0.01, "lr_end": 0.0, "warmup_ratio": 0.1},
            "model": {
                "model_config": {
                    "seq_length": 128,
                    # on a CPU with units for bfloat16 the default would be another
                    "compute_dtype": "float32",
                    "pet_config": {"pet_type": "lora", "lora_rank": 4, "lora_alpha": 8, "target_modules": ".*wq|.*wv"},
                }
            },
            "data": {"train": str(rows_file), "template": "bare", "tokenizer": str(tiny_tokenizer)},
        }
        for path, value in changes.items():
            *parents, leaf = path.split(".")
            node = recipe
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = value
        file = tmp_path / "recipe.yaml"
        file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
        return file

    return make
