"""The experiments behind a claim: what to run, running it, and the pages and tables of its figures."""
