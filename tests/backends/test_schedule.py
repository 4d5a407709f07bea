import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.recipe.schedule import learning_rate, warmup_steps
from backends.recipe.types import LrSchedule
from converters.common.errors import UserError


def test_the_rates_that_a_contest_log_shows():
    # 4 x 535 steps an epoch, 5 epochs, peak 1e-5: the log's second step has 1.25e-07
    schedule = LrSchedule(learning_rate=1e-5, warmup_ratio=0.03)
    warmup = warmup_steps(schedule, 2675, 535)
    assert warmup == 80
    assert learning_rate(schedule, 0, 2675, warmup) == 0.0
    assert learning_rate(schedule, 1, 2675, warmup) == pytest.approx(1.25e-7)


def test_the_values_in_mindformers_documentation():
    schedule = LrSchedule(learning_rate=0.005, warmup_steps=10)
    assert learning_rate(schedule, 1, 20, 10) == pytest.approx(0.0005)
    assert learning_rate(schedule, 15, 20, 10) == pytest.approx(0.0024999997, rel=1e-6)


def test_warm_up_in_ratio_steps_or_epochs():
    assert warmup_steps(LrSchedule(warmup_ratio=0.03, warmup_steps=7), 100, 20) == 3
    assert warmup_steps(LrSchedule(warmup_steps=7), 100, 20) == 7
    assert warmup_steps(LrSchedule(warmup_epochs=2), 100, 20) == 40
    assert warmup_steps(LrSchedule(), 100, 20) == 0


@given(
    st.floats(1e-6, 1e-2),
    st.floats(0, 1),
    st.integers(1, 500),
    st.floats(0, 0.5),
)
def test_it_rises_to_the_peak_falls_to_the_end_and_stays(peak, end_share, total, ratio):
    schedule = LrSchedule(learning_rate=peak, lr_end=peak * end_share, warmup_ratio=ratio)
    warmup = warmup_steps(schedule, total, total)
    rates = [learning_rate(schedule, step, total, warmup) for step in range(total + 3)]
    assert rates[warmup] == pytest.approx(peak) or warmup >= total
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert rates[total:] == [schedule.lr_end] * 3
    assert max(rates) <= peak * (1 + 1e-12)


def test_constant_after_the_warm_up_and_unknown_kinds():
    schedule = LrSchedule(type="ConstantWarmUpLR", learning_rate=1.0, warmup_steps=4)
    assert [learning_rate(schedule, step, 8, 4) for step in (0, 2, 4, 100)] == [0.0, 0.5, 1.0, 1.0]
    with pytest.raises(UserError, match=r"lr_schedule\.type: found 'Linear'"):
        learning_rate(LrSchedule(type="Linear"), 0, 1, 0)
