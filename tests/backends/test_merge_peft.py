"""Merged weights against stock transformers and peft on tiny models."""

import json
import re
import shutil

import numpy as np
import pytest

pytestmark = pytest.mark.backend
torch = pytest.importorskip("torch")

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from backends.merge.__main__ import main
from converters.common.errors import UserError
from converters.text.template import get_template

IDS = torch.tensor([[0, 40, 41, 90, 7, 200, 55, 13]])
ADAPTERS = {
    "plain": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
    "other": {"r": 2, "lora_alpha": 3, "target_modules": ["q_proj", "o_proj", "down_proj"]},
    "rslora": {"r": 4, "lora_alpha": 8, "target_modules": ["k_proj", "up_proj"], "use_rslora": True},
    "patterns": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "v_proj"],
        "rank_pattern": {"v_proj": 3, "layers.1.self_attn.q_proj": 6},
        "alpha_pattern": {"layers.1.self_attn.q_proj": 5},
    },
    "one_layer": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "layers_to_transform": [1]},
    "regex": {"r": 4, "lora_alpha": 8, "target_modules": r".*layers\.0\..*_proj"},
}


@pytest.fixture(scope="module")
def adapters(tiny_llama, tmp_path_factory):
    """PEFT adapter directories by name, saved by peft."""
    home = tmp_path_factory.mktemp("adapters")
    for seed, (name, settings) in enumerate(ADAPTERS.items()):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(tiny_llama)
        tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
        with torch.no_grad():
            for key, parameter in tuned.named_parameters():
                if "lora_B" in key:
                    parameter.normal_(0, 0.3)
        tuned.save_pretrained(home / name)
        (home / name / "template.json").write_text(json.dumps(get_template("llama3").to_json()))
    return home


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS).logits.float()


def beside(base, folder):
    return logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(folder)))


@pytest.mark.parametrize("name", list(ADAPTERS))
def test_a_merged_model_answers_as_the_adapter(adapters, tiny_llama, tmp_path, name, capsys):
    assert main(["--base", str(tiny_llama), "--adapter", str(adapters / name), "--out", str(tmp_path / "out")]) == 0
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    wanted = beside(tiny_llama, adapters / name)
    assert (logits(merged) - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert (logits(AutoModelForCausalLM.from_pretrained(tiny_llama)) - wanted).abs().max() > 0.01 * wanted.abs().max()
    figure = re.search(
        r"logits: merged − adapter at most ([\d.e-]+), adapter − base ([\d.e-]+)", capsys.readouterr().err
    )
    assert float(figure[1]) < 1e-4 < float(figure[2])
    report = json.loads((tmp_path / "out" / "merge.json").read_text())["verified"]["logits"]
    assert report["difference"] == pytest.approx(float(figure[1]), rel=0.1)
    assert report["same_first"] == 1.0


def test_a_weighted_sum_is_read_by_stock_peft(adapters, tiny_llama, tmp_path):
    chosen = {"plain": 0.5, "patterns": -1.25, "other": 2.0, "rslora": 0.75}
    words = [word for name, weight in chosen.items() for word in ("--adapter", f"{adapters / name}:{weight}")]
    main([*words, "--out", str(tmp_path / "mixed")])
    # one after the other, merged by peft itself into float32
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, weight in chosen.items():
        tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama), str(adapters / name))
        alone = tuned.merge_and_unload().state_dict()
        with torch.no_grad():
            for key, tensor in model.state_dict().items():
                tensor += weight * (alone[key] - base[key])
    wanted = logits(model)
    found = beside(tiny_llama, tmp_path / "mixed")
    assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()
    main([*words, "--base", str(tiny_llama), "--out", str(tmp_path / "merged")])
    assert (logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")) - wanted).abs().max() < 1e-4 * 10
    config = json.loads((tmp_path / "mixed" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["down_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


def test_a_sum_of_adapters_on_different_layers_loads_without_a_tensor_too_many(adapters, tiny_llama, tmp_path):
    from backends.cuda.model import load_model

    words = ["--adapter", f"{adapters / 'one_layer'}:1", "--adapter", f"{adapters / 'regex'}:1"]
    main([*words, "--out", str(tmp_path / "mixed")])
    load_model(tmp_path / "mixed", torch.device("cpu"), torch.float32, tiny_llama)
    config = json.loads((tmp_path / "mixed" / "adapter_config.json").read_text())
    assert "model.layers.1.self_attn.q_proj" in config["target_modules"]
    assert not any(target.startswith("model.layers.1.mlp") for target in config["target_modules"])


def test_a_sum_cut_to_its_own_rank_still_answers_the_same(adapters, tiny_llama, tmp_path, capsys):
    words = ["--adapter", f"{adapters / 'plain'}:0.5", "--adapter", f"{adapters / 'plain'}:0.5"]
    main([*words, "--rank", "4", "--out", str(tmp_path / "cut")])
    wanted = beside(tiny_llama, adapters / "plain")
    assert (beside(tiny_llama, tmp_path / "cut") - wanted).abs().max() < 1e-4 * wanted.abs().max()
    assert "cut to rank 4: 0.00% of the update is left out" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounding_is_within_what_is_printed_and_smaller_than_the_effect(adapters, tiny_llama, tmp_path, dtype):
    words = ["--base", str(tiny_llama), "--adapter", str(adapters / "plain"), "--dtype", dtype]
    main([*words, "--out", str(tmp_path / "out")])
    check = json.loads((tmp_path / "out" / "merge.json").read_text())["verified"]["logits"]
    assert 0 < check["difference"] <= 4 * check["noise"] < check["effect"]
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert str(merged.dtype) == f"torch.{dtype}"


def test_a_merge_that_lost_the_adapter_is_refused(adapters, tiny_llama, tmp_path, monkeypatch):
    """The comparison of logits has teeth of its own: with the check of tensors switched off it still refuses."""
    from backends.merge import into_base as whole
    from backends.merge import verify

    good = whole.add_update
    monkeypatch.setattr(whole, "add_update", lambda w, a, b, *rest: good(w, a, b * np.float32(0.5), *rest))
    monkeypatch.setattr(verify, "check_tensors", lambda *_: 0.0)
    with pytest.raises(UserError, match=r"logits of the merged model are .* nothing was written"):
        main(["--base", str(tiny_llama), "--adapter", str(adapters / "plain"), "--out", str(tmp_path / "out")])
    assert not list(tmp_path.iterdir())


def test_pickled_bin_is_what_transformers_reads(adapters, tiny_llama, tmp_path):
    words = ["--base", str(tiny_llama), "--adapter", str(adapters / "plain"), "--format", "bin"]
    main([*words, "--dtype", "bfloat16", "--max-shard-size", "0.00003", "--out", str(tmp_path / "bin")])
    main([*words[:4], "--dtype", "bfloat16", "--out", str(tmp_path / "safe")])
    files = sorted(file.name for file in (tmp_path / "bin").glob("*.bin"))
    assert len(files) > 1
    assert files[0] == f"pytorch_model-00001-of-{len(files):05d}.bin"
    assert not list((tmp_path / "bin").glob("*.safetensors*"))
    left, right = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("bin", "safe"))
    for name, tensor in right.state_dict().items():
        assert torch.equal(left.state_dict()[name], tensor)


def test_metas_form_is_read_back_as_the_same_model(adapters, tiny_llama, tmp_path):
    from backends.exchange.meta import hf_name, meta_source

    words = ["--base", str(tiny_llama), "--adapter", str(adapters / "other")]
    main([*words, "--format", "pth", "--out", str(tmp_path / "pth")])
    main([*words, "--out", str(tmp_path / "hf")])
    stored = torch.load(tmp_path / "pth" / "consolidated.00.pth", weights_only=True)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "hf").state_dict()
    source = meta_source(tmp_path / "pth")
    assert {hf_name(name) for name in stored} == set(merged)
    for name, tensor in merged.items():
        np.testing.assert_array_equal(source.items[name].read(), tensor.numpy())
    params = json.loads((tmp_path / "pth" / "params.json").read_text())
    assert (params["dim"], params["n_kv_heads"], params["vocab_size"]) == (32, 2, 300)
    # the order of rows is Meta's: a rotation of neighbours there is one of halves here
    q = stored["layers.0.attention.wq.weight"]
    assert not torch.equal(q, merged["model.layers.0.self_attn.q_proj.weight"])


def test_params_json_states_the_known_models():
    from backends.merge.pickle_formats import meta_params

    common = {"rms_norm_eps": 1e-5, "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 32000}
    llama2 = meta_params({**common, "hidden_size": 4096, "intermediate_size": 11008})
    assert (llama2["multiple_of"], llama2.get("ffn_dim_multiplier")) == (256, None)
    llama3 = meta_params({**common, "hidden_size": 4096, "intermediate_size": 14336, "rope_theta": 500000.0})
    for params, width in ((llama2, 11008), (llama3, 14336)):
        hidden = int(params.get("ffn_dim_multiplier", 1.0) * int(2 * 4 * params["dim"] / 3))
        unit = params["multiple_of"]
        assert unit * ((hidden + unit - 1) // unit) == width
    assert llama3["rope_theta"] == 500000.0


def test_a_merged_directory_is_a_checkpoint_and_an_ordinary_model(adapters, tiny_llama, tmp_path, capsys):
    from backends.cuda.__main__ import main as cuda

    main(["--base", str(tiny_llama), "--adapter", str(adapters / "plain"), "--out", str(tmp_path / "out")])
    answers = []
    for ckpt in (adapters / "plain", tmp_path / "out"):
        capsys.readouterr()
        words = [
            "generate",
            "--ckpt",
            str(ckpt),
            "--base",
            str(tiny_llama),
            "--device",
            "cpu",
            "--max-new-tokens",
            "12",
        ]
        assert cuda([*words, "--prompt", "why?"]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]
    assert answers[0].strip()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    text = tokenizer.apply_chat_template([{"role": "user", "content": "why?"}], tokenize=False)
    assert text.startswith("<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nwhy?")


@pytest.mark.parametrize("family", ["Qwen2", "Gemma"])
def test_other_families_merge_as_well(tiny_tokenizer, tmp_path, family):
    """Qwen2 has biases on q, k and v; Gemma ties its head without saying so in config.json."""
    import transformers

    settings = {
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "max_position_embeddings": 512,
    }
    torch.manual_seed(0)
    base = tmp_path / "base"
    config = getattr(transformers, f"{family}Config")(**settings)
    AutoModelForCausalLM.from_config(config).save_pretrained(base)
    for file in tiny_tokenizer.iterdir():
        shutil.copy(file, base)
    targets = ["q_proj", "v_proj", "up_proj"]
    tuned = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=targets)
    )
    with torch.no_grad():
        for key, parameter in tuned.named_parameters():
            if "lora_B" in key:
                parameter.normal_(0, 0.3)
    tuned.save_pretrained(tmp_path / "adapter")
    words = ["--base", str(base), "--adapter", str(tmp_path / "adapter"), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    wanted = beside(base, tmp_path / "adapter")
    found = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out"))
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_a_tied_head_under_an_adapter_answers_as_peft_does(tiny_llama, tmp_path):
    from transformers import LlamaConfig

    config = LlamaConfig.from_pretrained(tiny_llama, tie_word_embeddings=True)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path / "tied")
    for file in tiny_llama.glob("tokenizer*"):
        shutil.copy(file, tmp_path / "tied")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "tied")
    tuned = get_peft_model(loaded, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "lm_head"]))
    with torch.no_grad():
        for key, parameter in tuned.named_parameters():
            if "lora_B" in key:
                parameter.normal_(0, 0.3)
    tuned.save_pretrained(tmp_path / "adapter")
    words = ["--base", str(tmp_path / "tied"), "--adapter", str(tmp_path / "adapter"), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    wanted = beside(tmp_path / "tied", tmp_path / "adapter")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert not merged.config.tie_word_embeddings
    assert (logits(merged) - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_a_run_merges_into_the_base_that_it_was_trained_on_and_no_other(tiny_llama, make_recipe, tmp_path, capsys):
    from backends.cuda.train.run import train
    from backends.recipe.load import load_recipe
    from backends.weights.safetensors_files import ShardWriter, open_tensors

    recipe = make_recipe(**{"load_checkpoint": str(tiny_llama), "runner_config.epochs": 1})
    run = train(load_recipe(recipe), device="cpu").path
    capsys.readouterr()
    words = ["--adapter", str(run), "--base"]
    assert main([*words, str(tiny_llama), "--out", str(tmp_path / "out")]) == 0
    assert "note:" not in capsys.readouterr().err
    for name in ("template.json", "tokenizer.json"):
        assert (tmp_path / "out" / name).read_bytes() == (run / name).read_bytes()
    step = next((run / "checkpoints").iterdir())
    assert (
        main(["--adapter", str(step), "--base", str(tiny_llama), "--no-verify", "--out", str(tmp_path / "step")]) == 0
    )
    assert (tmp_path / "step" / "template.json").is_file()

    tuned = tmp_path / "tuned"
    shutil.copytree(tiny_llama, tuned)
    tensors = open_tensors(tiny_llama)
    held = {name: tensors.read(name) for name in tensors}
    held["model.norm.weight"] = held["model.norm.weight"] * np.float32(1.01)
    with ShardWriter(tuned) as writer:
        for name, values in held.items():
            writer.add(name, values)
    with pytest.raises(UserError, match="another base; --allow-base-mismatch"):
        main([*words, str(tuned), "--out", str(tmp_path / "wrong")])
    assert not (tmp_path / "wrong").exists()
