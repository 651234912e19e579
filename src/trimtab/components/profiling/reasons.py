"""The condition reasons of a Profiler, with what each means for a person."""

READY = "Ready"
STEADY = "ProfileSteady"
"""Of an App: whether what it has now costs what the image before it cost."""
REASONS = {
    "Measuring": "The agent measures every process of the machine; whole stacks are unwound in the kernel.",
    "FramePointersOnly": "The kernel refuses BPF here, so that the agent measures by perf events: of programs without frame "
    "pointers it sees only the innermost frames. `trimtab check` says what is missing.",
    "Shedding": "The agent reached its budget (spec.budget) and leaves something out to stay in it; the message says what.",
    "Starting": "The agent is being started; it measures within seconds.",
    "AgentFailed": "The agent ended and is started again with growing pauses of at most a minute; the message says why it "
    "ended. What it had measured more than 10 seconds before is kept.",
    "AnotherAgent": "Another engine of this machine has its agent measure it: there is one agent on a machine. This one takes "
    "over when that one stops.",
    "NotSupported": "The kernel gives neither BPF nor perf events to root here; `trimtab check` says what is missing. It is "
    "tried again every ten minutes.",
    "BudgetExceeded": "The agent could not stay in its budget (spec.budget) with everything left out that may be, and stopped; "
    "it is tried again after ten minutes.",
    "Comparing": "The App got another image, and its profile is compared with that of the image before when there are samples enough of both.",
    "NothingGrew": "No function of the App costs more than with the image before, beyond spec.compare.thresholdPercent of the Profiler.",
    "FunctionsGrew": "Functions of the App cost more than with the image before; the message names them with what they cost before and "
    "after. `trimtab profile diff` and the page of profiles show both.",
    "TooFewSamples": "In a day there were not enough samples of both images to tell a difference from noise.",
    "SameImage": "All samples before and after are of one image; there is nothing to compare.",
    "NotActing": "Only the Profiler named default acts: there is one agent on a machine.",
}
