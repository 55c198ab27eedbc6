"""Run by test_resuming and test_killed_embedding: labels or embeds rows in processes that are killed at random moments.

    python killed.py MODEL INPUT FOLDER SEED KILLS [embed]

In every format of the command's `CASES` so many processes are killed, each a few milliseconds after a random one of
its file operations, or at a random moment of its run; another one then runs to its end. A run that was faster than its
end leaves an output too, and the next one begins anew.
"""

from __future__ import annotations

import random
import signal
import sys
from pathlib import Path

#: Ending of the output, and processes that tokenise; they import this file, which is why it imports little by itself.
CASES = {"predict": ((".jsonl", 0), (".parquet", 0), (".csv", 1)), "embed": ((".npy", 0), (".parquet", 1))}

if __name__ == "__main__":
    from killing import in_child, killed_after
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    import fastmux
    from fastmux.embedding.model import load_embedding_model

    name, rows, folder, seed, kills = sys.argv[1], sys.argv[2], Path(sys.argv[3]), *map(int, sys.argv[4:6])
    command = sys.argv[6] if len(sys.argv) > 6 else "predict"
    call = getattr(fastmux, command)
    if command == "embed":
        model, tokenizer = load_embedding_model(name)
    else:
        model = AutoModelForSequenceClassification.from_pretrained(name)
        tokenizer = AutoTokenizer.from_pretrained(name)
    call(model, ["w1"], tokenizer=tokenizer, num_workers=0)  # what is imported late is imported now
    rng = random.Random(seed)

    def label(output: Path, workers: int, operations: int = 0, seconds: float = 0.0) -> None:
        if operations:
            killed_after(folder, operations, seconds)
        elif seconds:
            signal.setitimer(signal.ITIMER_REAL, seconds)
        options = {"rows_per_shard": 16, "num_workers": workers, "disable_tqdm": True}
        call(model, rows, output, tokenizer=tokenizer, **options)

    for ending, workers in CASES[command]:
        finished = killed = 0
        while True:
            output = folder / f"{finished}-rows{ending}"
            moment = (rng.randint(1, 60), rng.uniform(1e-6, 3e-3)) if rng.random() < 0.7 else (0, rng.uniform(0.01, 1))
            last = killed == kills
            if in_child(lambda o=output, w=workers, m=moment, last=last: label(o, w, *(() if last else m))) == 0:
                finished += 1
                if last:
                    break
            else:
                killed += 1
        print(f"{ending}: killed {killed} times, finished {finished} times", flush=True)
