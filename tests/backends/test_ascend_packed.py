"""Packed rows on MindSpore: the same loss and gradients as one row a conversation."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("mindspore", "mindformers")
pytestmark = [
    pytest.mark.backend,
    pytest.mark.skipif(not all(map(find_spec, NEEDED)), reason=f"needs {' and '.join(NEEDED)}"),
]


# a fresh process: MindSpore's context is global
SCRIPT = """
import json, sys
import numpy as np
from pathlib import Path
from backends.ascend.device import start
start("cpu", threads=1)
import mindspore as ms
import mindspore.dataset
from mindspore import Tensor
from mindformers import LlamaConfig, LlamaForCausalLM
from mindformers.models.build_model import build_model
from mindformers.dataset.causal_language_model_dataset import get_input_data_batch_slice_map
from backends.ascend.train import registered  # puts the packed model into the registry
from backends.ascend.train.config import PACKED_MODEL
from converters.tokenizers.segments import row_offsets
from mindrecord.tokens.encode import TokenRows
from mindrecord.tokens.pack import pack_rows
from mindrecord.file.writer import write_token_rows

S, BOS, END, PAD = 48, 1, 2, 0
draw = np.random.default_rng(0)
lengths = draw.integers(4, 25, 24)
offsets = row_offsets(lengths)
ids = draw.integers(3, 300, offsets[-1]).astype(np.int32)
ids[offsets[:-1]], ids[offsets[1:] - 1] = BOS, END
# an end token within a row, as between two turns
ids[offsets[:-1] + 2] = END
labels = np.where(draw.random(len(ids)) < 0.7, ids, -100).astype(np.int32)
labels[offsets[:-1]] = -100
rows = TokenRows(ids, labels, offsets, [str(i) for i in range(len(lengths))])
packed = pack_rows(rows, S + 1, BOS)

def columns(name, rows):
    file = Path(sys.argv[1]) / name
    write_token_rows(rows, file, seq_length=S, pad_id=PAD, sidecar={})
    data = ms.dataset.MindDataset(str(file), columns_list=["input_ids", "labels"], shuffle=False)
    return next(iter(data.batch(len(rows)).create_tuple_iterator(num_epochs=1)))

config = LlamaConfig(
    batch_size=1, seq_length=S, hidden_size=32, num_layers=2, num_heads=4, n_kv_heads=2, intermediate_size=64,
    vocab_size=300, bos_token_id=BOS, eos_token_id=END, pad_token_id=PAD, ignore_token_id=-100,
    compute_dtype="float32", param_init_type="float32", rotary_dtype="float32", layernorm_compute_type="float32",
    softmax_compute_type="float32", rms_norm_eps=1e-5, theta=10000.0, extend_method="None", use_past=False,
    use_flash_attention=False, max_position_embedding=S, use_rope_slice=True, fused_rms_norm=False,
)

def network(cls):
    net = cls(config)
    net.set_train(True)
    weights = np.random.default_rng(7)
    for parameter in net.get_parameters():
        if parameter.ndim > 1:
            parameter.set_data(Tensor(weights.normal(0, 0.3, parameter.shape).astype(np.float32)))
    return net

def build(config):
    from mindformers.tools.register import MindFormerModuleType, MindFormerRegister
    return MindFormerRegister.get_instance(MindFormerModuleType.MODELS, PACKED_MODEL, config=config)

def measure(net, batch):
    loss, gradients = ms.value_and_grad(net, None, net.trainable_params())(*batch)
    return float(loss.asnumpy()), np.concatenate([g.asnumpy().ravel() for g in gradients])

one, several = columns("one.mindrecord", rows), columns("several.mindrecord", packed)
plain, own = network(LlamaForCausalLM), network(build)
loss, gradient = measure(plain, one)
out = {"rows": len(rows), "packed": len(packed), "unpacked_loss": loss}
out["packed_loss"], its = measure(own, several)
out["packed_gradient"] = float(np.abs(its - gradient).max() / np.abs(gradient).max())
out["padded_loss"] = float(own(*one).asnumpy())
out["unaware_loss"] = float(plain(*several).asnumpy())
# mindformers' own road: the mask of eod_reset
_, _, mask = get_input_data_batch_slice_map(several[0].asnumpy(), END, len(packed))
for name, given in (("eod", mask), ("eod_inverted", 1 - mask)):
    given = Tensor(given[:, None].astype(np.uint8))
    out[name + "_loss"] = float(plain(*several, attention_mask=given).asnumpy())
try:
    config.use_attn_mask_compression = True
    build(config)
except ValueError as error:
    out["refused"] = str(error)
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path_factory.mktemp("packed"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_packed_is_unpacked(found):
    assert found["packed"] < found["rows"] / 2
    assert found["packed_loss"] == pytest.approx(found["unpacked_loss"], rel=1e-5)
    assert found["packed_gradient"] < 1e-4


def test_rows_of_one_conversation_are_not_changed(found):
    assert found["padded_loss"] == pytest.approx(found["unpacked_loss"], rel=1e-6)


def test_the_difference_can_be_seen(found):
    """Without telling rows apart, and with the mask of ``eod_reset``, the loss is another one."""
    for road in ("unaware", "eod", "eod_inverted"):
        assert abs(found[f"{road}_loss"] / found["unpacked_loss"] - 1) > 1e-4


def test_a_mask_made_elsewhere_is_refused(found):
    assert "use_attn_mask_compression is on; packed rows need it off" in found["refused"]


def test_through_the_command_line(tmp_path):
    """One step on conversations, padded, and on the same ones from a packed file: same loss, same gradient norm."""
    talks, file = tmp_path / "talks.jsonl", tmp_path / "packed.mindrecord"
    rows = [{"id": str(i), "instruction": f"计算 {i} + {i * 7}", "output": f"{i * 8}"} for i in range(1, 25)]
    talks.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(module, *words):
        command = [sys.executable, "-m", module, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        assert done.returncode == 0, done.stderr[-2000:]

    options = ["--tokenizer", ROOT / "models" / "tiny", "--template", "bare", "--seq-length", 64, "--pack"]
    run("mindrecord", "write", talks, "-o", file, *options)
    packed = json.loads(file.with_name(file.name + ".json").read_text())["rows"]
    assert packed < 12
    first = []
    for name, batch, data in (
        ("padded", 24, [f"data.train={talks}"]),
        ("packed", packed, ["data.train=[]", f"train_dataset.data_loader.dataset_dir={file}"]),
    ):
        settings = [*data, "model.model_config.seq_length=64", f"runner_config.batch_size={batch}"]
        run("backends.ascend", "train", "yaml/demo.yaml", *settings, f"output_dir={tmp_path / name}", "--device", "cpu")
        first.append(json.loads((tmp_path / name / "train_log.jsonl").read_text().splitlines()[0]))
    padded, packed = first
    assert packed["supervised_tokens"] == padded["supervised_tokens"]
    assert packed["loss"] == pytest.approx(padded["loss"], rel=1e-5)
    assert packed["grad_norm"] == pytest.approx(padded["grad_norm"], rel=1e-4)
