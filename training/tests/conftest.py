"""Settings for all tests, made before torch is imported by any; and the encoded clips that many of them share."""

import os

# Some virtual machines announce AMX and then fault on it ("illegal instruction"). The tests stay below it, everywhere.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_FP16")

import pytest
import torch
from tiny_places import write_dataset
from tiny_run import make_cache

# One thread per test process: the tensors are tiny, and threads cost more than they bring.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def studio(tmp_path_factory):
    """A folder whose `cache` holds the clips of `tiny_config(folder)`; runs go beside it."""
    folder = tmp_path_factory.mktemp("studio")
    make_cache(folder)
    return folder


@pytest.fixture(scope="session")
def written_dataset(tmp_path_factory):
    """A dataset in the released layout, whole; tests that damage it copy it first."""
    return write_dataset(tmp_path_factory.mktemp("dataset"))


def pytest_collection_modifyitems(items):
    """Tests marked slow run when CINESCENE_SLOW=1."""
    if os.environ.get("CINESCENE_SLOW") == "1":
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow: minutes or gigabytes; set CINESCENE_SLOW=1"))
