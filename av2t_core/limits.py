"""How large may be what comes from outside: every bound, with its reason.

Beyond them nothing is read on: whoever sent it is told the bound. Sizes are bytes and times seconds, unless the name
says otherwise.
"""

# --- What servers answer ---

ERROR_BODY = 64 * 1024
"""Of an answer that is an error: its sentence is at the beginning, and a server may go on for ever."""

API_ANSWER = 1 << 30
"""Of Label Studio's API: the predictions of a task with thousands of masks are hundreds of megabytes of JSON."""

# --- Clips ---

# --- Label configs and annotations ---

# --- Weights and model versions ---

# --- Requests to the backend ---

# --- Jobs, and what is kept of them in Redis ---

JOB_DATA = 64 * 1024
"""Of a job's function and arguments, unpacked: ours have some hundred bytes."""

JOB_META = 64 * 1024
"""Of what a job tells of itself: one sentence, and a dozen numbers."""

JOB_SECONDS = 31 * 24 * 3600
"""Of its time and of how long it is remembered, which is 30 days at most; the kernel's clock takes no more than 68
years, and what outlives its use fills Redis."""

JOB_TRIES = 100
"""Of a job, and of deaths in it: ours has eight, and the wait doubles with each."""

SENTENCE = 2000
"""Characters of a failure's reason or a remark on a page, which has hundreds of them."""

REMARKS = 20
"""Of a clip, on a page that shows twenty clips: a person reads the first."""

KEPT_PART = 256 * 1024 * 1024
"""Of what a job keeps every ten seconds, unpacked: a thousand masks are some ten megabytes."""
