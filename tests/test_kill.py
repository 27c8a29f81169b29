import pytest
from kills import kill_and_go_on


@pytest.mark.slow
def test_a_chain_killed_at_twenty_moments_ends_like_an_unbroken_one(photos, backbone, tmp_path):
    assert kill_and_go_on(photos, backbone, tmp_path, kills=20, seed=0) >= 1
