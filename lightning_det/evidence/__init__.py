"""The experiments behind a claim: which runs, and the pages that they fill."""
