"""Profiles as they are kept: batch files as they come in, and hours of them in Parquet.

    batch.write --> incoming/*.batch --rollup.py--> hours/HOUR-TOKEN/ (samples, nodes, frames, labels) --retention.py--> gone
                          '---------------store.py: select, series, labels---------------'

selector.py reads what is asked, trie.py holds stacks as the tree that they share, part.py is what is read of batches and how answers are
joined, segment.py an hour in Parquet, columns.py what is written as one; contents.py says what counts of what is there, arrivals.py what
gives way to what comes in, gauges.py what does not sum over time; selection.py is the answer.
"""
