"A refinement step that takes its time, and functions that refine with it in a process of their own."

import signal
import time
from pathlib import Path

from wsss_nb.pipeline.folders import refine_folder
from wsss_nb.pipeline.masks import refine_run
from wsss_nb.refine.state import StepConfig
from wsss_nb.run.store import RunStore


class Slow(StepConfig, kind="slow"):
    "Wait, then flip the scores."

    seconds: float = 0.01

    def build(self, context):
        def step(seed):
            time.sleep(self.seconds)
            return seed.with_scores(seed.scores[:, :, ::-1])

        return step


def in_store(store: Path, chain: str):
    "Refine the only run of a store."
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it otherwise
    refine_run(next(iter(RunStore(store))), chain, device="cpu", workers=2)


def in_folders(images: Path, masks: Path, chain: str, out: Path):
    "Refine a folder of masks."
    refine_folder(images, masks, chain, out, "cpu", 2)
