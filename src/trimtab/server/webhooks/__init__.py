"""Admission webhooks: programs of others that are asked about writes, and may change or refuse them.

    configurations in the store -> hooks that match -> AdmissionReview over HTTPS -> patches, warnings, a refusal

Read `configurations.py` (which hooks there are and what they match), `conditions.py` (expressions over
the request), `admission.py` (asking them: in order for those that change
objects, all at once for those that judge), `calling.py` (HTTPS with deadlines and limits), `services.py` (where a service is).
No lock is held while somebody is asked, and without a configuration nothing of this is loaded.
"""
