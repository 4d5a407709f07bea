"""``generate`` and ``chat`` with a tiny model and an adapter on it."""

import io
import json
import os
import signal
import sys

import pytest

from backends.cuda.__main__ import main
from converters.common.errors import UsageError, UserError
from converters.text.template import get_template

pytestmark = pytest.mark.backend
torch = pytest.importorskip("torch")

CONVERSATIONS = [
    {"id": f"c{n}", "conversations": [{"from": "human", "value": "问" * n}, {"from": "gpt", "value": f"答{n}"}]}
    for n in range(1, 7)
] + [{"id": "open", "conversations": [{"from": "human", "value": "why?"}]}]


@pytest.fixture(scope="module")
def adapter(tiny_llama, tmp_path_factory):
    """A PEFT adapter directory whose matrices are far from zero."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    folder = tmp_path_factory.mktemp("adapter")
    tuned.save_pretrained(folder)
    (folder / "template.json").write_text(json.dumps(get_template("vicuna").to_json()))
    return folder


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in CONVERSATIONS))
    return path


def generate(ckpt, *words):
    return main(["generate", "--ckpt", str(ckpt), "--device", "cpu", "--max-new-tokens", "10", *map(str, words)])


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_prompt_is_answered_on_stdout(tiny_llama, capsys):
    assert generate(tiny_llama, "--template", "bare", "--prompt", "why?") == 0
    captured = capsys.readouterr()
    assert captured.out.strip()
    assert "cut after 10 tokens" in captured.err
    generate(tiny_llama, "--template", "bare", "--prompt", "why?", "--temperature", 2, "--seed", 5)
    assert capsys.readouterr().out != captured.out


def test_a_file_is_answered_row_by_row(adapter, data, tmp_path, capsys):
    out = tmp_path / "answers.jsonl"
    assert generate(adapter, "--data", data, "--out", out) == 0
    rows = rows_of(out)
    assert [row["idx"] for row in rows] == list(range(7))
    assert [row["id"] for row in rows] == [row["id"] for row in CONVERSATIONS]
    assert [row["label"] for row in rows] == [*(f"答{n}" for n in range(1, 7)), None]
    assert rows[0]["prompt"].endswith("USER: 问 ASSISTANT:")
    cut = sum(row["finish_reason"] == "length" for row in rows)
    assert f"7 answers, {cut} cut after 10 tokens" in capsys.readouterr().err

    before = out.read_bytes()
    out.write_bytes(b"".join(before.splitlines(keepends=True)[:3]))
    generate(adapter, "--data", data, "--out", out, "--batch-tokens", 1)
    assert out.read_bytes() == before
    assert "3 of 7 rows are there already, 4 to go" in capsys.readouterr().err
    with pytest.raises(UserError, match="made with sampling"):
        generate(adapter, "--data", data, "--out", out, "--temperature", 1)
    generate(adapter, "--data", data, "--out", tmp_path / "two.jsonl", "--limit", 2)
    assert rows_of(tmp_path / "two.jsonl") == rows[:2]


def test_sampled_answers_survive_a_resume(adapter, data, tmp_path):
    whole, out = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    options = ["--data", data, "--temperature", 0.7, "--seed", 3]
    generate(adapter, *options, "--out", whole)
    generate(adapter, *options, "--out", out)
    lines = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(lines[2:4]))
    generate(adapter, *options, "--out", out)
    assert out.read_bytes() == whole.read_bytes()


def test_an_adapter_added_to_its_base_answers_as_one_beside_it(adapter, tiny_llama, data, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from backends.cuda.generate.generator import TorchGenerator
    from backends.generation.types import Limits

    beside = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama), adapter).eval()
    generate(adapter, "--data", data, "--out", tmp_path / "a.jsonl")
    from converters.tokenizers.load import load_tokenizer

    tokenizer = load_tokenizer(tiny_llama)
    rows = rows_of(tmp_path / "a.jsonl")
    text = rows[0]["prompt"].removeprefix("<|begin_of_text|>")
    prompt = [0, *tokenizer.encode_batch([text])[0]]
    base = AutoModelForCausalLM.from_pretrained(tiny_llama).eval()
    said = [dict(TorchGenerator(model, 2).generate({0: prompt}, [1], Limits(10)))[0].ids for model in (beside, base)]
    assert tokenizer.decode(said[0]).strip() == rows[0]["predict"]
    assert said[0] != said[1]


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["--data", "DATA"], UsageError, "--data needs --out FILE"),
        (["--data", "nothing.jsonl", "--out", "x.jsonl"], UsageError, r"nothing\.jsonl: no such file"),
        (["--prompt", "x", "--template", "alpaca"], UserError, "was trained in template vicuna"),
        (["--prompt", "x", "--temperature", "-1"], UsageError, "temperature is -1"),
        (["--prompt", "x", "--min-new-tokens", "11"], UsageError, "at least 11 and at most 10"),
    ],
)
def test_wrong_use_is_one_line(adapter, data, words, error, message):
    with pytest.raises(error, match=message) as caught:
        generate(adapter, *[data if word == "DATA" else word for word in words])
    assert "\n" not in str(caught.value)


def chat(ckpt, *words):
    return main(["chat", "--ckpt", str(ckpt), "--device", "cpu", "--max-new-tokens", "8", *map(str, words)])


@pytest.fixture
def typed(monkeypatch):
    """Put lines on stdin, as a pipe does."""
    return lambda *lines: monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


@pytest.fixture
def prompts(monkeypatch):
    """Collect the prompts the model is given, as text."""
    from backends.generation.chat import Chat

    seen = []
    original = Chat._texts

    def texts(self, prompt, limits):
        seen.append(self.files.tokenizer.decode(prompt, skip_special=False))
        return original(self, prompt, limits)

    monkeypatch.setattr(Chat, "_texts", texts)
    return seen


def test_one_question_for_a_pipe(adapter, capsys):
    assert chat(adapter, "--prompt", "why?") == 0
    answer = capsys.readouterr().out
    generate(adapter, "--prompt", "why?", "--max-new-tokens", 8)
    assert answer.strip() == capsys.readouterr().out.strip()


def test_turns_and_commands(tiny_llama, typed, prompts, capsys):
    typed("one", "two", "/system Be brief.", "three", "/reset", "four", "", "/help", "/system", "five", "/exit", "six")
    assert chat(tiny_llama, "--template", "llama3") == 0
    captured = capsys.readouterr()
    answers = captured.out.splitlines()
    turn = "<|start_header_id|>{}<|end_header_id|>\n\n{}"
    end = "<|eot_id|>"
    assert len(prompts) == 5
    assert prompts[0] == "<|begin_of_text|>" + turn.format("user", "one") + end + turn.format("assistant", "")
    assert prompts[1].startswith(prompts[0])
    assert prompts[1].endswith(end + turn.format("user", "two") + end + turn.format("assistant", ""))
    system = "<|begin_of_text|>" + turn.format("system", "Be brief.") + end
    assert prompts[2] == system + turn.format("user", "three") + end + turn.format("assistant", "")
    assert prompts[3] == prompts[2].replace("three", "four")
    assert prompts[4] == prompts[0].replace("one", "five")
    assert "commands: /reset" in captured.err
    assert answers


def test_a_template_without_room_for_the_turn_is_an_error_in_a_pipe(adapter, tiny_llama, typed):
    typed("one")
    with pytest.raises(UserError, match="has no place for a system turn"):
        chat(tiny_llama, "--template", "bare", "--system", "x")


def test_ctrl_c_ends_the_answer_and_keeps_what_was_said(adapter, typed, prompts, monkeypatch, capsys):
    from backends.cuda.generate.decode import TorchBatch as Batch

    original, steps = Batch.step, []

    def step(self):
        steps.append(1)
        if len(steps) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self)

    monkeypatch.setattr(Batch, "step", step)
    typed("one", "two")
    # a shell starts what it puts in the background with SIGINT ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert chat(adapter) == 0
    finally:
        signal.signal(signal.SIGINT, before)
    captured = capsys.readouterr()
    assert "(ended)" in captured.err
    assert len(prompts) == 2
    assert prompts[1].startswith(prompts[0] + " ")
    said, _, rest = prompts[1].removeprefix(prompts[0] + " ").partition("<|end_of_text|>")
    assert said
    assert captured.out.startswith(said + "\n")
    assert rest == "USER: two ASSISTANT:"


def test_pieces_join_to_the_answer_and_break_no_character(adapter, monkeypatch):
    from backends.checkpoint.resolve import open_checkpoint
    from backends.generation.chat import Chat
    from backends.generation.types import Answer, Limits

    files = open_checkpoint(adapter)
    ids = files.tokenizer.encode_batch(["好 é 🙂 done"])[0]
    assert len(ids) > 10

    class Spelling:
        n = 0

        def step(self):
            self.n += 1
            return [(0, Answer(ids, "stop"))] if self.n > len(ids) else []

        def said(self, index):
            return ids[: self.n]

    class Model:
        def start(self, rows, stop_ids, limits):
            return Spelling()

    conversation = Chat(files, Model(), Limits(99))
    pieces = list(conversation.answer("x"))
    assert "".join(pieces) == "好 é 🙂 done"
    assert not any("\ufffd" in piece for piece in pieces)
    assert len(pieces) > 5
    assert conversation.turns[-1].text == "好 é 🙂 done"
