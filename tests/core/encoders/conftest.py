import pytest
from torch import nn

from tests.core.encoders import laion


@pytest.fixture(scope="session")
def laion_tower() -> nn.Module:
    return laion.tower()
