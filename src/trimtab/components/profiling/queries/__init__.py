"""What is seen of profiles: trees of stacks, what differs between two of them, the functions that cost most.

    storage (stacks, values) + symbols (names) --tree.py--> Tree --diff.py--> DiffTree
                                                             |--top.py--> rows, callers and callees of one function
                                                             '--shapes.py--> JSON --> terminal.py, the page, `-o json`

shapes.py and terminal.py are what a command needs, and load nothing heavy; the rest works on numpy's arrays.
"""
