"""Every condition reason that this component sets, with the text that explains it to a user."""

from __future__ import annotations

REASONS: dict[str, str] = {
    # Deployment
    "MinimumReplicasAvailable": "Enough pods are available: all but maxUnavailable of those asked for.",
    "MinimumReplicasUnavailable": "Too few pods are available; the message names a pod and says what is wrong with it.",
    "NewReplicaSetCreated": "A rollout began: a ReplicaSet for the present template was created.",
    "FoundNewReplicaSet": "A rollout began: the template is one that was used before, and its ReplicaSet is used again.",
    "ReplicaSetUpdated": "The rollout is moving: pods were added, became ready or available, or old ones went.",
    "NewReplicaSetAvailable": "The rollout is complete: all pods are of the present template and available.",
    "ProgressDeadlineExceeded": "The rollout got no further for progressDeadlineSeconds; the old pods serve on. The "
    "message quotes a pod. Fix the template, or go back with kubectl rollout undo.",
    "DeploymentPaused": "The rollout is paused; kubectl rollout resume lets it go on.",
    "DeploymentResumed": "The rollout was resumed, and its deadline starts anew.",
    "FailedCreate": "A ReplicaSet could not create its pods; the message is the API's refusal.",
    # CertificateSigningRequest
    "SignerValidationFailure": "The request was approved, but breaks a rule of its signer; the message says which. Make "
    "another request.",
    # ReplicaSet
    "PodsFailing": "Pods fail as a whole again and again, so they are replaced with growing pauses; the message quotes "
    "the last failure.",
    # Job
    "CompletionsReached": "As many pods succeeded as the Job asks for.",
    "BackoffLimitExceeded": "More pods failed than backoffLimit allows; the message quotes the last failure. Fix what it "
    "says, then delete the Job and create it again.",
    "DeadlineExceeded": "The Job ran longer than activeDeadlineSeconds, and its pods were stopped.",
    "PodFailurePolicy": "A pod failed in a way for which podFailurePolicy says FailJob; the message names pod and rule.",
    "FailedIndexes": "All indexes are done, and some failed more often than backoffLimitPerIndex allows; status.failedIndexes "
    "lists them, the message quotes the last failure.",
    "MaxFailedIndexesExceeded": "More indexes failed than maxFailedIndexes allows; the message quotes the last failure.",
    "SuccessPolicy": "The indexes that succeeded meet a rule of successPolicy; the remaining pods were stopped.",
    "JobSuspended": "The Job is suspended: its pods were stopped, and none start until spec.suspend is false.",
    "JobResumed": "The Job was resumed.",
    # Pod
    "Unschedulable": "No node can run the pod now; the message goes through the nodes and says what each lacks. It is tried "
    "again when a node, a pod or a claim changes.",
    "SchedulingGated": "The pod has scheduling gates; it is placed once whoever set them has removed them.",
    "PreemptionByScheduler": "The pod was stopped to make room for one of a higher priority; the message names it.",
    "DeletionByTaintManager": "The pod was deleted, since its node has a NoExecute taint that it does not tolerate (any longer).",
    "DeletionByPodGC": "The pod was removed with its node, of which nothing runs any more.",
    # PodDisruptionBudget
    "SufficientPods": "At least one pod of the budget may be evicted now.",
    "InsufficientPods": "No pod of the budget may be evicted now; the message has the numbers.",
    # HorizontalPodAutoscaler
    "ReadyForNewScale": "The present size is the one that is wanted, and it may be changed at any time.",
    "SucceededGetScale": "The target was found, and its size is known.",
    "SucceededRescale": "The target's size was changed.",
    "ScaleDownStabilized": "Fewer pods would do now, but more were wanted within the stabilization window, so that the most of "
    "these counts.",
    "ScaleUpStabilized": "More pods are wanted now, but fewer were within the stabilization window, so that the fewest of these "
    "count.",
    "FailedGetScale": "What is to be scaled does not exist, or is of a kind that cannot be scaled here; the message says which.",
    "FailedUpdateScale": "What is to be scaled belongs to another object (an App, a Deployment's ReplicaSet), which decides on its "
    "size.",
    "ScalingDisabled": "The target's size is 0, which switches the autoscaler off; set it to 1 or more to go on.",
    "ValidMetricFound": "At least one metric was measured, and the size follows from it.",
    "FailedGetResourceMetric": "CPU or memory of the pods is not known, or they ask for none; the message says which.",
    "FailedGetContainerResourceMetric": "CPU or memory of the container is not known, or it asks for none; the message says "
    "which.",
    "FailedGetPodsMetric": "No pod offers the metric; the message says where it is looked for.",
    "FailedGetObjectMetric": "No pod behind the object offers the metric.",
    "FailedGetExternalMetric": "There is no source of external metrics here; use Pods or Object.",
    "InvalidMetricSourceType": "The autoscaler names no metric.",
    "DesiredWithinRange": "The size is what the metrics ask for.",
    "ScaleUpLimit": "More pods are wanted than the rules of `behavior.scaleUp` allow at once; the rest follows.",
    "ScaleDownLimit": "Fewer pods are wanted than the rules of `behavior.scaleDown` allow at once; the rest follows.",
    "TooManyReplicas": "More pods are wanted than `maxReplicas` allows.",
    "TooFewReplicas": "Fewer pods are wanted than `minReplicas` allows.",
    # Node
    "NodeStatusUnknown": "The node has not renewed its lease for as long as that allows (40 s). Its pods get no new requests, and are not replaced "
    "under their names before it is certain that they do not run.",
    "NodeOutOfService": "It is certain that nothing of the node runs (it was destroyed, or an administrator says so by the "
    "taint node.kubernetes.io/out-of-service), so its pods are removed and replaced elsewhere.",
    "NodeLost": "Nothing of the pod's node runs any more, and so the pod does not; it is removed and replaced elsewhere.",
    "NodeUnreachable": "The pod's node is silent, so the pod gets no new requests until the node is back.",
    # PersistentVolumeClaim
    "Bound": "The claim has its volume.",
    "WaitForFirstConsumer": "The volume is made when a pod that uses the claim gets a node, so that it is on that node.",
    "ExternalProvisioning": "The class of the claim belongs to another provisioner, which has not made the volume yet.",
    "ProvisioningFailed": "No volume fits the claim and none can be made; the message says why.",
    "VolumeLost": "The volume that the claim was bound to was deleted. Its data may be gone; delete the claim too.",
    "VolumeDied": "The volume was on the disk of a node that was destroyed: its data is gone. Restore a backup, or delete "
    "claim and pod to begin with an empty volume.",
    "VolumeMissing": "The claim names a volume that does not exist (yet).",
    "VolumeTaken": "The claim names a volume that belongs to another claim.",
}
