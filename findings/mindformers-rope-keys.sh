#!/usr/bin/env bash
# mindformers 1.9.0 takes the rotary settings of a Hugging Face Llama configuration and computes without them.
#
# A configuration of Llama 3.1 says rope_theta 500000 and rope_scaling with rope_type "llama3". LlamaConfig of
# mindformers accepts both and even hands them back as attributes, but the model turns by the base 10000 and does not
# scale. Its own words are theta, extend_method and scaling_factor, and the value must be written in capitals: "LLAMA3"
# scales, "llama3" (the spelling of Hugging Face) is the same as no scaling. The table of cosines below is bit-equal to
# the plain one in each of these cases, and no warning is given. One would expect the settings to act, or an error
# that says that they do not.
# It matters to whoever moves weights: these settings do not change the name or the shape of any tensor, so all of
# them load, and the model then turns every position by an angle it was not trained with.
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
export TMPDIR="$work" GLOG_v=3
python3.11 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet mindspore==2.9.0 mindformers==1.9.0 numpy==1.26.4
cd "$work"

"$work/venv/bin/python" -I - <<'PY' 2>"$work/errors" || { status=$?; tail -n 5 "$work/errors" >&2; exit "$status"; }
import logging
from importlib.metadata import version

logging.disable(logging.INFO)  # mindformers prints many notices; its warnings stay

import mindspore as ms
import numpy as np
from mindformers.models.llama import LlamaConfig, LlamaForCausalLM

ms.set_context(mode=ms.PYNATIVE_MODE, device_target="CPU")
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_layers": 1, "num_heads": 2, "vocab_size": 64}
MODES = {
    "seq_length": 16, "use_flash_attention": False, "fused_rms_norm": False, "param_init_type": "float32",
    "rotary_dtype": "float32",
}
FACTORS = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8}


def cosines(**rotary):
    """The table of cosines, [positions, head size], and the configuration that led to it."""
    config = LlamaConfig(**SIZES, **MODES, **rotary)
    return LlamaForCausalLM(config).model.freqs_mgr.freqs_cos.asnumpy(), config


plain, _ = cosines()
cases = {
    "rope_theta: 500000": ({"rope_theta": 500000.0}, True),
    "theta: 500000": ({"theta": 500000.0}, False),
    "rope_scaling: {rope_type: llama3}": ({"rope_scaling": {"rope_type": "llama3", **FACTORS}}, True),
    "extend_method: llama3": ({"extend_method": "llama3", "scaling_factor": FACTORS}, True),
    "extend_method: LLAMA3": ({"extend_method": "LLAMA3", "scaling_factor": FACTORS}, False),
}
print("mindformers", version("mindformers"), "mindspore", ms.__version__)
as_measured = True
for name, (rotary, ignored) in cases.items():
    table, config = cosines(**rotary)
    equal = np.array_equal(plain, table)
    kept = all(getattr(config, key, None) is not None for key in rotary)
    print(f"{name:35} kept in the configuration: {kept}, table of cosines: {'as without it' if equal else 'changed'}")
    as_measured = as_measured and kept and equal == ignored
print("behaviour as described" if as_measured else "BEHAVIOUR HAS CHANGED")
raise SystemExit(0 if as_measured else 1)
PY
