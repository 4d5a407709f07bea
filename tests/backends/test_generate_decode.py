"""The torch decoding loop against one row at a time, against no cache, and against transformers' own generate."""

import random

import pytest

from backends.generation.types import Limits, Sampling
from converters.common.errors import UsageError

pytestmark = pytest.mark.backend
torch = pytest.importorskip("torch")

STOP = list(range(10, 22))
LIMITS = Limits(24)


@pytest.fixture(scope="module")
def prompts():
    numbers = random.Random(0)
    return {index: [numbers.randrange(6, 300) for _ in range(numbers.randrange(1, 40))] for index in range(24)}


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def model(request, tiny_llama):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_llama, attn_implementation=request.param).eval()


def answers(model, prompts, *, limits=LIMITS, stop=STOP, pad=2, **options):
    from backends.cuda.generate.generator import TorchGenerator

    return dict(TorchGenerator(model, pad, **options).generate(prompts, stop, limits))


@pytest.fixture(scope="module")
def reference(model, tiny_llama):
    """The same weights, never touched by our loop."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_llama, attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def alone(model, prompts):
    """Every prompt answered in a batch of its own."""
    return answers(model, prompts, batch_tokens=1)


def test_the_model_says_different_things_and_stops_at_different_times(alone):
    assert len({tuple(answer.ids) for answer in alone.values()}) == len(alone)
    reasons = [answer.finish_reason for answer in alone.values()]
    assert set(reasons) == {"stop", "length"}
    assert len({len(answer.ids) for answer in alone.values()}) > 4


@pytest.mark.parametrize("batch_tokens", [200, 520, 10**6])
def test_a_batch_answers_as_each_row_alone(model, prompts, alone, batch_tokens):
    assert answers(model, prompts, batch_tokens=batch_tokens) == alone


def test_without_cache_the_answers_are_the_same(model, prompts, alone):
    assert answers(model, prompts, use_cache=False) == alone


def test_greedy_equals_transformers_generate(reference, prompts, alone):
    for index, prompt in list(prompts.items())[:6]:
        ids = reference.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=LIMITS.max_new,
            do_sample=False,
            eos_token_id=STOP,
            pad_token_id=2,
        )[0, len(prompt) :].tolist()
        assert alone[index].ids == (ids[:-1] if ids[-1] in STOP else ids)


def test_positions_count_from_the_first_real_token(model, prompts, monkeypatch):
    # rotary attention sees differences of positions only, so no answer would tell
    seen = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda **given: seen.append(given["position_ids"]) or forward(**given))
    rows = {0: [7] * 5, 1: [8] * 2}
    answers(model, rows, limits=Limits(3), stop=[])
    assert [positions.tolist() for positions in seen] == [
        [[0, 1, 2, 3, 4], [0, 0, 0, 0, 1]],
        [[5], [2]],
        [[6], [3]],
    ]


@pytest.mark.parametrize("pass_tokens", [1, 40, 90])
def test_prompts_are_read_in_short_passes_and_answered_the_same(model, prompts, alone, pass_tokens, monkeypatch):
    from backends.cuda.generate.generator import TorchGenerator

    sizes, watched = [], []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda **given: sizes.append(given["input_ids"].shape) or forward(**given))
    generator = TorchGenerator(model, 2)
    generator.pass_tokens = pass_tokens
    found = dict(generator.generate(prompts, STOP, LIMITS, watch=lambda read, new: watched.append((read, new))))
    assert found == alone
    # one row is the least that a pass can take
    assert all(rows == 1 or rows * tokens <= pass_tokens for rows, tokens in sizes)
    assert sum(read for read, _ in watched) == sum(map(len, prompts.values()))
    # the token that stops an answer was written, too
    stopped = sum(answer.finish_reason == "stop" for answer in alone.values())
    assert sum(new for _, new in watched) == sum(len(answer.ids) for answer in alone.values()) + stopped


def test_any_token_may_pad_and_stand_in_a_prompt(model, prompts, alone):
    from collections import Counter

    # a token the model likes to say, so that a penalty on padding would show
    said = Counter(token for answer in alone.values() for token in answer.ids)
    pad = said.most_common(1)[0][0]
    rows = {index: [pad, *prompt, pad] if index % 2 else prompt for index, prompt in prompts.items()}
    for sampling in (Sampling(), Sampling(repetition_penalty=1.5)):
        separate = answers(model, rows, sampling=sampling, batch_tokens=1, pad=pad)
        assert answers(model, rows, sampling=sampling, pad=pad) == separate


def test_stop_tokens_end_answers_and_are_not_part_of_them(alone):
    for answer in alone.values():
        assert not set(answer.ids) & set(STOP)
        assert (answer.finish_reason == "length") == (len(answer.ids) == LIMITS.max_new)


def test_min_new_tokens_forbids_early_ends(model, prompts, alone):
    short = [index for index, answer in alone.items() if len(answer.ids) < 5]
    assert short
    longer = answers(model, prompts, limits=Limits(24, 5))
    assert min(len(answer.ids) for answer in longer.values()) >= 5
    for index, answer in longer.items():
        if index not in short:
            assert answer == alone[index]
        assert answer.ids[: len(alone[index].ids)] == alone[index].ids[: len(answer.ids)]


def test_a_stop_token_as_the_last_allowed_token_is_a_stop(model, prompts, alone):
    index = next(index for index, answer in alone.items() if answer.finish_reason == "stop")
    room = len(alone[index].ids) + 1
    assert answers(model, {index: prompts[index]}, limits=Limits(room))[index] == alone[index]
    cut = answers(model, {index: prompts[index]}, limits=Limits(room - 1))[index] if room > 1 else None
    assert cut is None or cut.finish_reason == "length"


def test_sampling_depends_on_seed_and_row_but_not_on_the_batch(model, prompts):
    # a low temperature keeps rounding from deciding a draw
    sampling = Sampling(temperature=0.5, top_p=0.95, top_k=50, seed=3)
    together = answers(model, prompts, sampling=sampling)
    some = {index: prompts[index] for index in (3, 11, 20)}
    assert answers(model, some, sampling=sampling, batch_tokens=1) == {index: together[index] for index in some}
    assert answers(model, prompts, sampling=Sampling(temperature=0.5, top_p=0.95, top_k=50, seed=4)) != together
    same = dict.fromkeys(range(8), prompts[0])
    assert len({tuple(answer.ids) for answer in answers(model, same, sampling=sampling).values()}) > 1


def test_sampled_tokens_have_the_probabilities_of_the_model():
    from backends.cuda.generate.decode import sample

    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    uniforms = (torch.arange(4000) + 0.5) / 4000

    def shares(**options):
        drawn = sample(logits.expand(4000, 4), Sampling(**options), uniforms)
        return (torch.bincount(drawn, minlength=4) / 4000).tolist()

    assert shares(temperature=1.0) == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=1e-3)
    assert shares(temperature=1.0, top_k=2) == pytest.approx([0.625, 0.375, 0, 0], abs=1e-3)
    assert shares(temperature=1.0, top_p=0.79) == pytest.approx([0.625, 0.375, 0, 0], abs=1e-3)
    assert shares(temperature=1.0, top_p=0.81) == pytest.approx([0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0], abs=1e-3)
    assert shares(temperature=0.5) == pytest.approx(
        [0.25 / 0.365, 0.09 / 0.365, 0.0225 / 0.365, 0.0025 / 0.365], abs=1e-3
    )
    assert shares(temperature=1.0, top_p=1e-9) == [1, 0, 0, 0]
    edge = sample(logits.expand(1, 4), Sampling(temperature=1.0), torch.tensor([1.0]))
    assert edge.tolist() == [3]


def test_repetition_penalty_equals_transformers(model, reference, prompts):
    sampling = Sampling(repetition_penalty=1.3)
    ours = answers(model, prompts, sampling=sampling)
    assert ours != answers(model, prompts)
    for index in (0, 5, 9):
        ids = reference.generate(
            torch.tensor([prompts[index]]),
            attention_mask=torch.ones(1, len(prompts[index]), dtype=torch.long),
            max_new_tokens=LIMITS.max_new,
            do_sample=False,
            repetition_penalty=1.3,
            eos_token_id=STOP,
            pad_token_id=2,
        )[0, len(prompts[index]) :].tolist()
        assert ours[index].ids == (ids[:-1] if ids[-1] in STOP else ids)


def test_grouped_attention_equals_attention_with_repeated_keys(model):
    from backends.cuda.generate.one_token import grouped_attention

    torch.manual_seed(0)
    query, key, value = torch.randn(3, 6, 1, 8), torch.randn(3, 2, 20, 8), torch.randn(3, 2, 20, 8)
    bias = torch.zeros(3, 1, 1, 20)
    bias[1, ..., :7] = torch.finfo(torch.float32).min
    ours, _ = grouped_attention(model, query, key, value, bias, scaling=0.3)
    scores = query @ key.repeat_interleave(3, 1).transpose(2, 3) * 0.3 + bias
    expected = (scores.softmax(-1) @ value.repeat_interleave(3, 1)).transpose(1, 2)
    torch.testing.assert_close(ours, expected)


def test_a_sliding_window_is_kept(prompts):
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = MistralConfig(vocab_size=300, num_key_value_heads=2, sliding_window=9, initializer_range=0.4, **sizes)
    windowed = MistralForCausalLM(config).eval()
    some = {index: prompts[index] for index in range(8)}
    together = answers(windowed, some)
    assert together == answers(windowed, some, batch_tokens=1)
    assert together == answers(windowed, some, use_cache=False)
    windowed.config.sliding_window = None
    assert together != answers(windowed, some)


def test_out_of_memory_halves_the_batch_and_changes_no_answer(model, prompts, alone, monkeypatch, capsys):
    from backends.cuda.generate import decode

    original = decode.TorchBatch.next_logits

    def too_large(self):
        # fails in the middle of a batch, when some rows are finished and the cache is half written
        if self.prompt.shape[0] > 7 and self.n > 3:
            raise torch.OutOfMemoryError
        return original(self)

    monkeypatch.setattr(decode.TorchBatch, "next_logits", too_large)
    assert answers(model, prompts) == alone
    assert "out of memory with 24 rows" in capsys.readouterr().err


def test_only_the_last_logits_are_computed(model, prompts, monkeypatch):
    shapes = []
    forward = model.lm_head.forward
    monkeypatch.setattr(model.lm_head, "forward", lambda hidden: shapes.append(hidden.shape[1]) or forward(hidden))
    answers(model, prompts)
    assert set(shapes) == {1}


def test_prompts_that_cannot_be_meant(model, capsys):
    with pytest.raises(UsageError, match="prompt 4 has no tokens"):
        answers(model, {3: [7], 4: []})
    answers(model, {0: [7] * 505, 1: [7]})
    assert "1 of 2 prompts with room for 24 new tokens go beyond the 512 positions" in capsys.readouterr().err
