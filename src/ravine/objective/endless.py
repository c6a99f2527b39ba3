"""Endless streams: told from long ones before a measurement waits for their end."""

from __future__ import annotations

from typing import Final

_REPEATS: Final = 64  # of everything, in the same order: no data set is written down so often
_REMEMBERED: Final = 1 << 16  # batches
_MOST_EXAMPLES: Final = 1 << 24  # of a stream that nobody said the length of


class Watch:
    """Follows a stream, batch by batch, and says what speaks for its being endless.

    Examples:
        >>> watch = Watch()
        >>> said = [watch.saw(batch % 3, examples=8) for batch in range(300)]
        >>> next(filter(None, said))
        'it has given the same 24 examples 64 times over'
    """

    def __init__(self) -> None:
        self._seen: list[int] = []
        self._period = 0
        self._place = 0
        self._repeats = 0
        self._examples = 0
        self._once = 0

    def saw(self, digest: int, examples: int) -> str:
        """Take note of a batch.

        Args:
            digest: of its content.
            examples: in it.

        Returns:
            What speaks for an endless stream; "" as long as nothing does.
        """
        if self._seen and not self._period and digest == self._seen[0]:
            self._period, self._once = len(self._seen), self._examples
        self._examples += examples
        if self._period:
            self._follow(digest)
        elif len(self._seen) < _REMEMBERED:
            self._seen.append(digest)
        if self._repeats >= _REPEATS:
            return f"it has given the same {self._once:,} examples {self._repeats} times over"
        if self._examples > _MOST_EXAMPLES:
            return f"it has given {_MOST_EXAMPLES:,} examples, and there are more"
        return ""

    def _follow(self, digest: int) -> None:
        """Go round the period once more, or find that it was none."""
        if digest != self._seen[self._place]:
            self._seen, self._period, self._place, self._repeats = [digest], 0, 0, 0
            return
        self._place = (self._place + 1) % self._period
        self._repeats += self._place == 0
