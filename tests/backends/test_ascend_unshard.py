"""The pieces of several cards become one file of whole weights."""

import numpy as np
import pytest

from backends.ascend.__main__ import main
from backends.weights.mindspore_ckpt import CkptWriter, open_weights
from backends.weights.safetensors_files import ShardWriter
from converters.common.errors import UsageError, UserError

pytestmark = pytest.mark.backend

RANKS = 4
# which axis is cut; None: every rank has the whole
AXES = {
    "model.tok_embeddings.embedding_weight": None,
    "model.layers.0.attention.wq.weight": 0,
    "model.layers.0.attention.wo.weight": 1,
    "model.layers.0.attention.wq.mindpet_delta_lora_a": None,
    "model.layers.0.attention.wq.mindpet_delta_lora_b": 0,
    "model.norm_out.weight": None,
}
SHAPES = {
    "model.tok_embeddings.embedding_weight": (10, 8),
    "model.layers.0.attention.wq.weight": (8, 8),
    "model.layers.0.attention.wo.weight": (8, 8),
    "model.layers.0.attention.wq.mindpet_delta_lora_a": (2, 8),
    "model.layers.0.attention.wq.mindpet_delta_lora_b": (8, 2),
    "model.norm_out.weight": (8,),
}
MOMENT = "adam_m.model.layers.0.attention.wq.mindpet_delta_lora_b"


def write_strategy(path, axes):
    """A strategy file as MindSpore writes it: devices [1, 4], and which of them an axis lies over."""
    from mindspore.train.node_strategy_pb2 import ParallelStrategyMap

    strategies = ParallelStrategyMap()
    strategies.current_stage = 0
    item = strategies.parallel_strategy_item.add()
    item.node_name = "MatMul"
    item.parallel_strategys.stage = 0
    item.parallel_strategys.parallel_strategy.add().dim.append(1)
    for name, axis in axes.items():
        layout = strategies.parallel_layout_item.add()
        layout.param_name = name
        layout.parallel_layouts.field = 0
        layout.parallel_layouts.opt_weight_shard_step = 0
        layout.parallel_layouts.opt_weight_shard_size = 0
        layout.parallel_layouts.dev_matrix.add().dim.extend([1, RANKS])
        dims = [-1] * len(SHAPES.get(name, SHAPES[name.removeprefix("adam_m.")] if name.startswith("adam_m.") else ()))
        if axis is not None:
            dims[axis] = 0
        layout.parallel_layouts.tensor_map.add().dim.extend(dims)
        layout.parallel_layouts.param_split_shape.add()
        layout.parallel_layouts.indices_offset.add()
    path.write_bytes(strategies.SerializeToString())


@pytest.fixture
def pieces(tmp_path):
    """Write the checkpoints of four ranks; returns their folder and the whole weights."""

    def write(kind, several=True):
        pytest.importorskip("mindspore")
        draw = np.random.default_rng(0)
        whole = {name: draw.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
        axes = AXES | {MOMENT: 0}
        values = whole | {MOMENT: np.zeros(SHAPES[MOMENT.removeprefix("adam_m.")], np.float32)}
        folder = tmp_path / "checkpoint"
        for rank in range(RANKS):
            place = folder / f"rank_{rank}"
            place.mkdir(parents=True)
            parts = {
                name: value if axes[name] is None else np.split(value, RANKS, axes[name])[rank]
                for name, value in values.items()
            }
            if kind == "ckpt":
                with CkptWriter(place / f"llama_rank_{rank}-5_1.ckpt") as writer:
                    for name, value in parts.items():
                        writer.add(name, value)
            else:
                with ShardWriter(place, max_shard_bytes=None, stem=f"llama_rank_{rank}-5_1") as writer:
                    for name, value in parts.items():
                        writer.add(name, value)
        (tmp_path / "strategy").mkdir()
        for rank in range(RANKS if several else 1):
            write_strategy(tmp_path / "strategy" / f"ckpt_strategy_rank_{rank}.ckpt", axes)
        return folder, whole

    return write


@pytest.mark.parametrize("kind", ["ckpt", "safetensors"])
@pytest.mark.parametrize("several", [True, False])
def test_four_ranks_become_one(pieces, tmp_path, kind, several, capsys):
    folder, whole = pieces(kind, several)
    out = tmp_path / f"whole.{kind}"
    assert main(["unshard", str(folder), "-o", str(out)]) == 0
    joined = open_weights(out)
    assert set(joined.names()) == set(whole)
    for name, value in whole.items():
        assert np.array_equal(joined.read(name), value), name
    assert "6 weights of 4 ranks joined; 1 optimizer copies" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "strategy", out.name]


def test_a_missing_rank_is_named(pieces, tmp_path):
    import shutil

    folder, _ = pieces("ckpt")
    shutil.rmtree(folder / "rank_2")
    with pytest.raises(UserError, match="rank_2 of 4 is missing"):
        main(["unshard", str(folder), "-o", str(tmp_path / "whole.ckpt")])
    (folder / "rank_2").mkdir()
    with pytest.raises(UserError, match=r"rank_2: no \.ckpt or \.safetensors"):
        main(["unshard", str(folder), "-o", str(tmp_path / "whole.ckpt")])


def test_pieces_that_do_not_fit_the_strategy_are_one_line(pieces, tmp_path):
    folder, _ = pieces("ckpt")
    for file in (tmp_path / "strategy").iterdir():
        file.write_bytes(b"\x00nonsense")
    with pytest.raises(UserError, match="MindSpore cannot join the ranks") as error:
        main(["unshard", str(folder), "-o", str(tmp_path / "whole.ckpt")])
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "whole.ckpt").exists()


def test_wrong_use_is_said(tmp_path):
    with pytest.raises(UsageError, match="no such directory"):
        main(["unshard", str(tmp_path / "nowhere"), "-o", str(tmp_path / "whole.ckpt")])
    with pytest.raises(UsageError, match="no rank_0"):
        main(["unshard", str(tmp_path), "-o", str(tmp_path / "whole.ckpt")])
    with pytest.raises(UsageError):
        main(["unshard", str(tmp_path), "-o", str(tmp_path / "whole.bin")])
