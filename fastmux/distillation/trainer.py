"""Train a student on its original's outputs: the Hugging Face Trainer with a loss of its own."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

from fastmux.distillation.attention import attention_in_float32
from fastmux.distillation.teacher import TeacherOutputs, captured_states, logits_of, pad_rows
from fastmux.models.heads import TMuxForSequenceClassification, TMuxForTokenClassification
from fastmux.models.problems import Problem

#: The data set's column with the number of each row in the teacher's outputs.
ROW = "row"


class TeacherCollator:
    """Pads rows to a batch and adds the original's outputs for them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, teacher: TeacherOutputs):
        self.tokenizer, self.teacher = tokenizer, teacher

    def __call__(self, features: list[dict]) -> dict[str, Tensor]:
        inputs = [{name: v for name, v in row.items() if name not in (ROW, "length")} for row in features]
        batch = dict(pad_rows(inputs, self.tokenizer))
        return batch | self.teacher.batch([row[ROW] for row in features])


def distillation_loss(
    states: Tensor,
    teacher_states: Tensor,
    logits: Tensor | None,
    teacher_logits: Tensor | None,
    attention_mask: Tensor | None,
    *,
    problem: Problem,
    state_variance: float,
    logit_variance: Tensor | None = None,
    state_weight: float = 1.0,
) -> Tensor:
    """``D(original || student) + w MSE(states) / variance``, over all positions but padding (Hinton et al., 2015,
    section 2; TinyBERT, Jiao et al., 2020, section 3.1).

    D depends on the kind of labels: the Kullback-Leibler divergence of the softmax, or of all sigmoids, or for a
    regression the squared error over the variance of the original's outputs.

    Args:
        states, teacher_states: The states, (B, L, d), or (B, 1, d) of the first position.
        logits, teacher_logits: The logits, (B, C), or (B, L, C) of tokens; None without a head.
        attention_mask: The mask, (B, L), 0 at padding.
        problem: The kind of labels, one of `fastmux.models.problems.PROBLEMS`.
        state_variance: The variance of the original's states, by which the second term is divided.
        logit_variance: The variance of a regression's outputs, (C), by which the first term is divided; see
            `Problem.variance`.
        state_weight: The weight w of the second term.
    """
    kept = attention_mask != 0 if attention_mask is not None and states.shape[1] > 1 else None
    loss = states.new_zeros((), dtype=torch.float32)
    if state_weight:  # without, states may have another width, and be of the first position alone
        same = (states.float(), teacher_states) if kept is None else (states[kept].float(), teacher_states[kept])
        loss = state_weight * F.mse_loss(*same) / state_variance
    if logits is not None and teacher_logits is not None:
        if logits.dim() == 3 and kept is not None:
            logits, teacher_logits = logits[kept], teacher_logits[kept]
        loss = loss + problem.divergence(logits, teacher_logits, variance=logit_variance)
    return loss


def states_and_logits(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """What a student says of a batch: its last states before the head, (B, L, d) or (B, 1, d) of the first position,
    and its logits, None without a head. The states of a T-MUX are the demultiplexed ones.

    Args:
        model: The student. A T-MUX reads the first position, ``sequence_summary="first"``, or every one.
        inputs: Its inputs, rows padded on the right.
    """
    if isinstance(model, (TMuxForSequenceClassification, TMuxForTokenClassification)):
        first = isinstance(model, TMuxForSequenceClassification)
        mux = model.tmux.encode(**inputs, summary_only=first)
        # Not by the op that computes logits and never writes the states.
        states = model.tmux.demultiplex(mux, mux.summary if first else mux.content)
        logits = model.classifier(states)
        return states, logits.squeeze(1) if first else logits
    with captured_states(model) as captured:
        outputs = model(**inputs)
    return captured[-1], logits_of(outputs)


class DistillationTrainer(Trainer):
    """The Trainer, with `distillation_loss` in place of the model's own."""

    def __init__(
        self,
        *args,
        problem: Problem,
        state_variance: float,
        logit_variance: Tensor | None = None,
        state_weight: float = 1.0,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.terms = {
            "problem": problem,
            "state_variance": state_variance,
            "logit_variance": logit_variance,
            "state_weight": state_weight,
        }
        self.model_accepts_loss_kwargs = False

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        teacher_states, teacher_logits = inputs.pop("teacher_states"), inputs.pop("teacher_logits", None)
        # Accelerate casts in the model's forward, which a T-MUX's states do not come from. (What is computed again for
        # the backward is outside the context, and must be the same.)
        float32 = attention_in_float32(self.args.bf16 and not self.args.gradient_checkpointing)
        with self.accelerator.autocast(), float32:
            states, logits = states_and_logits(self.accelerator.unwrap_model(model), inputs)
        mask = inputs.get("attention_mask")
        loss = distillation_loss(states, teacher_states, logits, teacher_logits, mask, **self.terms)
        return (loss, {"logits": logits}) if return_outputs else loss

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self._prepare_inputs(inputs)
        with self.compute_loss_context_manager():
            return self.compute_loss(model, inputs).detach(), None, None
