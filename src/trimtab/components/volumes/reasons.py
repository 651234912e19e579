"""Every condition reason that this component sets, with the text that explains it to a user."""

from __future__ import annotations

REASONS: dict[str, str] = {
    "ProvisioningFailed": "No volume can be made for the claim; the message says why and what to change.",
    "WaitingForSource": "The claim's volume is to begin as a copy, and what is to be copied is not ready yet.",
    "FileSystemResizePending": "The volume is to grow: while it is used if its file system can, else when a pod uses it next.",
    "ExpansionNotAllowed": "The claim asks for more than its volume has, and its class does not allow volumes to grow.",
}
