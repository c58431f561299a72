import gc
import logging
import os
import re

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
# A busy machine is no failure of ours.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

LIBRARIES = ("transformers", "huggingface_hub", "datasets", "accelerate")
# What a message says of what will go away → why it is not our doing.
EXCEPTIONS: dict[str, str] = {}


class _Deprecations(logging.Handler):
    """Keeps what libraries log about things that they will take away; they do not always warn."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record):
        text = record.getMessage()
        if re.search(r"deprecat|will be removed|no longer be supported", text, re.I):
            self.messages += [text] * (not any(known in text for known in EXCEPTIONS))


@pytest.fixture(autouse=True, scope="module")
def what_is_loaded_by_now_is_no_garbage():
    """Every training of a `Trainer` collects garbage: a third of a second, spent on the libraries that are loaded."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_deprecations_are_logged():
    """Fails a test during which a library below us says that something it does will go away."""
    handler = _Deprecations()
    for name in LIBRARIES:
        logging.getLogger(name).addHandler(handler)
    yield
    for name in LIBRARIES:
        logging.getLogger(name).removeHandler(handler)
    assert not handler.messages, f"deprecated: {handler.messages}"
