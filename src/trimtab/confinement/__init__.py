"""How a process shuts itself in: what the rest of Trimtab calls for it stands here.

    calls.py    what Python has no words for: namespaces, mounts, capabilities, the bond to a parent, each with its error checked
    confine.py  a process gives up everything but thinking: namespaces, an empty file system, user nobody, limits
    filters.py  the system calls that are refused to it from then on
    outside.py  what a program sees that is shut in and may use the network
    sandbox.py  a function is called in such a process (worker.py), which is there while there is something to call

The first three load the standard library alone, as they run before anything else. Knows no component, no engine and no API. The engine's own way from root to user `trimtab` is `trimtab.engine.privileges`.
"""
