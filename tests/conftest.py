"""One thread per test process: the tensors are tiny, and threads cost more than they bring."""

import torch

torch.set_num_threads(1)
