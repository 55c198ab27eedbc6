#!/usr/bin/env bash
# transformers 5.24.0: BertForTokenClassification takes any keyword, so Trainer concludes that its loss is divided by
# num_items_in_batch, and does not divide by gradient_accumulation_steps itself. The model ignores the number and
# averages over its own micro-batch: the gradient of one optimizer step is a sum of averages. With the same eight rows
# to a step, k micro-batches give k times the loss and k times the gradient norm. Clipping cuts more, SGD steps are k
# times longer, and reported losses are not comparable between accumulation settings.
# Until that changes, pass Trainer a compute_loss_func that divides by num_items_in_batch.
set -euo pipefail
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" && python="$work/venv/bin/python"
"$python" -m pip install --quiet torch==2.13.0+cpu numpy 2>"$work/log" || "$python" -m pip install --quiet torch==2.13.0 numpy
"$python" -m pip install --quiet transformers==5.24.0 accelerate==1.15.0

cd "$work" && HF_HUB_OFFLINE=1 "$python" - <<'PY'
import sys

import torch
import transformers
from transformers import BertConfig, BertForTokenClassification, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

print("torch", torch.__version__, "transformers", transformers.__version__)
transformers.logging.set_verbosity_error()
torch.manual_seed(0)
sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
config = BertConfig(vocab_size=50, num_labels=3, **sizes, **no_dropout)
start = BertForTokenClassification(config).state_dict()
# Every row has six labels, so that an average of averages is the average over all.
rows = [{"input_ids": torch.randint(0, 50, (6,)), "labels": torch.randint(0, 3, (6,))} for _ in range(8)]
norms = []
for size, steps in ((8, 1), (4, 2), (2, 4)):
    model = BertForTokenClassification(config)
    model.load_state_dict(start)
    arguments = TrainingArguments(
        "out",
        per_device_train_batch_size=size,
        gradient_accumulation_steps=steps,
        max_steps=1,
        logging_steps=1,
        max_grad_norm=1e9,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = Trainer(model, arguments, train_dataset=rows)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    logged = next(entry for entry in trainer.state.log_history if "grad_norm" in entry)
    norms.append(logged["grad_norm"])
    print(f"{size} rows x {steps} micro-batches: loss {logged['loss']:.4f}, gradient norm {logged['grad_norm']:.4f}")
ratios = [norm / norms[0] for norm in norms]
print("gradient norms as multiples of the first:", [round(ratio, 3) for ratio in ratios], "right is [1.0, 1.0, 1.0]")
if any(abs(ratio - expected) > 0.01 for ratio, expected in zip(ratios, (1, 2, 4))):
    sys.exit("transformers behaves differently from what is written above")
PY
