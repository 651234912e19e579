"""The condition reasons of Pipelines and PipelineRuns, with what each means for a person."""

SUCCEEDED, READY = "Succeeded", "Ready"
REASONS = {
    "Waiting": "The run waits for an earlier one to end: an engine runs one pipeline at a time.",
    "Suspended": "The Pipeline is suspended; the run waits until it is not.",
    "Running": "The run goes on; its log is at the run's `log`.",
    "Green": "Every step of the run succeeded, or had not changed since it last did.",
    "StepFailed": "A step of the run failed; the message names it, the log and the report say why.",
    "NotRun": "The run could not be carried out: the definition is wrong, or the engine lacks something; the message says what.",
    "PipelineMissing": "The Pipeline that the run names does not exist in its namespace.",
    "Interrupted": "The node agent ended while the run was under way, several times; the run is not begun again.",
    "NoRunYet": "Nothing was pushed to the Pipeline's branch since it was made.",
    "RunUnderWay": "A run of the Pipeline is under way, or waits for its turn.",
    "LastRunFailed": "The last run of the Pipeline's branch was not green. The App keeps the image that it has.",
    "UpToDate": "The last run is green, and the App that the Pipeline names has its image.",
    "NoImage": "The last run is green, but published no image for the App (or several, and the Pipeline names no step).",
    "AppMissing": "The last run is green, but the App that the Pipeline names does not exist; `trimtab up` makes it.",
}
