"""Opening and decoding the file of a clip; what is wrong with it becomes a sentence."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.stream import VideoStream

from av2t_core.errors import MediaError
from av2t_core.limits import CLIP_STREAMS, PICTURE_PIXELS
from av2t_core.media.mp4_tables import check_tables

# Containers that hold one clip. Playlists (hls, concat, dash, sdp) stay out: a clip comes from somebody else, and a
# playlist that calls itself a clip would have this process read other files and addresses.
_FORMATS = (
    "aac,ac3,aiff,apng,asf,avi,caf,dv,flac,flv,gif,h264,hevc,ivf,m4v,matroska,mjpeg,mov,mp3,mpeg,mpegts,mpegvideo,mxf,"
    "nut,obu,ogg,rm,w64,wav,wtv,yuv4mpegpipe"
)
# A larger frame is not decoded, neither while the file is opened nor where the size changes in its middle.
_DECODER = {"max_pixels": str(PICTURE_PIXELS)}
_OPTIONS = {
    "format_whitelist": _FORMATS,
    "protocol_whitelist": "file",
    "max_streams": str(CLIP_STREAMS + 1),
    **_DECODER,
}
_FEWER = "keep its first video and its first sound alone"


@dataclass
class Faults:
    """What went wrong while a stream was decoded."""

    undecodable: int = 0  # packets that gave no frame
    damaged: int = 0  # frames that the decoder could only guess in part
    cut: bool = False  # reading ended in an error


def open_container(path: Path) -> InputContainer:
    """Open `path` for reading; MediaError says in one sentence why it cannot be."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise MediaError(f"{path}: there is no such file") from None
    except OSError as error:
        raise MediaError(f"{path}: cannot be read ({error.strerror})") from None
    if not path.is_file():
        raise MediaError(f"{path}: is not a file; name the video file itself")
    if size == 0:
        raise MediaError(f"{path.name}: the file is empty; copy or upload it again")
    try:
        check_tables(path)
        # An absolute path is never taken for a protocol, whatever the name looks like.
        container = av.open(str(path.absolute()), mode="r", options=_OPTIONS, metadata_errors="replace")
    except PermissionError:
        raise MediaError(f"{path}: cannot be read (permission denied)") from None
    except MemoryError:
        raise MediaError(
            f"{path.name}: has more than {CLIP_STREAMS} streams, or a header for which there is no memory; {_FEWER}"
        ) from None
    except av.FFmpegError:
        raise MediaError(
            f"{path.name}: is not a video, or its beginning is damaged; use a video file such as mp4, mov, webm or mkv"
        ) from None
    if len(container.streams) > CLIP_STREAMS:  # some containers leave out what is beyond, sound perhaps
        container.close()
        raise MediaError(f"{path.name}: has more than {CLIP_STREAMS} streams; {_FEWER}")
    for stream in container.streams.video:
        if stream.codec_context is not None:
            stream.codec_context.options = _DECODER
    return container


def decode_video(container: InputContainer, stream: VideoStream, faults: Faults) -> Iterator[av.VideoFrame]:
    """All frames of `stream` that can be decoded, in presentation order."""
    return cast(Iterator[av.VideoFrame], _decode(container, stream, faults))


def decode_audio(container: InputContainer, stream: AudioStream, faults: Faults) -> Iterator[av.AudioFrame]:
    """All audio frames of `stream` that can be decoded, in presentation order."""
    return cast(Iterator[av.AudioFrame], _decode(container, stream, faults))


def _decode(
    container: InputContainer, stream: VideoStream | AudioStream, faults: Faults
) -> Iterator[av.VideoFrame | av.AudioFrame]:
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:
            faults.cut = True
            packet = None
        if packet is None:
            break
        try:
            frames = packet.decode()
        except av.FFmpegError:
            faults.undecodable += 1
            continue
        for frame in frames:
            assert isinstance(frame, av.VideoFrame | av.AudioFrame)
            faults.damaged += frame.is_corrupt
            yield frame
    if faults.cut:  # the demuxer ends with a flush of the decoder, but not after an error
        try:
            yield from stream.decode(None)
        except av.FFmpegError:
            faults.undecodable += 1
