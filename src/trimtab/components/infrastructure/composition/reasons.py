"""Every reason that a condition of a definition or a claim can have, and what it means to a user."""

REASONS = {
    "Served": "Objects of the kind can be made, and its function can be called.",
    "Establishing": "The API does not serve the kind yet.",
    "Invalid": "The definition cannot be an API; the message names the field.",
    "ClaimsLeft": "The definition is deleted and there are claims of it, which would be deleted with it.",
    "Composed": "The function was called, and what it returned was applied.",
    "AllReady": "All that the claim is composed of is ready.",
    "ResourceNotReady": "Something that the claim is composed of is not ready: the message names the first, and why.",
    "WaitsForMore": "The function says that more is to come, and what for.",
    "ConnectionWaiting": "The connection Secret cannot be filled yet; the message says what is missing.",
    "BadField": "A field of the claim is none that the function takes; the message names it.",
    "FunctionMissing": "The definition's function is not there, or is none; the message says what to write.",
    "FunctionFailed": "The function raised an error; the message has it, with its file and line.",
    "FunctionDied": "The function took its process down.",
    "TookTooLong": "The function took longer than spec.compose.timeoutSeconds.",
    "TooMuchMemory": "The function took more memory than spec.compose.memoryMiB.",
    "BadOutput": "What the function returned cannot be applied; the message names it.",
    "KindNotEnabled": "The function returned a resource of a kind that the API does not have.",
    "ApplyRefused": "The API refused something that the claim is composed of; the message has its words.",
    "PackageMissing": "The package of the definition's function is not on this machine: trimtab composition install.",
    "Ending": "The claim is deleted: what it is composed of goes first, in order.",
}
