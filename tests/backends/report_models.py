"""Tiny models of every architecture that the reports' recipes tune, with random weights, and rows to tune them on."""

import json
import shutil

SIZES = {
    "vocab_size": 304,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
SPECIAL = ["<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>"]
# recipe, its template or another, the architecture, and what distinguishes its network
CASES = {
    "qwen2.5": ("qwen2_5_3b_rte", "chatml", "qwen2", {"tie_word_embeddings": True}),
    "qwen1.5": ("qwen1_8b_novel", "chatml", "qwen2", {"num_key_value_heads": 4, "tie_word_embeddings": False}),
    "gemma": ("gemma_2b_cola", "alpaca", "gemma", {"head_dim": 16, "num_key_value_heads": 1}),
    "gemma-it": ("gemma_2b_qqp", "gemma", "gemma", {"head_dim": 16, "num_key_value_heads": 1}),
    "llama2": ("llama2_7b_webqa", "llama2", "llama", {"num_key_value_heads": 4, "tie_word_embeddings": False}),
}


def write_model(case, tokenizer_folder, folder):
    """Write a case's model directory into ``folder``; return it."""
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoConfig, AutoModelForCausalLM

    _, _, model_type, changes = CASES[case]
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **(SIZES | changes))
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / case)
    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(folder / case / "tokenizer.json"))
    shutil.copy(tokenizer_folder / "tokenizer_config.json", folder / case)
    return folder / case


def write_rows(path):
    """Write Alpaca rows that a tiny model learns in a few steps: the answer stands in the question."""
    answers = [("yes", "no")[number % 3 == 0] for number in range(48)]
    table = [
        {"instruction": "Say it.", "input": f"{number} {answer * 2}", "output": answer}
        for number, answer in enumerate(answers)
    ]
    path.write_text(json.dumps(table), encoding="utf-8")
    return path


def settings(case, models, rows, out):
    """What makes a case's recipe small: ``key.path=value`` words."""
    values = {
        "load_checkpoint": models / case,
        "data.train": rows,
        "data.template": CASES[case][1],
        "output_dir": out,
        # half of it leaves some of these random models undecided
        "runner_config.epochs": 12,
        "model.model_config.seq_length": 256,
        "runner_config.batch_size": 8,
        "lr_schedule.learning_rate": 0.02,
        "lr_schedule.warmup_ratio": 0.1,
        "model.model_config.pet_config.lora_dropout": 0.0,
    }
    return [f"{key}={value}" for key, value in values.items()]
