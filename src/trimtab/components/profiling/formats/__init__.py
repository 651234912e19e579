"""Profiles as others write and read them.

    pprof, OTLP --pprof.py, otlp.py (wire.py)--> Batch --> storage          bytes of strangers: `intake.py` runs this in the sandbox
    /debug/pprof --scrape.py--'
    storage --> Selection --pprof.py, speedscope.py, folded.py--> files that other tools open

limits.py is what a decoder takes at most; temporality.py tells what counts since the start of a process from what does not.
"""
