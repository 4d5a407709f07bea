"""Packed rows on mindformers' Llama; imported after :func:`backends.ascend.device.start`.

A packed row holds several conversations end to end (`mindrecord.tokens.pack.pack_rows`); a token may look back as far
as the BOS of its own. Three roads in mindformers 1.9.0 do not lead there: its loader's ``eod_reset`` gives up the
labels, so that questions would be trained on, and resets at every end token, those between turns too; the mask that
it makes, or any other given as ``attention_mask``, is cast to uint8 and without flash attention added to the scores,
where 0 and 1 hide nothing; ``actual_seq_len`` needs flash attention. So the model makes the mask itself, from the
ids.

Positions need no reset: rotary attention depends on the distance of two tokens only (Su et al. 2021, RoFormer, §3.2.2).
"""

from __future__ import annotations

from mindformers import LlamaConfig, LlamaForCausalLM
from mindformers.tools.register import MindFormerModuleType, MindFormerRegister
from mindspore import Tensor, nn, ops
from mindspore.common import dtype as mstype

# as ``arch.type`` of a mindformers configuration; weights have the same names as without
PACKED_MODEL = "PackedLlamaForCausalLM"


class OwnRowMask(nn.Cell):
    """mindformers' causal mask, and beyond it: a token sees none before its own row's BOS.

    Args:
        causal: mindformers' mask of earlier tokens that are not the pad, [b, 1, s, s]; 1 where flash attention must
            not look, or what is added to the scores there.
        bos_id: the id that begins each row.
    """

    def __init__(self, causal: nn.Cell, bos_id: int):
        super().__init__()
        self.causal = causal
        self.bos_id = bos_id
        self.dtype = causal.dtype
        self.hidden = Tensor([1.0], causal.dtype) if causal.use_flash_attention else causal.multiply_data

    def construct(self, tokens: Tensor) -> Tensor:
        """Return the mask of ``tokens`` int32 [b, s], as mindformers' own is: same shape, same dtype."""
        mask = self.causal(tokens)
        row = ops.cumsum(ops.cast(ops.equal(tokens, self.bos_id), mstype.float32), 1)  # float32 counts to 2 ** 24
        other = ops.not_equal(ops.expand_dims(row, 2), ops.expand_dims(row, 1))
        other = ops.expand_dims(ops.cast(other, self.dtype), 1)
        return ops.cast(ops.cast(mask, self.dtype) * (1 - other) + self.hidden * other, mask.dtype)


@MindFormerRegister.register(MindFormerModuleType.MODELS)
class PackedLlamaForCausalLM(LlamaForCausalLM):
    """``LlamaForCausalLM`` for training on packed rows; on rows of one conversation it computes the same.

    Raises:
        ValueError: a setting takes the mask away from the model.
    """

    def __init__(self, config: LlamaConfig = None):
        for name in ("use_attn_mask_compression", "use_eod_attn_mask_compression", "use_ring_attention", "use_past"):
            if getattr(config, name, False):
                raise ValueError(f"{name} is on; packed rows need it off")
        if config.parallel_config.seq_split_num > 1:
            raise ValueError("seq_split_num is more than 1; packed rows need whole sequences")
        super().__init__(config)
        self.model.casual_mask = OwnRowMask(self.model.casual_mask, config.bos_token_id)
