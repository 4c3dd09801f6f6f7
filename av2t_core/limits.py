"""How large may be what comes from outside: every bound, with its reason.

Beyond them nothing is read on: whoever sent it is told the bound. Sizes are bytes and times seconds, unless the name
says otherwise.
"""

# What servers answer:
ERROR_BODY = 64 * 1024  # Of an answer that is an error: its sentence comes first, and a server may go on for ever.
API_ANSWER = 1 << 30  # Of Label Studio's API: the predictions of a task with thousands of masks are hundreds of MB.
# Bytes a second, on average, that a server has to send: a slower one holds a worker that others wait for. A clip of 2
# GB takes a day and a half at this rate, so `FETCH_SECONDS` ends it before.
LEAST_RATE = 16_000
PATIENCE = 60  # Seconds that a server may take before `LEAST_RATE` counts: it may have to compute its answer.
API_SECONDS = 600  # For one answer of Label Studio's API.
FETCH_SECONDS = 3600  # For one clip.
SHOWN_URL = 200  # Characters of a clip's address in a sentence: a data URL may be as long as a clip.

# Clips:
# Of a clip's frame, and of a picture that a person draws on: 8K, and what H.264 and HEVC allow up to level 6.2.
PICTURE_PIXELS = 8192 * 4352
PICTURE_SIDE = 2**14  # Pixels of a clip's width or height: no browser draws a longer one, and 8K has half of it.
SOUND_RATE = 768_000  # Samples a second: no recorder makes more, and what resampling takes grows with them.
SOUND_SAMPLES = 2**23  # In a second, of all channels: 64 at 96 kHz have fewer, and tens of seconds are held at once.
SOUND_HELD = 60  # Seconds that a clip's sound may be out of order: so much is kept while a window waits for its own.
CLIP_STREAMS = 32  # A camera's files have some twenty. A picture of each is decoded on opening, at 8K 100 MB.
# Frames and pieces of sound that an mp4 claims to have: a day has fewer, and each takes 70 bytes when it is opened.
CLIP_SAMPLES = 10**7
MP4_HEADER = 2**28  # Of the tables in which an mp4 says where its samples are: those of 10**7 take 20 bytes each.
MP4_BOXES = 10**6  # At the outermost level of an mp4: one that is in pieces of a second has three for each.
CLOCK_JUMPS = 1000  # Of a clip, kept apart where its keyframes are spread: a clock that jumps more often is none.
CLIP_REMARKS = 3  # Of one kind about a clip; beyond them it is said how many more there are.

# Label configs and annotations:
LABEL_CONFIG = 1024 * 1024  # Characters: one with a thousand labels has a tenth of it.
CONFIG_TAGS = 10_000  # Of a label config, with its labels; it is looked through at every call.
CONFIG_DEPTH = 100  # Of its tags in each other; people write ten.
CONFIG_NAMES = 5_000  # That its labels have for a model, which may look at each picture once for each of them.
POLYGON_POINTS = 100_000  # Of one region: a person makes hundreds, a predicted mask of 8K some ten thousand.
RLE_BYTES = 2**24  # Of one brush region: 8K that is all edges takes a tenth, and what it unpacks to grows with it.
ANNOTATION_PIXELS = 2**34  # Of an annotation's masks together, an eighth of a byte each: 8000 of full HD, 500 of 8K.

# Weights and model versions:
LARGEST_CARD = 32 * 10**6  # Of a version's card, which names every clip, and of what else lies beside one as text.
CARD_SENTENCE = 10_000  # Characters of a field of a card that pages show as it is.
# Of a file of safetensors: 60,000 tensors have less, and the largest model here has 3000. Read, it is twentyfold.
TENSOR_HEADER = 2**23
MERGES_FILE = 2**22  # Of GPT-2's merges, which have half a megabyte.

# Requests to the backend:
CONNECTIONS = 400  # Open at once: each is a file, of which a process may have 1024. One more closes the idlest.
HEADER = 32 * 1024  # Of a request: a browser sends the cookies of all that runs on this host, whatever its port.
TASKS_BODY = 100 * 1024 * 1024  # Of /predict and /webhook: a task has its annotations, of 60 brushed frames 3 MB.
SETUP_BODY = 8 * 1024 * 1024  # Of /setup: a label config, of which JSON may write each byte as six.
SMALL_BODY = 64 * 1024  # Of every other path, whose fields are names and numbers.
BODY_PARTS = 2_000_000  # Objects and lists, of which three bytes can make a hundred: 50,000 tasks have so many.
BODIES_AT_ONCE = 128 * 1024 * 1024  # Of all large bodies at work: parsed, each byte may become ten and more.
CHUNK_LINE = 1024  # Of a chunk's size and of what follows the last chunk, of a body that comes in chunks.
HEADER_SECONDS = 10  # From a request's first byte to the end of its header, which is one packet or two.
BODY_SECONDS = 100  # For a body: as long as Label Studio itself waits for an answer of /predict.
ANSWER_SECONDS = 60  # For the client to take its answer.
IDLE_SECONDS = 30  # Between two requests of a connection, and before its first.
LINGER_SECONDS = 3  # For a refused client to stop sending and read why: closed at once, it would see a reset.
WRONG_PASSWORDS = 10  # From one address without a pause: a person who mistypes, or a Label Studio that has the old one.
LONGEST_PAUSE = 60  # Seconds that an address waits at most for its next try; long enough to make guessing hopeless.
ADDRESSES = 1000  # Whose tries are remembered, the newest; a caller that has more of them is not kept out by counting.
ADDRESS = 2000  # Characters, of what Label Studio says that it is called; no browser is sure to take a longer one.
TITLE = 200  # Characters, of what a project's settings name as its model version; a name of ours has at most 100.

# Jobs, and what is kept of them in Redis:
SENTENCE = 2000  # Characters, of anything that is told: an error may quote what it is about.
REMARKS = 20  # On a page, about a clip and about what Label Studio sent: a person reads the first.
PROJECTS = 1000  # That are known at once; the bound is for a caller that makes them up.
PROJECTS_SIZE = 32 * 1024 * 1024  # Characters of all projects, which the status page reads: 1000 configs of 30 kB.
JOB_DATA = 64 * 1024  # Of a job's function and arguments, unpacked: ours have some hundred bytes.
JOB_META = 64 * 1024  # Of what a job tells of itself: one sentence, and a dozen numbers.
# Of its time and of how long it is remembered, which is 30 days at most; the kernel's clock takes no more than 68
# years, and what outlives its use fills Redis.
JOB_SECONDS = 31 * 24 * 3600
JOB_TRIES = 100  # Of a job, and of deaths in it: ours has eight, and the wait doubles with each.
KEPT_PART = 256 * 1024 * 1024  # Of what a job keeps every ten seconds, unpacked: 1000 masks have some 10 MB.
