"""Who measures: one process of root's per machine. Every CPU is interrupted some times a second, stacks are unwound and counted in the
kernel, and every ten seconds what was counted becomes a batch.

    libbpf      the C library that loads the program, by ctypes
    layout      what the program and the agent share, as numpy's types
    tables      .eh_frame -> rows of the unwind table
    files       the files that stacks go through: their tables, in the kernel while they are needed
    processes   whose samples are: executable, container, pod
    drain       counted stacks -> a batch
    budget      what the agent itself costs, and what it gives up to stay below
    callchains  the way without BPF: frame pointers only
    run         all of it together
"""
