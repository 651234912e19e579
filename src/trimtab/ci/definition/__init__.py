"""What a pipeline is: the user's file becomes a graph, or a list of what is wrong with it.

In reading order: `site`, `values` (what is said), `purity`, `evaluate`, `graph` (what it comes to), `params`, `lock`, `check`.
"""
