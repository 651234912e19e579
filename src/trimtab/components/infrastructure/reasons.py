"""Every reason that a condition of this component can have, and what it means to a user."""

REASONS = {
    "Available": "It exists as the object says.",
    "Synced": "The last look found nothing to do, or did it.",
    "Paused": "spec.pause is true: nothing is looked at and nothing is done.",
    "NoProviderConfig": "The ProviderConfig, or the Provider that it names, does not exist.",
    "SecretMissing": "A Secret that the object or its ProviderConfig names does not exist, or lacks the key.",
    "Waiting": "A field refers to another resource that does not have it yet.",
    "InvalidField": "A field of forProvider cannot be what it says; the message names it.",
    "ConfigurationRefused": "The provider does not take its configuration; the message has its words.",
    "ProviderFailed": "The provider's program does not run; the message has the last that it said.",
    "ProviderError": "The provider did not answer, or refused; the message has its words. It is asked again.",
    "NoSuchResource": "The provider has no such resource in the version that is installed.",
    "RateLimited": "The cloud asked for fewer requests; the credential pauses, longer each time.",
    "Deferred": "The provider cannot plan yet, for something that it needs is not known.",
    "ApplyNever": "There is something to do, and spec.policy.apply forbids it: `status.plan` says what.",
    "ApprovalNeeded": "The plan waits for the annotation trimtab.dev/approve with its digest.",
    "OutsideWindow": "The change waits for a window of spec.policy.maintenance; the message says when the next one opens.",
    "ReplaceDenied": "The change needs the resource to be deleted and made anew, which spec.policy.replace denies.",
    "DeleteDenied": "The object is deleted and spec.policy.delete denies to delete the resource.",
    "TooManyGone": "More resources of one credential are gone than may be made anew within ten minutes: look whether the credential still "
    "sees them. removalsPerInterval of the ProviderConfig is the limit.",
    "CreateUnknown": "Making it was begun and the answer never came. The message has the commands for either case.",
    "StateLost": "The Secret with what is known of the resource was deleted or cannot be read. The message has the commands for either case.",
    "NameTaken": "An object of the same name, of another provider's kind of the same name, has its state in the Secret that this one would "
    "have; the message names it. Give one of the two another name.",
    "StateTooLong": "What would have to be remembered of it does not fit into a Secret; nothing is made or changed. The message has its size.",
    "NotVisibleYet": "It was made, or may have been, and the cloud does not show it yet. It is looked for, and not made a second time.",
    "Deleted": "The resource is deleted, or left to itself as spec.policy.delete says; the object goes next.",
    "InUse": "It is being deleted and others still refer to it, which go first; the message names them.",
    "NonConvergent": "Right after it was applied the provider plans the same again; it is asked less and less often.",
    "ConnectionInvalid": "A template of spec.connection cannot be filled; the message says which.",
    "EphemeralFailed": "A value that is had anew from an ephemeral resource could not be had; the message names the field and has the "
    "provider's words.",
    "Installed": "The provider's program is on this machine.",
    "NotInstalled": "The provider's program is not on this machine: install it again.",
    "NoProvider": "The Provider that a ProviderConfig names does not exist.",
    "Accepted": "The provider takes this configuration.",
    "Restoring": "It was made anew, and the Job of spec.restoreFrom brings back what was in it.",
    "RestoreFailed": "The Job of spec.restoreFrom failed; the message has the last that it said. It runs again when it is deleted, or when "
    "spec.restoreFrom is changed.",
}
