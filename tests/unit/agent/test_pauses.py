"""Long-lived processes are not stopped by the garbage collector in the middle of their work."""

import gc

from agent import pauses


def test_collections_become_rare() -> None:
    """After a push's worth of new containers nothing is collected; what the modules hold is never walked again."""
    before = gc.get_threshold()
    try:
        pauses.rare()
        collected = [generation["collections"] for generation in gc.get_stats()]
        kept: list[list[int]] = [[] for _ in range(pauses.YOUNG // 2)]
        assert [generation["collections"] for generation in gc.get_stats()] == collected
        assert len(kept) == pauses.YOUNG // 2
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
