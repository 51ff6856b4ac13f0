"""The sentence for a name that does not exist."""

import pytest

from emulation.errors import unknown


@pytest.mark.parametrize(("name", "known", "says"), [
    ("lru_prefech", ("resident", "lru_prefetch", "lru"),
     "unknown policy 'lru_prefech'; did you mean 'lru_prefetch'? (known: lru, lru_prefetch, resident)"),
    ("zzz", ("b", "a"), "unknown policy 'zzz' (known: a, b)"),
    ("zzz", (), "unknown policy 'zzz' (known: none)"),
])
def test_an_unknown_name_is_told_with_the_known_ones_in_order(name, known, says):
    assert unknown("policy", name, known) == says
