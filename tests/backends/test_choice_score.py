"""Scoring all choices of a row at once, against one choice at a time."""

import random

import pytest

from converters.common.errors import UsageError, UserError

pytestmark = pytest.mark.backend
torch = pytest.importorskip("torch")

CHOICES = [[40], [41, 42], [41, 43, 44, 45], [50, 50]]


@pytest.fixture(scope="module")
def prompts():
    numbers = random.Random(1)
    return {index: [numbers.randrange(6, 300) for _ in range(numbers.randrange(1, 30))] for index in range(12)}


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def model(request, tiny_llama):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_llama, attn_implementation=request.param).eval()


def naive(model, prompt, choice):
    """One row, one choice, every logit, no mask and no positions of ours."""
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([[*prompt, *choice]]), use_cache=False).logits[0].double()
    logs = logits.log_softmax(-1)
    return sum(float(logs[len(prompt) - 1 + place, token]) for place, token in enumerate(choice))


def scored(model, prompts, choices, *, batch_tokens=10**6, pad=2):
    from backends.cuda.generate.generator import TorchGenerator

    return dict(TorchGenerator(model, pad, batch_tokens=batch_tokens).scorer(choices).score(prompts))


@pytest.mark.parametrize("batch_tokens", [1, 150, 10**6])
@pytest.mark.parametrize("choices", [CHOICES, [[40], [41]], [[7, 8, 9]]])
def test_all_at_once_is_one_at_a_time(model, prompts, choices, batch_tokens):
    found = scored(model, prompts, choices, batch_tokens=batch_tokens)
    assert sorted(found) == sorted(prompts)
    for index, prompt in prompts.items():
        assert found[index] == pytest.approx([naive(model, prompt, choice) for choice in choices], abs=1e-5)
    # the rows and the choices do differ, so that the comparison means something
    assert len({tuple(row) for row in found.values()}) == len(prompts)


def test_rows_of_one_length_need_no_mask(model):
    prompts = {4: [10, 20, 30], 9: [31, 21, 11]}
    found = scored(model, prompts, [[40], [41]])
    for index, prompt in prompts.items():
        assert found[index] == pytest.approx([naive(model, prompt, choice) for choice in [[40], [41]]], abs=1e-5)


def test_choices_do_not_see_each_other(model, prompts):
    """The same choice scores the same whatever stands beside it."""
    alone = scored(model, prompts, [CHOICES[2]])
    for others in ([CHOICES[1], CHOICES[2]], [CHOICES[2], CHOICES[1]], [[60, 61, 62], CHOICES[2], CHOICES[3]]):
        place = others.index(CHOICES[2])
        for index, row in scored(model, prompts, others).items():
            assert row[place] == pytest.approx(alone[index][0], abs=1e-5)


def test_one_forward_pass_a_batch_and_no_more_logits_than_needed(model, prompts):
    calls = []
    hook = model.register_forward_hook(lambda module, args, output: calls.append(output.logits.shape))
    try:
        scored(model, prompts, CHOICES)
    finally:
        hook.remove()
    # one logit row for the prompt, and one for every token of a choice that another follows
    assert calls == [(len(prompts), 1 + 0 + 1 + 3 + 1, 300)]


def test_the_probabilities_of_all_tokens_sum_to_one(model):
    [row] = scored(model, {0: [10, 20]}, [[token] for token in range(300)]).values()
    assert torch.tensor(row).exp().sum().item() == pytest.approx(1, abs=1e-4)


def test_an_adapter_is_scored_as_it_is(tiny_llama, prompts):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(tiny_llama).eval()
    before = scored(plain, prompts, CHOICES)
    tuned = get_peft_model(plain, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)).eval()
    after = scored(tuned, prompts, CHOICES)
    assert after[0] != pytest.approx(before[0], abs=1e-3)
    assert after[0] == pytest.approx([naive(tuned, prompts[0], choice) for choice in CHOICES], abs=1e-5)


def test_memory_that_runs_out_halves_the_batch(model, prompts, capsys, monkeypatch):
    from backends.cuda.generate.generator import TorchGenerator

    expected = scored(model, prompts, CHOICES)
    whole = TorchGenerator.choice_scores

    def small_device(self, layout, rows):
        if len(rows) > 4:
            raise torch.OutOfMemoryError("full")
        return whole(self, layout, rows)

    monkeypatch.setattr(TorchGenerator, "choice_scores", small_device)
    found = scored(model, prompts, CHOICES)
    assert "out of memory with 12 rows" in capsys.readouterr().err
    for index in prompts:
        assert found[index] == pytest.approx(expected[index], abs=1e-5)


def test_what_cannot_be_scored(model):
    with pytest.raises(UsageError, match="a choice has no tokens"):
        scored(model, {0: [10]}, [[40], []])
    with pytest.raises(UsageError, match="prompt 3 has no tokens"):
        scored(model, {2: [10], 3: []}, [[40], [41]])


def test_a_window_that_the_choices_would_leave_is_refused(model, monkeypatch):
    monkeypatch.setattr(model.config, "sliding_window", 8, raising=False)
    with pytest.raises(UserError, match="its attention looks back 8 tokens, the longest row has 15"):
        scored(model, {0: list(range(10, 20))}, CHOICES)


def test_what_is_not_a_number_is_an_error(tiny_llama):
    from transformers import AutoModelForCausalLM

    broken = AutoModelForCausalLM.from_pretrained(tiny_llama).eval()
    with torch.no_grad():
        broken.model.norm.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="row 0: the model's log-probabilities are not numbers"):
        scored(broken, {0: [10, 20]}, CHOICES)
