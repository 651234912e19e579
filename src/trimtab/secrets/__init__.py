"""Secrets that lie in git: SOPS files with age keys, and the choke point that keeps their values out of what is printed.

    sops.py         a whole file: open, read, change, rotate, write; the only module that others need
    cipher.py       one value: AES-256-GCM, its types, the message authentication code
    scalars.py      what a plain scalar of YAML means to the readers of SOPS files
    documents.py    the formats: where the values stand in a text, and how a text gets others
    recipients.py   age keys: whose they are, where they are found, and which a new file is for (.sops.yaml)
    scrub.py        takes secret values out of a stream, in whatever form they are printed

The format is that of SOPS 3 (https://getsops.io/docs): its files are read here, and what is written here is read by it.
Master keys other than age (PGP, cloud key services) are kept as they are, and cannot be made here.
"""
