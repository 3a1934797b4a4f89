"""What a media file holds, as plain values."""

import msgspec


class AudioTrack(msgspec.Struct, frozen=True, kw_only=True):
    """One sound track; `index` counts audio tracks only, from 0."""

    index: int
    codec: str
    rate: int  # Hz
    channels: int
    language: str = ""  # three letters as the file says it, or empty


class VideoTrack(msgspec.Struct, frozen=True, kw_only=True):
    """One picture track; `index` counts video tracks only, from 0. Sizes in pixels."""

    index: int
    codec: str
    width: int
    height: int
    fps: float | None  # None where the file does not say
    frames: int = 0  # as the container counts them; 0 if it does not
    attached_picture: bool = False  # a cover, not a film


class MediaFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a container says of itself; a damaged file may promise more than it has."""

    container: str
    seconds: float | None  # None where the file does not say
    audio: tuple[AudioTrack, ...] = ()
    video: tuple[VideoTrack, ...] = ()
