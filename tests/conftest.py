"""Settings for all tests, made before torch is imported by any."""

import os

# Some virtual machines announce AMX and then fault on it ("illegal instruction"). The tests stay below it, everywhere.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_FP16")

import torch

# One thread per test process: the tensors are tiny, and threads cost more than they bring.
torch.set_num_threads(1)
