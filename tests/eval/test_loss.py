"""The loss of held-out text: which passages, what a token costs, going on after a kill, and the gate on its rise."""

import json
import math
import random
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.common.errors import GateNotPassed, UsageError, UserError
from converters.text.template import get_template
from eval.loss import __main__ as command
from eval.loss.task import LossTask, read_passages
from eval.results import mean_per_unit, t_quantile
from eval.retention import __main__ as retention_command
from eval.retention import retention
from eval.retention.losses import Rise
from eval.run import grade_predictions


def losses(folder, pairs, *, keep_rows=True, **identity):
    """Write what eval.loss writes, from ``(nats, tokens)`` of every passage."""
    folder.mkdir()
    task = LossTask()
    rows = [{"idx": i, "id": f"p{i}", "prompt": "t", **task.measured_row(*pair)} for i, pair in enumerate(pairs)]
    path = folder / "predictions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    same = {"data": "d1", "labels": "l1", "rows": len(rows), "backend": "cuda", **identity}
    path.with_suffix(".meta.json").write_text(json.dumps({"complete": True, "identity": same, "data": "book.txt"}))
    grade_predictions(task, path, out=folder)
    if not keep_rows:
        path.unlink()
    return folder


class TestPassages:
    def test_of_a_text_lie_between_empty_lines(self, tmp_path):
        path = tmp_path / "book.txt"
        path.write_text("\n\nOne line.\nTwo lines.\n \t\n\nAnother.\n\n")
        assert read_passages(path) == [("1", "One line.\nTwo lines."), ("2", "Another.")]

    def test_of_a_reading_set_come_once_each(self, small):
        assert [text for _, text in read_passages(small)] == [
            "Ann has 3 cats. Ben has a dog.",
            "The fair is in May.",
            "Oakdale lies on the Alder.",
        ]

    def test_of_rows_stand_under_text(self, tmp_path):
        path = tmp_path / "rows.jsonl"
        path.write_text('{"text": "One."}\n{"text": " "}\n{"id": "b", "text": "Two."}\n')
        assert read_passages(path) == [("1", "One."), ("b", "Two.")]

    @pytest.mark.parametrize(
        ("name", "text", "error", "message"),
        [
            ("a.txt", "\n\n \n", UsageError, "a.txt: no passage in it"),
            ("a.jsonl", '{"text": "a"}\n{"story": "b"}\n', UserError, "row 2: a text under 'text' .* found story"),
            ("a.jsonl", '{"id": "x", "text": "a"}\n' * 2, UserError, "the id x is there twice"),
            ("a.json", '{"data": []}', UsageError, "no question in it"),
        ],
    )
    def test_bad_files_say_where_and_what(self, tmp_path, name, text, error, message):
        (tmp_path / name).write_text(text)
        with pytest.raises(error, match=message) as caught:
            read_passages(tmp_path / name)
        assert "\n" not in str(caught.value)

    def test_a_limit_spreads_them_over_the_file(self, tmp_path):
        path = tmp_path / "book.txt"
        path.write_text("\n\n".join(f"Passage {i}." for i in range(10)))
        assert [row.fields["id"] for row in LossTask().read_data(path, 4)] == ["1", "3", "6", "8"]
        assert len(LossTask().read_data(path, 40)) == 10


def test_a_mean_weighs_passages_by_their_tokens():
    mean, error = mean_per_unit([2.0, 12.0, 9.0], [1, 4, 5])
    assert mean == pytest.approx(2.3)
    # 3/2 · (0.3² + 2.8² + 2.5²) / 10², by hand
    assert error == pytest.approx(math.sqrt(1.5 * (0.09 + 7.84 + 6.25)) / 10)
    assert mean_per_unit([2.0], [1]) == (2.0, None)


@pytest.mark.parametrize(("freedom", "exact"), [(3, 3.182446), (5, 2.570582), (10, 2.228139), (59, 2.000995)])
def test_students_quantile_is_near_the_tables(freedom, exact):
    assert t_quantile(freedom) == pytest.approx(exact, rel=5e-3 if freedom < 5 else 5e-4)


def test_the_interval_holds_the_true_rise_as_often_as_it_says():
    # 95 % of 400 is 380; four standard deviations are 17.4
    draw, inside = random.Random(5), 0
    for _ in range(400):
        tokens = [draw.randint(20, 300) for _ in range(40)]
        changes = [n * draw.gauss(0.03, 0.05) for n in tokens]
        mean, error = mean_per_unit(changes, tokens)
        inside += abs(mean - 0.03) <= t_quantile(39) * error
    assert 362 < inside < 396


BEFORE = [(200.0, 100), (450.0, 150), (130.0, 50), (290.0, 100)]


class TestRetention:
    def run(self, before, after, *more):
        return retention_command.main(["--before", str(before), "--after", str(after), *map(str, more)])

    @pytest.fixture
    def before(self, tmp_path):
        return losses(tmp_path / "before", BEFORE)

    def test_the_rise_with_its_paired_interval(self, before, tmp_path, capsys):
        after = losses(tmp_path / "after", [(205.0, 100), (456.0, 150), (133.0, 50), (294.0, 100)])
        assert self.run(before, after, "--out", tmp_path / "out") == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].split() == "task measure n before after rise 95 % gate".split()
        assert lines[2].split()[:7] == ["loss", "nats", "a", "token", "4", "2.6750", "2.7200"]
        assert lines[2].split()[7] == "+0.0450"
        assert lines[4] == "rise of a loss: t interval over passages by their tokens, passages paired"
        assert lines[5] == "loss: no gate; --loss-gate NATS sets one"
        [rise] = retention(before, after).rises
        _, error = mean_per_unit([5.0, 6.0, 3.0, 4.0], [100, 150, 50, 100])
        assert (rise.low, rise.high) == pytest.approx((0.045 - t_quantile(3) * error, 0.045 + t_quantile(3) * error))
        written = json.loads((tmp_path / "out" / "retention.json").read_text())
        assert written["measures"] == []
        assert written["losses"][0]["perplexity_ratio"] == pytest.approx(math.exp(0.045))
        assert written["losses"][0]["passed"] is None
        assert "| loss | nats a token | 4 |" in (tmp_path / "out" / "retention.md").read_text()

    def test_past_the_gate_it_leaves_with_3(self, before, tmp_path, capsys):
        after = losses(tmp_path / "after", [(nats + 0.05 * n, n) for nats, n in BEFORE])
        assert self.run(before, after, "--loss-gate", 0.06) == 0
        assert capsys.readouterr().out.splitlines()[-1] == "loss gate at +0.06 nats a token: passed"
        with pytest.raises(GateNotPassed, match=r"NOT passed: loss 2.7250 > 2.7150$") as caught:
            self.run(before, after, "--loss-gate", 0.04)
        assert caught.value.exit_code == 3

    @given(st.floats(0.1, 10), st.floats(-1, 1))
    def test_the_gate_is_at_its_own_figure(self, before, gate):
        assert Rise("loss", 9, before, before + gate, None, None, False).passed(gate)
        assert not Rise("loss", 9, before, before + gate + 1e-9, None, None, False).passed(gate)

    def test_a_gate_inside_the_interval_is_said(self, before, tmp_path, capsys):
        after = losses(tmp_path / "after", [(250.0, 100), (450.0, 150), (130.0, 50), (290.0, 100)])
        assert self.run(before, after, "--loss-gate", 0.2) == 0
        assert "loss: 0.2 lies in the interval; more passages would settle it" in capsys.readouterr().out

    def test_without_the_rows_the_interval_is_wider_and_said(self, before, tmp_path, capsys):
        changed = [(nats + 4, n) for nats, n in BEFORE]
        [paired] = retention(before, losses(tmp_path / "a", changed)).rises
        [loose] = retention(before, losses(tmp_path / "b", changed, keep_rows=False)).rises
        assert (paired.paired, loose.paired) == (True, False)
        assert loose.high - loose.low > 5 * (paired.high - paired.low)
        self.run(before, tmp_path / "b")
        assert "passages not paired, so wider than need be" in capsys.readouterr().out

    @pytest.mark.parametrize("changes", [{"data": "d2"}, {"labels": "l2"}, {"max_tokens": 8}])
    def test_it_refuses_what_was_not_measured_alike(self, before, tmp_path, changes):
        with pytest.raises(UserError, match="the results differ in"):
            self.run(before, losses(tmp_path / "after", BEFORE, **changes))

    def test_reading_and_loss_in_one_verdict(self, before, tmp_path, capsys):
        from report_run import squad_results

        same = {"checkpoint": "c", "base": None}
        squad_results(tmp_path / "reading-before", 46, same)
        squad_results(tmp_path / "reading-after", 44, same)
        worse = losses(tmp_path / "worse", [(nats + 0.3 * n, n) for nats, n in BEFORE])
        capsys.readouterr()
        words = ["--before", before, tmp_path / "reading-before", "--after", tmp_path / "reading-after", worse]
        assert retention_command.main([str(word) for word in words]) == 0
        said = capsys.readouterr().out.splitlines()
        assert said[0].split()[5] == "ratio"
        assert said[5].split()[5] == "rise"
        assert said[-1] == "retention at 0.9: passed; loss: no gate; --loss-gate NATS sets one"
        with pytest.raises(GateNotPassed, match=r"retention at 0.9: passed; loss gate at \+0.1 .* NOT passed"):
            retention_command.main([str(word) for word in [*words, "--loss-gate", "0.1"]])
        with pytest.raises(UserError, match="no results of loss to compare it with"):
            retention_command.main([str(word) for word in words[:-1]])

    def test_a_gate_without_a_loss_is_refused(self, tmp_path):
        from report_run import squad_results

        squad_results(tmp_path / "reading", 46, {"checkpoint": "c", "base": None})
        with pytest.raises(UsageError, match="none of the results holds a loss"):
            self.run(tmp_path / "reading", tmp_path / "reading", "--loss-gate", 0.1)


@pytest.mark.backend
class TestWithAModel:
    @pytest.fixture
    def text(self, tmp_path):
        path = tmp_path / "book.txt"
        path.write_text("\n\n".join(f"Passage {i}: {'the answer is ' * (i + 1)}{i}." for i in range(5)))
        return path

    def measure(self, model, text, out, *more):
        words = ["--ckpt", model, "--data", text, "--out", out, "--device", "cpu", *more]
        assert command.main([str(word) for word in words]) == 0
        return [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]

    def test_it_is_what_the_model_gives_every_token(self, tiny_llama, text, tmp_path, capsys):
        import torch
        from transformers import AutoTokenizer, LlamaForCausalLM

        rows = self.measure(tiny_llama, text, tmp_path / "out")
        model, tokenizer = LlamaForCausalLM.from_pretrained(tiny_llama), AutoTokenizer.from_pretrained(tiny_llama)
        for row in rows:
            ids = torch.tensor([[0, *tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]]])
            with torch.no_grad():
                # the mean of transformers' own loss over all tokens but the first, BOS
                expected = model(ids, labels=ids).loss.item()
            found = row["scores"]["loss"]
            assert found["tokens"] == ids.shape[1] - 1
            assert found["nats"] / found["tokens"] == pytest.approx(expected, abs=1e-5)
        results = json.loads((tmp_path / "out" / "results.json").read_text())
        entry = results["results"]["loss"]
        total = [sum(row["scores"]["loss"][key] for row in rows) for key in ("nats", "tokens")]
        assert entry["nats,none"] == pytest.approx(total[0] / total[1])
        assert entry["perplexity,none"] == pytest.approx(math.exp(total[0] / total[1]))
        assert results["higher_is_better"] == {"loss": {"nats": False}}
        assert "template" not in results["hashes"]
        assert results["configs"]["loss"]["output_type"] == "loglikelihood_rolling"

        # the file alone gives the same figures
        said = capsys.readouterr().out
        command.main(["--predictions", str(tmp_path / "out" / "predictions.jsonl")])
        assert capsys.readouterr().out == said

    def test_the_template_of_a_run_changes_nothing(self, tiny_llama, text, tmp_path, capsys):
        model = tmp_path / "model"
        shutil.copytree(tiny_llama, model)
        (model / "template.json").write_text(json.dumps(get_template("vicuna").to_json()))
        plain = self.measure(tiny_llama, text, tmp_path / "a")
        assert self.measure(model, text, tmp_path / "b") == plain
        assert "vicuna" not in capsys.readouterr().err
        assert retention_command.main(["--before", str(tmp_path / "a"), "--after", str(tmp_path / "b")]) == 0

    def test_long_passages_are_measured_up_to_a_limit(self, tiny_llama, text, tmp_path):
        rows = self.measure(tiny_llama, text, tmp_path / "out", "--max-tokens", 12)
        assert {row["scores"]["loss"]["tokens"] for row in rows} == {11}
        with pytest.raises(UsageError, match="--max-tokens 1: at least 2"):
            self.measure(tiny_llama, text, tmp_path / "x", "--max-tokens", 1)

    def test_it_goes_on_and_refuses_to_mix(self, tiny_llama, text, tmp_path, capsys):
        out = tmp_path / "out"
        rows = self.measure(tiny_llama, text, out)
        (out / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[1:3]) + '{"idx": 4')
        assert self.measure(tiny_llama, text, out) == rows
        assert "2 of 5 rows are there already, 3 to go" in capsys.readouterr().err
        with pytest.raises(UserError, match="made with max_tokens 1024, not 9"):
            self.measure(tiny_llama, text, out, "--max-tokens", 9)
