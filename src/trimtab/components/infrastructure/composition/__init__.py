"""Composition: an API of your own from a Python function, whose objects are composed of others.

    CompositeDefinition --definition.py--> a CRD, roles        its function --sandbox.py, worker.py--> list[Resource]
    claim --claims.py--> compose(xr, observed) --output.py--> objects of the claim --readiness.py--> status, connection Secret

What a function's file imports is `trimtab.compose`; it runs where there is nothing else of Trimtab, no network and no files.
"""
