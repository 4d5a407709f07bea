from decimal import ROUND_DOWN, ROUND_HALF_EVEN, ROUND_HALF_UP, Context, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.math.rules import RULES, grade, is_right, parse

PARSED = [
    # raw solutions of the data
    ("-6211.70 * -6871.61 = 42684379.8370", "42684379.8370"),
    ("967.09 - -688.16 = 1655.25", "1655.25"),
    ("819.19^0 = 1", "1"),
    ("√6145.00 = 78.39005038906404747646239238", "78.39005038906404747646239238"),
    ("最简化的形式为：2/5", "2/5"),
    ("平均值为 47.666666666666664", "47.666666666666664"),
    ("方程的解为：-0.5555555555555556", "-0.5555555555555556"),
    ("函数的值为：2.769155521409239378157128235E+34", "2.769155521409239378157128235E+34"),
    ("函数的值为：2.429505441737821253692345254E-28", "2.429505441737821253692345254E-28"),
    ("面积为 4788 平方厘米", "4788"),
    ("10 克", "10"),
    ("-273.6842105263158", "-273.6842105263158"),
    # answers with steps
    ("计算过程：-81x = 45, x = 45 / -81, x = -0.5556", "-0.5556"),
    ("计算过程：gcd(4, 10) = 2, 4 / 2 = 2, 10 / 2 = 5, 最简化的形式为：2/5", "2/5"),
    ("计算过程：57 * 4.03 ^ 54 = 2.769155521409239378157128235E+34", "2.769155521409239378157128235E+34"),
    ("-(0745151-0170992)|1-2=9c,5-9=5c|答案：-5741.59", "-5741.59"),
    ("答案：3x = 15, x = 5，因为 a = b", "5"),
    ("答案：\n\n 5 克，密度 3", "5"),
    ("答案：7\n验算 7 + 1 = 8", "7"),
    ("先得答案：1，再改，答案：2", "2"),
    ("9 - 2 = 7\n#### 7 apples of 12", "7"),
    ("The answer is -3.5. There were 4.", "-3.5"),
    # forms of numbers
    ("２/５ 即 ４０％", "40"),
    ("x = −5", "-5"),
    ("x=+.5", ".5"),
    ("3-5", "5"),
    ("(3)-5", "5"),
    ("2e-5 m", "2e-5"),
    ("2.77×10^{34}", "2.77×10^{34}"),
    ("12 cm^2", "12"),
    ("12 cm^{2}", "12"),
    ("x2 = 7", "7"),
    ("10 克/立方厘米", "10"),
    ("3/4.5", "4.5"),
    ("-1/2", "-1/2"),
    # boxed
    (r"we get $\boxed{18} &= x$ after 3 steps", "18"),
    (r"$\boxed{\dfrac{1}{16}}$.", "1/16"),
    (r"\boxed{-\frac12}", "-1/2"),
    (r"\boxed{\frac{\sqrt{3}}{2}}", r"\frac{\sqrt{3}}{2}"),
    (r"\boxed{7 \sqrt{5}}", r"7\sqrt{5}"),
    (r"\boxed{x = 5\text{ cm}^2}", "5"),
    (r"\boxed{18 \text{ cm}}", "18"),
    (r"\boxed{12\%}", "12"),
    (r"\boxed{90^\circ}", "90"),
    (r"\boxed{2x}", "2x"),
    (r"\boxed{1} and then \boxed{2", "2"),
    (r"\boxed{3} ... 答案：4", "4"),
    (r"答案：$\boxed{3}$", "3"),
    (r"so it is $\frac{3}{4}$", "3/4"),
]


@pytest.mark.parametrize(("text", "answer"), PARSED)
def test_parse_finds_the_answer(text, answer):
    parsed = parse(text)
    assert parsed is not None
    assert parsed.text == answer


@pytest.mark.parametrize("text", ["", "不知道", "x^{2}", "3 + 4 = 7，答案：", "####  ", r"\boxed{}", "item_7", "\n"])
def test_text_without_an_answer_is_unparsed(text):
    assert parse(text) is None


def test_unfinished_or_absurd_numbers_have_no_value():
    assert parse("1/0").value is None
    assert parse("1E+99999999999999999999999").value is None
    assert parse("1E+999999").value is None
    label = parse("1.5")
    assert grade(parse("1E+99999999999999999999999"), label) == dict.fromkeys(RULES, False)


def test_a_comma_is_never_part_of_a_number():
    assert parse("1,234").text == "234"
    assert parse("[17, 99, 52]").text == "52"


@pytest.mark.parametrize(
    ("answer", "label", "exact", "close", "sig4"),
    [
        ("0.3207250134192807745", "0.3207250134192807745837020884", True, True, True),
        ("0.3207", "0.3207250134192807745837020884", False, True, True),
        ("0.3217", "0.3207250134192807745837020884", False, True, False),
        ("-0.5556", "-0.5555555555555556", False, True, True),
        ("0.5556", "-0.5555555555555556", False, False, False),
        ("9999999.0", "9999999.0000", True, True, True),
        ("1000005.0", "1000000.0", False, True, True),
        ("1000015.0", "1000000.0", False, False, True),
        ("1001000.0", "1000000.0", False, False, False),
        ("0.01", "0", False, True, False),
        ("0.0", "0", True, True, True),
        ("2.769E+34", "2.769155521409239378157128235E+34", False, False, True),
        ("2.769155521409239378157128235E+34", "2.769155521409239378157128235E+34", True, True, True),
        ("1E-30", "2.429505441737821253692345254E-28", False, True, False),
        ("-5/9", "-0.5555555555555556", True, True, True),
        ("2/5", "2/5", True, True, True),
        ("4/10", "2/5", False, False, False),
        ("0.4", "2/5", False, True, True),
        (r"\boxed{7\sqrt{5}}", r"\boxed{7 \sqrt{5}}", True, True, True),
        ("7", r"\boxed{7\sqrt{5}}", False, False, False),
        ("我不知道", "3", False, False, False),
    ],
)
def test_rules(answer, label, exact, close, sig4):
    assert grade(parse(answer), parse(label)) == {"exact": exact, "close": close, "sig4": sig4}


decimals = st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**15), max_value=10**15)
scientific = st.builds(
    lambda digits, exponent: Decimal(digits).scaleb(exponent),
    st.integers(-(10**27), 10**27).filter(bool),
    st.integers(-60, 60),
)
numbers = st.one_of(decimals, scientific)


@given(numbers)
def test_a_written_number_is_read_back(number):
    for text in (f"{number}", f"{number:e}", f"1 + 2 = {number} 厘米", f"答案：{number}。", f"$\\boxed{{{number}}}$"):
        parsed = parse(text)
        assert parsed is not None
        assert parsed.value == number
        assert grade(parsed, parse(str(number))) == dict.fromkeys(RULES, True)


@given(st.integers(-(10**6), 10**6), st.integers(1, 10**6))
def test_a_fraction_is_read_back(p, q):
    parsed = parse(f"最简化的形式为：{p}/{q}")
    assert (parsed.text, parsed.fraction) == (f"{p}/{q}", True)
    assert grade(parsed, parse(f"{p}/{q}")) == dict.fromkeys(RULES, True)
    assert not any(grade(parse(f"{2 * p}/{2 * q}"), parsed).values())


@given(numbers, st.integers(4, 20), st.sampled_from([ROUND_HALF_EVEN, ROUND_HALF_UP]))
def test_sig4_accepts_every_rounding_to_four_digits_or_more(label, digits, rounding):
    rounded = Context(prec=digits, rounding=rounding).plus(label)
    assert is_right(parse(str(rounded)), parse(str(label)), "sig4")


@given(scientific, st.integers(1, 5000), st.sampled_from([-1, 1]))
def test_sig4_refuses_a_whole_unit_of_the_fourth_digit(label, units, sign):
    wrong = Context(prec=80).add(label, sign * Decimal(units).scaleb(label.adjusted() - 3))
    assert not is_right(parse(str(wrong)), parse(str(label)), "sig4")


@given(scientific, scientific, st.integers(-20, 20))
def test_sig4_does_not_depend_on_the_power_of_ten(answer, label, power):
    shifted = is_right(parse(str(answer.scaleb(power))), parse(str(label.scaleb(power))), "sig4")
    assert shifted == is_right(parse(str(answer)), parse(str(label)), "sig4")


@given(numbers, numbers)
def test_exact_implies_the_other_rules(answer, label):
    # a float has 53 bits: equal floats differ by less than a part in 2**52, far inside both tolerances
    near = Context(prec=19, rounding=ROUND_DOWN).plus(label)
    for guess in (answer, near):
        right = grade(parse(str(guess)), parse(str(label)))
        if right["exact"]:
            assert right["close"]
            assert right["sig4"]


@given(decimals, st.decimals(min_value=0, max_value=1, places=4))
def test_close_is_the_published_tolerance(label, share):
    tolerance = Decimal("0.01") + Decimal("0.00001") * abs(label)
    wide = Context(prec=60)
    inside = wide.add(label, wide.multiply(tolerance, share))
    outside = wide.add(label, wide.multiply(tolerance, Decimal("1.0001") + share))
    assert is_right(parse(str(inside)), parse(str(label)), "close")
    assert not is_right(parse(str(outside)), parse(str(label)), "close")


@given(st.text(max_size=200))
def test_any_text_is_parsed_or_not_but_never_fails(text):
    parsed = parse(text)
    assert parsed is None or parsed.text
    if parsed is not None:
        assert grade(parsed, parsed) == dict.fromkeys(RULES, True)


@given(st.text(alphabet="0123456789.-+/eE=×^{}\\boxedfrac答案： 平方厘米#\n", max_size=60))
def test_number_soup_never_fails(text):
    parsed = parse(text)
    assert parsed is None or isinstance(grade(parsed, parse("1.5"))["close"], bool)
