#!/usr/bin/env bash
# mindformers 1.9.0, metric EmF1Metric: a right answer can score an exact match of 100 and an F1 of 0 at once.
#
# SQuAD 2.0 has questions without an answer, for which the right reply is an empty text. For an empty prediction and
# an empty reference the metric reports Em 100 and F1 0, so that on a set of such questions F1 lies below the exact
# match, which no pair of texts should do. The clean-up before comparing is uneven as well: a full stop of Chinese
# text is taken off ("巴黎。" equals "巴黎"), one of English text is not ("Paris." against "Paris": F1 66.7, Em 0).
# One would expect 100 and 100 for two empty texts, as SQuAD's rule says, and one treatment for both full stops.
# It matters to whoever compares scores across frameworks: the same predictions score differently here than under
# SQuAD's own rules, and how far depends on the share of unanswerable questions and the language.
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
export TMPDIR="$work" GLOG_v=3
python3.11 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet mindspore==2.9.0 mindformers==1.9.0 numpy==1.26.4
cd "$work"

"$work/venv/bin/python" -I - <<'PY' 2>"$work/errors" || { status=$?; tail -n 5 "$work/errors" >&2; exit "$status"; }
import contextlib
import io
import logging
from importlib.metadata import version

logging.disable(logging.INFO)  # mindformers prints many notices; its warnings stay

import mindspore
from mindformers.core.metric import EmF1Metric


def score(prediction, reference):
    """F1 and exact match of one pair, in percent; the metric's own printing is kept off the screen."""
    metric = EmF1Metric()
    metric.clear()
    with contextlib.redirect_stdout(io.StringIO()):
        metric.update([prediction], [reference])
        result = metric.eval()
    return round(float(result["F1"]), 1), round(float(result["Em"]), 1)


expected = {("Paris", "Paris"): (100.0, 100.0), ("", ""): (0.0, 100.0)}
expected |= {("Paris.", "Paris"): (66.7, 0.0), ("巴黎。", "巴黎"): (100.0, 100.0)}
found = {pair: score(*pair) for pair in expected}
print("mindformers", version("mindformers"), "mindspore", mindspore.__version__)
for (prediction, reference), (f1, exact) in found.items():
    print(f"prediction {prediction!r}, reference {reference!r}: F1 {f1}, Em {exact}")
as_measured = found == expected
print("behaviour as described" if as_measured else "BEHAVIOUR HAS CHANGED")
raise SystemExit(0 if as_measured else 1)
PY
