"""Store: finished tiles on disk, so that whatever was measured once is never measured again."""

from ravine.store.keys import why_not
from ravine.store.ledger import Ledger, clean, contents

__all__ = ["Ledger", "clean", "contents", "why_not"]
