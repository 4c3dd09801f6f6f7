"""A clip's file: opened and decoded, whatever it holds. What is wrong with it becomes a sentence."""

import re
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Self

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.stream import VideoStream

from av2t_core.errors import MediaError
from av2t_core.limits import CLIP_SAMPLES, CLIP_STREAMS, MP4_BOXES, MP4_HEADER, PICTURE_PIXELS

# Containers that hold one clip. Playlists (hls, concat, dash, sdp) stay out: a clip is not trusted, and a
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

_HEADERS = (b"moov", b"moof", b"trak")
_DISGUISED = (b"free", b"hoov")  # FFmpeg takes them for moov if they look like one inside
_TABLE = re.compile(rb"(stsz|stz2)|trun")
_HANDLER = re.compile(rb"hdlr.{8}(....)", re.DOTALL)
_TIMES = re.compile(rb"stts.{4}(.{4}).{4}(.{4})", re.DOTALL)
_ONE = struct.pack(">I", 1)


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
    for video in container.streams.video:
        if video.codec_context is not None:
            video.codec_context.options = _DECODER
    for stream in (*container.streams.video, *container.streams.audio):
        if stream.codec_context is not None:
            # With as many as the machine has cores, what is lost around a damaged packet would depend on them: frames
            # behind it at the end, and pixels that H.264 conceals with one thread alone.
            stream.codec_context.thread_count = 1
    return container


class StreamReader(ABC):
    """A file that is open for one of its streams; a context manager. MediaError: the stream cannot be used."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.name
        self.undecodable = 0  # packets that gave no frame
        self.damaged = 0  # frames that the decoder could only guess in part
        self.cut = False  # reading ended in an error
        self._container = open_container(path)
        try:
            self._open()
        except BaseException:
            self._container.close()
            raise

    @abstractmethod
    def _open(self) -> None:
        """Choose the stream."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._container.close()

    def _decoded(self, stream: VideoStream | AudioStream) -> Iterator[Any]:
        """All frames that can be decoded, in presentation order."""
        packets: Iterator[Any] = self._container.demux(stream)
        while not self.cut:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.FFmpegError:
                self.cut = True
            try:
                # The demuxer ends with a flush of the decoder, but not after an error.
                frames: list[Any] = stream.decode(None) if self.cut else packet.decode()
            except av.FFmpegError:
                self.undecodable += 1
                continue
            for frame in frames:
                if self.cut:  # PyAV knows it from the packet
                    frame.time_base = stream.time_base
                self.damaged += frame.is_corrupt
                yield frame


def check_tables(path: Path) -> None:
    """MediaError: the tables of an mp4 or mov claim more samples than a clip has.

    FFmpeg makes an entry of each sample while it opens the file, and a table of samples of one size takes twenty bytes,
    whatever their number: a file of some kilobytes takes gigabytes. FFmpeg looks for tables in many places; here any
    bytes of a header that could be one count.
    """
    samples = 0
    with path.open("rb") as file:
        for header in _headers(file, path.stat().st_size):
            if len(header) > MP4_HEADER:
                raise MediaError(
                    f"{path.name}: its tables have more than {MP4_HEADER:,} bytes; cut it into shorter clips"
                )
            samples += _samples(header)
            if samples > CLIP_SAMPLES:
                raise MediaError(
                    f"{path.name}: its tables claim {samples:,} frames and pieces of sound, and at most"
                    f" {CLIP_SAMPLES:,} can be used; the file is damaged, or to be cut into shorter clips"
                )


def _headers(file: IO[bytes], size: int) -> Iterator[bytes]:
    """The content of the boxes that hold tables, up to a byte more than MP4_HEADER."""
    at = 0
    for _ in range(MP4_BOXES):
        if at + 8 > size:
            return
        file.seek(at)
        head = file.read(24)
        length, kind, start = int.from_bytes(head[:4]), head[4:8], 8
        if length == 1:
            length, start = int.from_bytes(head[8:16]), 16
        elif length == 0:  # to the end
            length = size - at
        if length < start:
            return
        if kind in _HEADERS or (kind in _DISGUISED and head[start + 4 : start + 8] in (b"mvhd", b"cmov")):
            file.seek(at + start)
            content = file.read(min(length - start, MP4_HEADER + 1))
            yield content
            if (packed := content.find(b"cmvd")) >= 0:  # as QuickTime once compressed it
                try:
                    yield zlib.decompressobj().decompress(content[packed + 8 :], MP4_HEADER + 1)
                except zlib.error:
                    return
        at += length
    raise MediaError(f"{Path(file.name).name}: it is in more than {MP4_BOXES:,} pieces; convert it anew")


def _samples(header: bytes) -> int:
    count = 0
    tracks = [found.start() for found in re.finditer(b"trak", header)]
    for start, end in zip([0, *tracks], [*tracks, len(header)], strict=True):
        track = header[start:end]
        for table in _TABLE.finditer(track):
            # A version and flags come first, and in a table of sizes the one that all have.
            at = table.end() + (8 if table[1] else 4)
            if not (table[1] and _is_pcm(track)):
                count += int.from_bytes(track[at : at + 4])
    return count


def _is_pcm(track: bytes) -> bool:
    """Sound each of whose samples is one moment: FFmpeg makes an entry of a whole chunk of it."""
    handlers, times = set(_HANDLER.findall(track)), _TIMES.findall(track)
    return b"soun" in handlers and b"vide" not in handlers and times == [(_ONE, _ONE)]
