"""Claims: the paper's sentences that can be tested, and what became of each."""

from ravine.paper.claims.claim import Claim, Finding, as_json, as_markdown, as_table
from ravine.paper.claims.found import Found
from ravine.paper.claims.sentences import CLAIMS

__all__ = ["CLAIMS", "Claim", "Finding", "Found", "as_json", "as_markdown", "as_table"]
