"""The MindSpore decoding loop against the torch one: the same text, draws, scores and losses, whatever the batch."""

import json
import random

import numpy as np
import pytest

from backends.checkpoint.resolve import open_checkpoint
from backends.generation.types import GREEDY, Limits, Sampling
from converters.common.errors import UsageError
from converters.text.template import get_template

pytestmark = pytest.mark.backend
pytest.importorskip("mindspore")
torch = pytest.importorskip("torch")

STOP = list(range(10, 22))
LIMITS = Limits(12)
CHOICES = [[40], [41, 42], [41, 43, 44, 45], [50, 50]]


@pytest.fixture(scope="module")
def adapter(tiny_llama, tmp_path_factory):
    """A PEFT adapter whose matrices are far from zero."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    folder = tmp_path_factory.mktemp("adapter")
    get_peft_model(model, config).save_pretrained(folder)
    (folder / "template.json").write_text(json.dumps(get_template("vicuna").to_json()))
    return folder


@pytest.fixture(scope="module")
def models(adapter):
    """The same adapter in both backends."""
    from backends.generation.registry import get_backend

    files = open_checkpoint(adapter)
    return {name: get_backend(name, "cpu").load_generator(files, device="cpu") for name in ("ascend", "cuda")}


@pytest.fixture(scope="module")
def prompts():
    numbers = random.Random(0)
    return {index: [numbers.randrange(6, 300) for _ in range(numbers.randrange(1, 40))] for index in range(50)}


@pytest.fixture
def ask(models, prompts):
    """Answer with one of the models under other settings."""

    def answer(backend="ascend", rows=None, *, limits=LIMITS, stop=STOP, batch_tokens=16_384, sampling=GREEDY):
        model = models[backend]
        model.batch_tokens, model.sampling = batch_tokens, sampling
        return dict(model.generate(prompts if rows is None else rows, stop, limits))

    return answer


def test_greedy_text_is_that_of_torch_on_50_prompts(ask, prompts):
    found = ask()
    assert found == ask("cuda")
    assert len({tuple(answer.ids) for answer in found.values()}) > 40
    assert {answer.finish_reason for answer in found.values()} == {"stop", "length"}
    assert len({len(answer.ids) for answer in found.values()}) > 4
    for answer in found.values():
        assert not set(answer.ids) & set(STOP)
        assert (answer.finish_reason == "length") == (len(answer.ids) == LIMITS.max_new)


@pytest.mark.parametrize("batch_tokens", [1, 200])
def test_a_batch_answers_as_each_row_alone(ask, prompts, batch_tokens):
    some = {index: prompts[index] for index in range(16)}
    assert ask(rows=some, batch_tokens=batch_tokens) == ask(rows=some)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0.7, seed=3),
        Sampling(temperature=0.5, top_p=0.9, top_k=20, seed=4),
        Sampling(repetition_penalty=1.4),
    ],
)
def test_draws_and_penalties_are_those_of_torch(ask, prompts, sampling):
    found = ask(sampling=sampling)
    assert found == ask("cuda", sampling=sampling)
    assert found != ask()


def test_min_new_tokens_forbids_early_ends(ask, prompts):
    limits = Limits(12, 5)
    assert min(len(answer.ids) for answer in ask().values()) < 5
    found = ask(limits=limits)
    assert min(len(answer.ids) for answer in found.values()) >= 5
    assert found == ask("cuda", limits=limits)


def test_sampled_tokens_have_the_probabilities_of_the_model():
    from backends.ascend.generate.decode import sample

    logits = np.log(np.array([[0.3, 0.5, 0.05, 0.15]], dtype=np.float32)).repeat(4000, 0)
    uniforms = ((np.arange(4000) + 0.5) / 4000).astype(np.float32)

    def shares(**options):
        drawn = sample(logits, Sampling(**options), uniforms)
        return (np.bincount(drawn, minlength=4) / 4000).tolist()

    assert shares(temperature=1.0) == pytest.approx([0.3, 0.5, 0.05, 0.15], abs=1e-3)
    assert shares(temperature=1.0, top_k=2) == pytest.approx([0.375, 0.625, 0, 0], abs=1e-3)
    assert shares(temperature=1.0, top_p=0.81) == pytest.approx([0.3 / 0.95, 0.5 / 0.95, 0, 0.15 / 0.95], abs=1e-3)
    assert shares(temperature=1.0, top_p=1e-9) == [0, 1, 0, 0]
    edge = sample(logits[:1], Sampling(temperature=1.0), np.array([1.0], dtype=np.float32))
    assert edge.tolist() == [2]


def test_out_of_memory_halves_the_batch_and_changes_no_answer(ask, models, monkeypatch, capsys):
    expected = ask()

    class Refusing:
        """The compiled graph, on a device that holds thirty rows."""

        def __init__(self, graph):
            self.graph = graph

        def __call__(self, ids, *more):
            if ids.shape[0] > 30 and ids.shape[1] == 1:
                raise RuntimeError("Memory not enough:#umsg#\nDevice(id:0) memory isn't enough and alloc failed")
            return self.graph(ids, *more)

    forward = models["ascend"].forward
    monkeypatch.setattr(forward, "_pass", Refusing(forward._pass))
    assert ask() == expected
    assert "out of memory with 50 rows" in capsys.readouterr().err


def test_other_failures_of_the_device_are_not_taken_for_that(ask, models, monkeypatch):
    def broken(*inputs):
        raise RuntimeError("The pointer[kernel] is null.")

    monkeypatch.setattr(models["ascend"].forward, "_pass", broken)
    with pytest.raises(RuntimeError, match="is null"):
        ask()


@pytest.mark.parametrize("choices", [CHOICES, [[40], [41]], [[7, 8, 9]]])
def test_choices_score_as_on_torch(models, prompts, choices):
    some = {index: prompts[index] for index in range(12)}
    found, expected = (dict(models[name].scorer(choices).score(some)) for name in ("ascend", "cuda"))
    assert found.keys() == expected.keys()
    for index, row in expected.items():
        assert found[index] == pytest.approx(row, abs=1e-4)
    assert len({tuple(row) for row in found.values()}) == len(some)


def test_losses_are_those_of_torch_in_any_batch(models, prompts):
    numbers = np.random.default_rng(5)
    rows = {}
    for index, prompt in list(prompts.items())[:12]:
        ids = np.array([*prompt, 9, 8, 7], dtype=np.int32)
        labels = np.where(numbers.random(len(ids)) < 0.5, ids, -100).astype(np.int32)
        labels[0], labels[-1] = -100, 7
        rows[index] = ids, labels
    expected = dict(models["cuda"].losses(rows))
    naive = models["cuda"].model
    for index, (ids, labels) in rows.items():
        with torch.inference_mode():
            logits = naive(torch.tensor(ids[None, :-1].astype(np.int64))).logits[0].double()
        wanted = torch.tensor(labels[1:].astype(np.int64))
        alone = torch.nn.functional.cross_entropy(logits, wanted, reduction="sum").item()
        assert expected[index] == pytest.approx(alone, abs=1e-4)
    for batch_tokens in (1, 100, 16_384):
        models["ascend"].batch_tokens = batch_tokens
        found = dict(models["ascend"].losses(rows))
        assert found == {index: pytest.approx(value, abs=1e-4) for index, value in expected.items()}


def test_mindformers_own_generate_says_the_same(adapter, ask, prompts, capsys):
    """As a card is asked, but without ``use_past``, which a CPU cannot compute."""
    from backends.ascend.generate.generator import PagedGenerator
    from backends.ascend.model import load_network
    from backends.ascend.train.registered import use_cpu_argmax

    use_cpu_argmax()
    pad = open_checkpoint(adapter).tokenizer.pad_id
    short = sorted(prompts, key=lambda index: len(prompts[index]))
    # one that ends in the pad token and one that is too long for the network go the other way
    rows = {index: prompts[index] for index in short[:5]} | {98: [40, 41, pad], 99: prompts[short[-1]]}
    limits = Limits(6)
    generator = PagedGenerator(load_network(open_checkpoint(adapter), "float32", seq_length=24), pad)
    assert dict(generator.generate(rows, STOP, limits)) == ask("cuda", rows=rows, limits=limits)
    assert "2 of 7 prompts are answered without paged attention" in capsys.readouterr().err


def test_prompts_that_cannot_be_meant(ask, capsys):
    with pytest.raises(UsageError, match="prompt 4 has no tokens"):
        ask(rows={3: [7], 4: []})
    ask(rows={0: [7] * 505, 1: [7]})
    assert "1 of 2 prompts with room for 12 new tokens go beyond the 512 positions" in capsys.readouterr().err


class TestCommands:
    @pytest.fixture
    def main(self, adapter):
        import importlib

        def run(backend, command, *words):
            module = importlib.import_module(f"backends.{backend}.__main__")
            options = ["--ckpt", str(adapter), "--device", "cpu", *map(str, words)]
            return module.main([command, *options])

        return run

    @pytest.fixture
    def data(self, tmp_path):
        path = tmp_path / "rows.jsonl"
        rows = [
            {"id": f"c{n}", "conversations": [{"from": "human", "value": "问" * n}, {"from": "gpt", "value": f"答{n}"}]}
            for n in range(1, 7)
        ]
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return path

    def test_a_file_is_answered_alike_and_gone_on_with(self, main, data, tmp_path, capsys):
        options = ["--data", data, "--max-new-tokens", 10, "--temperature", 0.6, "--seed", 2]
        files = {name: tmp_path / f"{name}.jsonl" for name in ("ascend", "cuda")}
        for name, file in files.items():
            assert main(name, "generate", *options, "--out", file) == 0
        before = files["ascend"].read_bytes()
        assert before == files["cuda"].read_bytes()
        files["ascend"].write_bytes(b"".join(before.splitlines(keepends=True)[2:4]))
        capsys.readouterr()
        main("ascend", "generate", *options, "--out", files["ascend"])
        assert "2 of 6 rows are there already, 4 to go" in capsys.readouterr().err
        assert files["ascend"].read_bytes() == before
        with pytest.raises(Exception, match="made with backend ascend, not cuda"):
            main("cuda", "generate", *options, "--out", files["ascend"])

    def test_a_prompt_is_answered_and_a_chat_says_the_same(self, main, capsys):
        said = []
        for command in ("generate", "chat"):
            main("ascend", command, "--prompt", "why?", "--max-new-tokens", 8)
            said.append(capsys.readouterr().out.strip())
        assert said[0] == said[1] != ""

    def test_perplexity_is_the_same_on_both(self, main, data, tmp_path, capsys):
        from math import exp

        values = []
        for name in ("ascend", "cuda"):
            assert main(name, "evaluate", "--data", data, "--json", "--out", tmp_path / f"{name}.json") == 0
            values.append(json.loads(capsys.readouterr().out))
            assert json.loads((tmp_path / f"{name}.json").read_text()) == values[-1]
        ours, theirs = (value["results"]["perplexity"] for value in values)
        assert ours["nll"] == pytest.approx(theirs["nll"], abs=1e-4)
        assert ours["perplexity"] == pytest.approx(theirs["perplexity"], rel=1e-4)
        assert ours["perplexity"] == pytest.approx(exp(ours["nll"]))
        assert ours["rows"] == theirs["rows"] == 6
        assert ours["tokens"] == theirs["tokens"] > 12
        hashes = [value["hashes"] for value in values]
        assert [one.pop("backend") for one in hashes] == ["ascend", "cuda"]
        assert hashes[0] == hashes[1]
