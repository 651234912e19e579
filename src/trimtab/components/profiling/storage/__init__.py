"""Profiles as they are kept: batch files as they come in, and hours of them in Parquet.

    batch.write --> incoming/*.batch --rollup.py--> hours/HOUR-TOKEN/ (samples, nodes, frames, labels) --retention.py--> gone
                          '---------------store.py: select, series, labels---------------'

selector.py reads what is asked, trie.py holds stacks as the tree that they share, part.py is samples in columns, whatever they were read
from; selection.py is the answer.
"""
