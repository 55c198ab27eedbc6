"""Logits of any number of rows, at a speed and accuracy of one's choice."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastmux.models.grouping import average_slots, group_rows, row_order


class PredictsInGroups:
    """`predict`, for models whose ``forward`` returns ``logits`` of rows that share groups."""

    @torch.no_grad()
    def predict(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        *,
        copies: int = 1,
        grouping: str = "in_order",
        seed: int | None = None,
        groups_per_batch: int = 32,
    ) -> Tensor:
        """Logits of any number of rows, in eval mode, at a speed and accuracy of one's choice.

        Args:
            input_ids, attention_mask, token_type_ids: (B, L).
            copies: slots that each row takes, 1 to N; its logits are averaged over them. A group then serves
                N // copies rows.
            grouping: which rows share a group: "in_order", "random" (with ``seed``) or "length" (rows of like length;
                each batch is cut to its longest row).
            groups_per_batch: groups that one pass of the encoder takes.

        Returns:
            (B, C), or (B, L, C) for tokens, 0 where they are padding; in the order of the rows given.

        Raises:
            ValueError: copies or grouping out of range; and as ``forward``.

        Example:
            >>> import torch, fastmux
            >>> from transformers import BertConfig
            >>> tiny = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
            >>> model = fastmux.TMuxForSequenceClassification.from_backbone(tiny, num_instances=4, num_labels=3)
            >>> model.predict(torch.ones(10, 7, dtype=torch.long), copies=2).shape
            torch.Size([10, 3])
        """
        if groups_per_batch < 1:
            raise ValueError(f"groups_per_batch is {groups_per_batch}, expected at least 1")
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        inputs = {name: t for name, t in inputs.items() if t is not None}
        lengths = None if attention_mask is None else _lengths(attention_mask)
        order = row_order(len(input_ids), grouping, seed, lengths)
        slots = group_rows(order, self.config.num_instances, copies)
        modes = {module: module.training for module in self.modules()}
        self.eval()
        try:
            if not len(slots):
                return self(**inputs).logits
            parts = []
            for batch in slots.split(groups_per_batch):
                rows = batch.flatten().to(input_ids.device)
                length = input_ids.shape[1] if lengths is None else max(1, int(lengths[rows].max()))
                logits = self(**{name: t[rows, :length] for name, t in inputs.items()}).logits
                if logits.dim() == 3:
                    logits = nn.functional.pad(logits, (0, 0, 0, input_ids.shape[1] - length))
                parts.append(logits)
        finally:
            for module, training in modes.items():
                module.training = training
        logits = average_slots(torch.cat(parts), slots, len(input_ids))
        if logits.dim() == 3 and attention_mask is not None:
            logits = logits * (attention_mask != 0)[..., None]
        return logits


def _lengths(attention_mask: Tensor) -> Tensor:
    """One more than the last position that is no padding, (B)."""
    positions = torch.arange(1, attention_mask.shape[1] + 1, device=attention_mask.device)
    return ((attention_mask != 0) * positions).amax(1)
