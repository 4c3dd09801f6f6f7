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

PICTURE_PIXELS = 8192 * 4352
"""Of a clip's frame, and of a picture that a person draws on: 8K, and what H.264 and HEVC allow up to level 6.2."""

PICTURE_SIDE = 2**14
"""Pixels of a clip's width or height: no browser draws a longer one, and 8K has half of it."""

SOUND_RATE = 768_000
"""Samples a second: no recorder makes more, and what brings them to the model's rate grows with them."""

SOUND_SAMPLES = 2**23
"""In a second, of all channels together: 64 channels at 96 kHz have fewer, and tens of seconds are held at once."""

SOUND_HELD = 60
"""Seconds that a clip's sound may be out of order: so much of it is kept while a window waits for its own."""

CLIP_STREAMS = 32
"""A camera's files have some twenty. A picture of each is decoded when the file is opened, at 8K 100 MB."""

CLIP_SAMPLES = 10**7
"""Frames and pieces of sound that an mp4 claims to have: a day has fewer, and each takes 70 bytes when it is opened."""

MP4_HEADER = 2**28
"""Of the tables in which an mp4 says where its samples are: those of 10**7 take 20 bytes each."""

MP4_BOXES = 10**6
"""At the outermost level of an mp4 that are looked at: one that is in pieces of a second has three for each."""

CLOCK_JUMPS = 1000
"""Of a clip, that are kept apart where its keyframes are spread: a clock that jumps more often is none."""

REMARKS = 3
"""Of one kind about a clip; beyond them it is said how many more there are."""

# --- Label configs and annotations ---

POLYGON_POINTS = 100_000
"""Of one region: a person makes hundreds, a predicted mask of 8K some ten thousand."""

RLE_BYTES = 2**24
"""Of one brush region: a mask of 8K that is all edges takes a tenth of it, and what it unpacks to grows with it."""

ANNOTATION_PIXELS = 2**34
"""Of all of an annotation's masks together, which take an eighth of a byte each: 8000 of full HD, 500 of 8K."""

# --- Weights and model versions ---

LARGEST_CARD = 32 * 10**6
"""Of a version's card, which names every clip that it knows of, and of what else lies beside one as text."""

CARD_SENTENCE = 10_000
"""Characters of a field of a card that pages show as it is."""

TENSOR_HEADER = 2**23
"""Of a file of safetensors: 60,000 tensors have less, and the largest model here has 3000. Read, it is twentyfold."""

MERGES_FILE = 2**22
"""Of GPT-2's merges, which have half a megabyte."""

# --- Requests to the backend ---

# --- Jobs, and what is kept of them in Redis ---
