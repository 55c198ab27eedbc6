"""CUDA graphs without a GPU: functions that run again on what their tensors hold."""

from __future__ import annotations

import contextvars


class FakeGraphs:
    """Counts captures and launches. A launch spoils what other graphs wrote, as they share their memory."""

    def __init__(self, works: bool = True):
        self.works, self.results, self.launched = works, [], []

    def capture(self, run):
        if not self.works:
            raise RuntimeError("operation not permitted when stream is capturing\nand more lines")
        number, result, context = len(self.results), run(), contextvars.copy_context()
        self.results.append(result)

        def launch():
            self.launched.append(number)
            for other in self.results:
                other.fill_(float("nan"))
            result.copy_(context.run(run))  # with what was held at the capture

        return launch, result
