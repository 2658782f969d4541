"""What a run's seconds count: on a CPU the work of its own thread, whatever else the machine does."""

from __future__ import annotations

import time

import torch

from pipeline.clock import clock

CPU = torch.device("cpu")


def test_on_a_cpu_waiting_for_others_does_not_count() -> None:
    now = clock(CPU)
    since = now()
    time.sleep(0.3)
    assert now() - since < 0.1


def test_on_a_cpu_forward_and_backward_passes_count_in_full() -> None:
    layer = torch.nn.Conv2d(32, 32, 3, padding=1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        now = clock(CPU)
        since, work = now(), time.process_time()
        for _ in range(10):
            layer(torch.ones(8, 32, 64, 64)).square().sum().backward()
        counted, work = now() - since, time.process_time() - work
    finally:
        torch.set_num_threads(threads)
    assert counted > 0.8 * work > 0


def test_on_a_gpu_time_that_passes_counts() -> None:
    assert clock(torch.device("cuda")) is time.perf_counter
