"""The experiments that test a paper's claim: protocols, execution, and the pages and tables of figures."""
