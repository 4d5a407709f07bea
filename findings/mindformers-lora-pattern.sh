#!/usr/bin/env bash
# mindformers 1.9.0: a wider target_modules pattern puts LoRA on fewer layers, or on none, without a warning.
#
# target_modules is a regular expression. On a Llama model "w" reaches all seven linear layers (wq, wk, wv, wo, w1,
# w2, w3). ".*w" matches everything that "w" matches and more, yet reaches only the four of attention; ".*attention.*"
# reaches none. The reason: the pattern is tried on the own name of each cell from the outside in, and a container
# that matches is passed over with all that it holds. ".*w" matches "feed_forward" (the w of "forward"), so w1, w2
# and w3 are never looked at. One would expect a pattern that matches more names to reach at least as many layers, or
# a message that names the layers left out.
# It matters to whoever writes one recipe for two frameworks and compares the adapters: the model is built without a
# complaint, and the adapter has fewer tensors than its partner, or none.
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
from mindformers.models.llama import LlamaConfig, LlamaForCausalLM
from mindformers.pet import get_pet_model

ms.set_context(mode=ms.PYNATIVE_MODE, device_target="CPU")
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_layers": 1, "num_heads": 2, "vocab_size": 64}
MODES = {
    "seq_length": 16, "use_flash_attention": False, "fused_rms_norm": False, "param_init_type": "float32",
}
EXPECTED = {
    "w": ["w1", "w2", "w3", "wk", "wo", "wq", "wv"],
    "wq|wv": ["wq", "wv"],
    ".*w": ["wk", "wo", "wq", "wv"],
    ".*attention.*": [],
}
found = {}
for pattern in EXPECTED:
    settings = {"pet_type": "lora", "lora_rank": 4, "lora_alpha": 8, "target_modules": pattern}
    model = get_pet_model(LlamaForCausalLM(LlamaConfig(**SIZES, **MODES)), settings)
    names = [parameter.name for parameter in model.trainable_params() if "delta_lora_a" in parameter.name]
    found[pattern] = sorted(name.split(".")[-2] for name in names)
print("mindformers", version("mindformers"), "mindspore", ms.__version__)
for pattern, layers in found.items():
    print(f"target_modules {pattern!r:16} reaches {len(layers)} of 7 layers: {' '.join(layers) or 'none'}")
as_measured = found == EXPECTED
print("behaviour as described" if as_measured else "BEHAVIOUR HAS CHANGED")
raise SystemExit(0 if as_measured else 1)
PY
